//! Owns one secret that is made on demand: its lease, its predecessor, and who waits for it.
//! Does not know backends; it is told what came of what was tried.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::backend::Error;
use crate::backend::issuer::{LeaseId, ParentId};
use crate::cache::Snapshot;
use crate::clock::Moment;
use crate::lease::Lease;
use crate::secret::Secret;

/// A time further away than this is not shown: no calendar has it.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86400);

/// A secret that was made. Its bytes go at its end, what is known of its lease stays a while longer.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) id: Option<LeaseId>,
    pub(super) parent: Option<ParentId>,
    /// When it was asked for, and when it was made or renewed the last time.
    pub(super) made: SystemTime,
    pub(super) granted: (Moment, SystemTime),
    /// The latest end that it may have, whatever else is known of it: as granted, or as a renewal without an answer may have granted.
    pub(super) until: Option<Moment>,
    /// None once it has ended.
    pub(super) secret: Option<Arc<Secret>>,
}

impl Held {
    /// The same once more, with the same secret.
    pub(super) fn share(&self) -> Self {
        Self { id: self.id.clone(), secret: self.secret.clone(), ..*self }
    }

    /// The secret as it may be served at `now`; none at its end.
    pub(super) fn snapshot(&self, parent: Option<Moment>, now: Moment) -> Option<Arc<Snapshot>> {
        let secret = self.secret.as_ref()?;
        let end = self.lease.good_until(parent).unwrap_or(Moment::END);
        if now >= end {
            return None;
        }
        let (granted, wall) = self.granted;
        Some(Arc::new(Snapshot {
            secret: secret.clone(),
            fetched: wall,
            expires: wall + end.since(granted).min(LONGEST),
            fresh_until: end,
            served_until: end,
        }))
    }
}

/// What is being done about a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Nothing,
    Making,
    Renewing,
    Revoking,
}

/// One secret that somebody has opened.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) current: Option<Held>,
    pub(super) previous: Option<Held>,
    pub(super) used: Moment,
    pub(super) doing: Doing,
    /// Somebody waits for one to be made.
    pub(super) wanted: bool,
    /// What came of the last try to make it, when that began and ended, and until when it is not tried again.
    pub(super) failed: Option<Failed>,
    /// Tries in a row to make the first that have failed.
    pub(super) failures: u32,
    /// Tells those who wait that something was done.
    pub(super) done: watch::Sender<()>,
}

#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) ended: Moment,
    pub(super) not_before: Moment,
}

impl Entry {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            current: None,
            previous: None,
            used: now,
            doing: Doing::Nothing,
            wanted: false,
            failed: None,
            failures: 0,
            done: watch::Sender::new(()),
        }
    }

    /// Why it is not made for who asked at `asked`: it failed since, or so short a time ago that it is not tried again yet.
    pub(super) fn failure(&self, asked: Moment, now: Moment) -> Option<Error> {
        let failed = self.failed.as_ref()?;
        (failed.ended >= asked || now < failed.not_before).then(|| failed.error.clone())
    }

    /// What may be given to readers: not what is being given back.
    pub(super) fn given(&self) -> Option<&Held> {
        self.current.as_ref().filter(|_| self.doing != Doing::Revoking)
    }

    /// Whether it counts as a lease: there is one, or one is being made.
    pub(super) fn counts(&self) -> bool {
        self.current.is_some() || self.wanted || self.doing == Doing::Making
    }
}
