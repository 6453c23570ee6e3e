//! Owns the place where one answer lies until it is erased.
//! Does not know who asked or who decides when.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Snapshot;
use crate::backend::{Error, Listing};
use crate::clock::Moment;
use crate::secret::Version;

/// An answer of a backend, good or bad, cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Secret(Result<Arc<Snapshot>, Error>),
    Listing(Result<Arc<Listing>, Error>),
}

/// One answer and its end. Emptying it drops the cache's share of the bytes at once.
#[derive(Debug)]
pub(super) struct Slot {
    /// Guards the answer; held for a clone or a take only.
    answer: Mutex<Option<Answer>>,
    /// When the backend was asked: age counts from here, for what it says may be as old as that.
    began: Moment,
    arrived: Moment,
    deadline: Moment,
    generation: Option<u64>,
    weight: u32,
}

impl Slot {
    /// An answer to a question that the backend was asked at `began`, served for `keep` from then on.
    pub(super) fn new(
        answer: Answer,
        began: Moment,
        arrived: Moment,
        keep: Duration,
        generation: Option<u64>,
    ) -> Self {
        let bytes = match &answer {
            Answer::Secret(Ok(snapshot)) => snapshot.secret.weight(),
            Answer::Listing(Ok(listing)) => listing.weight(),
            Answer::Secret(Err(_)) | Answer::Listing(Err(_)) => 0,
        };
        let weight = u32::try_from(bytes.saturating_add(256)).unwrap_or(u32::MAX);
        let deadline = began.plus(keep);
        Self { answer: Mutex::new(Some(answer)), began, arrived, deadline, generation, weight }
    }

    /// The answer, when it may be given to somebody who asked at `asked`: it is held still, and young enough. An answer
    /// that arrived after the question was asked is always good for it, whatever its TTL.
    pub(super) fn answer_for(
        &self,
        asked: Moment,
        generation: Option<u64>,
        max_age: Option<Duration>,
    ) -> Option<Answer> {
        let young = asked < self.deadline && max_age.is_none_or(|age| asked.since(self.began) < age);
        let fresh = self.generation == generation && (self.arrived >= asked || young);
        if fresh { self.answer() } else { None }
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(super) fn wipe(&self) {
        drop(self.answer.lock().unwrap_or_else(|e| e.into_inner()).take());
    }

    /// Whether it holds what a backend keeps, which must be erased in time; a refusal or an outage is nobody's secret.
    pub(super) fn is_to_be_erased(&self) -> bool {
        matches!(self.answer(), Some(Answer::Secret(Ok(_)) | Answer::Listing(Ok(_))))
    }

    /// The same answer with the same end in a new place, as moka wipes what it replaces; none when it was emptied.
    pub(super) fn moved(&self) -> Option<Self> {
        let answer = Mutex::new(Some(self.answer()?));
        let Self { began, arrived, deadline, generation, weight, .. } = *self;
        Some(Self { answer, began, arrived, deadline, generation, weight })
    }

    /// Whether it holds the lack of an answer.
    pub(super) fn is_outage(&self) -> bool {
        match self.answer() {
            Some(Answer::Secret(Err(error)) | Answer::Listing(Err(error))) => !error.is_answer(),
            _ => false,
        }
    }

    /// The version of the secret that it holds.
    pub(super) fn version(&self) -> Option<Version> {
        match self.answer() {
            Some(Answer::Secret(Ok(snapshot))) => Some(snapshot.secret.version.clone()),
            _ => None,
        }
    }

    pub(super) fn deadline(&self) -> Moment {
        self.deadline
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight
    }
}
