//! Owns that the touching thread has open files of its own, and none of the process's.
//! Does not know what it does.
//!
//! It may hang in its own mount, where not even SIGKILL wakes it before it is answered, or the kernel has given the mount up. The kernel
//! does that when the last descriptor of `/dev/fuse` is closed, and a thread that hangs keeps open what it shares with the
//! others: a process that ends would wait for itself.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;

use nix::sys::signal::SigSet;

/// Of standard input, output and error. Somebody may wait for the other end of the process's own to be closed.
const NOWHERE: &str = "/dev/null";

/// From now on what the calling thread opens is its own, and of what the process has open it has nothing. To be called by a thread
/// that has nothing open and is given nothing that is. Linux 5.9 and later.
///
/// # Errors
/// What close_range(2) says: then the files are shared still. Or there is no `/dev/null`.
pub(super) fn have_own() -> io::Result<()> {
    // What a handler of a signal writes into to wake up others is closed here, and the kernel lets any thread run it that does not hold it
    // back: a SIGTERM was lost so.
    SigSet::all().thread_block()?;
    // SAFETY: the kernel reads and writes no memory of ours. The files of the process are not closed: with CLOSE_RANGE_UNSHARE the
    // thread has a table of its own first. What it closes there nobody uses from this thread, by the contract above.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    for _ in 0..3 {
        // The lowest numbers that are free. They stay open.
        let _ = File::options().read(true).write(true).open(NOWHERE)?.into_raw_fd();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_thread_has_files_of_its_own_and_the_others_keep_theirs() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let number = file.as_raw_fd();
        let own = std::thread::spawn(move || {
            have_own().unwrap();
            assert!(SigSet::thread_get_mask().unwrap().contains(nix::sys::signal::SIGTERM));
            let seen = std::fs::read_dir("/proc/thread-self/fd").unwrap();
            seen.map(|fd| fd.unwrap().path().read_link().unwrap()).collect::<Vec<_>>()
        });
        let mut own = own.join().unwrap();
        // The directory that it looks through.
        own.retain(|open| !open.starts_with("/proc"));
        assert_eq!(own, [NOWHERE; 3].map(std::path::PathBuf::from));
        assert!(std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok());
        assert!(std::io::read_to_string(file).unwrap().starts_with("Name:"));
    }
}
