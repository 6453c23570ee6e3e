//! Owns how long the connections to a backend live: whatever keeps them is replaced a while after its first use.
//! Does not know what keeps them.
//!
//! The buffer of a connection holds what was read last, until something as long is read, or until it is closed. Idle ones are
//! closed after seconds by their own client; one that is never idle would keep the end of a large value for ever.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::{Clock, Moment};

/// How long connections are used. Half of a usual TTL: what was read over one is gone from there before it expires.
pub(crate) const LIFE: Duration = Duration::from_secs(30);

/// Something that keeps connections.
pub(crate) struct ShortLived<T> {
    clock: Clock,
    /// Guards what keeps them, and since when it is in use; held for one use of it, which opens no connection.
    current: Mutex<(T, Option<Moment>)>,
}

impl<T> ShortLived<T> {
    /// Nothing was asked through `first` yet.
    pub(crate) fn new(first: T, clock: Clock) -> Self {
        Self { clock, current: Mutex::new((first, None)) }
    }

    /// What `using` makes of it.
    pub(crate) fn with<R>(&self, using: impl FnOnce(&mut T) -> R) -> R {
        let mut current = self.current();
        let (kept, used_since) = &mut *current;
        used_since.get_or_insert_with(|| self.clock.now());
        using(kept)
    }

    /// Whether it is to be replaced at `now`.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        self.current().1.is_some_and(|since| now.since(since) >= LIFE)
    }

    /// Lets go of what is there, and so of its connections: idle ones are closed, others when their answer is complete.
    pub(crate) fn replace(&self, next: T) {
        let last = std::mem::replace(&mut *self.current(), (next, None));
        // After the lock: what is freed is erased.
        drop(last);
    }

    fn current(&self) -> MutexGuard<'_, (T, Option<Moment>)> {
        self.current.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_life_begins_with_its_first_use() {
        let clock = Clock::manual();
        let kept = ShortLived::new(1, clock.clone());
        clock.advance(LIFE);
        assert!(!kept.is_due(clock.now()), "nothing was read through it");
        assert_eq!(kept.with(|number| *number), 1);
        clock.advance(LIFE - Duration::from_nanos(1));
        kept.with(|_| ());
        assert!(!kept.is_due(clock.now()));
        clock.advance(Duration::from_nanos(1));
        assert!(kept.is_due(clock.now()));
        kept.replace(2);
        assert!(!kept.is_due(clock.now().plus(LIFE)));
        assert_eq!(kept.with(|number| *number), 2);
    }
}
