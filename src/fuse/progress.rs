//! Owns the count of requests that the threads of a session have begun and ended: whether they get anywhere.
//! Does not know what a request is, or who looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counted by the threads that read requests. A request that is handed over ends for them with that. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// How far they have got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    begun: u64,
    ended: u64,
}

impl Progress {
    /// A request begins; it ends when the value is dropped.
    pub(super) fn begin(&self) -> AtWork<'_> {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        AtWork(&self.0)
    }

    /// How far they have got by now.
    pub fn done(&self) -> Done {
        // In this order: one that ends in between is none that is at work.
        let ended = self.0.ended.load(Ordering::Relaxed);
        Done { begun: self.0.begun.load(Ordering::Relaxed), ended }
    }
}

impl Done {
    /// Whether nothing has ended since `before` that had begun, though something had: no request is ever waited with on these threads.
    pub fn is_stuck_since(self, before: Done) -> bool {
        self.ended == before.ended && before.begun > before.ended
    }
}

/// A request that a thread is at.
pub(super) struct AtWork<'a>(&'a Counters);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_begun_and_ends_nothing_is_stuck() {
        let progress = Progress::default();
        let idle = progress.done();
        assert!(!progress.done().is_stuck_since(idle), "there was nothing to do");
        let at_work = progress.begin();
        assert!(!progress.done().is_stuck_since(idle), "it has begun since");
        let busy = progress.done();
        assert!(progress.done().is_stuck_since(busy));
        let other = progress.begin();
        drop(other);
        assert!(!progress.done().is_stuck_since(busy), "another thread gets somewhere");
        drop(at_work);
        assert!(!progress.done().is_stuck_since(progress.done()));
    }
}
