//! Owns what the places of a mount promise about the age of what they show, and which promise counts.
//! Does not know what is held, clocks or backends; it is pure.

use std::time::Duration;

use super::TreeId;
use crate::freshness::Freshness;
use crate::pattern::{Bad, Coverage, Pattern, Set};

/// What is said about one tree or pattern; what is none is left to whoever says less precisely where it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promise {
    /// See [`Freshness::ttl`].
    pub ttl: Option<Duration>,
    /// See [`Freshness::max_stale`].
    pub max_stale: Option<Duration>,
}

/// Everything that is said about ages in one mount. A pattern counts before its tree, and a tree before the mount.
#[derive(Debug, Clone)]
pub struct Promises {
    mount: Freshness,
    trees: Vec<Promise>,
    patterns: Option<(Set, Vec<Promise>)>,
}

impl Promises {
    /// What holds for the whole mount, for its trees (by their number), and for what matches patterns.
    ///
    /// # Errors
    /// The patterns are too many or too large to be worked with.
    pub fn new(
        mount: Freshness,
        trees: Vec<Promise>,
        patterns: Vec<(Pattern, Promise)>,
    ) -> Result<Self, Bad> {
        let (patterns, promises): (Vec<_>, Vec<_>) = patterns.into_iter().unzip();
        let patterns = if patterns.is_empty() { None } else { Some((Set::new(&patterns)?, promises)) };
        Ok(Self { mount, trees, patterns })
    }

    /// What holds where nothing more precise is said.
    pub fn of_mount(&self) -> Freshness {
        self.mount
    }

    /// The shortest time that anything is fresh.
    pub fn shortest_ttl(&self) -> Duration {
        let patterns = self.patterns.iter().flat_map(|(_, promises)| promises);
        let said = self.trees.iter().chain(patterns).filter_map(|promise| promise.ttl);
        said.fold(self.mount.ttl, Duration::min)
    }

    /// What the directory at `path` promises, itself and for every file in it, as they all come from one question.
    pub(super) fn at(&self, tree: TreeId, path: &str) -> Freshness {
        let of_tree = self.trees.get(tree.0).copied().unwrap_or_default();
        let (whole, some_files) = self.matching(path);
        // A pattern that is about some files only leaves the promise of the others as it is: it can make it stricter.
        let ttl = whole.ttl.or(of_tree.ttl).unwrap_or(self.mount.ttl);
        let max_stale = whole.max_stale.or(of_tree.max_stale).unwrap_or(self.mount.max_stale);
        Freshness {
            ttl: some_files.ttl.map_or(ttl, |files| ttl.min(files)),
            max_stale: some_files.max_stale.map_or(max_stale, |files| max_stale.min(files)),
            negative_ttl: self.mount.negative_ttl,
        }
    }

    /// The strictest of what patterns say of the whole of a directory, and of what they say of some of its files.
    fn matching(&self, path: &str) -> (Promise, Promise) {
        let (mut whole, mut some_files) = (Promise::default(), Promise::default());
        let Some((patterns, promises)) = &self.patterns else { return (whole, some_files) };
        for (number, coverage) in patterns.covering(path) {
            let Some(promise) = promises.get(number) else { continue };
            let so_far = if coverage == Coverage::Whole { &mut whole } else { &mut some_files };
            so_far.ttl = strictest(so_far.ttl, promise.ttl);
            so_far.max_stale = strictest(so_far.max_stale, promise.max_stale);
        }
        (whole, some_files)
    }
}

/// Nothing said but what a program does by itself.
impl Default for Promises {
    fn default() -> Self {
        Self { mount: Freshness::default(), trees: Vec::new(), patterns: None }
    }
}

/// The one that keeps both promises.
pub(super) fn stricter(one: Freshness, other: Freshness) -> Freshness {
    Freshness {
        ttl: one.ttl.min(other.ttl),
        max_stale: one.max_stale.min(other.max_stale),
        negative_ttl: one.negative_ttl.min(other.negative_ttl),
    }
}

fn strictest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(ttl: u64, max_stale: u64) -> Promise {
        let seconds = |seconds| (seconds != 999).then(|| Duration::from_secs(seconds));
        Promise { ttl: seconds(ttl), max_stale: seconds(max_stale) }
    }

    fn promises(trees: &[Promise], patterns: &[(&str, Promise)]) -> Promises {
        let patterns =
            patterns.iter().map(|(text, promise)| (Pattern::parse(text).unwrap(), *promise)).collect();
        Promises::new(Freshness::default(), trees.to_vec(), patterns).unwrap()
    }

    fn at(promises: &Promises, tree: usize, path: &str) -> (u64, u64) {
        let freshness = promises.at(TreeId(tree), path);
        assert_eq!(freshness.negative_ttl, Duration::from_secs(1));
        (freshness.ttl.as_secs(), freshness.max_stale.as_secs())
    }

    #[test]
    fn what_is_said_more_precisely_counts() {
        let trees = [promise(300, 999), promise(999, 0)];
        let promises = promises(&trees, &[("/a/slow/**", promise(600, 999)), ("/a/db", promise(999, 7))]);
        assert_eq!(at(&promises, 0, "a/x"), (300, 3600));
        assert_eq!(at(&promises, 0, "a/slow/x"), (600, 3600));
        assert_eq!(at(&promises, 0, "a/db"), (300, 7));
        assert_eq!(at(&promises, 1, "b/x"), (60, 0));
        assert_eq!(at(&promises, 2, "c/x"), (60, 3600));
        assert_eq!(promises.shortest_ttl(), Duration::from_secs(60));
    }

    #[test]
    fn of_several_patterns_the_strictest_counts_key_by_key() {
        let promises = promises(
            &[],
            &[("/**", promise(600, 10)), ("/a/*", promise(20, 999)), ("/a/b", promise(30, 90))],
        );
        assert_eq!(at(&promises, 0, "a/b"), (20, 10));
        assert_eq!(at(&promises, 0, "x/y"), (600, 10));
        assert_eq!(promises.shortest_ttl(), Duration::from_secs(20));
    }

    #[test]
    fn a_pattern_of_one_file_makes_its_secret_stricter_and_never_laxer() {
        let promises = promises(&[], &[("/db/password", promise(5, 7200)), ("/x/*/key", promise(90, 1))]);
        assert_eq!(at(&promises, 0, "db"), (5, 3600));
        assert_eq!(at(&promises, 0, "x/a"), (60, 1));
        assert_eq!(at(&promises, 0, "x/a/key"), (90, 1));
    }

    #[test]
    fn without_anything_said_the_defaults_hold() {
        assert_eq!(Promises::default().at(TreeId(0), "a"), Freshness::default());
        assert_eq!(Promises::default().shortest_ttl(), Duration::from_secs(60));
    }
}
