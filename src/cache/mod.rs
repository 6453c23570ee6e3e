//! Owns what is held of the backends' answers, for how long, and who fetches: `SecretCache`.
//! Does not know files or names; it answers questions about a `SecretRef`.
//!
//! moka owns admission, the size bound and single-flight. It does not erase (values outlive replacement, TTL and
//! `invalidate` until its maintenance runs), so the bytes lie in a [`Slot`] that this module empties itself, at a
//! deadline that it owns.

mod ahead;
mod ask;
mod bookmark;
mod breaker;
mod fetch;
mod gate;
mod hand_over;
mod lane;
mod news;
mod peek;
mod reference;
mod schedule;
mod slot;
mod unsaid;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use moka::future::Cache;
use moka::notification::RemovalCause;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::backend::{Backend, Error, Listing};
use crate::clock::{Clock, Moment};
use crate::counters::Counters;
use crate::freshness::Freshness;
use crate::secret::{Secret, Version};
pub use ahead::{Done, May};
pub(crate) use ask::is_about_one_thing;
pub use bookmark::Bookmark;
pub use gate::Priority;
use hand_over::Intake;
pub use hand_over::{CarriedSlot, Watched};
use lane::Lane;
use news::Subscribers;
pub use news::{Changed, Held, SourceState};
pub use reference::{DemandId, SecretRef, SourceId};
pub use schedule::Job;
use schedule::Schedule;
use slot::{Answer, Look, Slot};
use unsaid::Unsaid;

/// A whole secret at one version, with what is known about its freshness. Shared, immutable, erased with its last holder.
#[derive(Debug)]
pub struct Snapshot {
    /// The secret; the same one in the next snapshot, when the backend says that nothing has changed.
    pub secret: Arc<Secret>,
    /// When we asked for it.
    pub fetched: SystemTime,
    /// When it may no longer be served.
    pub expires: SystemTime,
    /// From then on it is stale.
    pub fresh_until: Moment,
    /// From then on it is expired.
    pub served_until: Moment,
}

/// A backend and its name in the configuration.
pub struct Source {
    /// The name that messages, `.meta` and `explain` use.
    pub name: String,
    /// Who answers.
    pub backend: Arc<dyn Backend>,
}

/// How long and how much.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How old an answer may be, where no [`Policy`] says otherwise. Age counts from when the backend was asked.
    pub freshness: Freshness,
    /// Bytes of answers held at most.
    pub max_bytes: u64,
    /// Questions at once per backend; the rest queue. A secret that is made does not count after the first second.
    pub max_in_flight: usize,
    /// Questions per second per backend; the rest queue.
    pub max_rate: u32,
    /// How long somebody who could be served a stale answer waits for a fresh one.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            freshness: Freshness::default(),
            max_bytes: 64 << 20,
            max_in_flight: 64,
            max_rate: 1000,
            patience: Duration::from_secs(1),
        }
    }
}

/// How old the answers about one secret or folder may be: decided by whoever knows trees and patterns.
pub type Policy = Box<dyn Fn(&SecretRef) -> Freshness + Send + Sync>;

/// The cache. Cheap to share behind an `Arc`; every method may be called from any thread.
pub struct SecretCache {
    slots: Cache<Question, Arc<Slot>>,
    lanes: Vec<Lane>,
    /// By backend: the load of all that is asked for again ahead of its end.
    loads: Vec<Arc<AtomicU64>>,
    limits: Limits,
    policy: Policy,
    /// Guards the few kinds of freshness that the policy has given so far; held for a search.
    kinds: Mutex<Vec<Arc<Freshness>>>,
    counters: Arc<Counters>,
    clock: Clock,
    /// Guards the schedule; held for heap operations only.
    schedule: Mutex<Schedule>,
    /// Told when something is due earlier than was known.
    earlier: Notify,
    subscribers: Subscribers,
    /// Guards which versions the watchers of files know; held for a map operation only.
    watched: Mutex<HashMap<SecretRef, Option<Version>>>,
    unsaid: Unsaid,
    /// Closed while the next worker takes over.
    intake: Intake,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Question {
    Read(SecretRef),
    List(SecretRef),
}

impl Question {
    fn of(&self) -> &SecretRef {
        let (Self::Read(of) | Self::List(of)) = self;
        of
    }
}

/// How a question is asked.
#[derive(Debug, Clone, Copy)]
struct How<'a> {
    /// The oldest answer that will do; none: as the freshness of it says.
    max_age: Option<Duration>,
    note: Option<&'a Bookmark>,
    asker: Priority,
}

