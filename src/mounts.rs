//! Owns the kernel's mount table: which mounts are ours, which one a path lies in, and taking one out of it.
//! Does not know how a mount is made.

mod attributes;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

pub use attributes::{device_of, number_of, set_read_only};

/// What the source of our mounts begins with in /proc/self/mountinfo; what was mounted follows.
pub const SOURCE_PREFIX: &str = "secretfs#";

/// A mount of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its own number: no two mounts that live at the same time have the same (field 1, proc(5)).
    pub number: u64,
    /// Where.
    pub at: PathBuf,
    /// What, as it was given to `secretfs mount`.
    pub source: String,
    /// The device number, as `major:minor`: no two mounts that live at the same time have the same, and a bind mount has
    /// that of what it shows.
    pub device: String,
    /// What of it is seen here: `/`, or where a bind mount begins (field 4, proc(5)).
    pub root: PathBuf,
    /// The user who mounted. FUSE always shows it (fuse_show_options, fs/fuse/inode.c), as the user namespace that it was
    /// mounted in counts.
    pub owner: u32,
}

/// All our mounts that this process can see, oldest first.
///
/// # Errors
/// /proc is not mounted or not readable.
pub fn ours() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Our mount that `path` (absolute, without links) lies in or is.
///
/// # Errors
/// As for [`ours`].
pub fn containing(path: &Path) -> io::Result<Option<Mount>> {
    let mounts = ours()?.into_iter().filter(|mount| path.starts_with(&mount.at));
    // Of mounts at the same place the last one covers the others.
    Ok(mounts.max_by_key(|mount| mount.at.as_os_str().len()))
}

/// Our mount at `at` that no other of ours covers. Never touches the mount, which may not answer.
///
/// # Errors
/// As for [`ours`].
pub fn at(at: &Path) -> io::Result<Option<Mount>> {
    Ok(ours()?.into_iter().rfind(|mount| mount.at == at))
}

/// The device number of our mount [at](self::at) this place.
///
/// # Errors
/// As for [`ours`].
pub fn device_at(at: &Path) -> io::Result<Option<String>> {
    Ok(self::at(at)?.map(|mount| mount.device))
}

/// Takes what is mounted at `at` (absolute, without links) away: as root by umount(2), as a user by the helper that
/// made it. `lazy`: also one that is in use, which then lives on without a place until its last file is closed.
///
/// # Errors
/// [`io::ErrorKind::ResourceBusy`] when it is in use; [`io::ErrorKind::NotFound`] when the helper is not installed.
pub fn unmount(at: &Path, lazy: bool) -> io::Result<()> {
    // A link that somebody puts there meanwhile is not followed.
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(at, flags) {
        Err(Errno::PERM) => {}
        result => return result.map_err(Into::into),
    }
    let mut helper = Command::new("fusermount3");
    helper.arg("-u").args(lazy.then_some("-z")).arg("--").arg(at);
    let output = helper.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if said.contains("busy") {
        Err(io::ErrorKind::ResourceBusy.into())
    } else {
        Err(io::Error::other(said.trim().to_owned()))
    }
}

/// The source as one mount option: no comma, space or control character, which option strings could misread.
pub fn source_option(source: &str) -> String {
    let plain = |c: char| if c == ',' || c == '\\' || c.is_control() || c.is_whitespace() { '_' } else { c };
    SOURCE_PREFIX.chars().chain(source.chars().map(plain)).collect()
}

/// Every mount that this process can see, whoever made it.
pub struct Table(Vec<Seen>);

/// Which part of which filesystem is seen where.
struct Seen {
    number: u64,
    /// The mount that it stands on.
    on: u64,
    device: String,
    root: PathBuf,
    at: PathBuf,
}

/// Where one mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// The path to it.
    pub at: PathBuf,
    /// Something else is mounted on it, and the path leads there.
    pub is_covered: bool,
}

/// A place in a filesystem: the same for all the names that bind mounts give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    device: String,
    path: PathBuf,
}

impl Table {
    /// As it is now.
    ///
    /// # Errors
    /// As for [`ours`].
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    fn parse(table: &[u8]) -> Self {
        let seen = |line: &[u8]| {
            let fields = fields(line);
            let path = |at: usize| Some(OsString::from_vec(unescape(fields.get(at)?)).into());
            let number = |at: usize| std::str::from_utf8(fields.get(at)?).ok()?.parse().ok();
            let device = String::from_utf8_lossy(fields.get(2)?).into_owned();
            Some(Seen { number: number(0)?, on: number(1)?, device, root: path(3)?, at: path(4)? })
        };
        Self(table.split(|b| *b == b'\n').filter_map(seen).collect())
    }

    /// Where the mount of this number is, wherever somebody has moved it to; nowhere if it is not in the tree, or not the whole of this
    /// device: numbers are given again.
    pub fn whereabouts(&self, number: u64, device: &str) -> Option<Whereabouts> {
        let is_it =
            |seen: &&Seen| seen.number == number && seen.device == device && seen.root == Path::new("/");
        let at = self.0.iter().find(is_it)?.at.clone();
        // What stands on it further down is at another path.
        let is_covered = self.0.iter().any(|seen| seen.on == number && seen.at == at);
        Some(Whereabouts { at, is_covered })
    }

