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
}

/// Whether a backend that gives this error may be well all the same.
pub(crate) fn is_about_one_thing(error: &Error) -> bool {
    match error {
        Error::Status(status) => !matches!(status, 408 | 429 | 502..=504),
        Error::Unreachable(_) | Error::Busy { .. } => false,
        _ => true,
    }
}
