//! Owns what goes out of the cache without a value in it: news of changes, and the state of things for `status`.
//! Does not know who listens.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::SecretRef;
use crate::backend::{Error, Kind};
use crate::secret::Version;

/// News of one secret that was held: the only thing that goes up from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub of: SecretRef,
    /// The version that is current now; `None` where there is none any more (deleted, or forbidden from now on).
    pub version: Option<Version>,
}

/// Who is told.
#[derive(Default)]
pub(super) struct Subscribers {
    /// Guards the list; held to send, which never waits.
    list: Mutex<Vec<UnboundedSender<Changed>>>,
}

impl Subscribers {
    pub(super) fn add(&self) -> UnboundedReceiver<Changed> {
        let (sender, receiver) = unbounded_channel();
        self.list.lock().unwrap_or_else(|e| e.into_inner()).push(sender);
        receiver
    }

    pub(super) fn tell(&self, changed: &Changed) {
        let mut list = self.list.lock().unwrap_or_else(|e| e.into_inner());
        list.retain(|to| to.send(changed.clone()).is_ok());
    }
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
    pub kind: Kind,
    /// Whether it answered the last time it was asked; true before it was ever asked.
    pub answers: bool,
    /// When the first of the calls in a row began to fail that it has not answered.
    pub silent_since: Option<SystemTime>,
    /// What it said the last time that it gave no answer; none once it answers again.
    pub last_error: Option<Error>,
    /// When it is asked again by itself, where it is left alone for now.
    pub asked_again_in: Option<Duration>,
}
