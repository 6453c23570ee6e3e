//! Owns what is held of the backends' answers, for how long, and who fetches: `SecretCache`.
//! Does not know files or names; it answers questions about a `SecretRef`.
//!
//! moka owns admission, the size bound and single-flight. It does not erase (values outlive replacement, TTL and
//! `invalidate` until its maintenance runs), so the bytes lie in a [`Slot`] that this module empties itself, at a
//! deadline that it owns.

mod bookmark;
mod slot;
mod sweeper;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::backend::{Backend, Error, Listing};
use crate::clock::{Clock, Moment};
use crate::counters::Counters;
use crate::freshness::Freshness;
use crate::path::BackendPath;
use crate::secret::{Secret, Version, erase_stack_below};
pub use bookmark::Bookmark;
use slot::{Answer, Slot};
use sweeper::Deadlines;

/// Which of the mount's backends: an index into the sources the cache was built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub usize);

/// One secret or folder in one backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretRef {
    /// Which backend.
    pub source: SourceId,
    /// Where in it.
    pub path: BackendPath,
    /// Which version; `None` is the current one, whichever that is.
    pub version: Option<Version>,
}

impl SecretRef {
    /// The current version of what lies at `path`.
    pub fn current(source: SourceId, path: BackendPath) -> Self {
        Self { source, path, version: None }
    }
}

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
    /// Questions at once per backend; the rest queue.
    pub max_in_flight: usize,
    /// Questions per second per backend; the rest queue.
    pub max_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { freshness: Freshness::default(), max_bytes: 64 << 20, max_in_flight: 64, max_rate: 1000 }
    }
}

/// How old the answers about one secret or folder may be: decided by whoever knows trees and patterns.
pub type Policy = Box<dyn Fn(&SecretRef) -> Freshness + Send + Sync>;

/// News of one secret that was held: the only thing that goes up from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub of: SecretRef,
    /// The version that is current now; `None` where there is none any more (deleted, or forbidden from now on).
    pub version: Option<Version>,
}

/// One secret that is held, for `status`. Never a value.
#[derive(Debug, Clone)]
pub struct Held {
    /// Which.
    pub of: SecretRef,
    /// Its version.
    pub version: Version,
    /// When the backend was asked.
    pub fetched: SystemTime,
    /// When it may no longer be served.
    pub expires: SystemTime,
    /// Past its TTL.
    pub stale: bool,
    /// Opened or looked up of late, so that it is refreshed ahead.
    pub in_use: bool,
    /// Bytes of its values and names.
    pub bytes: usize,
}

/// One backend, for `status`.
#[derive(Debug, Clone)]
pub struct SourceState {
    /// Its name in the configuration.
    pub name: String,
    /// Its kind.
    pub kind: crate::backend::Kind,
    /// Whether it answered the last time it was asked; true before it was ever asked.
    pub answers: bool,
    /// What it said the last time that it gave no answer.
    pub last_error: Option<Error>,
    /// When it is asked again by itself, where it is left alone for now.
    pub asked_again_in: Option<Duration>,
}

/// The cache. Cheap to share behind an `Arc`; every method may be called from any thread.
pub struct SecretCache {
    slots: Cache<Question, Arc<Slot>>,
    sources: Vec<(Source, Semaphore)>,
    limits: Limits,
    policy: Policy,
    counters: Counters,
    clock: Clock,
    /// Guards the queue of deadlines; held for a heap operation only.
    deadlines: Mutex<Deadlines>,
    earlier: tokio::sync::Notify,
    /// Guards the list of who is told of changes; held to send, which never waits.
    subscribers: Mutex<Vec<UnboundedSender<Changed>>>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    Read(SecretRef),
    List(SecretRef),
}

