//! Owns the place where one answer lies until it is erased, and what may be done with it at a moment.
//! Does not know who asked, and asks nobody.

mod carried;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

pub(super) use carried::CarriedLife;

use super::Snapshot;
use crate::backend::{Error, Listing};
use crate::clock::Moment;
use crate::freshness::{self, Freshness, Life};
use crate::secret::Secret;

/// An answer of a backend, good or bad, cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Secret(Result<Arc<Snapshot>, Error>),
    Listing(Result<Arc<Listing>, Error>),
}

impl Answer {
    /// Whether it holds what a backend keeps, which can be stale and must be erased in time; a "no" is nobody's secret.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Secret(Ok(_)) | Self::Listing(Ok(_)))
    }

    /// Whether it is the lack of an answer.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Secret(Err(error)) | Self::Listing(Err(error)) => !error.is_answer(),
            _ => false,
        }
    }
}

/// An answer as it is held, of all that are held: small. What is told when, is told by the life of its slot.
#[derive(Debug)]
enum Held {
    Secret(Arc<Secret>),
    Listing(Arc<Listing>),
    /// Nobody's secret.
    Error(Box<Answer>),
}

impl Held {
    fn new(answer: Answer) -> Self {
        match answer {
            Answer::Secret(Ok(snapshot)) => Self::Secret(snapshot.secret.clone()),
            Answer::Listing(Ok(listing)) => Self::Listing(listing),
            error => Self::Error(Box::new(error)),
        }
    }

    fn is_kept(&self) -> bool {
        !matches!(self, Self::Error(_))
    }
}

/// When and under which generation a backend was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    pub(super) began: Moment,
    pub(super) wall: SystemTime,
    pub(super) generation: Option<u64>,
}

/// What a slot has for somebody who asks.
#[derive(Debug)]
pub(super) enum Look {
    /// To be served.
    Fresh(Answer),
    /// To be served if the backend does not answer; `excused`: it is known not to.
    Stale { answer: Answer, excused: bool },
    /// Nothing for this question.
    Nothing,
}

/// What is to be done with a slot at a moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing yet.
    Later,
    /// It is to be asked for again ahead of its end.
    Refresh,
    /// It is empty.
    Gone,
}

/// One answer and its life. Emptying it drops the cache's share of the bytes at once.
#[derive(Debug)]
pub(super) struct Slot {
    /// Guards the answer and its life; held for comparisons and the copy of a pointer only.
    state: Mutex<State>,
    /// Shared by all that are as fresh.
    freshness: Arc<Freshness>,
    /// The load on its backend that all slots with a refresh to come add up to ([`freshness::load`]).
    load: Arc<AtomicU64>,
    weight: u32,
}

#[derive(Debug)]
struct State {
    answer: Option<Held>,
    asking: Asking,
    arrived: Moment,
    fresh_until: Moment,
    served_until: Moment,
    used: Moment,
    /// When it is asked for again ahead of its end; none when that is not to be.
    refresh_at: Option<Moment>,
    /// The load that it counts for; none while nobody looks after it.
    tended: Option<Tended>,
    /// Where the schedule has it.
    scheduled: Option<Moment>,
    /// Its turn to be refreshed has come: a job for it is on its way.
    waits: bool,
    /// The backend is known not to answer, or not to have had its turn yet since; none when it is well.
    excused_until: Option<Moment>,
    failures: u32,
    /// moka is about to replace it by itself: not to be wiped.
    stays: bool,
}

impl Slot {
    /// An answer to a question that the backend was asked at `asking`; `asked_for`: a reader caused it, not a refresh.
    pub(super) fn new(
        answer: Answer,
        asking: Asking,
        arrived: Moment,
        (freshness, life): (Arc<Freshness>, Life),
        load: Arc<AtomicU64>,
    ) -> Self {
        let bytes = match &answer {
            Answer::Secret(Ok(snapshot)) => snapshot.secret.weight(),
            Answer::Listing(Ok(listing)) => listing.weight(),
            Answer::Secret(Err(_)) | Answer::Listing(Err(_)) => 0,
        };
        let weight = weight_of(bytes);
        let state = State {
            answer: Some(Held::new(answer)),
            asking,
            arrived,
            fresh_until: asking.began.plus(life.fresh),
            served_until: asking.began.plus(life.served),
            used: asking.began,
            refresh_at: None,
            tended: None,
            scheduled: None,
            waits: false,
            excused_until: None,
            failures: 0,
            stays: false,
        };
        Self { state: Mutex::new(state), freshness, load, weight }
    }

    /// The same slot, asked for again from `at` on ahead of its end.
    pub(super) fn tended_from(self, at: Moment) -> Self {
        {
            let mut state = self.state();
            state.refresh_at = Some(at);
            state.tended = Some(Tended::new(&self.load, self.freshness.ttl));
        }
        self
    }

    /// The same slot, last used when `other` was: a refresh is no use.
    pub(super) fn used_like(self, other: &Slot) -> Self {
        let used = other.state().used;
        self.state().used = used;
        self
    }

