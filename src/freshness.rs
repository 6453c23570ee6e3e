//! Owns the words fresh, stale and expired, and every decision of when something is asked for again: pure arithmetic.
//! Does not know clocks, backends or what is kept; chance comes as a number from 0 to 1.

use std::time::Duration;

use crate::clock::Moment;

/// A secret is *in use* for this many TTLs after it was opened or looked up: then it is refreshed ahead of its end.
const IN_USE: u32 = 3;
/// A refresh begins at least this long before the end, so that its answer is there in time; not below a quarter of the
/// TTL, so that a short TTL does not ask all the time.
const LEAD: Duration = Duration::from_millis(250);
/// The first pause after a failed refresh; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// *Fresh*: younger than this, and served without asking.
    pub ttl: Duration,
    /// *Stale*: as much older than `ttl` at most, and served while the backend does not answer. Older than both is
    /// *expired*: erased, never served. Zero fails closed.
    pub max_stale: Duration,
    /// "No such secret" and "forbidden" are believed this long (and no longer than `ttl`).
    pub negative_ttl: Duration,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            max_stale: Duration::from_secs(3600),
            negative_ttl: Duration::from_secs(1),
        }
    }
}

/// The ends of an answer's life, counted from when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Served without asking for this long.
    pub fresh: Duration,
    /// Served at all for this long; never less than `fresh`.
    pub served: Duration,
}

impl Freshness {
    /// The life of a value or a listing. `end`: when the backend itself ends it, from when it was asked.
    pub fn life(self, end: Option<Duration>) -> Life {
        let end = end.unwrap_or(Duration::MAX);
        let served = self.ttl.saturating_add(self.max_stale).min(end);
        Life { fresh: self.ttl.min(end), served }
    }

    /// The life of "no such secret" and "forbidden".
    pub fn negative_life(self) -> Life {
        let fresh = self.negative_ttl.min(self.ttl);
        Life { fresh, served: fresh }
    }

    /// Whether something last opened or looked up at `used` is in use at `now`.
    pub fn is_in_use(self, used: Moment, now: Moment) -> bool {
        now.since(used) < self.ttl.saturating_mul(IN_USE)
    }

    /// When to ask again, ahead of its end, for what a reader caused to be asked for at `asked`. Anywhere within the TTL, by
    /// chance: what was read in one rush is not asked for in one rush ever after.
    pub fn first_refresh(self, asked: Moment, chance: f64) -> Moment {
        let latest = self.ttl.saturating_sub(self.least_lead());
        asked.plus(latest.mul_f64(0.05 + 0.95 * part(chance)))
    }

    /// When to ask again for what was asked for ahead of its end at `asked`: shortly before the end. On average after 96 %
    /// of a long TTL, so that staying fresh costs 1.04 requests per TTL.
    pub fn next_refresh(self, asked: Moment, chance: f64) -> Moment {
        let lead = self.ttl.mul_f64(0.03 + 0.02 * part(chance)).max(self.least_lead());
        asked.plus(self.ttl.saturating_sub(lead))
    }

    /// When to try again after `failures` refreshes in a row have failed, the last at `now`: a pause that doubles each time,
    /// of which chance takes up to a half.
    pub fn retry(self, now: Moment, failures: u32, chance: f64) -> Moment {
        let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = LONGEST_RETRY.min(self.ttl.max(FIRST_RETRY));
        now.plus(doubled.min(longest).mul_f64(1.0 - 0.5 * part(chance)))
    }

    /// How long a stale answer is served without asking after the backend was found not to answer: long enough for all that
    /// is in use to have its turn once it answers again.
    pub fn excuse(self) -> Duration {
        self.ttl.max(LONGEST_RETRY)
    }

    fn least_lead(self) -> Duration {
        LEAD.min(self.ttl / 4)
    }
}

/// How much load one answer is that is asked for again every `ttl`: requests in a million seconds.
pub fn load(ttl: Duration) -> u64 {
    let nanos = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX).max(1_000_000);
    1_000_000_000_000_000 / nanos
}

