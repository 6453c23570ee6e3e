//! Owns keeping in use what hooks are about: only of secrets in use a change is noticed.
//! Does not know who refreshes them.

use std::convert::Infallible;
use std::time::Duration;

use super::Hooks;
use crate::cache::SecretRef;

/// A secret is in use for several times its `ttl`, so one look in each is enough; but not more often than this.
const SHORTEST: Duration = Duration::from_millis(100);
/// Nor less often: a secret that is read for the first time is soon noticed.
const LONGEST: Duration = Duration::from_secs(60);

impl Hooks {
    /// Never ends. The secrets that patterns without wildcards name are read, whoever else does or does not; the others
    /// are kept in use once they are held.
    pub(super) async fn keep_in_use(&self) -> Infallible {
        let pause = self.trees.promises().shortest_ttl().clamp(SHORTEST, LONGEST);
        // Two things side by side: while a backend does not answer, reading waits.
        tokio::select! {
            never = self.note_held(pause) => never,
            never = self.read_named(pause) => never,
        }
    }

    async fn note_held(&self, pause: Duration) -> Infallible {
        loop {
            for held in self.cache.held() {
                if self.is_about(&held.of) {
                    self.cache.note_use(&held.of);
                }
            }
            tokio::time::sleep(pause).await;
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

    /// Reads the first secret that is there, and puts it in front, so that the next time the others are not asked for.
    async fn read_first(&self, meanings: &mut [SecretRef]) {
        let mut found = None;
        for (at, of) in meanings.iter().enumerate() {
            if self.cache.secret(of).await.is_ok() {
                found = Some(at);
                break;
            }
        }
        if let Some(meanings) = found.and_then(|at| meanings.get_mut(..=at)) {
            meanings.rotate_right(1);
        }
    }

    /// Whether any hook is about a secret, at any of the places it is shown.
    fn is_about(&self, of: &SecretRef) -> bool {
        of.version.is_none()
            && self
                .trees
                .paths_of(of)
                .iter()
                .any(|(_, path)| !self.patterns.covering(&path.join("/")).is_empty())
    }
}
