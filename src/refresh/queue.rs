//! Owns what is due for one backend and when the next of it is let go: the pace, and what is asked for together.
//! Does not know what a job does.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::backend::Error;
use crate::cache::{Job, May, SecretCache, SecretRef, SourceId};
use crate::clock::Moment;
use crate::freshness;

/// The secrets in use are counted by folder this often, at most: it looks at everything that is held.
const COUNT: Duration = Duration::from_secs(2);
/// A backend that could not tell versions of a folder is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The same after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Timers are late now and then: what was missed within this is made up for, so that the pace is kept on average.
const LATE: Duration = Duration::from_millis(100);

/// What is to be done now.
pub(super) enum Work {
    /// A job by itself.
    One(Job),
    /// The versions of all that is in a folder, where these are due.
    Together(SecretRef, Vec<Job>),
}

/// One backend's due jobs.
pub(super) struct Queue {
    source: SourceId,
    jobs: VecDeque<Job>,
    /// Known to have moved: each is asked for by itself, before all others.
    moved: VecDeque<Job>,
    /// The pace: nothing before this.
    not_before: Moment,
    folders: HashMap<SecretRef, usize>,
    counted: Option<Moment>,
    /// How many requests the versions of a folder took; and those that cannot be had, until when.
    pages: HashMap<SecretRef, u32>,
    cannot: HashMap<SecretRef, Moment>,
    /// Folders whose versions are being asked for, and what came due in them meanwhile.
    asking: HashMap<SecretRef, Vec<Job>>,
}

impl Queue {
    pub(super) fn new(source: SourceId) -> Self {
        Self {
            source,
            jobs: VecDeque::new(),
            moved: VecDeque::new(),
            not_before: Moment::START,
            folders: HashMap::new(),
            counted: None,
            pages: HashMap::new(),
            cannot: HashMap::new(),
            asking: HashMap::new(),
        }
    }

    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// The next work at `now`; else when to look again, if anything waits.
    pub(super) fn next(&mut self, now: Moment, cache: &SecretCache) -> Result<Work, Option<Moment>> {
        if self.jobs.is_empty() && self.moved.is_empty() {
            return Err(None);
        }
        // Without a request there is nothing to pace.
        let free = cache.counts_changes(self.source);
        if !free {
            if now < self.not_before {
                return Err(Some(self.not_before));
            }
            if let May::NotBefore(later) = cache.may_ask_ahead(self.source) {
                return Err(Some(later));
            }
        }
        let moved = self.moved.pop_front();
        let is_alone = free || moved.is_some();
        let Some(job) = moved.or_else(|| self.next_due(cache)) else { return Err(None) };
        let gap = freshness::gap(cache.load(self.source));
        self.not_before = self.not_before.max(now.minus(LATE)).plus(gap);
        match job.folder() {
            Some(folder) if !is_alone && self.is_for_all(now, cache, &folder) => {
                let (mut those, others): (Vec<Job>, Vec<Job>) =
                    self.jobs.drain(..).partition(|other| other.folder().as_ref() == Some(&folder));
                self.jobs = others.into();
                those.push(job);
                self.asking.insert(folder.clone(), vec![]);
                Ok(Work::Together(folder, those))
            }
            _ => Ok(Work::One(job)),
        }
    }

    /// The next job, but for those of folders that are asked for together: these wait for the first that is about to end, and
    /// while it is asked for, for the answer.
    fn next_due(&mut self, cache: &SecretCache) -> Option<Job> {
        while let Some(job) = self.jobs.pop_front() {
            if let Some(folder) = job.folder()
                && let Some(meanwhile) = self.asking.get_mut(&folder)
            {
                meanwhile.push(job);
                continue;
            }
            let together = job.folder().is_some_and(|folder| self.pages.contains_key(&folder));
            if !together || !cache.defer(&job) {
                return Some(job);
            }
        }
        None
    }

    /// Takes note of what came of [`Work::Together`].
    pub(super) fn answered(
        &mut self,
        now: Moment,
        folder: SecretRef,
        due: Vec<Job>,
        answer: Result<Option<(Vec<Job>, u32)>, Error>,
    ) {
        self.jobs.extend(self.asking.remove(&folder).unwrap_or_default());
        match answer {
            Ok(Some((moved, pages))) => {
                self.pages.insert(folder, pages);
                self.moved.extend(moved);
            }
            Ok(None) => {
                self.pages.remove(&folder);
                self.cannot.insert(folder, now.plus(ASK_AGAIN));
                self.jobs.extend(due);
            }
            // That each is asked for by itself finds out more.
            Err(error) => {
                tracing::debug!(path = %folder.path, "no versions of a folder: {error}");
                self.cannot.insert(folder, now.plus(AFTER_FAILURE));
                self.jobs.extend(due);
            }
        }
    }

    fn is_for_all(&mut self, now: Moment, cache: &SecretCache, folder: &SecretRef) -> bool {
        self.cannot.retain(|_, until| now < *until);
        if self.cannot.contains_key(folder) {
            return false;
        }
        if self.counted.is_none_or(|counted| now.since(counted) >= COUNT) {
            self.folders = cache.in_use_by_folder(self.source);
            self.counted = Some(now);
            let folders = &self.folders;
            self.pages.retain(|folder, _| folders.contains_key(folder));
        }
        let in_use = self.folders.get(folder).copied().unwrap_or(0);
        freshness::together_is_cheaper(in_use, self.pages.get(folder).copied().unwrap_or(1))
    }
}
