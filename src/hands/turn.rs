//! Owns whose turn it is: one at a time, and nobody before the time. For all workers of a mount together.
//! Does not know what is done.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Lets in one after the other.
pub(super) struct Turn {
    one: Semaphore,
    /// Guards when the next may begin; held for a look.
    not_before: Mutex<Option<Instant>>,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { one: Semaphore::new(1), not_before: Mutex::new(None) }
    }

    /// Waits for it. It is over when this is dropped.
    pub(super) async fn take(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so never none.
        let turn = self.one.acquire().await.ok();
        let left =
            self.not_before().map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        tokio::time::sleep(left).await;
        turn
    }

    /// The next one begins so much later than now at least.
    pub(super) fn not_again_before(&self, pause: Duration) {
        *self.not_before() = Instant::now().checked_add(pause);
    }

    fn not_before(&self) -> MutexGuard<'_, Option<Instant>> {
        self.not_before.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_comes_after_the_other_and_not_before_its_time() {
        let turn = Turn::new();
        let began = Instant::now();
        let first = turn.take().await;
        assert!(began.elapsed() < Duration::from_secs(30));
        assert!(tokio::time::timeout(Duration::from_millis(50), turn.take()).await.is_err(), "it is taken");
        turn.not_again_before(Duration::from_millis(200));
        let since = Instant::now();
        drop(first);
        let _second = turn.take().await;
        assert!(since.elapsed() >= Duration::from_millis(195));
    }
}
