//! Owns the directories that are open: each keeps the listing that it was opened with.
//! Does not know how a listing is had or paged through.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fuser::FileHandle;

use crate::fs::DirListing;

/// Open directories by handle.
#[derive(Clone, Default)]
pub(super) struct Directories {
    next: Arc<AtomicU64>,
    /// Guards the map of open directories; held for a map operation only.
    open: Arc<Mutex<HashMap<u64, Arc<DirListing>>>>,
}

impl Directories {
    pub(super) fn insert(&self, listing: DirListing) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.open.lock().unwrap_or_else(|e| e.into_inner()).insert(number, Arc::new(listing));
        FileHandle(number)
    }

    pub(super) fn get(&self, handle: FileHandle) -> Option<Arc<DirListing>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner()).get(&handle.0).cloned()
    }

    pub(super) fn remove(&self, handle: FileHandle) {
        self.open.lock().unwrap_or_else(|e| e.into_inner()).remove(&handle.0);
    }
}
