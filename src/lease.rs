//! Owns when a lease is renewed, replaced, given back or over: one pure decision, the same for a credential and for a token.
//! Does not know backends, what is leased or clocks; chance comes as a number from 0 to 1.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;

/// No lease is asked about more often than this, whatever its life and however often it fails.
pub const FLOOR: Duration = Duration::from_secs(1);
/// The longest pause after a failure, unless the overlap asks for a shorter one.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// No lease is believed to be longer: with whatever number a server grants, arithmetic stays within its bounds.
const LONGEST_LIFE: Duration = Duration::from_secs(100 * 365 * 86400);
/// What follows by itself, at its end, is followed up while it was used within this many lives.
const IN_USE: u32 = 3;

/// What a backend grants when it makes or renews a lease, counted from when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// How long it is good for; `None`: it has no end (a root token).
    pub life: Option<Duration>,
    /// Whether it can be renewed at all.
    pub renewable: bool,
    /// When its successor is to be had.
    pub succession: Succession,
}

impl Grant {
    fn within_bounds(self) -> Self {
        Self { life: self.life.map(|life| life.min(LONGEST_LIFE)), ..self }
    }
}

/// When a successor can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Succession {
    /// At any time: it is made before the end of its predecessor.
    Ahead,
    /// At the end of its predecessor only, because until then the backend gives the same (a TOTP code, the password of a
    /// static role).
    AtEnd,
}

/// What the configuration says of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// How long before the end of a lease its successor is made; `None`: a tenth of its life.
    pub overlap: Option<Duration>,
    /// A lease that nobody has opened for this long is given back; `None`: never.
    pub idle_revoke: Option<Duration>,
}

/// What is to be done with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make it longer.
    Renew,
    /// Have its successor; where that fails, what is held stays good until its end.
    Replace,
    /// Give it back: nobody uses it.
    Revoke,
    /// Nothing is left to be done: it is over, and nobody has used it of late.
    Forget,
}

/// The next that is to be done, and when: at once, where that is not later than now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub action: Action,
    /// When.
    pub at: Moment,
}

/// A lease and what is known of its future. Plain arithmetic: who holds it does what it says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    made: Moment,
    /// When the backend was asked for the newest grant.
    granted: Moment,
    ends: Option<Moment>,
    /// As first granted; `None` where it has no end.
    #[serde(with = "nanos")]
    life: Option<Duration>,
    succession: Succession,
    /// When to renew; `None` when that does not make it longer any more.
    renew_at: Option<Moment>,
    /// The first of its kind: what follows is spread widely, so that what was opened in one rush is not renewed in one rush
    /// ever after.
    first: bool,
    #[serde(deserialize_with = "some_part")]
    chance: f64,
    failures: u32,
    not_before: Moment,
}

impl Lease {
    /// A lease that the backend was asked for at `asked`. `first`: it has no predecessor.
    pub fn new(asked: Moment, grant: Grant, first: bool, chance: f64) -> Self {
        let (chance, grant) = (part(chance), grant.within_bounds());
        let mut lease = Self {
            made: asked,
            granted: asked,
            ends: grant.life.map(|life| asked.plus(life)),
            life: grant.life,
            succession: grant.succession,
            renew_at: None,
            first,
            chance,
            failures: 0,
            not_before: asked.plus(FLOOR),
        };
        if let Some(life) = grant.life.filter(|_| grant.renewable) {
            // Two thirds of its life, less some: of the first of its kind up to a half.
            let early = if first { 0.5 } else { 0.05 };
            lease.renew_at = Some(renewal(asked, life, early * chance));
        }
        lease
    }

    /// The backend, asked at `asked`, has renewed it. What it grants now is what counts, be it less than before.
    pub fn renewed(&mut self, asked: Moment, grant: Grant, chance: f64) {
        let (chance, grant) = (part(chance), grant.within_bounds());
        let before = self.ends;
        self.granted = asked;
        self.failures = 0;
        self.not_before = asked.plus(FLOOR);
        self.ends = grant.life.map(|life| asked.plus(life));
        self.chance = chance;
        self.renew_at = match (grant.life, before, self.ends) {
            (Some(life), Some(before), Some(ends))
                if grant.renewable && ends.since(before) >= growth(life) =>
            {
                Some(renewal(asked, life, 0.05 * chance))
            }
            _ => None,
        };
    }

    /// The backend gave no answer, or none that helps: a pause from `now` on, which doubles each time and of which chance takes
    /// up to a half. It is short enough for several tries within the overlap.
    pub fn failed(&mut self, terms: &Terms, now: Moment, chance: f64) {
        self.failures = self.failures.saturating_add(1);
        let doubled = FLOOR.saturating_mul(1 << self.failures.min(16));
        let longest = LONGEST_PAUSE.min(self.overlap(terms) / 3).max(FLOOR);
        let pause = doubled.min(longest).mul_f64(1.0 - 0.5 * part(chance)).max(FLOOR);
        self.not_before = now.plus(pause);
        // A pause between renewals ends when the successor is due.
        if let Some(last) = self.ends.map(|end| end.minus(self.overlap(terms))).filter(|last| now < *last) {
            self.not_before = self.not_before.min(last.max(now.plus(FLOOR)));
        }
    }

    /// The backend refuses to renew it: it lives to the end it has.
    pub fn cannot_grow(&mut self) {
        self.renew_at = None;
    }

    /// Until when a renewal that begins at `now` may go without an answer: its successor is not to wait for that.
    pub fn renewal_until(&self, terms: &Terms, now: Moment) -> Moment {
        let last = self.ends.map_or(Moment::END, |end| end.minus(self.overlap(terms)));
        last.max(now.plus(FLOOR))
    }

