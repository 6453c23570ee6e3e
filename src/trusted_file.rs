//! Owns the question whether a file may be trusted: it is there, and nobody but us and root can change it.
//! Does not know what is in the file or who wants it, and shows neither its name nor its content.

use std::fs::Metadata;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use zeroize::Zeroizing;

/// No file of credentials or configuration is larger than this many bytes; a larger one is a mistake in a path.
const LIMIT: u64 = 1 << 20;

/// Why a file is refused. Does not hold its name: in a configuration file that is a value, and values are not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is there.
    #[error("there is no such file")]
    Missing,
    /// A folder is there.
    #[error("this is a folder, not a file")]
    Folder,
    /// A device or a socket is there.
    #[error("this is a device or a socket, not a file")]
    NotAFile,
    /// It cannot be looked at, or not be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(ErrorKind),
    /// Somebody else could put another content in it.
    #[error("users other than its owner can write the file; run `chmod go-w` on it")]
    Writable,
    /// Its owner could put another content in it. Holds the number of the user it should belong to.
    #[error("the file belongs to another user; run `chown {0}` and `chmod go-w` on it")]
    Foreign(u32),
    /// Larger than 1 MiB.
    #[error("the file is larger than 1 MiB, so it is not the one that was meant")]
    TooLarge,
}

/// What a trusted file holds.
pub struct Content {
    /// All of it. Erased when dropped.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Group or others may read the file: worth a warning where it holds a key.
    pub others_can_read: bool,
}

/// That there is a file at `path`, whoever can write it. A link is followed: what counts is the file that will be read.
pub fn exists(path: &Path) -> Result<(), Refusal> {
    is_file(&std::fs::metadata(path).map_err(unreadable)?)
}

/// That [`read`] would trust the file at `path`.
pub fn check(path: &Path) -> Result<(), Refusal> {
    trusted(&std::fs::metadata(path).map_err(unreadable)?)
}

/// The content of the file at `path`, which may be a pipe (`<(command)` in a shell).
///
/// The check is made on the opened descriptor, so the file that is checked is the file that is read.
pub fn read(path: &Path) -> Result<Content, Refusal> {
    // A socket cannot be opened, and a device may do something when it is.
    exists(path)?;
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    trusted(&found)?;
    let expected = usize::try_from(found.len().min(LIMIT)).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Refusal::TooLarge);
    }
    Ok(Content { bytes, others_can_read: found.mode() & 0o044 != 0 })
}

fn is_file(found: &Metadata) -> Result<(), Refusal> {
    let kind = found.file_type();
    match kind.is_file() || kind.is_fifo() {
        true => Ok(()),
        false if kind.is_dir() => Err(Refusal::Folder),
        false => Err(Refusal::NotAFile),
    }
}

/// The one decision: only the owner can write it, and the owner is this process's user or root.
fn trusted(found: &Metadata) -> Result<(), Refusal> {
    is_file(found)?;
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us && found.uid() != 0 {
        return Err(Refusal::Foreign(us));
    }
    // With an ACL the group bits are its mask, so a named user who may write is seen here as well.
    if found.mode() & 0o022 != 0 {
        return Err(Refusal::Writable);
    }
    Ok(())
}

fn unreadable(error: std::io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Refusal::Missing,
        kind => Refusal::Unreadable(kind),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, b"canary-token\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    /// A size is only known once the file is read; all else is seen by a look as well.
    fn refusal(path: &Path) -> Refusal {
        let refused = read(path).err().unwrap();
        assert!(check(path) == Err(refused) || refused == Refusal::TooLarge);
        refused
    }

    #[test]
    fn a_file_that_only_its_owner_can_write_is_read_as_it_is() {
        for (mode, others_can_read) in [(0o400, false), (0o600, false), (0o644, true), (0o440, true)] {
            let (_folder, path) = file(mode);
            assert_eq!(check(&path), Ok(()));
            let content = read(&path).ok().unwrap();
            assert_eq!(content.bytes.as_slice(), b"canary-token\n");
            assert_eq!(content.others_can_read, others_can_read, "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_refused_with_what_to_do() {
        for mode in [0o620, 0o602, 0o666] {
            let (folder, path) = file(mode);
            assert_eq!(refusal(&path), Refusal::Writable);
            assert!(refusal(&path).to_string().contains("chmod go-w"));
            let link = folder.path().join("link");
            symlink(&path, &link).unwrap();
            assert_eq!(refusal(&link), Refusal::Writable);
            assert_eq!(exists(&link), Ok(()));
        }
    }

    #[test]
    fn nothing_a_folder_a_device_and_a_huge_file_are_told_apart() {
        let (folder, path) = file(0o600);
        assert_eq!(refusal(&folder.path().join("none")), Refusal::Missing);
        assert_eq!(refusal(&path.join("below-a-file")), Refusal::Missing);
        assert_eq!(refusal(folder.path()), Refusal::Folder);
        assert_eq!(refusal(Path::new("/dev/null")), Refusal::NotAFile);
        std::fs::write(&path, vec![b'x'; (LIMIT + 1) as usize]).unwrap();
        assert_eq!(refusal(&path), Refusal::TooLarge);
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let (_folder, path) = file(0o600);
        // only root can give a file away; for others the rule is the same comparison
        if std::os::unix::fs::chown(&path, Some(65534), None).is_ok() {
            assert_eq!(refusal(&path), Refusal::Foreign(rustix::process::geteuid().as_raw()));
        }
    }
}
