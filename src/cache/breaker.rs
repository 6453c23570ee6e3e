//! Owns the circuit breaker of one backend: whether it may be asked at a moment, after what it answered before. Pure.
//! Does not know what is asked; `now` and chance are given.
//!
//! Closed, everything is asked. After some failures in a row it is open: the backend rests, and only a probe at a time asks
//! whether it is well again. One good answer closes it.

use std::time::Duration;

use super::gate::Priority;
use crate::backend::Error;
use crate::clock::Moment;

/// Failures in a row that open it. More than one, as a single secret may be broken; few, as each costs a reader its deadline.
const FAILURES: u32 = 5;
/// The first rest; each further one is twice as long.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest rest: an outage that ended is noticed within this.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// A reader that has nothing to be served from, and a lease that would end, may probe this long after the last probe, whatever
/// the rest.
const READERS_REST: Duration = Duration::from_secs(1);
/// The refresh loop asks when a rest is over; this much later a reader does.
const OVERDUE: Duration = Duration::from_secs(2);
/// A question that was given up after this long without an answer counts as a failure.
pub(super) const UNANSWERED: Duration = Duration::from_secs(1);

/// What the breaker says to somebody who wants to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Ask. `probe`: everybody waits for what comes back.
    Go { probe: bool },
    /// A probe is on its way: wait for its outcome, then ask here again.
    Wait,
    /// Do not ask before this.
    No { until: Moment },
}

/// How a question ended, as far as the backend's health goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered; also "no" and "too large".
    Answered,
    /// It did not.
    Failed(Error),
    /// Nobody waited for the answer any more, and it was not long in coming yet.
    Abandoned,
}

impl Outcome {
    pub(super) fn of<T>(result: &Result<T, Error>) -> Self {
        match result {
            Err(error) if is_ill(error) => Self::Failed(error.clone()),
            _ => Self::Answered,
        }
    }
}

/// One backend's health.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    open: Option<Open>,
    last_error: Option<Error>,
    failing_since: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    rests: u32,
    /// When somebody last began to ask.
    tried: Moment,
    /// When the backend is asked again even if no reader needs it.
    until: Moment,
    /// It said so itself (Retry-After): nobody asks before, but an operator.
    not_before: Moment,
    probing: bool,
}

impl Breaker {
    /// Whether it is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether it rests, and somebody sees to it that it is asked again: when its rest was over a while ago and nobody has
    /// asked since, it is time for whoever comes.
    pub(super) fn rests(&self, now: Moment) -> bool {
        self.open.is_some_and(|open| open.probing || now < open.until.plus(OVERDUE))
    }

    /// What it said the last time that it gave no answer; none once it is well again.
    pub(super) fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// When the first failure in a row was.
    pub(super) fn failing_since(&self) -> Option<Moment> {
        self.failing_since
    }

    /// When a resting backend is asked again by itself.
    pub(super) fn until(&self) -> Option<Moment> {
        self.open.map(|open| open.until)
    }

    /// Whether `asker` may ask at `now`; does not take the permission.
    pub(super) fn admits(&self, now: Moment, asker: Priority) -> Admission {
        let Some(open) = self.open else { return Admission::Go { probe: false } };
        let waits = matches!(asker, Priority::Operator | Priority::Reader);
        if open.probing {
            return if waits { Admission::Wait } else { Admission::No { until: open.until } };
        }
        let due = match asker {
            Priority::Operator => now,
            Priority::Reader | Priority::Lease => {
                open.until.min(open.tried.plus(READERS_REST)).max(open.not_before)
            }
            Priority::Ahead | Priority::Prefetch => open.until,
        };
        if now >= due { Admission::Go { probe: true } } else { Admission::No { until: due } }
    }

    /// As [`Self::admits`], and takes the permission.
    pub(super) fn admit(&mut self, now: Moment, asker: Priority) -> Admission {
        let admission = self.admits(now, asker);
        if admission == (Admission::Go { probe: true })
            && let Some(open) = &mut self.open
        {
            open.probing = true;
            open.tried = now;
        }
        admission
    }