impl SecretCache {
    /// An empty cache over `sources`.
    pub fn new(sources: Vec<Source>, limits: Limits, clock: Clock) -> Self {
        let counters = Arc::new(Counters::default());
        let told = counters.clone();
        let slots = Cache::builder()
            .max_capacity(limits.max_bytes)
            .weigher(|_, slot: &Arc<Slot>| slot.weight())
            .eviction_listener(move |_, slot: Arc<Slot>, cause| {
                let erased = if cause == RemovalCause::Replaced { slot.replaced() } else { slot.wipe() };
                if erased {
                    told.wipes.count();
                    if cause == RemovalCause::Size {
                        told.evictions.count();
                    }
                }
            })
            .build();
        let loads = sources.iter().map(|_| Arc::default()).collect();
        let lane = |source| Lane::new(source, &limits, clock.clone(), counters.clone());
        Self {
            slots,
            lanes: sources.into_iter().map(lane).collect(),
            loads,
            policy: Box::new(move |_| limits.freshness),
            kinds: Mutex::default(),
            counters,
            limits,
            clock,
            schedule: Mutex::default(),
            earlier: Notify::new(),
            subscribers: Subscribers::default(),
            watched: Mutex::default(),
            unsaid: Unsaid::default(),
            intake: Intake::default(),
        }
    }

