//! Owns how often is asked in vain: pauses between failed tries, and how often a refusal is looked into. Plain arithmetic.
//! Does not know tokens, servers or clocks.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

use crate::backend::Error;
use crate::clock::Moment;

/// The pause after the first failure; it doubles with each.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause after a server said no: what is configured is wrong, and somebody has to change it.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest pause after no answer: when the server is back, readers are waiting.
const LONGEST_OUTAGE: Duration = Duration::from_secs(10);
/// Whether a token is dead is asked this often at most.
pub(super) const VERDICT: Duration = Duration::from_secs(1);

/// Tries that failed, and when the next one may be made.
#[derive(Default)]
pub(super) struct Pause {
    failures: u32,
    until: Option<Moment>,
    error: Option<Error>,
}

impl Pause {
    /// Why there is no try at `now`: the error of the last one, less than its pause ago.
    pub(super) fn refuses(&self, now: Moment) -> Option<&Error> {
        self.error.as_ref().filter(|_| self.until.is_some_and(|until| now < until))
    }

    /// When the next try may be made; `None`: at once.
    pub(super) fn until(&self) -> Option<Moment> {
        self.until
    }

    /// A try failed at `now`; `refused`: because the server said no. Chance takes up to a quarter of the pause, never below
    /// a second, and a server that asks for longer gets it. The pause.
    pub(super) fn failed(&mut self, now: Moment, error: Error, refused: bool, chance: f64) -> Duration {
        let doubled = SHORTEST.saturating_mul(1 << self.failures.min(16));
        let longest = if refused { LONGEST } else { LONGEST_OUTAGE };
        let mut pause = doubled.min(longest).mul_f64(1.0 - 0.25 * chance.clamp(0.0, 1.0)).max(SHORTEST);
        if let Error::Busy { retry_after, .. } = &error {
            pause = pause.max(*retry_after);
        }
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now.plus(pause));
        self.error = Some(error);
        pause
    }

    /// A try went well as such, and may be of no use all the same: the next failure counts as one more.
    pub(super) fn goes_on(&mut self) {
        self.until = None;
        self.error = None;
    }

    /// A try went well.
    pub(super) fn over(&mut self) {
        *self = Self::default();
    }
}

/// What is done about a call that was answered 403.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It is the path: the answer stands.
    Path,
    /// The server is asked about the token.
    Ask,
    /// The same, after this long.
    AskAfter(Duration),
}

/// Whether a 403 is looked into at `now`. `asked`: when the server was last asked about this token, and said that it lives;
/// `invalid`: the server said with the 403 that the token is invalid; `limited`: each question uses the token up.
pub(super) fn doubt(asked: Option<Moment>, invalid: bool, limited: bool, now: Moment) -> Doubt {
    if limited && !invalid {
        return Doubt::Path;
    }
    match asked.map(|asked| asked.plus(VERDICT)).filter(|free| now < *free) {
        None => Doubt::Ask,
        // It may have died since.
        Some(free) if invalid => Doubt::AskAfter(free.since(now)),
        Some(_) => Doubt::Path,
    }
}

/// A number from 0 to 1 that nobody outside can foresee.
pub(super) fn chance() -> f64 {
    (RandomState::new().hash_one(0_u8) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries_within(hour: Duration, refused: bool, chance: f64) -> (u32, Duration) {
        let (mut pause, mut now, mut tries, mut longest) =
            (Pause::default(), Moment::START, 0, Duration::ZERO);
        let end = now.plus(hour);
        while now < end {
            assert!(pause.refuses(now).is_none());
            let wait = pause.failed(now, Error::Status(400), refused, chance);
            assert!(wait >= SHORTEST);
            assert_eq!(
                pause.refuses(now),
                Some(&Error::Status(400)),
                "a flood meets the error that is known"
            );
            longest = longest.max(wait);
            (now, tries) = (now.plus(wait), tries + 1);
        }
        (tries, longest)
    }

    #[test]
    fn a_flood_of_calls_makes_no_flood_of_logins() {
        let hour = Duration::from_secs(3600);
        for chance in [0.0, 0.5, 1.0, f64::INFINITY, -3.0] {
            let (tries, longest) = tries_within(hour, true, chance);
            assert!(tries <= 3600 / 45 + 7 && longest <= LONGEST, "{tries} {longest:?}");
            let (tries, longest) = tries_within(hour, false, chance);
            assert!((360..=490).contains(&tries) && longest <= LONGEST_OUTAGE, "{tries} {longest:?}");
        }
    }

    #[test]
    fn a_server_that_asks_to_be_left_alone_is_and_a_success_ends_the_pause() {
        let mut pause = Pause::default();
        let busy = Error::Busy { status: 429, retry_after: Duration::from_secs(90) };
        assert_eq!(pause.failed(Moment::START, busy, false, 0.0), Duration::from_secs(90));
        assert!(pause.refuses(Moment::START.plus(Duration::from_secs(89))).is_some());
        assert!(pause.refuses(Moment::START.plus(Duration::from_secs(90))).is_none());
        pause.over();
        assert!(pause.refuses(Moment::START).is_none() && pause.until().is_none());
    }

    #[test]
    fn a_403_is_looked_into_once_a_second_and_at_once_after_that_where_the_token_is_named() {
        let at = |millis| Moment::START.plus(Duration::from_millis(millis));
        assert_eq!(doubt(None, false, false, at(0)), Doubt::Ask);
        assert_eq!(doubt(Some(at(0)), false, false, at(999)), Doubt::Path);
        assert_eq!(doubt(Some(at(0)), false, false, at(1000)), Doubt::Ask);
        assert_eq!(doubt(Some(at(0)), true, false, at(400)), Doubt::AskAfter(Duration::from_millis(600)));
        assert_eq!(doubt(None, false, true, at(0)), Doubt::Path, "a question would use it up");
        assert_eq!(doubt(None, true, true, at(0)), Doubt::Ask, "a dead one cannot be used up");
    }

    #[test]
    fn chance_is_a_part() {
        assert!((0..1000).map(|_| chance()).all(|chance| (0.0..1.0).contains(&chance)));
        assert_ne!(chance(), chance());
    }
}
