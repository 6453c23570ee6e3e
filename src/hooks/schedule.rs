//! Owns when a hook runs: changes within a moment are one run, runs are apart, and none begins while one is on.
//! Does not know what changed or what a run does; it is pure, and told the time.

use std::time::Duration;

use tokio::time::Instant;

/// The times of one hook.
#[derive(Debug)]
pub(super) struct Schedule {
    debounce: Duration,
    interval: Duration,
    /// The first change that no run knows yet.
    waiting_since: Option<Instant>,
    /// When the last run began.
    began: Option<Instant>,
    running: bool,
}

impl Schedule {
    /// Nothing waits and nothing runs.
    pub(super) fn new(debounce: Duration, interval: Duration) -> Self {
        Self { debounce, interval, waiting_since: None, began: None, running: false }
    }

    /// Something changed at `now`.
    pub(super) fn changed(&mut self, now: Instant) {
        // Counted from the first change, so that a secret that changes all the time cannot put the run off for ever.
        self.waiting_since.get_or_insert(now);
    }

    /// When the next run is to begin; none while nothing waits or a run is on.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting_since = self.waiting_since.filter(|_| !self.running)?;
        let debounced = waiting_since + self.debounce;
        Some(self.began.map_or(debounced, |began| debounced.max(began + self.interval)))
    }

    /// A run begins at `now`, with all changes so far.
    pub(super) fn begin(&mut self, now: Instant) {
        self.waiting_since = None;
        self.began = Some(now);
        self.running = true;
    }

    /// How long ago the first change came that no run knows yet, and how long ago the last run began.
    pub(super) fn ages(&self, now: Instant) -> [Option<Duration>; 2] {
        [self.waiting_since, self.began].map(|at| Some(now.saturating_duration_since(at?)))
    }

    /// Goes on from where another schedule was, of which [`Self::ages`] said this at `now`.
    pub(super) fn go_on_from(&mut self, [waits, ran]: [Option<Duration>; 2], now: Instant) {
        // A machine that began a moment ago knows no instant that is long ago: the wait begins anew.
        let ago = |age: Duration| now.checked_sub(age).unwrap_or(now);
        self.waiting_since = waits.map(ago);
        self.began = ran.map(ago);
    }

    /// The run is over.
    pub(super) fn end(&mut self) {
        self.running = false;
    }

    /// Whether a run is on.
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// Whether something changed that no run knows yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn changes_within_a_moment_are_one_run_and_a_steady_stream_does_not_put_it_off() {
        let start = Instant::now();
        let mut schedule = Schedule::new(ms(1000), ms(10_000));
        assert_eq!(schedule.due(), None);
        for at in [0, 300, 900, 5000] {
            schedule.changed(start + ms(at));
            assert_eq!(schedule.due(), Some(start + ms(1000)));
        }
    }

    #[test]
    fn runs_are_apart_and_what_changes_during_one_makes_one_more() {
        let start = Instant::now();
        let mut schedule = Schedule::new(ms(1000), ms(10_000));
        schedule.changed(start);
        schedule.begin(start + ms(1000));
        assert!(schedule.is_running() && !schedule.is_waiting());
        schedule.changed(start + ms(1500));
        assert_eq!(schedule.due(), None, "while it runs");
        schedule.end();
        assert_eq!(schedule.due(), Some(start + ms(11_000)));
        schedule.begin(start + ms(11_000));
        schedule.end();
        schedule.changed(start + ms(30_000));
        assert_eq!(schedule.due(), Some(start + ms(31_000)));
    }

    #[test]
    fn a_run_that_takes_longer_than_the_interval_is_followed_at_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(ms(0), ms(100));
        schedule.changed(start);
        schedule.begin(start);
        schedule.changed(start + ms(5));
        schedule.end();
        assert!(schedule.due() < Some(start + ms(5000)));
    }

    proptest! {
        /// A user of the schedule who is as busy as can be: begins when a run is due, never before.
        #[test]
        fn whatever_happens_runs_are_apart_and_every_change_is_followed_by_one(
            debounce in 0u64..50, interval in 0u64..50, takes in 0u64..50,
            gaps in prop::collection::vec(0u64..60, 1..60),
        ) {
            let start = Instant::now();
            let mut schedule = Schedule::new(ms(debounce), ms(interval));
            let (mut begun, mut ends): (Vec<u64>, Option<u64>) = (Vec::new(), None);
            let changes: Vec<u64> =
                gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let last = changes.last().copied().unwrap_or(0);
            for now in 0..last + debounce + interval + takes + 200 {
                for _ in changes.iter().filter(|at| **at == now) {
                    schedule.changed(start + ms(now));
                }
                if ends.is_some_and(|end| end <= now) {
                    schedule.end();
                    ends = None;
                }
                if schedule.due().is_some_and(|due| due <= start + ms(now)) {
                    prop_assert!(ends.is_none(), "overlap");
                    schedule.begin(start + ms(now));
                    begun.push(now);
                    ends = Some(now + takes);
                }
            }
            for pair in begun.windows(2) {
                prop_assert!(pair[1] - pair[0] >= interval.max(takes));
            }
            for change in &changes {
                let run = begun.iter().find(|at| *at >= change).copied();
                prop_assert!(run.is_some_and(|at| at - change <= debounce + interval + takes + 1), "{change}: {begun:?}");
            }
            prop_assert!(begun.len() <= changes.len());
        }
    }
}
