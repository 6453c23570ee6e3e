//! Owns what those who watch files were left with by a worker that is gone: the versions that somebody had opened then.
//! Does not know who watches.
//!
//! The first answer for such a secret is a change to its watchers where it is of another version: nobody was there to say so.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use super::{SecretCache, SecretRef};
use crate::secret::Version;

/// Those of which nothing has been said yet.
#[derive(Default)]
pub(super) struct Unsaid(
    /// Guards them; held for a map operation only.
    Mutex<HashMap<SecretRef, Version>>,
);

impl Unsaid {
    fn lock(&self) -> MutexGuard<'_, HashMap<SecretRef, Version>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the secret has another version than it was left with; asked once, for what comes after that is told as it comes.
    pub(super) fn is_news(&self, of: &SecretRef, version: Option<&Version>) -> bool {
        self.lock().remove(of).is_some_and(|left| Some(&left) != version)
    }
}

impl SecretCache {
    /// Takes note of the versions that were opened last while another worker served. What that one has handed over is known better.
    pub fn was_left_with(&self, opened: impl IntoIterator<Item = (SecretRef, Version)>) {
        let watched = self.watched.lock().unwrap_or_else(|e| e.into_inner());
        self.unsaid.lock().extend(opened.into_iter().filter(|(of, _)| !watched.contains_key(of)));
    }

    /// Whether its watchers may know another version, and nobody has looked yet.
    pub fn is_unsaid(&self, of: &SecretRef) -> bool {
        self.unsaid.lock().contains_key(of)
    }
}