    /// Whether renewing makes it longer, as far as is known.
    pub fn grows(&self) -> bool {
        self.renew_at.is_some()
    }

    /// It is known to be dead at `now`, whatever was granted: its successor is due at once, but for the pause after a failure.
    pub fn died(&mut self, now: Moment) {
        self.ends = Some(self.ends.map_or(now, |ends| ends.min(now)));
        self.renew_at = None;
        self.succession = Succession::Ahead;
    }

    /// A successor is wanted now, though it lives.
    pub fn wants_successor(&mut self) {
        self.renew_at = None;
        self.not_before = self.made;
    }

    /// When it was asked for.
    pub fn made(&self) -> Moment {
        self.made
    }

    /// How long it was first granted for; `None`: it has no end.
    pub fn life(&self) -> Option<Duration> {
        self.life
    }

    /// When it ends by itself; `None`: never.
    pub fn ends(&self) -> Option<Moment> {
        self.ends
    }

    /// When it ends, where what it was made with (`parent`) ends as well; `None`: neither does.
    pub fn good_until(&self, parent: Option<Moment>) -> Option<Moment> {
        self.ends.into_iter().chain(parent).min()
    }

    /// How many tries in a row have failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// What is to be done with it next. `parent`: the end of what it was made with, such as a token; `used`: when it was opened
    /// the last time.
    pub fn next(&self, terms: &Terms, parent: Option<Moment>, used: Moment, now: Moment) -> Step {
        let end = self.good_until(parent);
        let kept = self.in_its_life(terms, end, parent, now);
        let step = match (kept, end) {
            (Some(step), _) => Step { at: step.at.max(self.not_before), ..step },
            // Without an end and not to be renewed: nothing ever.
            (None, _) => Step { action: Action::Forget, at: Moment::END },
        };
        let over = end.filter(|end| now >= *end || step.at >= *end);
        let step = match (self.succession, over) {
            (Succession::AtEnd, Some(end)) if !self.is_followed_up(used, end) => {
                Step { action: Action::Forget, at: end }
            }
            _ => step,
        };
        match terms.idle_revoke.map(|idle| used.plus(idle).max(self.not_before)) {
            Some(idle) if idle <= step.at => Step { action: Action::Revoke, at: idle },
            _ => step,
        }
    }

    /// What is done in its life, ahead of its end.
    fn in_its_life(
        &self,
        terms: &Terms,
        end: Option<Moment>,
        parent: Option<Moment>,
        now: Moment,
    ) -> Option<Step> {
        let replace = end.map(|end| match self.succession {
            Succession::AtEnd => end,
            Succession::Ahead => self.replaced_at(terms, end),
        });
        // To renew what ends with its parent is of no use.
        let useless = parent.is_some_and(|parent| self.ends.is_none_or(|ends| parent <= ends));
        match (self.renew_at.filter(|_| !useless), replace, end) {
            // When renewing has failed up to there, its successor is made all the same.
            (Some(renew), Some(_), Some(end)) => {
                let last = end.minus(self.overlap(terms)).max(self.made.plus(FLOOR));
                let renew = renew.max(self.not_before);
                // What failed before has to leave a whole pause before the successor, also where that took so long that it is
                // due by now. What was not tried yet is tried, however late: the machine may have slept.
                let ends = if self.failures > 0 { renew.max(now).plus(FLOOR) } else { renew };
                Some(if ends < last {
                    Step { action: Action::Renew, at: renew }
                } else {
                    Step { action: Action::Replace, at: last }
                })
            }
            (_, Some(at), _) => Some(Step { action: Action::Replace, at }),
            (_, None, _) => None,
        }
    }

    /// When a successor is made of what ends at `end` and is not renewed: the overlap before, and up to a twentieth of its life
    /// earlier by chance; of the first of its kind up to a half, for as long as that has been known.
    fn replaced_at(&self, terms: &Terms, end: Moment) -> Moment {
        let latest = end.minus(self.overlap(terms));
        let life = self.life.unwrap_or_else(|| end.since(self.made));
        let early = if self.first { life / 2 } else { life / 20 };
        let early = early.min(latest.since(self.granted) / 2);
        latest.minus(early.mul_f64(self.chance)).max(self.made.plus(FLOOR))
    }

    /// How long before its end its successor is made.
    fn overlap(&self, terms: &Terms) -> Duration {
        let life = self.life.unwrap_or(Duration::ZERO);
        let longest = if self.life.is_some() { life / 2 } else { Duration::MAX };
        terms.overlap.unwrap_or(life / 10).min(longest)
    }

    fn is_followed_up(&self, used: Moment, end: Moment) -> bool {
        let life = self.life.unwrap_or(Duration::ZERO).max(FLOOR);
        used.plus(life.saturating_mul(IN_USE)) > end
    }
}

fn renewal(asked: Moment, life: Duration, early: f64) -> Moment {
    asked.plus((life * 2 / 3).mul_f64(1.0 - early).max(FLOOR))
}

/// Less than this is no growth: backends count in whole seconds.
fn growth(life: Duration) -> Duration {
    (life / 20).max(FLOOR)
}

/// A life as another process is told of it: no longer than the clock runs, so that no arithmetic with it overflows.
mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(life: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        life.map(|life| u64::try_from(life.as_nanos()).unwrap_or(u64::MAX)).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_nanos))
    }
}

fn some_part<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    f64::deserialize(from).map(part)
}

fn part(chance: f64) -> f64 {
    if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.5 }
}

#[cfg(test)]
mod tests;
