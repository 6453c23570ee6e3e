//! Owns the directories that are open: each keeps the listing that it was opened with, line by line.
//! Does not know how a listing is had.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fuser::FileHandle;

use crate::fs::{DirEntry, DirListing};
use crate::tree::inode;

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

/// One line of a directory as the kernel reads it.
pub(super) enum Line<'a> {
    Dots(&'static OsStr, inode::INodeNo),
    Entry(&'a DirEntry),
}

/// `.`, `..` and the names: the position of each is its number, which stays while the directory is open.
pub(super) fn lines(listing: &DirListing) -> impl Iterator<Item = Line<'_>> {
    let dots = [(&b"."[..], listing.ino), (&b".."[..], listing.parent)];
    let dots = dots.into_iter().map(|(name, ino)| Line::Dots(OsStr::from_bytes(name), ino));
    dots.chain(listing.entries.iter().map(Line::Entry))
}
