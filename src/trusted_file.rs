//! Owns reading a file that holds a credential, and the refusal of one that somebody else could have written.
//! Does not know what the credential is or who wants it.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// No credential is larger than this many bytes; a larger file is a mistake in a path.
const LIMIT: u64 = 1 << 20;

/// Why a credential file is not used. Names the file and what to do, never what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error("`{}` does not exist", .path.display())]
    Missing {
        /// The file asked for.
        path: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error("`{}` cannot be read: {kind}", .path.display())]
    Unreadable {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// A folder, a device or a socket.
    #[error("`{}` is not a file", .path.display())]
    NotAFile {
        /// The file asked for.
        path: PathBuf,
    },
    /// Group or others may write it, so its content cannot be trusted.
    #[error("`{}` can be written by others (mode {mode:04o}): run `chmod go-w {}`", .path.display(), .path.display())]
    Writable {
        /// The file asked for.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to neither us nor root.
    #[error("`{}` belongs to user {owner}, not to the user who runs this (or root): chown it", .path.display())]
    Foreign {
        /// The file asked for.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// Larger than 1 MiB.
    #[error("`{}` is larger than 1 MiB: it cannot be a credential", .path.display())]
    TooLarge {
        /// The file asked for.
        path: PathBuf,
    },
}

/// The content of the credential file at `path`, which may be a pipe (`<(command)` in a shell).
///
/// The check is made on the opened descriptor, so the file that is checked is the file that is read.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
        kind => Error::Unreadable { path: path.to_owned(), kind },
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() && !found.file_type().is_fifo() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Error::Writable { path: path.to_owned(), mode });
    }
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::Foreign { path: path.to_owned(), owner: found.uid() });
    }
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(found.len().min(LIMIT)).unwrap_or(0) + 1));
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, b"canary-token\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_private_or_readable_file_is_read_as_it_is() {
        for mode in [0o400, 0o600, 0o644] {
            let (_folder, path) = file(mode);
            assert_eq!(read(&path).unwrap().as_slice(), b"canary-token\n");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_refused_with_what_to_do() {
        for mode in [0o620, 0o602, 0o666] {
            let (_folder, path) = file(mode);
            let error = read(&path).unwrap_err();
            assert_eq!(error, Error::Writable { path: path.clone(), mode });
            let text = error.to_string();
            assert!(text.contains("chmod go-w") && text.contains(&*path.to_string_lossy()), "{text}");
            assert!(!text.contains("canary"));
        }
    }

    #[test]
    fn a_missing_file_a_folder_and_a_huge_file_are_told_apart() {
        let (folder, path) = file(0o600);
        assert!(matches!(read(&folder.path().join("none")), Err(Error::Missing { .. })));
        assert!(matches!(read(folder.path()), Err(Error::NotAFile { .. })));
        std::fs::write(&path, vec![b'x'; (LIMIT + 1) as usize]).unwrap();
        assert!(matches!(read(&path), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return; // only root can give a file away
        }
        let (_folder, path) = file(0o600);
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(matches!(read(&path), Err(Error::Foreign { owner: 65534, .. })));
    }
}
