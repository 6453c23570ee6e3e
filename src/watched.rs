//! Owns the question which inodes of a filesystem programs watch, with inotify(7) or fanotify(7): /proc knows.
//! Does not know what an inode stands for.

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, RawDir};

/// The inodes of `device` (`major:minor`) that some process watches. Processes that cannot be looked into are left out:
/// other users' for a user, all others without CAP_SYS_PTRACE, those outside of our pid namespace. Marks of whole mounts and
/// filesystems, which fanotify has, name no inode and are left out too.
///
/// # Errors
/// /proc cannot be read, or `device` is none.
pub fn inodes_on(device: &str) -> io::Result<HashSet<u64>> {
    let sdev = sdev(device).ok_or(io::ErrorKind::InvalidInput)?;
    let mut watched = HashSet::new();
    let proc = directory(CWD, "/proc")?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut processes = RawDir::new(&proc, &mut buffer);
    while let Some(Ok(process)) = processes.next() {
        let name = process.file_name().to_string_lossy();
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            // It may have ended, or be none of our business.
            let _ = look_into(proc.as_fd(), &name, sdev, &mut watched);
        }
    }
    Ok(watched)
}

fn look_into(proc: BorrowedFd<'_>, process: &str, sdev: u64, watched: &mut HashSet<u64>) -> io::Result<()> {
    let open_files = directory(proc, &format!("{process}/fd"))?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut files = RawDir::new(&open_files, &mut buffer);
    while let Some(Ok(file)) = files.next() {
        if file.file_name().to_bytes().starts_with(b".") {
            continue;
        }
        let mut link = [0; 32];
        let length = rustix::fs::readlinkat_raw(&open_files, file.file_name(), &mut link[..]);
        if length.is_ok_and(|length| is_watcher(link.get(..length).unwrap_or_default())) {
            let info = format!("{process}/fdinfo/{}", file.file_name().to_string_lossy());
            let info = rustix::fs::openat(proc, info, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            let text = io::read_to_string(std::fs::File::from(info))?;
            watched.extend(text.lines().filter_map(|line| inode(line, sdev)));
        }
    }
    Ok(())
}

fn directory(at: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// What a descriptor that watches is a link to.
fn is_watcher(link: &[u8]) -> bool {
    link == b"anon_inode:inotify" || link == b"anon_inode:[fanotify]"
}

/// proc(5), /proc/pid/fdinfo: `inotify wd:1 ino:HEX sdev:HEX mask:...` and `fanotify ino:HEX sdev:HEX mflags:...`.
fn inode(line: &str, sdev: u64) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|kind| ["inotify", "fanotify"].contains(kind))?;
    let (mut ino, mut on) = (None, None);
    for word in words {
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        match word.split_once(':') {
            Some(("ino", text)) => ino = number(text),
            Some(("sdev", text)) => on = number(text),
            _ => {}
        }
    }
    ino.filter(|_| on == Some(sdev))
}

/// The device number as fdinfo has it: the kernel's own, twelve bits of major above twenty of minor (MKDEV,
/// include/linux/kdev_t.h).
fn sdev(device: &str) -> Option<u64> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    Some(major << 20 | minor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::MetadataExt;

    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

    use super::*;

    #[test]
    fn a_line_names_an_inode_of_its_device_only() {
        let inotify = "inotify wd:1 ino:98418a sdev:fe00000 mask:fff ignored_mask:0 fhandle-bytes:8";
        let fanotify = "fanotify ino:ffffffffffffffff sdev:27 mflags:0 mask:a ignored_mask:0";
        assert_eq!(inode(inotify, sdev("254:0").unwrap()), Some(0x0098_418a));
        assert_eq!(inode(inotify, sdev("0:39").unwrap()), None);
        assert_eq!(inode(fanotify, sdev("0:39").unwrap()), Some(u64::MAX));
        for other in [
            "ino:\t20",
            "fanotify flags:0 event-flags:8000",
            "fanotify mnt_id:12 mflags:0 mask:a",
            "fanotify sdev:27 mflags:0 mask:a",
            "inotify wd:1 ino:zz sdev:27",
            "",
        ] {
            assert_eq!(inode(other, sdev("0:39").unwrap()), None, "{other}");
        }
        assert_eq!((sdev("0"), sdev("a:b"), sdev("")), (None, None, None));
    }

    #[test]
    fn what_this_process_watches_is_found_while_it_watches() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = file.path().metadata().unwrap();
        let device = format!("{}:{}", rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
        let watched = || inodes_on(&device).unwrap().contains(&found.ino());
        assert!(!watched());
        let events = inotify::init(CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&events, file.path(), WatchFlags::MODIFY).unwrap();
        assert!(watched());
        drop(events);
        assert!(!watched());
        assert!(inodes_on("nonsense").is_err());
    }
}
