//! Owns the memory of lookups that ended without an answer a moment ago: those who waited behind them end with them.
//! Does not know why there was no answer.
//!
//! Of several programs that look up one name which the kernel does not know yet, it sends one request and lets the others wait, deaf
//! to every signal (d_alloc_parallel, fs/dcache.c). When that fails the next of them sends its own: without this memory the
//! tenth would wait for ten deadlines.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::errno::Failure;
use crate::tree::inode::INodeNo;

/// Between two of those who wait behind each other the kernel takes much less; whoever comes later than this begins anew.
const GAP: Duration = Duration::from_millis(100);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Unanswered {
    /// Guards what ended a moment ago; held for a map operation only.
    recent: Arc<Mutex<Recent>>,
    lasts: Duration,
    gap: Duration,
}

#[derive(Default)]
struct Recent {
    /// By name, when the last of those who waited was told.
    ended: HashMap<Name, Instant>,
    /// When the first was told, in this order.
    order: VecDeque<(Instant, Name)>,
}

type Name = (INodeNo, OsString);

impl Unanswered {
    /// Each is remembered for a tenth of the deadline: so much later than that the last of a crowd is told.
    pub(super) fn new(deadline: Duration) -> Self {
        Self { recent: Arc::default(), lasts: deadline / 10, gap: GAP }
    }

    /// A lookup has ended without an answer. Told of one that [`Self::or`] ended this does not begin anew: who asks again and again
    /// must not keep himself from being answered.
    pub(super) fn note(&self, parent: INodeNo, name: &OsStr) {
        let (mut recent, now) = (self.recent(), Instant::now());
        recent.forget(now, self.lasts);
        let name = (parent, name.to_owned());
        if recent.ended.insert(name.clone(), now).is_none() {
            recent.order.push_back((now, name));
        }
    }

    /// What `lookup` finds at once; else what became of the same lookup a moment ago; else what `lookup` finds.
    pub(super) async fn or<T>(
        &self,
        parent: INodeNo,
        name: &OsStr,
        lookup: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut lookup = pin!(lookup);
        match poll_fn(|context| Poll::Ready(lookup.as_mut().poll(context))).await {
            Poll::Ready(found) => found,
            Poll::Pending if self.has(parent, name) => Err(Failure::DeadlinePassed),
            Poll::Pending => lookup.await,
        }
    }

    fn has(&self, parent: INodeNo, name: &OsStr) -> bool {
        let mut recent = self.recent();
        if recent.order.is_empty() {
            return false;
        }
        let now = Instant::now();
        recent.forget(now, self.lasts);
        let last = recent.ended.get(&(parent, name.to_owned()));
        last.is_some_and(|last| now.duration_since(*last) < self.gap)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Recent {
    fn forget(&mut self, now: Instant, lasts: Duration) {
        while let Some((_, name)) = self.order.pop_front_if(|(ended, _)| now.duration_since(*ended) >= lasts)
        {
            self.ended.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: INodeNo = INodeNo(7);

    /// Who is slow here does not come late.
    fn patient() -> Unanswered {
        Unanswered { gap: Duration::from_secs(60), ..Unanswered::new(Duration::from_secs(600)) }
    }

    fn name() -> &'static OsStr {
        OsStr::new("k")
    }

    #[test]
    fn what_had_no_answer_is_remembered_for_those_who_come_at_once_and_for_a_tenth_of_the_deadline() {
        let unanswered = patient();
        assert!(!unanswered.has(FOLDER, name()));
        unanswered.note(FOLDER, name());
        assert!(unanswered.has(FOLDER, name()));
        assert!(!unanswered.has(INodeNo(8), name()) && !unanswered.has(FOLDER, OsStr::new("l")));

        let unanswered = Unanswered::new(Duration::from_secs(600));
        unanswered.note(FOLDER, name());
        std::thread::sleep(GAP);
        assert!(!unanswered.has(FOLDER, name()), "who comes later asks for himself");

        let unanswered = Unanswered::new(Duration::from_millis(500));
        let start = Instant::now();
        // As somebody would who asks again and again.
        while start.elapsed() < Duration::from_millis(45) {
            unanswered.note(FOLDER, name());
            std::thread::sleep(Duration::from_millis(1));
        }
        let forgotten = || !unanswered.has(FOLDER, name());
        while !forgotten() {
            assert!(start.elapsed() < Duration::from_secs(10), "never forgotten");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!unanswered.has(FOLDER, name()));
        assert!(unanswered.recent().ended.is_empty() && unanswered.recent().order.is_empty());
    }

    #[tokio::test]
    async fn what_is_known_is_found_whatever_had_no_answer() {
        let unanswered = patient();
        unanswered.note(FOLDER, name());
        assert_eq!(unanswered.or(FOLDER, name(), async { Ok(1) }).await, Ok(1));
        let waits = async {
            tokio::task::yield_now().await;
            Ok(2)
        };
        assert_eq!(unanswered.or(FOLDER, name(), waits).await, Err(Failure::DeadlinePassed));
        let waits = async {
            tokio::task::yield_now().await;
            Ok(3)
        };
        assert_eq!(unanswered.or(INodeNo(8), name(), waits).await, Ok(3));
    }
}