    /// What it has for a question asked at `asked`, of the backend's present `generation`, that takes an answer of
    /// `max_age` at most. `using`: it counts as use. An answer that arrived after the question was asked is always good for
    /// it, whatever its TTL. The second: whether it must be put on the schedule anew.
    pub(super) fn look(
        &self,
        asked: Moment,
        generation: Option<u64>,
        max_age: Option<Duration>,
        using: bool,
    ) -> (Look, bool) {
        let mut state = self.state();
        let Some(kept) = state.answer.as_ref().map(Held::is_kept) else { return (Look::Nothing, false) };
        let mut wake = false;
        if using {
            state.used = state.used.max(asked);
            // Idle until now, so nobody looks after it any more.
            if state.refresh_at.is_some() && state.tended.is_none() {
                state.tended = Some(Tended::new(&self.load, self.freshness.ttl));
                wake = true;
            }
        }
        let same = state.asking.generation == generation;
        // As good as asked for now: the backend has said that nothing changed.
        let known = same && generation.is_some() && kept && max_age != Some(Duration::ZERO);
        let late = state.arrived >= asked || state.asking.began >= asked;
        let young =
            asked < state.fresh_until && max_age.is_none_or(|age| asked.since(state.asking.began) < age);
        let look = if known && asked >= state.fresh_until {
            let asking = Asking { began: asked, wall: SystemTime::now(), generation };
            self.extend_locked(&mut state, asking);
            state.answer().map_or(Look::Nothing, Look::Fresh)
        } else if same && (late || young || known) {
            state.answer().map_or(Look::Nothing, Look::Fresh)
        } else if kept && asked < state.served_until && max_age.is_none() {
            let excused = same && state.excused_until.is_some_and(|until| asked < until);
            state.answer().map_or(Look::Nothing, |answer| Look::Stale { answer, excused })
        } else {
            Look::Nothing
        };
        (look, wake)
    }