    /// Lets everything through, whatever the failures; the last of them stays known.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Takes note of how a question ended that was admitted as a `probe` or not.
    pub(super) fn ended(&mut self, now: Moment, probe: bool, outcome: Outcome, chance: f64) {
        let error = match outcome {
            Outcome::Answered => {
                *self = Self::default();
                return;
            }
            Outcome::Abandoned => {
                if let Some(open) = self.open.as_mut().filter(|_| probe) {
                    open.probing = false;
                }
                return;
            }
            Outcome::Failed(error) => error,
        };
        self.failures = self.failures.saturating_add(1);
        let asked_for = match &error {
            Error::Busy { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        };
        self.last_error = Some(error);
        self.failing_since.get_or_insert(now);
        match &mut self.open {
            Some(open) if probe => {
                open.rests = open.rests.saturating_add(1);
                *open = rest(now, open.rests, asked_for, chance);
            }
            // It was on its way when others failed; but what it asks for counts.
            Some(open) => {
                open.not_before = open.not_before.max(now.plus(asked_for));
                open.until = open.until.max(open.not_before);
            }
            None if self.failures >= FAILURES || !asked_for.is_zero() => {
                self.open = Some(rest(now, 0, asked_for, chance));
            }
            None => {}
        }
    }
}

fn rest(now: Moment, rests: u32, asked_for: Duration, chance: f64) -> Open {
    let doubled = FIRST_REST.saturating_mul(1 << rests.min(16)).min(LONGEST_REST);
    let not_before = now.plus(asked_for);
    let until = now.plus(doubled.mul_f64(1.0 - 0.3 * chance.clamp(0.0, 1.0))).max(not_before);
    Open { rests, tried: now, until, not_before, probing: false }
}

/// Whether an error says that the backend is not well, and not only that it has no such thing for us.
fn is_ill(error: &Error) -> bool {
    match error {
        Error::Unreachable(_) | Error::TimedOut(_) | Error::Malformed(_) | Error::Busy { .. } => true,
        Error::Status(status) => *status >= 500 || matches!(status, 408 | 429),
        Error::NotFound
        | Error::Forbidden
        | Error::Refused(_)
        | Error::TooLarge { .. }
        | Error::TooManyLeases { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::START.plus(Duration::from_millis(millis))
    }

    fn failed() -> Outcome {
        Outcome::Failed(Error::Status(503))
    }

    fn opened(now: Moment) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert_eq!(breaker.admit(now, Priority::Ahead), Admission::Go { probe: false });
            breaker.ended(now, false, failed(), 0.0);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_closes_it() {
        let mut breaker = opened(at(0));
        assert!(breaker.is_open());
        assert_eq!(breaker.admit(at(0), Priority::Reader), Admission::No { until: at(1000) });
        assert_eq!(breaker.admit(at(1000), Priority::Ahead), Admission::Go { probe: true });
        assert_eq!(breaker.admit(at(1000), Priority::Reader), Admission::Wait);
        assert!(matches!(breaker.admit(at(1000), Priority::Ahead), Admission::No { .. }));
        breaker.ended(at(1001), true, Outcome::of(&Err::<(), _>(Error::NotFound)), 0.0);
        assert!(!breaker.is_open());
        assert_eq!(breaker.last_error(), None);
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            breaker.ended(at(0), false, failed(), 0.0);
            breaker.ended(at(0), false, Outcome::Answered, 0.0);
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn what_retry_after_asks_for_is_kept_by_all_but_an_operator() {
        let mut breaker = Breaker::default();
        let busy = Error::Busy { status: 429, retry_after: Duration::from_secs(30) };
        breaker.ended(at(0), false, Outcome::Failed(busy), 0.0);
        for asker in [Priority::Reader, Priority::Lease, Priority::Ahead] {
            assert_eq!(breaker.admit(at(29_999), asker), Admission::No { until: at(30_000) });
        }
        assert_eq!(breaker.admits(at(29_999), Priority::Operator), Admission::Go { probe: true });
        assert_eq!(breaker.admit(at(30_000), Priority::Ahead), Admission::Go { probe: true });
    }

    #[test]
    fn a_lease_that_would_end_is_no_further_than_a_second_from_the_end_of_an_outage() {
        let mut breaker = opened(at(0));
        let mut now = 0;
        for _ in 0..20 {
            now += 1000;
            assert_eq!(breaker.admit(at(now), Priority::Lease), Admission::Go { probe: true });
            breaker.ended(at(now), true, failed(), 0.0);
            assert_eq!(
                breaker.admits(at(now + 999), Priority::Lease),
                Admission::No { until: at(now + 1000) }
            );
        }
        assert!(matches!(breaker.admits(at(now + 1000), Priority::Ahead), Admission::No { .. }));
    }

    #[test]
    fn a_probe_that_nobody_waits_for_leaves_the_place_to_the_next() {
        let mut breaker = opened(at(0));
        assert_eq!(breaker.admit(at(1000), Priority::Reader), Admission::Go { probe: true });
        breaker.ended(at(1100), true, Outcome::Abandoned, 0.0);
        assert_eq!(breaker.admit(at(1100), Priority::Ahead), Admission::Go { probe: true });
    }

    proptest! {
        /// Whoever asks, however often: an outage of a minute costs the failures that open it and a probe a second.
        #[test]
        fn an_outage_costs_few_questions(
            askers in prop::collection::vec((0..4_usize, 0..400_u64, 0..3000_u64, 0.0..1.0_f64), 1..2000),
        ) {
            let mut breaker = Breaker::default();
            let (mut now, mut asked) = (0, 0);
            for (asker, later, takes, chance) in askers {
                now += later;
                let asker = [Priority::Reader, Priority::Lease, Priority::Ahead, Priority::Prefetch][asker];
                if let Admission::Go { probe } = breaker.admit(at(now), asker) {
                    asked += 1;
                    now += takes;
                    breaker.ended(at(now), probe, failed(), chance);
                }
            }
            prop_assert!(asked <= u64::from(FAILURES) + 1 + now / 700, "{asked} in {now} ms");
        }

        /// Once it is well, somebody who asks ten times a second finds out within the longest rest.
        #[test]
        fn the_end_of_an_outage_is_noticed(failures in 1..50_u32, chance in 0.0..1.0_f64) {
            let mut breaker = opened(at(0));
            let mut now = 0;
            for _ in 0..failures {
                now = breaker.until().map_or(now, |until| u64::try_from(until.since(at(0)).as_millis()).unwrap_or(0) + 1);
                prop_assert_eq!(breaker.admit(at(now), Priority::Ahead), Admission::Go { probe: true });
                breaker.ended(at(now), true, failed(), chance);
            }
            let end = now + 10_001;
            while now < end && breaker.is_open() {
                now += 100;
                if let Admission::Go { probe } = breaker.admit(at(now), Priority::Ahead) {
                    breaker.ended(at(now), probe, Outcome::Answered, chance);
                }
            }
            prop_assert!(!breaker.is_open());
        }
    }
}
