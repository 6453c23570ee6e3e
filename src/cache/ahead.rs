//! Owns what the refresh loop may do with the cache: take jobs, do one, ask for many versions at once.
//! Does not know when a job is done: the loop in `refresh` decides.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use super::breaker::Admission;
use super::slot::{Answer, Asking, Slot};
use super::{How, Job, Priority, Question, SecretCache, SecretRef, SourceId, chance};
use crate::backend::{Error, Versions};
use crate::clock::Moment;
use crate::secret::Version;

/// Versions of more watched secrets than this are not remembered.
const MOST_WATCHED: usize = 10_000;

/// Whether a backend may be asked ahead of need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// Yes.
    Now,
    /// It rests: look again then.
    NotBefore(Moment),
}

/// What came of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The backend was asked and has answered.
    Asked,
    /// Somebody else was faster, or nobody uses it any more.
    NotNeeded,
    /// The backend gave no answer; it is tried again later.
    Failed,
}

impl Job {
    /// Whose it is.
    pub fn source(&self) -> SourceId {
        self.question.of().source
    }

    /// The folder of the secret; none for a listing.
    pub fn folder(&self) -> Option<SecretRef> {
        folder_of(&self.question)
    }
}

impl SecretCache {
    /// Ready when something may be due earlier than [`Self::sweep`] said.
    pub async fn woken(&self) {
        self.earlier.notified().await;
    }

    /// The jobs whose time has come; whoever takes one does it.
    pub fn take_jobs(&self) -> Vec<Job> {
        self.schedule().take_ready()
    }

    /// Drops the keys of what was erased; the bytes are gone already.
    pub async fn drop_emptied(&self) {
        let gone = self.schedule().take_gone();
        for question in gone {
            if self.slots.get(&question).await.is_some_and(|slot| slot.is_empty()) {
                self.slots.invalidate(&question).await;
            }
        }
        self.slots.run_pending_tasks().await;
    }

    /// How much is asked of a backend to keep fresh what is in use ([`crate::freshness::load`]).
    pub fn load(&self, source: SourceId) -> u64 {
        self.loads.get(source.index()).map_or(0, |load| load.load(Ordering::Relaxed))
    }

    /// Whether a backend may be asked now, ahead of need.
    pub fn may_ask_ahead(&self, source: SourceId) -> May {
        /// A probe is on its way; its outcome wakes nobody here.
        const LOOK: Duration = Duration::from_millis(100);
        let Some(lane) = self.lanes.get(source.index()) else { return May::Now };
        match lane.admits(Priority::Ahead) {
            Admission::Go { .. } => May::Now,
            Admission::Wait => May::NotBefore(self.clock.now().plus(LOOK)),
            Admission::No { until } => May::NotBefore(until.max(self.clock.now().plus(LOOK))),
        }
    }

