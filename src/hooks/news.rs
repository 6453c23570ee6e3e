//! Owns what a run is told: the folders of the secrets that changed, within bounds.
//! Does not know values; names only. The hands make whole paths of them.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use crate::hands::{MOST_NEWS, news_size};

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
        let bytes = news_size(&path, mountpoint);
        if self.paths.contains(&path) {
            return;
        }
        if self.bytes + bytes > MOST_NEWS {
            self.is_truncated = true;
            return;
        }
        self.bytes += bytes;
        self.paths.insert(path);
    }

    /// Nor do others fit that were left out earlier.
    pub(super) fn truncate(&mut self) {
        self.is_truncated = true;
    }

    /// Each folder once, sorted; and whether some did not fit.
    pub(super) fn into_paths(self) -> (Vec<String>, bool) {
        (self.paths.into_iter().collect(), self.is_truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_sorted_and_told_once() {
        let (mut news, at) = (News::default(), OsStr::new("/mnt"));
        for path in ["b/c", "a", "b/c", ""] {
            news.add(path.to_owned(), at);
        }
        assert_eq!(news.into_paths(), (["", "a", "b/c"].map(str::to_owned).to_vec(), false));
    }

    #[test]
    fn ten_thousand_paths_fit_into_the_bound() {
        let (mut news, at) = (News::default(), OsStr::new("/mnt"));
        for number in 0..10_000 {
            news.add(format!("team/secret-{number}"), at);
        }
        let (paths, truncated) = news.into_paths();
        assert!(truncated);
        let size: usize = paths.iter().map(|path| news_size(path, at)).sum();
        assert!((MOST_NEWS - 100..=MOST_NEWS).contains(&size));
    }
}
