//! Owns the passing of time: a monotonic clock that counts while the machine sleeps, and one that tests move.
//! Does not know what any deadline is for.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on the clock, in nanoseconds since boot (or since a test began).
///
/// Counted from one, so that an `Option` of it is no larger: there are several in all that is held. The clock of all processes
/// of a machine is the same, so one can tell it to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// When the machine booted, or a test began.
    pub const START: Self = Self(NonZeroU64::MIN);
    /// Later than anything that is ever waited for.
    pub const END: Self = Self(NonZeroU64::MAX);

    /// A moment `after` later; saturates at the end of time.
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(nanos_of(after)))
    }

    /// A moment `before` earlier; the beginning of time when there is none.
    pub fn minus(self, before: Duration) -> Self {
        NonZeroU64::new(self.0.get().saturating_sub(nanos_of(before))).map_or(Self::START, Self)
    }

    /// How long from `earlier` to this; zero when `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Where `now` comes from. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Clock {
    /// CLOCK_BOOTTIME (clock_gettime(2)): unaffected by wall clock jumps, counts suspend.
    System,
    /// Moved by hand, for tests.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock at zero that only [`Clock::advance`] moves.
    pub fn manual() -> Self {
        Self::Manual(Arc::default())
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        match self {
            Self::System => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
                Moment::START.plus(Duration::new(seconds, nanos))
            }
            Self::Manual(nanos) => Moment::START.plus(Duration::from_nanos(nanos.load(Ordering::SeqCst))),
        }
    }

    /// Seconds and less until `moment`, as a timer of the runtime can wait. The timers stand still while the machine
    /// sleeps and a manual clock moves as it likes, so never longer than a few seconds: look again then.
    pub fn wait_until(&self, moment: Moment) -> Duration {
        const LOOK: Duration = Duration::from_secs(5);
        moment.since(self.now()).min(LOOK)
    }

    /// Moves a manual clock forward; a system clock moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(nanos) = self {
            nanos.fetch_add(nanos_of(by), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual();
        let start = clock.now();
        clock.advance(Duration::from_secs(3));
        assert_eq!(clock.now().since(start), Duration::from_secs(3));
        assert_eq!(start.since(clock.now()), Duration::ZERO);
    }

    #[test]
    fn the_system_clock_does_not_go_back() {
        let first = Clock::System.now();
        assert!(Clock::System.now() >= first);
    }
}