    /// Whether a backend counts its changes, so that asking it costs no request.
    pub fn counts_changes(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.backend.generation().is_some())
    }

    /// Ready when a backend that counts its changes may have changed.
    pub async fn source_changed(&self, source: SourceId) {
        match self.source(source) {
            Some(source) => source.backend.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Counts as an open, so that the secret stays refreshed: for files that somebody watches without reading. Does
    /// nothing for what is not held.
    pub fn note_use(&self, of: &SecretRef) {
        self.note(Job { question: Question::Read(of.clone()), slot: None, fetch: false });
    }

    /// As [`Self::note_use`]; fetches what is not held.
    pub fn want(&self, of: &SecretRef) {
        self.note(Job { question: Question::Read(of.clone()), slot: None, fetch: true });
    }

    fn note(&self, job: Job) {
        if self.schedule().want(job) {
            self.earlier.notify_one();
        }
    }

    /// Does a job.
    pub async fn refresh_ahead(&self, job: &Job) -> Done {
        let now = self.clock.now();
        let asker = match &job.slot {
            Some(slot) => {
                let Some(slot) = slot.upgrade() else { return Done::NotNeeded };
                if !slot.wants_refresh(now) {
                    slot.let_wait();
                    self.put_on_schedule(job.question.clone(), &slot);
                    return Done::NotNeeded;
                }
                Priority::Ahead
            }
            None => {
                if let Some(slot) = self.slots.get(&job.question).await {
                    let wake = slot.use_at(now);
                    if job.fetch
                        && let Some(secret) = slot.secret()
                    {
                        let version = Some(secret.version.clone());
                        // Whoever read it again after it was not held did not know what its watchers know.
                        if self.missed(&job.question, version.as_ref()) {
                            self.publish(job.question.of(), version);
                        }
                    }
                    if wake {
                        self.put_on_schedule(job.question.clone(), &slot);
                    }
                    if slot.is_kept() {
                        return Done::NotNeeded;
                    }
                }
                if !job.fetch {
                    return Done::NotNeeded;
                }
                Priority::Prefetch
            }
        };
        let how = How { max_age: Some(Duration::ZERO), note: None, asker };
        let answer = self.answer(job.question.clone(), how).await;
        if answer.is_outage() {
            return Done::Failed;
        }
        if let (Priority::Prefetch, Answer::Secret(found)) = (asker, &answer) {
            let version = found.as_ref().ok().map(|snapshot| snapshot.secret.version.clone());
            if self.missed(&job.question, version.as_ref()) {
                self.publish(job.question.of(), version);
            }
        }
        Done::Asked
    }

    /// Takes note of the version of a watched secret; whether its watchers know another one (or know it as gone): it may have
    /// changed while it was not held.
    fn missed(&self, question: &Question, version: Option<&Version>) -> bool {
        let mut watched = self.watched.lock().unwrap_or_else(|e| e.into_inner());
        if watched.len() >= MOST_WATCHED {
            watched.clear();
        }
        match watched.insert(question.of().clone(), version.cloned()) {
            Some(before) => before.as_ref() != version && version.is_some(),
            None => false,
        }
    }

    /// Puts a job off to shortly before the end of what it is about; false where that is now. For what need not be spread,
    /// because it is asked for together with others.
    pub fn defer(&self, job: &Job) -> bool {
        let Some(slot) = job.slot.as_ref().and_then(Weak::upgrade) else { return false };
        let deferred = slot.defer(self.clock.now(), chance());
        if deferred {
            self.put_on_schedule(job.question.clone(), &slot);
        }
        deferred
    }

    /// How many secrets in use lie directly in each folder of a backend.
    pub fn in_use_by_folder(&self, source: SourceId) -> HashMap<SecretRef, usize> {
        let mut folders = HashMap::new();
        for (_, _, folder) in self.in_use(source) {
            *folders.entry(folder).or_default() += 1;
        }
        folders
    }

    /// Asks for the versions of all secrets in a folder at once. What is in use and has the same version begins a new life;
    /// what moved, or is not there any more, comes back as jobs. The number is of requests; `None`: the backend cannot.
    ///
    /// # Errors
    /// The backend gave no answer.
    pub async fn ask_versions(&self, folder: &SecretRef) -> Result<Option<(Vec<Job>, u32)>, Error> {
        let Some(lane) = self.lanes.get(folder.source.index()) else { return Ok(None) };
        let backend = &lane.source.backend;
        let mut asking = self.asking(folder.source);
        let answer = lane.call_for_many(|| {
            asking = self.asking(folder.source);
            backend.versions(&folder.path)
        });
        let Some(versions) = answer.await? else { return Ok(None) };
        let _taking_in = self.intake.open().await;
        self.counters.refreshes.count();
        let requests = versions.requests;
        let mut moved = Vec::new();
        for (question, slot, _) in self.in_use(folder.source).filter(|(_, _, at)| at == folder) {
            if is_current(&question, &slot, &versions) {
                let refresh_at = slot.freshness().next_refresh(asking.began, chance());
                slot.extend(asking, refresh_at);
                self.put_on_schedule(question, &slot);
            } else {
                slot.refresh_from(asking.began);
                moved.push(Job { question, slot: Some(Arc::downgrade(&slot)), fetch: false });
            }
        }
        Ok(Some((moved, requests)))
    }

    /// Everything in use of a backend that has counted a change since it was asked for: as jobs, but for what is known to be
    /// the same.
    pub async fn catch_up(&self, source: SourceId) -> Vec<Job> {
        let mut jobs = Vec::new();
        let generation = self.asking(source).generation;
        let mut behind: HashMap<SecretRef, Vec<(Question, Arc<Slot>)>> = HashMap::new();
        for (question, slot, folder) in self.in_use(source) {
            if slot.generation() != generation {
                behind.entry(folder).or_default().push((question, slot));
            }
        }
        for (folder, slots) in behind {
            match self.ask_versions(&folder).await {
                Ok(Some((moved, _))) => jobs.extend(moved),
                Ok(None) | Err(_) => {
                    for (question, slot) in slots {
                        slot.refresh_from(self.clock.now());
                        jobs.push(Job { question, slot: Some(Arc::downgrade(&slot)), fetch: false });
                    }
                }
            }
        }
        jobs
    }

    /// Secrets in use at their current version, with their folders.
    fn in_use(&self, source: SourceId) -> impl Iterator<Item = (Question, Arc<Slot>, SecretRef)> {
        let now = self.clock.now();
        self.slots.iter().filter_map(move |(question, slot)| {
            let of = question.of();
            let used = of.source == source && of.version.is_none() && slot.is_in_use(now);
            let folder = folder_of(&question).filter(|_| used)?;
            slot.secret().is_some().then(|| (question.as_ref().clone(), slot, folder))
        })
    }

    fn asking(&self, source: SourceId) -> Asking {
        let generation = self.source(source).and_then(|source| source.backend.generation());
        Asking { began: self.clock.now(), wall: SystemTime::now(), generation }
    }
}

fn folder_of(question: &Question) -> Option<SecretRef> {
    let Question::Read(of) = question else { return None };
    let (folder, _) = of.path.split_last()?;
    Some(of.at(folder))
}

/// Whether a slot holds the version that is current, as far as the backend tells versions.
fn is_current(question: &Question, slot: &Slot, versions: &Versions) -> bool {
    let Some((_, name)) = question.of().path.split_last() else { return false };
    let current = versions.current.get(&*name).and_then(Option::as_ref);
    let held = slot.secret().map(|secret| secret.version.clone());
    current.is_some_and(|current| !current.as_str().is_empty() && held.as_ref() == Some(current))
}
