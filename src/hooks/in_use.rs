//! Owns looking after the secrets that hooks are about: kept in use, and compared with what was known when they come back.
//! Does not know who refreshes them.

use std::convert::Infallible;
use std::time::Duration;

use super::Hooks;
use crate::backend::Error;
use crate::cache::SecretRef;
use crate::secret::Version;
use crate::tree::Shows;

/// A secret is held for its `ttl` at least and in use for longer, so two looks in each are enough; but not more often.
const SHORTEST: Duration = Duration::from_millis(100);
/// Nor less often: news should not be old.
const LONGEST: Duration = Duration::from_secs(30);

impl Hooks {
    /// Never ends. The secrets that patterns without wildcards name are read, whoever else does or does not; the others
    /// are kept in use once they are held.
    pub(super) async fn keep_in_use(&self) -> Infallible {
        let pause = (self.trees.promises().shortest_ttl() / 2).clamp(SHORTEST, LONGEST);
        // Two things side by side: while a backend does not answer, reading waits.
        tokio::select! {
            never = self.note_held(pause) => never,
            never = self.read_named(pause) => never,
        }
    }

    async fn note_held(&self, pause: Duration) -> Infallible {
        loop {
            for held in self.cache.held() {
                let paths = self.paths_of(&held.of);
                if self.is_any_about(&paths) {
                    self.cache.note_use(&held.of);
                    self.note_version(&held.of, &held.version, &paths);
                }
            }
            // A lease is kept by who opens it, and by who names it. What was revoked and made again is another all the same.
            for lease in self.leases.states() {
                let paths = self.paths_of(&lease.of);
                if self.is_any_about(&paths)
                    && let Some(held) = self.leases.current(&lease.of)
                {
                    self.note_version(&lease.of, &held.secret.version, &paths);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn note_version(&self, of: &SecretRef, version: &Version, paths: &[String]) {
        let mut seen = self.seen();
        if seen.held(of, version) {
            self.tell(paths);
        }
    }

    async fn read_named(&self, pause: Duration) -> Infallible {
        let mut named = self.named.clone();
        loop {
            for meanings in &mut named {
                self.read_first(meanings).await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads the first secret that is there, and puts it in front, so that the next time the others are not asked for. What is
    /// made on demand is not made for a hook: when it is held, it is in use.
    async fn read_first(&self, meanings: &mut [SecretRef]) {
        let mut found = None;
        for (at, of) in meanings.iter().enumerate() {
            let there = match self.is_made_on_demand(of).await {
                Ok(true) => self.leases.note_use(of),
                Ok(false) => self.cache.secret(of).await.is_ok(),
                // Who makes it is not known yet, and reading could not tell.
                Err(_) => false,
            };
            if there {
                found = Some(at);
                break;
            }
        }
        if let Some(meanings) = found.and_then(|at| meanings.get_mut(..=at)) {
            meanings.rotate_right(1);
        }
    }

    /// Whether a tree that shows a secret has it made on demand.
    async fn is_made_on_demand(&self, of: &SecretRef) -> Result<bool, Error> {
        for tree in self.trees.paths_of(of).into_iter().filter_map(|(id, _)| self.trees.get(id)) {
            if tree.shows == Shows::Secret || self.leases.is_on_demand(&tree.root).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