/// The pause between two refreshes of one backend when everything in use is due at once (after an outage, after sleep):
/// 1.4 times the rate that keeps it all fresh, so that it comes back as a smooth flow. `load` as [`load`] adds up.
pub fn gap(load: u64) -> Duration {
    Duration::from_secs_f64(1_000_000.0 / (1.4 * load.max(1) as f64)).min(Duration::from_secs(1))
}

/// Whether the versions of a whole folder should be asked for, in `pages` requests, rather than each of `in_use` secrets.
pub fn together_is_cheaper(in_use: usize, pages: u32) -> bool {
    in_use > usize::try_from(pages).unwrap_or(usize::MAX)
}

fn part(chance: f64) -> f64 {
    if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEGIN: Moment = Moment::START;

    fn freshness(ttl: u64, max_stale: u64) -> Freshness {
        Freshness {
            ttl: Duration::from_millis(ttl),
            max_stale: Duration::from_millis(max_stale),
            negative_ttl: Duration::from_secs(1),
        }
    }

    proptest! {
        #[test]
        fn nothing_is_ever_served_past_max_stale_or_the_backends_own_end(
            ttl in 0..100_000_u64, max_stale in 0..100_000_u64, end in prop::option::of(0..300_000_u64),
        ) {
            let life = freshness(ttl, max_stale).life(end.map(Duration::from_millis));
            prop_assert!(life.served <= Duration::from_millis(ttl + max_stale));
            prop_assert!(end.is_none_or(|end| life.served <= Duration::from_millis(end)));
            prop_assert!(life.fresh <= life.served && life.fresh <= Duration::from_millis(ttl));
        }

        #[test]
        fn a_refresh_begins_before_the_end_and_never_at_once(ttl in 1..1_000_000_u64, chance in -1.0..2.0_f64) {
            let freshness = freshness(ttl, 0);
            let end = BEGIN.plus(freshness.ttl);
            for at in [freshness.first_refresh(BEGIN, chance), freshness.next_refresh(BEGIN, chance)] {
                prop_assert!(at < end && at > BEGIN);
            }
            let next = freshness.next_refresh(BEGIN, chance).since(BEGIN);
            prop_assert!(next >= freshness.ttl.mul_f64(0.74), "{next:?} of {:?}", freshness.ttl);
            if ttl > 13_000 {
                prop_assert!(next >= freshness.ttl.mul_f64(0.949));
            }
        }

        #[test]
        fn pauses_grow_to_a_bound(failures in 1..1000_u32, chance in 0.0..1.0_f64) {
            let freshness = freshness(60_000, 0);
            let pause = freshness.retry(BEGIN, failures, chance).since(BEGIN);
            prop_assert!(pause >= Duration::from_millis(499) && pause <= LONGEST_RETRY);
        }

        #[test]
        fn the_flow_after_an_outage_is_at_most_one_and_a_half_times_the_usual(count in 1..100_000_u64, ttl in 1..600_u64) {
            let usual = count as f64 / ttl as f64;
            let flow = 1.0 / gap(count * load(Duration::from_secs(ttl))).as_secs_f64();
            prop_assert!(flow <= (1.5 * usual).max(1.01), "{flow} of {usual}");
            prop_assert!(flow >= 1.3 * usual, "it would never catch up: {flow} of {usual}");
        }
    }

    #[test]
    fn three_ttls_after_its_last_use_a_secret_is_idle() {
        let freshness = freshness(60_000, 0);
        assert!(freshness.is_in_use(BEGIN, BEGIN.plus(Duration::from_secs(179))));
        assert!(!freshness.is_in_use(BEGIN, BEGIN.plus(Duration::from_secs(180))));
    }

    #[test]
    fn versions_are_asked_for_together_only_where_that_saves_requests() {
        assert!(!together_is_cheaper(1, 1));
        assert!(together_is_cheaper(2, 1));
        assert!(!together_is_cheaper(2, 100));
    }
}
