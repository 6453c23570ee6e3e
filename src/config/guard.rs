//! Owns the question whether a file may be trusted: it is there, and nobody but us and root can change it.
//! Does not know what is in the file or who wants to read it.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why a file is refused. Does not hold its name: in a configuration file that is a value, and values are not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFile {
    /// Nothing is there.
    #[error("there is no such file")]
    Missing,
    /// A folder is there.
    #[error("this is a folder, not a file")]
    Folder,
    /// It cannot even be looked at.
    #[error("the file cannot be looked at: {0}")]
    Unreadable(ErrorKind),
    /// Somebody else could put other credentials in it.
    #[error("users other than its owner can write the file; run `chmod go-w` on it")]
    Writable,
    /// Its owner could put other credentials in it.
    #[error("the file belongs to another user; run `chown {0}` and `chmod go-w` on it")]
    Foreign(u32),
}

/// That there is a file at `path`, whoever can write it.
pub fn file(path: &Path) -> Result<Metadata, BadFile> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(BadFile::Folder),
        Ok(found) => Ok(found),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(BadFile::Missing)
        }
        Err(error) => Err(BadFile::Unreadable(error.kind())),
    }
}

/// That there is a file at `path` which only its owner can write, and the owner is this process's user or root.
/// A link is followed: what counts is the file that will be read.
pub fn credential_file(path: &Path) -> Result<(), BadFile> {
    trusted(&file(path)?)
}

/// The same for a file that is already open, so that nothing can change between the look and the read.
pub fn trusted(found: &Metadata) -> Result<(), BadFile> {
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us && found.uid() != 0 {
        return Err(BadFile::Foreign(us));
    }
    // with an ACL the group bits are its mask, so a named user who may write is seen here as well
    if found.mode() & 0o022 != 0 {
        return Err(BadFile::Writable);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_the_owner_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "canary").unwrap();
        for (mode, expected) in [
            (0o600, Ok(())),
            (0o444, Ok(())),
            (0o620, Err(BadFile::Writable)),
            (0o602, Err(BadFile::Writable)),
        ] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(credential_file(&path), expected, "{mode:o}");
        }
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(credential_file(&link), Err(BadFile::Writable));
    }

    #[test]
    fn a_folder_or_nothing_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(file(folder.path()).unwrap_err(), BadFile::Folder);
        assert_eq!(file(&folder.path().join("none")).unwrap_err(), BadFile::Missing);
    }

    #[test]
    fn another_owner_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "canary").unwrap();
        // only root can give a file away; for others the rule is the same comparison
        if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
            assert_eq!(credential_file(&path), Err(BadFile::Foreign(0)));
        }
    }
}
