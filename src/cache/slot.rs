//! Owns the place where one answer lies until it is erased.
//! Does not know who asked or who decides when.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Snapshot;
use crate::backend::{Error, Listing};
use crate::clock::Moment;

/// An answer of a backend, good or bad, cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Secret(Result<Arc<Snapshot>, Error>),
    Listing(Result<Arc<Listing>, Error>),
}

/// One answer and its end. Emptying it drops the cache's share of the bytes at once.
pub(super) struct Slot {
    /// Guards the answer; held for a clone or a take only.
    answer: Mutex<Option<Answer>>,
    fetched: Moment,
    deadline: Moment,
    generation: u64,
    weight: u32,
}

impl Slot {
    pub(super) fn new(answer: Answer, fetched: Moment, deadline: Moment, generation: u64) -> Self {
        let bytes = match &answer {
            Answer::Secret(Ok(snapshot)) => snapshot.secret.weight(),
            Answer::Listing(Ok(listing)) => listing.weight(),
            Answer::Secret(Err(_)) | Answer::Listing(Err(_)) => 0,
        };
        let weight = u32::try_from(bytes.saturating_add(256)).unwrap_or(u32::MAX);
        Self { answer: Mutex::new(Some(answer)), fetched, deadline, generation, weight }
    }

    /// Whether the answer may be given to somebody who asked at `asked`. An answer fetched after the question was
    /// asked is always good for it, whatever its TTL.
    pub(super) fn is_fresh(&self, asked: Moment, generation: u64, max_age: Option<Duration>) -> bool {
        if self.generation != generation {
            return false;
        }
        if self.fetched >= asked {
            return true;
        }
        asked < self.deadline && max_age.is_none_or(|age| asked.since(self.fetched) < age)
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(super) fn wipe(&self) {
        drop(self.answer.lock().unwrap_or_else(|e| e.into_inner()).take());
    }

    pub(super) fn deadline(&self) -> Moment {
        self.deadline
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight
    }
}
