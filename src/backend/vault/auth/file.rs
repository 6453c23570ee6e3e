//! Owns reading the files of a login: a token, a role id, a secret id; and noticing that one was replaced.
//! Does not know what is done with what they hold.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::backend::Error;
use crate::printable::printable_path;
use crate::secret::SecretBytes;
use crate::trusted_file::{self, Refusal};

/// A file is given up after this: a pipe that nobody writes into, a folder on a network that is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What changes when a file is written or replaced: device, inode, size, and when it was changed (stat(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64, u64, u64, (i64, i64), (i64, i64));

/// The mark of the file at `path`; `None` where there is none, or a pipe, which gives what it holds only once.
pub(super) async fn mark(path: &Path) -> Option<Mark> {
    let path = path.to_owned();
    // A home folder may be on a network: never wait for it on a thread that serves others.
    let found = tokio::task::spawn_blocking(move || std::fs::metadata(path)).await.ok()?.ok()?;
    let (m, c) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    found.is_file().then(|| Mark(found.dev(), found.ino(), found.size(), m, c))
}

/// What a file holds, without white space around it; `None` where there is no file or nothing in it. `what` it should hold is
/// for the error: `token`, `secret id`.
pub(super) async fn read(path: &Path, what: &str) -> Result<Option<SecretBytes>, Error> {
    let file = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || trusted_file::read(&file));
    let Ok(read) = tokio::time::timeout(PATIENCE, reading).await else {
        let file = printable_path(path);
        return Err(Error::Unreachable(format!("no {what} from `{file}`: it gives nothing to read")));
    };
    match read {
        Ok(Ok(content)) => {
            let text = content.bytes.trim_ascii();
            Ok((!text.is_empty()).then(|| SecretBytes::new(text.to_vec())))
        }
        Ok(Err(Refusal::Missing)) => Ok(None),
        Ok(Err(refusal)) => {
            Err(Error::Unreachable(format!("no {what} from `{}`: {refusal}", printable_path(path))))
        }
        Err(_) => Err(Error::Unreachable(format!("no {what} was read: shutting down"))),
    }
}

/// As [`read`], where there must be something, as text.
pub(super) async fn must_read(path: &Path, what: &str) -> Result<SecretBytes, Error> {
    let content = read(path, what).await?.filter(|content| content.expose_str().is_some());
    content.ok_or_else(|| {
        Error::Unreachable(format!("no {what} from `{}`: there is none in it", printable_path(path)))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_replaced_or_written_has_another_mark() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        assert_eq!(mark(&file).await, None);
        assert!(read(&file, "token").await.unwrap().is_none());
        std::fs::write(&file, " canary-1\n").unwrap();
        let first = mark(&file).await.unwrap();
        assert_eq!(read(&file, "token").await.unwrap().unwrap().expose(), b"canary-1");
        let other = folder.path().join("other");
        std::fs::write(&other, " canary-2\n").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert_ne!(mark(&file).await.unwrap(), first);
        std::fs::write(&file, "\n").unwrap();
        assert!(read(&file, "token").await.unwrap().is_none());
        let error = must_read(&file, "secret id").await.unwrap_err().to_string();
        assert!(error.contains("no secret id from") && !error.contains("canary"), "{error}");
    }
}