    /// Where `path` (absolute, without links) lies; nothing where the table does not say it.
    pub fn location(&self, path: &Path) -> Option<Location> {
        let holding = self.0.iter().filter(|seen| path.starts_with(&seen.at));
        // Of mounts at the same place the last one covers the others.
        let seen = holding.max_by_key(|seen| seen.at.as_os_str().len())?;
        let below = path.strip_prefix(&seen.at).ok()?;
        // Joined with nothing a path gets a slash at its end, which a file cannot have.
        let path = if below.as_os_str().is_empty() { seen.root.clone() } else { seen.root.join(below) };
        Some(Location { device: seen.device.clone(), path })
    }
}

impl Location {
    /// Whether it is `folder` or lies below it.
    pub fn is_in(&self, folder: &Self) -> bool {
        self.device == folder.device && self.path.starts_with(&folder.path)
    }
}

/// proc(5), /proc/pid/mountinfo: fields 3 (device), 4 (root), 5 (mount point), and after ` - ` the type, the source and the
/// options of the superblock.
fn parse(table: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let fields = fields(line);
        let dash = fields.iter().position(|field| *field == b"-")?;
        let number = std::str::from_utf8(fields.first()?).ok()?.parse().ok()?;
        let device = String::from_utf8_lossy(fields.get(2)?).into_owned();
        let at = unescape(fields.get(4)?);
        let kind = fields.get(dash + 1)?;
        let source = String::from_utf8(unescape(fields.get(dash + 2)?)).ok()?;
        let source = source.strip_prefix(SOURCE_PREFIX)?.to_owned();
        let root = OsString::from_vec(unescape(fields.get(3)?)).into();
        let options = String::from_utf8_lossy(fields.get(dash + 3).unwrap_or(&&b""[..])).into_owned();
        let owner = options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok());
        let owner = owner.unwrap_or(0);
        kind.starts_with(b"fuse").then(|| Mount {
            number,
            at: OsString::from_vec(at).into(),
            source,
            device,
            root,
            owner,
        })
    };
    table.split(|b| *b == b'\n').filter_map(line).collect()
}

fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|b| *b == b' ').collect()
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_told_from_others() {
        let table = b"22 1 0:21 / /proc rw - proc proc rw\n\
            40 1 0:50 / /run/my\\040secrets ro,nosuid - fuse secretfs#vault:secret ro\n\
            41 1 0:51 /a\\040b /mnt ro shared:3 - fuse.secretfs secretfs#store:/a ro,user_id=1000,group_id=4\n\
            42 1 0:52 / /other rw - fuse sshfs#x rw\n\
            43 1 0:53 / /fake rw - ext4 secretfs#x rw\nbroken\n";
        let found = parse(table);
        assert_eq!(found.len(), 2);
        assert_eq!(found.first().map(|m| m.at.clone()), Some(PathBuf::from("/run/my secrets")));
        assert_eq!(found.last().map(|m| m.source.as_str()), Some("store:/a"));
        assert_eq!(found.last().map(|m| m.device.as_str()), Some("0:51"));
        assert_eq!(found.last().map(|m| (m.root.clone(), m.owner)), Some((PathBuf::from("/a b"), 1000)));
        assert_eq!(found.first().map(|m| (m.root.clone(), m.owner)), Some((PathBuf::from("/"), 0)));
    }

    #[test]
    fn a_place_is_the_same_whatever_bind_mounts_call_it() {
        let table = Table::parse(
            b"27 1 254:0 / / rw - ext4 /dev/vda rw\n\
            30 27 254:0 /data/a /alias rw - ext4 /dev/vda rw\n\
            31 27 254:0 /data/a/file /one\\040file rw - ext4 /dev/vda rw\n\
            32 27 0:40 / /data/a/tmp rw - tmpfs tmpfs rw\n",
        );
        let at = |path: &str| table.location(Path::new(path)).unwrap();
        assert_eq!(at("/alias/mnt"), at("/data/a/mnt"));
        assert_eq!(at("/alias"), at("/data/a"));
        assert_eq!(at("/one file"), at("/alias/file"));
        assert!(at("/alias/mnt/x").is_in(&at("/data/a/mnt")) && at("/one file").is_in(&at("/data")));
        assert!(!at("/alias/mnt").is_in(&at("/data/a/mnt/x")) && !at("/alias2").is_in(&at("/alias")));
        assert!(!at("/data/a/tmp/x").is_in(&at("/data/a")), "another filesystem");
        assert!(Table::parse(b"").location(Path::new("/")).is_none());
    }

    #[test]
    fn a_mount_is_found_wherever_it_was_moved_to_and_not_taken_for_a_bind_of_it() {
        let table = Table::parse(
            b"27 1 254:0 / / rw - ext4 /dev/vda rw\n\
            40 27 0:50 / /moved\\040away/mnt ro - fuse.secretfs secretfs#x ro\n\
            41 27 0:50 / /bind ro - fuse.secretfs secretfs#x ro\n\
            42 27 0:50 /team /part ro - fuse.secretfs secretfs#x ro\n\
            43 41 0:60 / /bind rw - tmpfs tmpfs rw\n\
            44 40 0:61 / /moved\\040away/mnt/file rw - tmpfs tmpfs rw\n",
        );
        let found = |at: &str, is_covered| Some(Whereabouts { at: at.into(), is_covered });
        assert_eq!(table.whereabouts(40, "0:50"), found("/moved away/mnt", false));
        assert_eq!(table.whereabouts(41, "0:50"), found("/bind", true));
        for (number, device) in [(42, "0:50"), (40, "0:51"), (45, "0:50")] {
            assert_eq!(table.whereabouts(number, device), None, "{number}");
        }
    }

    #[test]
    fn a_source_cannot_add_a_mount_option() {
        assert_eq!(source_option("store:/a,allow_other b"), "secretfs#store:/a_allow_other_b");
    }
}
