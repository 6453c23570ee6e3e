//! Owns leases that nobody is given any more and that may live still: what was replaced twice, or could not be given back.
//! Does not know what they are for. They are given back at the end of the mount, those that should be gone as soon as that works.

use std::time::Duration;

use super::entry::Held;
use super::hand_over::CarriedLeft;
use crate::backend::issuer::LeaseId;
use crate::cache::SecretRef;
use crate::clock::Moment;
use crate::lease::FLOOR;

/// The longest pause between tries to give a lease back.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One lease.
#[derive(Debug)]
struct Left {
    of: SecretRef,
    id: LeaseId,
    /// The latest end that it may have; none: it has none.
    until: Option<Moment>,
    /// When to try again to give it back; none: not before the end of the mount.
    again: Option<Moment>,
    failures: u32,
    trying: bool,
    /// Of a worker that crashed: kept until what follows it is replaced.
    orphan: bool,
}

impl Left {
    fn is_alive(&self, now: Moment) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct LeftBehind(Vec<Left>);

impl LeftBehind {
    /// Keeps what is not to be given to anybody any more. `unwanted_at`: it should be gone, and is given back from then on.
    pub(super) fn keep(&mut self, of: &SecretRef, held: Held, unwanted_at: Option<Moment>) {
        let Some(id) = held.id else { return };
        self.0.push(Left {
            of: of.clone(),
            id,
            until: held.until,
            again: unwanted_at,
            failures: 0,
            trying: false,
            orphan: false,
        });
    }

    /// Forgets what has ended by `now`; what is to be given back now, each once, and when to look again.
    pub(super) fn due(&mut self, now: Moment) -> (Vec<(SecretRef, LeaseId)>, Option<Moment>) {
        self.0.retain(|left| left.trying || left.is_alive(now));
        let mut due = Vec::new();
        let mut next: Option<Moment> = None;
        for left in self.0.iter_mut().filter(|left| !left.trying) {
            match left.again {
                Some(again) if again <= now => {
                    left.trying = true;
                    due.push((left.of.clone(), left.id.clone()));
                }
                // With the last that hangs on it a token can be ended.
                again => {
                    let until = left.until.filter(|_| left.orphan);
                    next = next.into_iter().chain(again).chain(until).min();
                }
            }
        }
        (due, next)
    }

    /// What came of giving one back.
    pub(super) fn tried(&mut self, id: &LeaseId, is_gone: bool, now: Moment) {
        if is_gone {
            self.0.retain(|left| left.id != *id);
        }
        for left in self.0.iter_mut().filter(|left| left.id == *id) {
            let pause = FLOOR.saturating_mul(1 << left.failures.min(16)).min(LONGEST_PAUSE);
            left.failures = left.failures.saturating_add(1);
            left.again = Some(now.plus(pause));
            left.trying = false;
        }
    }

    /// The end of one.
    pub(super) fn until(&mut self, id: &LeaseId) -> Option<&mut Option<Moment>> {
        self.0.iter_mut().find(|left| left.id == *id).map(|left| &mut left.until)
    }

    /// Of which secrets the leases are that may live at `now`: one for each lease.
    pub(super) fn alive(&self, now: Moment) -> impl Iterator<Item = &SecretRef> {
        self.0.iter().filter(move |left| left.is_alive(now)).map(|left| &left.of)
    }

    /// Those of a secret that may live at `now` should be gone, and whoever calls this sees to it; from `again` on it is tried
    /// here as well.
    pub(super) fn unwanted(&mut self, of: &SecretRef, now: Moment, again: Moment) -> Vec<LeaseId> {
        let unwanted = self.0.iter_mut().filter(|left| left.of == *of && left.is_alive(now));
        let ids = unwanted.map(|left| {
            left.again = Some(again);
            left.id.clone()
        });
        ids.collect()
    }

    /// Whether one is being given back.
    pub(super) fn is_trying(&self) -> bool {
        self.0.iter().any(|left| left.trying)
    }

    /// All of them, for the next worker.
    pub(super) fn export(&self) -> Vec<CarriedLeft> {
        let each = self.0.iter().map(|left| CarriedLeft {
            of: left.of.clone(),
            id: left.id.clone(),
            until: left.until,
            again: left.again,
            failures: left.failures,
            orphan: left.orphan,
        });
        each.collect()
    }

    /// Has what another worker had.
    pub(super) fn import(&mut self, carried: Vec<CarriedLeft>) {
        let each = carried.into_iter().map(|CarriedLeft { of, id, until, again, failures, orphan }| Left {
            of,
            id,
            until,
            again,
            failures,
            trying: false,
            orphan,
        });
        self.0.extend(each);
    }

    /// Has what a worker that crashed has left.
    pub(super) fn adopt(
        &mut self,
        of: SecretRef,
        id: LeaseId,
        until: Option<Moment>,
        unwanted_at: Option<Moment>,
    ) {
        let (again, failures, trying, orphan) = (unwanted_at, 0, false, true);
        self.0.push(Left { of, id, until, again, failures, trying, orphan });
    }

    /// What followed leases of a worker that crashed is replaced: those should be gone. Which they are.
    pub(super) fn outlived(&mut self, of: &SecretRef, now: Moment) -> Vec<LeaseId> {
        let outlived = self.0.iter_mut().filter(|left| left.orphan && left.of == *of && left.again.is_none());
        let ids = outlived.map(|left| {
            left.again = Some(now);
            left.id.clone()
        });
        ids.collect()
    }

    /// Whether there is one of a worker that crashed which should be gone by `now`, and nobody has tried that yet to the end.
    pub(super) fn is_to_go_first(&self, of: &SecretRef, now: Moment) -> bool {
        let is_due = |left: &Left| left.trying || left.again.is_some_and(|again| again <= now);
        let first = |left: &Left| left.orphan && left.failures == 0 && is_due(left);
        self.0.iter().any(|left| left.of == *of && first(left))
    }

    /// Of which secrets there are leases of a worker that crashed, kept for those who use them.
    pub(super) fn orphans(&self) -> impl Iterator<Item = &SecretRef> {
        self.0.iter().filter(|left| left.orphan && left.again.is_none()).map(|left| &left.of)
    }

    /// Leases of a worker that crashed which may live at `now`.
    pub(super) fn orphans_alive(&self, now: Moment) -> impl Iterator<Item = &LeaseId> {
        self.0.iter().filter(move |left| left.orphan && left.is_alive(now)).map(|left| &left.id)
    }

    /// All of them, with the latest end that each may have.
    pub(super) fn all(&self) -> impl Iterator<Item = (&SecretRef, &LeaseId, Option<Moment>)> {
        self.0.iter().map(|left| (&left.of, &left.id, left.until))
    }

    /// As [`Self::alive`], but for those of a worker that crashed.
    pub(super) fn set_aside(&self, now: Moment) -> impl Iterator<Item = &SecretRef> {
        self.0.iter().filter(move |left| !left.orphan && left.is_alive(now)).map(|left| &left.of)
    }

    /// Takes all of them; what may live at `now`.
    pub(super) fn take(&mut self, now: Moment) -> Vec<(SecretRef, LeaseId)> {
        let alive = std::mem::take(&mut self.0).into_iter().filter(|left| left.is_alive(now));
        alive.map(|left| (left.of, left.id)).collect()
    }
}
