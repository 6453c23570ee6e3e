//! Owns the way to a backend, and to subscribers, of what is not held in the cache: leases.
//! Does not know what is asked.

use std::future::Future;
use std::sync::Arc;

use super::{Changed, Priority, SecretCache, SourceId};
use crate::backend::{Backend, Error};
use crate::secret::erase_stack_below;

impl SecretCache {
    /// Tells subscribers of a secret that is not held here: a lease.
    pub fn announce(&self, changed: &Changed) {
        self.counters.changes.count();
        self.subscribers.tell(changed);
    }

    /// Asks a backend for something that is not held here, through the same door as all questions to it. It is not given up
    /// before it has an answer: whoever asks bounds the time. What the backend says of this one thing only (that it failed to
    /// make it) is no sign that the backend is not well.
    ///
    /// # Errors
    /// What the backend said.
    pub async fn ask<T, F>(
        &self,
        source: SourceId,
        asker: Priority,
        ask: impl FnOnce(Arc<dyn Backend>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let lane = self.lanes.get(source.index()).ok_or(Error::NotFound)?;
        let backend = lane.source.backend.clone();
        let asking = || async {
            match ask(backend).await {
                Err(error) if is_about_one_thing(&error) => Ok(Err(error)),
                answer => answer.map(Ok),
            }
        };
        let answer = lane.call_to_its_end(asker, asking).await;
        erase_stack_below();
        answer?
    }

    /// Asks a backend what it has there, for a reader who waits for that. Nothing is made, which may take as long as it likes: no
    /// answer is a sign that the backend is not well, as it is for what is held here.
    ///
    /// # Errors
    /// What the backend said.
    pub async fn look<T, F>(
        &self,
        source: SourceId,
        ask: impl FnOnce(Arc<dyn Backend>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let lane = self.lanes.get(source.index()).ok_or(Error::NotFound)?;
        let backend = lane.source.backend.clone();
        lane.call(Priority::Reader, || ask(backend)).await
    }
}

/// Whether a backend that gives this error may be well all the same.
pub(crate) fn is_about_one_thing(error: &Error) -> bool {
    match error {
        Error::Status(status) => !matches!(status, 408 | 429 | 502..=504),
        Error::Unreachable(_) | Error::Busy { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::time::Duration;

    use super::*;
    use crate::backend::faulty::Faulty;
    use crate::cache::{Limits, Source};
    use crate::clock::Clock;

    const SILENCE: Error = Error::TimedOut(Duration::from_secs(5));

    fn cache() -> SecretCache {
        let source = Source { name: "test".into(), backend: Arc::new(Faulty::new()) };
        SecretCache::new(vec![source], Limits::default(), Clock::manual())
    }

    #[tokio::test]
    async fn a_backend_that_does_not_say_what_it_has_is_known_to_be_silent() {
        let cache = cache();
        for _ in 0..5 {
            let looked = cache.look(SourceId(0), |_| async { Err::<(), _>(SILENCE) }).await;
            assert_eq!(looked, Err(SILENCE));
            assert!(!cache.source_states()[0].answers);
        }
        let looked = cache.look(SourceId(0), |_| async { Ok(()) }).await;
        assert!(matches!(looked, Err(Error::Unreachable(_))), "it rests, and is not asked: {looked:?}");
    }

    #[tokio::test]
    async fn one_thing_that_is_not_made_in_time_says_nothing_about_its_backend() {
        let cache = cache();
        for _ in 0..10 {
            let asked = cache.ask(SourceId(0), Priority::Lease, |_| async { Err::<(), _>(SILENCE) }).await;
            assert_eq!(asked, Err(SILENCE));
            assert!(cache.source_states()[0].answers);
        }
    }
}
