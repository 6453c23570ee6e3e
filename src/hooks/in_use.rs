//! Owns looking after the secrets that hooks are about: kept in use, and compared with what was known when they come back.
//! Does not know who refreshes them.

use std::convert::Infallible;
use std::time::Duration;

use super::Hooks;
use crate::cache::SecretRef;

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
                    if self.seen().held(&held.of, &held.version) {
                        self.tell(&paths);
                    }
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
}