    /// What it holds, whatever its age.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.state().answer()
    }

    /// The secret it holds, whatever its age, as it may be served now.
    pub(super) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        match self.answer() {
            Some(Answer::Secret(Ok(snapshot))) => Some(snapshot),
            _ => None,
        }
    }

    /// The secret it holds, whatever its age.
    pub(super) fn secret(&self) -> Option<Arc<Secret>> {
        match &self.state().answer {
            Some(Held::Secret(secret)) => Some(secret.clone()),
            _ => None,
        }
    }

    /// Whether it holds what a backend keeps ([`Answer::is_kept`]), whatever its age.
    pub(super) fn is_kept(&self) -> bool {
        self.state().answer.as_ref().is_some_and(Held::is_kept)
    }

    /// Whether it holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.state().answer.is_none()
    }

    /// The backend, asked at `asking`, says that what is held is current: a new life begins. False when it is empty.
    pub(super) fn extend(&self, asking: Asking, refresh_at: Moment) -> bool {
        let mut state = self.state();
        if state.answer.is_none() {
            return false;
        }
        if asking.began >= state.asking.began {
            self.extend_locked(&mut state, asking);
        }
        if state.refresh_at.is_some() {
            state.refresh_at = Some(refresh_at);
        }
        true
    }

    fn extend_locked(&self, state: &mut State, asking: Asking) {
        let end = match &state.answer {
            Some(Held::Secret(secret)) => secret.expires,
            _ => None,
        };
        let life = self.freshness.life(end.map(|end| end.duration_since(asking.wall).unwrap_or_default()));
        state.asking = asking;
        state.fresh_until = asking.began.plus(life.fresh);
        state.served_until = asking.began.plus(life.served);
        state.excused_until = None;
        state.failures = 0;
        state.waits = false;
    }

    /// The backend did not answer for it: from its TTL on it is served stale without asking, until the next refresh; but no
    /// longer than another TTL, in which all that waits for its turn after an outage has it. It is tried again after a pause.
    pub(super) fn excuse(&self, now: Moment, chance: f64) {
        self.excuse_unasked(now);
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let again = self.freshness.retry(now, state.failures, chance);
        state.refresh_at = state.refresh_at.map(|_| again);
        state.waits = false;
    }

    /// As [`Self::excuse`], when the backend was not even asked.
    pub(super) fn excuse_unasked(&self, now: Moment) {
        self.state().excused_until = Some(now.plus(self.freshness.excuse()));
    }

    /// Counts as an open at `now`; whether it must be put on the schedule anew.
    pub(super) fn use_at(&self, now: Moment) -> bool {
        self.look(now, None, Some(Duration::ZERO), true).1
    }

    /// Whether it is in use at `now`.
    pub(super) fn is_in_use(&self, now: Moment) -> bool {
        let state = self.state();
        state.answer.is_some() && self.freshness.is_in_use(state.used, now)
    }

    /// Whether its turn to be refreshed has come and nobody has asked for it meanwhile.
    pub(super) fn wants_refresh(&self, now: Moment) -> bool {
        let state = self.state();
        let due = state.refresh_at.is_some_and(|at| now >= at);
        due && state.answer.is_some() && self.freshness.is_in_use(state.used, now)
    }

    /// Puts a refresh off to shortly before the end of what is held; false where that has come at `now`, or where the backend
    /// did not answer the last time.
    pub(super) fn defer(&self, now: Moment, chance: f64) -> bool {
        let mut state = self.state();
        let late = self.freshness.next_refresh(state.asking.began, chance);
        let early = now < late && state.failures == 0 && state.refresh_at.is_some();
        if early {
            state.refresh_at = Some(late);
            state.waits = false;
        }
        early
    }

    /// It is known to be out of date: its turn is now, and a job for it is on its way.
    pub(super) fn refresh_from(&self, now: Moment) {
        let mut state = self.state();
        state.refresh_at = state.refresh_at.map(|_| now);
        state.waits = true;
    }

    /// The job that was on its way has come to nothing.
    pub(super) fn let_wait(&self) {
        self.state().waits = false;
    }

    /// The schedule has come to it at `now`: what is to be done.
    pub(super) fn due(&self, now: Moment, generation: Option<u64>, chance: f64) -> Due {
        let mut state = self.state();
        state.scheduled = None;
        let Some(kept) = state.answer.as_ref().map(Held::is_kept) else { return Due::Gone };
        let same = kept && generation.is_some() && generation == state.asking.generation;
        let in_use = self.freshness.is_in_use(state.used, now);
        if same && in_use && state.refresh_at.is_some_and(|at| now >= at) {
            self.extend_locked(&mut state, Asking { began: now, wall: SystemTime::now(), generation });
            state.refresh_at = Some(self.freshness.next_refresh(now, chance));
        }
        if now >= state.served_until {
            empty(&mut state);
            return Due::Gone;
        }
        match state.refresh_at.filter(|_| kept && state.tended.is_some()) {
            Some(at) if now >= at && in_use => {
                state.waits = true;
                Due::Refresh
            }
            // Idle: it costs the backend nothing, and goes at its end.
            Some(at) if now >= at => {
                state.tended = None;
                Due::Later
            }
            _ => Due::Later,
        }
    }

    /// Where the schedule has it, and where it has it from now on: at its refresh, or at its end where that is being seen to.
    pub(super) fn reschedule(&self) -> (Option<Moment>, Moment) {
        let mut state = self.state();
        let refresh = state.refresh_at.filter(|_| state.tended.is_some() && !state.waits);
        let at = refresh.map_or(state.served_until, |at| at.min(state.served_until));
        (state.scheduled.replace(at), at)
    }

    /// Erases; whether there was something that a backend keeps.
    pub(super) fn wipe(&self) -> bool {
        empty(&mut self.state())
    }

    /// For the one replacement to come by the slot itself.
    pub(super) fn stay(&self) {
        self.state().stays = true;
    }

    /// The replacement has been, or was none.
    pub(super) fn settle(&self) {
        self.state().stays = false;
    }

    /// Erases what was replaced, unless by itself.
    pub(super) fn replaced(&self) -> bool {
        let mut state = self.state();
        if std::mem::take(&mut state.stays) { false } else { empty(&mut state) }
    }

    pub(super) fn freshness(&self) -> Freshness {
        *self.freshness
    }

    /// The backend's generation when it was asked for.
    pub(super) fn generation(&self) -> Option<u64> {
        self.state().asking.generation
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn answer(&self) -> Option<Answer> {
        Some(match self.answer.as_ref()? {
            Held::Secret(secret) => {
                let (fresh, served) = (self.fresh_until, self.served_until);
                let life =
                    Life { fresh: fresh.since(self.asking.began), served: served.since(self.asking.began) };
                Answer::Secret(Ok(Arc::new(Snapshot::new(secret.clone(), self.asking, life))))
            }
            Held::Listing(listing) => Answer::Listing(Ok(listing.clone())),
            Held::Error(error) => Answer::clone(error),
        })
    }
}

/// What a slot with so many bytes in it counts for.
fn weight_of(bytes: usize) -> u32 {
    u32::try_from(bytes.saturating_add(256)).unwrap_or(u32::MAX)
}

fn empty(state: &mut State) -> bool {
    state.tended = None;
    state.refresh_at = None;
    state.answer.take().is_some_and(|answer| answer.is_kept())
}

/// A time further away than this is not shown: no calendar has it.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86400);

impl Snapshot {
    pub(super) fn new(secret: Arc<Secret>, asking: Asking, life: Life) -> Self {
        Self {
            secret,
            fetched: asking.wall,
            expires: asking.wall + life.served.min(LONGEST),
            fresh_until: asking.began.plus(life.fresh),
            served_until: asking.began.plus(life.served),
        }
    }
}

/// A share of a backend's load, taken back when dropped.
#[derive(Debug)]
struct Tended {
    load: Arc<AtomicU64>,
    share: u64,
}

impl Tended {
    fn new(load: &Arc<AtomicU64>, ttl: Duration) -> Self {
        let share = freshness::load(ttl);
        load.fetch_add(share, Ordering::Relaxed);
        Self { load: load.clone(), share }
    }
}

impl Drop for Tended {
    fn drop(&mut self) {
        self.load.fetch_sub(self.share, Ordering::Relaxed);
    }
}