    /// The same cache with another opinion on how old answers may be.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// News from now on, each as soon as the next open would see it. Never blocks the cache.
    pub fn subscribe(&self) -> UnboundedReceiver<Changed> {
        self.subscribers.add()
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The clock that all ages are counted on.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The name and kind of a backend; `None` for an id of another cache.
    pub fn source(&self, id: SourceId) -> Option<&Source> {
        self.lanes.get(id.index()).map(|lane| &lane.source)
    }

    /// Every backend.
    pub fn backends(&self) -> Vec<Arc<dyn Backend>> {
        self.lanes.iter().map(|lane| lane.source.backend.clone()).collect()
    }

    /// Every secret that is held now.
    pub fn held(&self) -> Vec<Held> {
        let now = self.clock.now();
        let held = self.slots.iter().filter_map(|(question, slot)| {
            let (Question::Read(of), Some(snapshot)) = (&*question, slot.snapshot()) else { return None };
            Some(Held {
                of: of.clone(),
                version: snapshot.secret.version.clone(),
                fetched: snapshot.fetched,
                expires: snapshot.expires,
                stale: now >= snapshot.fresh_until,
                in_use: slot.is_in_use(now),
                bytes: snapshot.secret.weight(),
            })
        });
        held.collect()
    }

    /// Every backend, by the number in its [`SourceId`].
    pub fn source_states(&self) -> Vec<SourceState> {
        self.lanes.iter().map(Lane::state).collect()
    }

    /// Whether a snapshot is past its TTL.
    pub fn is_stale(&self, snapshot: &Snapshot) -> bool {
        self.clock.now() >= snapshot.fresh_until
    }

    /// The secret where the bookmark says it lies, if it may be served from there at once. The quick way of an open.
    pub fn marked(&self, of: &SecretRef, bookmark: &Bookmark) -> Option<Arc<Snapshot>> {
        let now = self.clock.now();
        let slot = bookmark.slot(now)?;
        let (look, wake) = slot.look(now, self.source(of.source)?.backend.generation(), None, true);
        if wake {
            self.put_on_schedule(Question::Read(of.clone()), &slot);
        }
        match look {
            Look::Fresh(Answer::Secret(Ok(snapshot))) => {
                self.counters.hits.count();
                Some(snapshot)
            }
            _ => None,
        }
    }

    /// The secret, from the cache or fetched; concurrent callers share one fetch.
    pub async fn secret(&self, of: &SecretRef) -> Result<Arc<Snapshot>, Error> {
        self.read(of, How { max_age: None, note: None, asker: Priority::Reader }).await
    }

    /// The secret as [`Self::secret`] has it; notes where it lies when it was held already.
    pub async fn secret_marking(&self, of: &SecretRef, bookmark: &Bookmark) -> Result<Arc<Snapshot>, Error> {
        self.read(of, How { max_age: None, note: Some(bookmark), asker: Priority::Reader }).await
    }

    /// Asks for a secret now, however fresh the one that is held and however long the backend has not answered;
    /// subscribers have the news before this returns.
    ///
    /// # Errors
    /// What the backend said. What is held may still be served.
    pub async fn refresh(&self, of: &SecretRef) -> Result<Arc<Snapshot>, Error> {
        self.read(of, How { max_age: Some(Duration::ZERO), note: None, asker: Priority::Operator }).await
    }

    async fn read(&self, of: &SecretRef, how: How<'_>) -> Result<Arc<Snapshot>, Error> {
        match self.answer(Question::Read(of.clone()), how).await {
            Answer::Secret(result) => result,
            Answer::Listing(_) => Err(Error::Malformed("a listing where a secret was asked for")),
        }
    }

    /// The listing of a folder, from the cache or fetched.
    pub async fn listing(&self, of: &SecretRef) -> Result<Arc<Listing>, Error> {
        self.list(of, How { max_age: None, note: None, asker: Priority::Reader }).await
    }

    /// The listing of a folder, no older than the negative TTL: to be asked again before a name is said to be absent,
    /// so that a secret made a moment ago is found while a storm of misses costs one question a second.
    pub async fn recent_listing(&self, of: &SecretRef) -> Result<Arc<Listing>, Error> {
        let max_age = Some((self.policy)(of).negative_ttl);
        self.list(of, How { max_age, note: None, asker: Priority::Reader }).await
    }

    /// Asks for a listing now, as [`Self::refresh`] does for a secret.
    ///
    /// # Errors
    /// What the backend said.
    pub async fn refresh_listing(&self, of: &SecretRef) -> Result<Arc<Listing>, Error> {
        self.list(of, How { max_age: Some(Duration::ZERO), note: None, asker: Priority::Operator }).await
    }

    async fn list(&self, of: &SecretRef, how: How<'_>) -> Result<Arc<Listing>, Error> {
        match self.answer(Question::List(of.clone()), how).await {
            Answer::Listing(result) => result,
            Answer::Secret(_) => Err(Error::Malformed("a secret where a listing was asked for")),
        }
    }

    async fn answer(&self, question: Question, how: How<'_>) -> Answer {
        let asked = self.clock.now();
        let using = how.asker == Priority::Reader;
        let mut impatient = false;
        loop {
            let generation = self.generation(&question);
            let held = self.slots.get(&question).await;
            let mut stale = None;
            if let Some(slot) = &held {
                let (look, wake) = slot.look(asked, generation, how.max_age, using);
                if wake {
                    self.put_on_schedule(question.clone(), slot);
                }
                match look {
                    Look::Fresh(answer) => {
                        if let Some(bookmark) = how.note {
                            bookmark.note(slot, asked);
                        }
                        if using {
                            self.counters.hits.count();
                        }
                        return answer;
                    }
                    Look::Stale { answer, excused } => {
                        let resting = self.rests(&question);
                        if resting || impatient {
                            slot.excuse_unasked(self.clock.now());
                        }
                        if excused || resting || impatient {
                            self.counters.stale_serves.count();
                            return answer;
                        }
                        stale = Some(());
                    }
                    Look::Nothing => {}
                }
            }
            // Boxed: a hit never gets here and should not carry the room that a miss needs.
            let fetched = Box::pin(self.fetch_shared(&question, how, asked));
            let own = match stale {
                None => fetched.await,
                Some(()) => match tokio::time::timeout(self.limits.patience, fetched).await {
                    Ok(own) => own,
                    Err(_) => {
                        impatient = true;
                        continue;
                    }
                },
            };
            // Our own fetch is our answer even if the slot was evicted meanwhile. Somebody else's fetch is looked at
            // anew: it may have begun before the backend changed, or its slot may be empty already.
            match own {
                Some(answer) if stale.is_some() && answer.is_outage() => impatient = true,
                Some(answer) => return answer,
                None => {}
            }
        }
    }

    /// Fetches, or waits for somebody who does; what came of it when it was our own fetch.
    async fn fetch_shared(&self, question: &Question, how: How<'_>, asked: Moment) -> Option<Answer> {
        let (mut own, mut before, mut taking_in) = (None, None, None);
        let fetch = async {
            self.intake.open().await;
            let (answer, asking) = self.fetch(question, how.asker).await;
            // Until it is in its place.
            taking_in = Some(self.intake.open().await);
            // What is held now, which may be newer than when we began to wait.
            let held = self.slots.get(question).await;
            before = held.as_ref().and_then(|slot| slot.secret());
            let outage = answer.is_outage().then(|| answer.clone());
            let slot = self.kept_slot(question, how.asker, held.as_ref(), answer, asking);
            own = outage.or_else(|| slot.answer());
            slot
        };
        let generation = self.generation(question);
        // Also one that was emptied before its time: nobody would ever get an answer from it.
        let replace =
            |slot: &Arc<Slot>| !matches!(slot.look(asked, generation, how.max_age, false).0, Look::Fresh(_));
        let entry = self.slots.entry_by_ref(question).or_insert_with_if(fetch, replace).await;
        if entry.is_fresh() || entry.is_old_value_replaced() {
            let slot = entry.value();
            slot.settle();
            self.put_on_schedule(question.clone(), slot);
            self.tell(question, before.as_ref(), slot);
        }
        drop(taking_in);
        own
    }

    /// Tells subscribers when a slot holds something else than was held before; where nothing was, than a worker before this one left
    /// its readers with.
    fn tell(&self, question: &Question, before: Option<&Arc<Secret>>, slot: &Slot) {
        let (Question::Read(of), Some(Answer::Secret(now))) = (question, slot.answer()) else { return };
        let version = match &now {
            Ok(snapshot) => Some(snapshot.secret.version.clone()),
            Err(_) => None,
        };
        let is_news = match (before, now) {
            (Some(before), Ok(snapshot)) => !Arc::ptr_eq(&snapshot.secret, before),
            (Some(_), Err(_)) => true,
            (None, Err(error)) if !error.is_answer() => false,
            (None, _) => self.unsaid.is_news(of, version.as_ref()),
        };
        if is_news {
            self.publish(of, version);
        }
    }

    fn publish(&self, of: &SecretRef, version: Option<Version>) {
        self.counters.changes.count();
        // Its watchers are told.
        if let Some(known) = self.watched.lock().unwrap_or_else(|e| e.into_inner()).get_mut(of) {
            known.clone_from(&version);
        }
        self.subscribers.tell(&Changed { of: of.clone(), version });
    }

    fn put_on_schedule(&self, question: Question, slot: &Arc<Slot>) {
        if self.schedule().put(question, slot) {
            self.earlier.notify_one();
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn rests(&self, question: &Question) -> bool {
        self.lanes.get(question.of().source.index()).is_some_and(Lane::rests)
    }

    fn generation(&self, question: &Question) -> Option<u64> {
        self.source(question.of().source)?.backend.generation()
    }

    /// Erases what has reached its end by `now`, and notes what is to be asked for again; returns the next deadline.
    pub fn sweep(&self, now: Moment) -> Option<Moment> {
        for lane in &self.lanes {
            lane.source.backend.tidy(now);
        }
        // Once for all: a store looks at its file for it.
        let generations: HashMap<usize, Option<u64>> =
            self.lanes.iter().enumerate().map(|(at, lane)| (at, lane.source.backend.generation())).collect();
        let generation =
            |question: &Question| generations.get(&question.of().source.index()).copied().flatten();
        self.schedule().advance(now, generation, chance, || self.counters.wipes.count())
    }

    /// Erases everything now, and what backends keep in clear for the next question. Open handles keep their snapshots.
    pub fn flush(&self) {
        /// Whatever a backend keeps for a while, it has not been used for that long.
        const LONG_UNUSED: Duration = Duration::from_secs(24 * 3600);
        for (_, slot) in &self.slots {
            if slot.wipe() {
                self.counters.wipes.count();
            }
        }
        self.slots.invalidate_all();
        let now = self.clock.now().plus(LONG_UNUSED);
        for lane in &self.lanes {
            lane.source.backend.tidy(now);
        }
    }
}

/// A number from 0 to 1 that nobody outside can foresee.
pub fn chance() -> f64 {
    static TURN: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static KEY: RandomState = RandomState::new();
    }
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let number = KEY.with(|key| key.hash_one(turn));
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
