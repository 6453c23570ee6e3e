//! Owns where a hit was found the last time, so that the next one need not search.
//! Does not know what lies there, nor whether it may still be served: that is asked of the slot.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::slot::Slot;
use crate::clock::Moment;

/// A bookmark is followed this long; then the cache is searched again, so that moka learns what is in use and does not
/// evict it.
const FOLLOWED: Duration = Duration::from_secs(1);

/// Where one secret lies. Each bookmark belongs to one `SecretRef`; it keeps nothing alive.
#[derive(Debug, Default)]
pub struct Bookmark {
    /// Guards the place; held for a copy only.
    place: Mutex<Option<(Weak<Slot>, Moment)>>,
}

impl Bookmark {
    /// Notes that the secret was found in `slot` at `now`.
    pub(super) fn note(&self, slot: &Arc<Slot>, now: Moment) {
        *self.place.lock().unwrap_or_else(|e| e.into_inner()) = Some((Arc::downgrade(slot), now));
    }

    /// The slot, when it was noted a short while ago and is still there.
    pub(super) fn slot(&self, now: Moment) -> Option<Arc<Slot>> {
        let place = self.place.lock().unwrap_or_else(|e| e.into_inner());
        let (slot, noted) = place.as_ref()?;
        if now.since(*noted) < FOLLOWED { slot.upgrade() } else { None }
    }
}
