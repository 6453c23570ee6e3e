//! Owns the decision what follows the end of a worker that should not have ended: another one, after what pause, or none.
//! Does not know processes or clocks; it is told the time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// Crashes are counted for so long.
const WINDOW: Duration = Duration::from_secs(60);
/// A worker that has served for less than this is one of a row: its successor waits.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// The pause before the second of a row, doubled with each; a longer one would make readers wait for nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Start another one after this pause.
    Restart(Duration),
    /// It makes no sense: end the mount.
    GiveUp,
}

/// The crashes of a mount so far.
#[derive(Debug)]
pub(super) struct Restarts {
    max_crashes: u32,
    /// When they were, as far as they count still.
    recent: VecDeque<Moment>,
    row: u32,
    total: u64,
}

impl Restarts {
    /// None yet. More than `max_crashes` within a minute are too many.
    pub(super) fn new(max_crashes: u32) -> Self {
        Self { max_crashes, recent: VecDeque::new(), row: 0, total: 0 }
    }

    /// A worker has ended at `now` that had served for `life`; `None`: it never came so far.
    pub(super) fn crashed(&mut self, life: Option<Duration>, now: Moment) -> Next {
        self.total += 1;
        self.recent.retain(|at| now.since(*at) < WINDOW);
        self.recent.push_back(now);
        if self.recent.len() > usize::try_from(self.max_crashes).unwrap_or(usize::MAX) {
            return Next::GiveUp;
        }
        self.row = if life.is_some_and(|life| life >= SHORT_LIFE) { 0 } else { self.row.saturating_add(1) };
        Next::Restart(match self.row.checked_sub(1) {
            None | Some(0) => Duration::ZERO,
            Some(more) => FIRST_PAUSE.saturating_mul(1 << (more - 1).min(10)).min(LONGEST_PAUSE),
        })
    }

    /// How many there were since the mount was made.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::START.plus(Duration::from_secs(seconds))
    }

    const LONG: Option<Duration> = Some(Duration::from_secs(10));

    #[test]
    fn a_worker_that_has_served_is_replaced_at_once_however_often_as_long_as_that_is_not_too_often() {
        let mut restarts = Restarts::new(5);
        for crash in 0..100 {
            assert_eq!(restarts.crashed(LONG, at(crash * 13)), Next::Restart(Duration::ZERO));
        }
        assert_eq!(restarts.total(), 100);
    }

    #[test]
    fn one_more_than_may_be_within_a_minute_is_the_end() {
        let mut restarts = Restarts::new(3);
        for second in [0, 10, 20] {
            assert_eq!(restarts.crashed(LONG, at(second)), Next::Restart(Duration::ZERO));
        }
        assert_eq!(restarts.crashed(LONG, at(59)), Next::GiveUp);
        let mut restarts = Restarts::new(0);
        assert_eq!(restarts.crashed(LONG, at(0)), Next::GiveUp);
    }

    #[test]
    fn those_that_hardly_lived_wait_longer_and_longer_and_one_that_lived_ends_the_row() {
        let mut restarts = Restarts::new(100);
        let pauses: Vec<_> = (0..8).map(|_| restarts.crashed(None, at(0))).collect();
        let millis = [0, 100, 200, 400, 800, 1600, 2000, 2000];
        assert_eq!(pauses, millis.map(|millis| Next::Restart(Duration::from_millis(millis))));
        assert_eq!(restarts.crashed(LONG, at(1)), Next::Restart(Duration::ZERO));
        assert_eq!(restarts.crashed(Some(Duration::ZERO), at(1)), Next::Restart(Duration::ZERO));
    }
}