impl SecretCache {
    /// An empty cache over `sources`.
    pub fn new(sources: Vec<Source>, limits: Limits, clock: Clock) -> Self {
        let slots = Cache::builder()
            .max_capacity(limits.max_bytes)
            .weigher(|_, slot: &Arc<Slot>| slot.weight())
            .eviction_listener(|_, slot: Arc<Slot>, _| slot.wipe())
            // Only drops emptied slots and their keys; the bytes went at their own deadline.
            .time_to_live(
                limits.freshness.ttl.max(limits.freshness.negative_ttl) * 2 + Duration::from_secs(1),
            )
            .build();
        let permits = limits.max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            slots,
            sources: sources.into_iter().map(|source| (source, Semaphore::new(permits))).collect(),
            policy: Box::new(move |_| limits.freshness),
            counters: Counters::default(),
            limits,
            clock,
            deadlines: Mutex::default(),
            earlier: tokio::sync::Notify::new(),
            subscribers: Mutex::default(),
        }
    }

    /// The same cache with another opinion on how old answers may be.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// News from now on, each as soon as the next open would see it. Never blocks the cache.
    pub fn subscribe(&self) -> UnboundedReceiver<Changed> {
        let (sender, receiver) = unbounded_channel();
        self.subscribers.lock().unwrap_or_else(|e| e.into_inner()).push(sender);
        receiver
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The clock that all ages are counted on.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Every secret that is held now.
    pub fn held(&self) -> Vec<Held> {
        let now = self.clock.now();
        let held = self.slots.iter().filter_map(|(question, slot)| {
            let (Question::Read(of), Some(Answer::Secret(Ok(snapshot)))) = (&*question, slot.answer()) else {
                return None;
            };
            Some(Held {
                of: of.clone(),
                version: snapshot.secret.version.clone(),
                fetched: snapshot.fetched,
                expires: snapshot.expires,
                stale: now >= snapshot.fresh_until,
                in_use: false,
                bytes: snapshot.secret.weight(),
            })
        });
        held.collect()
    }

    /// Every backend, by the number in its [`SourceId`].
    pub fn source_states(&self) -> Vec<SourceState> {
        let state = |(source, _): &(Source, Semaphore)| SourceState {
            name: source.name.clone(),
            kind: source.backend.kind(),
            answers: true,
            last_error: None,
            asked_again_in: None,
        };
        self.sources.iter().map(state).collect()
    }

    /// Asks for a secret now, however fresh the one that is held; subscribers have the news before this returns.
    pub async fn refresh(&self, of: &SecretRef) -> Result<Arc<Snapshot>, Error> {
        match self.answer(Question::Read(of.clone()), Some(Duration::ZERO), None).await {
            Answer::Secret(result) => result,
            Answer::Listing(_) => Err(Error::Malformed("a listing where a secret was asked for")),
        }
    }

    /// Asks for a listing now.
    pub async fn refresh_listing(&self, of: &SecretRef) -> Result<Arc<Listing>, Error> {
        self.listing_since(of, Some(Duration::ZERO)).await
    }

    /// Counts as an open, so that the secret stays refreshed: for files that somebody watches without reading.
    pub fn note_use(&self, _of: &SecretRef) {}

    /// Whether a snapshot is past its TTL.
    pub fn is_stale(&self, snapshot: &Snapshot) -> bool {
        self.clock.now() >= snapshot.fresh_until
    }

    /// The name and kind of a backend; `None` for an id of another cache.
    pub fn source(&self, id: SourceId) -> Option<&Source> {
        self.sources.get(id.0).map(|(source, _)| source)
    }

    /// The secret where the bookmark says it lies, if it may be served from there at once. The quick way of an open.
    pub fn marked(&self, of: &SecretRef, bookmark: &Bookmark) -> Option<Arc<Snapshot>> {
        let now = self.clock.now();
        let slot = bookmark.slot(now)?;
        match slot.answer_for(now, self.source(of.source)?.backend.generation(), None)? {
            Answer::Secret(Ok(snapshot)) => Some(snapshot),
            _ => None,
        }
    }

    /// The secret, from the cache or fetched; concurrent callers share one fetch.
    pub async fn secret(&self, of: &SecretRef) -> Result<Arc<Snapshot>, Error> {
        self.secret_noted(of, None).await
    }

    /// The secret as [`Self::secret`] has it; notes where it lies when it was held already.
    pub async fn secret_marking(&self, of: &SecretRef, bookmark: &Bookmark) -> Result<Arc<Snapshot>, Error> {
        self.secret_noted(of, Some(bookmark)).await
    }

    async fn secret_noted(&self, of: &SecretRef, note: Option<&Bookmark>) -> Result<Arc<Snapshot>, Error> {
        match self.answer(Question::Read(of.clone()), None, note).await {
            Answer::Secret(result) => result,
            Answer::Listing(_) => Err(Error::Malformed("a listing where a secret was asked for")),
        }
    }

    /// The listing of a folder, from the cache or fetched.
    pub async fn listing(&self, of: &SecretRef) -> Result<Arc<Listing>, Error> {
        self.listing_since(of, None).await
    }

    /// The listing of a folder, no older than the negative TTL: to be asked again before a name is said to be absent,
    /// so that a secret made a moment ago is found while a storm of misses costs one question a second.
    pub async fn recent_listing(&self, of: &SecretRef) -> Result<Arc<Listing>, Error> {
        self.listing_since(of, Some(self.limits.freshness.negative_ttl)).await
    }

    async fn listing_since(&self, of: &SecretRef, max_age: Option<Duration>) -> Result<Arc<Listing>, Error> {
        match self.answer(Question::List(of.clone()), max_age, None).await {
            Answer::Listing(result) => result,
            Answer::Secret(_) => Err(Error::Malformed("a secret where a listing was asked for")),
        }
    }

    async fn answer(&self, question: Question, max_age: Option<Duration>, note: Option<&Bookmark>) -> Answer {
        let asked = self.clock.now();
        loop {
            let generation = self.generation(&question);
            let held = self.slots.get(&question).await;
            if let Some(slot) = &held
                && let Some(answer) = slot.answer_for(asked, generation, max_age)
            {
                if let Some(bookmark) = note {
                    bookmark.note(slot, asked);
                }
                return answer;
            }
            // What is only too old for this question goes on serving others, unless the backend has a newer answer.
            let before = held.as_ref().and_then(|slot| slot.version());
            let kept = held.filter(|slot| slot.answer_for(asked, generation, None).is_some());
            let mut own = None;
            let fetch = async {
                let slot = self.fetch(&question).await;
                own = slot.answer();
                let kept = kept.filter(|_| slot.is_outage()).and_then(|kept| kept.moved());
                Arc::new(kept.unwrap_or(slot))
            };
            let stale = |slot: &Arc<Slot>| {
                if slot.answer_for(asked, generation, None).is_none() {
                    slot.wipe();
                }
                // Also one that was emptied before its time: nobody would ever get an answer from it.
                slot.answer_for(asked, generation, max_age).is_none()
            };
            // Boxed: a hit never gets here and should not carry the room that a miss needs.
            let shared = Box::pin(self.slots.entry_by_ref(&question).or_insert_with_if(fetch, stale));
            let entry = shared.await;
            if entry.is_fresh() || entry.is_old_value_replaced() {
                self.watch(entry.value());
                self.tell(&question, before, entry.value());
            }
            // Our own fetch is our answer even if the slot was evicted meanwhile. Somebody else's fetch is looked at
            // anew: it may have begun before the backend changed, or its slot may be empty already.
            if let Some(answer) = own {
                return answer;
            }
        }
    }

    async fn fetch(&self, question: &Question) -> Slot {
        let (Question::Read(of) | Question::List(of)) = question;
        let Some((source, permits)) = self.sources.get(of.source.0) else {
            return self.slot(question, None, self.now(), Err(Error::NotFound));
        };
        let generation = source.backend.generation();
        let Ok(_permit) = permits.acquire().await else {
            let closed = Err(Error::Unreachable("shutting down".into()));
            return self.slot(question, generation, self.now(), closed);
        };
        let began = self.now();
        let result = match (question, &of.version) {
            (Question::Read(_), None) => source.backend.read(&of.path).await.map(Fetched::Secret),
            (Question::Read(_), Some(version)) => {
                source.backend.read_version(&of.path, version).await.map(Fetched::Secret)
            }
            (Question::List(_), _) => source.backend.list(&of.path).await.map(Fetched::Listing),
        };
        erase_stack_below();
        match &result {
            Err(error) if !error.is_answer() => {
                tracing::warn!(backend = %source.name, path = %of.path, "no answer: {error}");
            }
            // The caller sees a bare EACCES; the reason is ours, so we say it.
            Err(error @ Error::Refused(_)) => {
                tracing::warn!(backend = %source.name, path = %of.path, "refused: {error}");
            }
            _ => {}
        }
        self.slot(question, generation, began, result)
    }

    fn now(&self) -> (Moment, SystemTime) {
        (self.clock.now(), SystemTime::now())
    }

    /// What the backend said when asked at `began`.
    fn slot(
        &self,
        question: &Question,
        generation: Option<u64>,
        (began, wall): (Moment, SystemTime),
        result: Result<Fetched, Error>,
    ) -> Slot {
        let (Question::Read(of) | Question::List(of)) = question;
        let Freshness { ttl, negative_ttl, .. } = (self.policy)(of);
        let keep = match &result {
            Ok(Fetched::Secret(Secret { expires: Some(end), .. })) => {
                ttl.min(end.duration_since(wall).unwrap_or_default())
            }
            Ok(_) => ttl,
            Err(error) if error.is_answer() => negative_ttl.min(ttl),
            Err(_) => Duration::ZERO,
        };
        let answer = match (question, result) {
            (_, Ok(Fetched::Secret(secret))) => Answer::Secret(Ok(Arc::new(Snapshot {
                secret: Arc::new(secret),
                fetched: wall,
                expires: wall + keep,
                fresh_until: began.plus(keep),
                served_until: began.plus(keep),
            }))),
            (_, Ok(Fetched::Listing(listing))) => Answer::Listing(Ok(Arc::new(listing))),
            (Question::Read(_), Err(error)) => Answer::Secret(Err(error)),
            (Question::List(_), Err(error)) => Answer::Listing(Err(error)),
        };
        Slot::new(answer, began, self.clock.now(), keep, generation)
    }

    fn watch(&self, slot: &Arc<Slot>) {
        if !slot.is_to_be_erased() {
            return;
        }
        let mut deadlines = self.deadlines.lock().unwrap_or_else(|e| e.into_inner());
        if deadlines.push(slot) {
            self.earlier.notify_one();
        }
    }

    fn tell(&self, question: &Question, before: Option<Version>, slot: &Slot) {
        let (Question::Read(of), Some(before), Some(Answer::Secret(now))) = (question, before, slot.answer())
        else {
            return;
        };
        let version = now.ok().map(|snapshot| snapshot.secret.version.clone());
        if version.as_ref() == Some(&before) {
            return;
        }
        self.counters.changes.count();
        let mut subscribers = self.subscribers.lock().unwrap_or_else(|e| e.into_inner());
        subscribers.retain(|to| to.send(Changed { of: of.clone(), version: version.clone() }).is_ok());
    }

    fn generation(&self, question: &Question) -> Option<u64> {
        let (Question::Read(of) | Question::List(of)) = question;
        self.source(of.source)?.backend.generation()
    }

    /// Erases what has reached its deadline by `now`; returns the next deadline.
    pub fn sweep(&self, now: Moment) -> Option<Moment> {
        for (source, _) in &self.sources {
            source.backend.tidy(now);
        }
        self.deadlines.lock().unwrap_or_else(|e| e.into_inner()).wipe_due(now)
    }

    /// The one background task: sleeps to the next deadline and erases. Runs until dropped; the daemon spawns it.
    pub async fn sweep_forever(self: Arc<Self>) {
        // The timer stands still while the machine sleeps, the deadlines do not: look at least this often.
        const LOOK: Duration = Duration::from_secs(5);
        loop {
            let now = self.clock.now();
            let wait = self.sweep(now).map_or(LOOK, |next| next.since(now)).min(LOOK);
            self.slots.run_pending_tasks().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Erases everything now. Open handles keep their snapshots.
    pub fn flush(&self) {
        for (_, slot) in &self.slots {
            slot.wipe();
        }
        self.slots.invalidate_all();
    }
}

enum Fetched {
    Secret(Secret),
    Listing(Listing),
}

#[cfg(test)]
mod tests;
