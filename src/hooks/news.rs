//! Owns what a run is told: the folders of the secrets that changed, within bounds.
//! Does not know values; names only.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

/// Bytes of all paths together. One variable of the environment may have 128 KiB (MAX_ARG_STRLEN, execve(2)).
const MOST: usize = 32 << 10;

/// Folders below the mountpoint, each once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct News {
    paths: BTreeSet<String>,
    bytes: usize,
    is_truncated: bool,
}

impl News {
    /// One more folder, as file names from the root of the mount, which lies at `mountpoint`.
    pub(super) fn add(&mut self, path: String, mountpoint: &OsStr) {
        let bytes = mountpoint.len() + path.len() + 2;
        if self.paths.contains(&path) {
            return;
        }
        if self.bytes + bytes > MOST {
            self.is_truncated = true;
            return;
        }
        self.bytes += bytes;
        self.paths.insert(path);
    }

    /// Whether some did not fit.
    pub(super) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Whole paths, one a line.
    pub(super) fn lines(&self, mountpoint: &OsStr) -> OsString {
        let mut lines = OsString::with_capacity(self.bytes);
        for (at, path) in self.paths.iter().enumerate() {
            if at > 0 {
                lines.push("\n");
            }
            lines.push(mountpoint);
            // The mount itself, where a secret is the whole of it.
            if !path.is_empty() {
                lines.push("/");
                lines.push(path);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_whole_sorted_and_told_once() {
        let (mut news, at) = (News::default(), OsStr::new("/mnt"));
        for path in ["b/c", "a", "b/c", ""] {
            news.add(path.to_owned(), at);
        }
        assert_eq!(news.lines(at), "/mnt\n/mnt/a\n/mnt/b/c");
        assert!(!news.is_truncated());
    }

    #[test]
    fn ten_thousand_paths_fit_into_the_bound() {
        let (mut news, at) = (News::default(), OsStr::new("/mnt"));
        for number in 0..10_000 {
            news.add(format!("team/secret-{number}"), at);
        }
        assert!(news.is_truncated());
        assert!((MOST - 100..=MOST).contains(&news.lines(at).len()));
    }
}
