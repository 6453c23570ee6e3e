//! Owns open files: each keeps the version it was opened with until it is closed.
//! Does not know inodes or how the bytes were had.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::cache::Snapshot;
use crate::number_hash::BuildNumberHash;
use crate::secret::SecretBytes;

/// A file handle as the kernel carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleNo(pub u64);

/// One open file.
#[derive(Debug)]
pub struct Handle {
    snapshot: Arc<Snapshot>,
    content: Content,
    paged: AtomicBool,
}

#[derive(Debug)]
enum Content {
    Field(usize),
    Rendered(SecretBytes),
}

impl Handle {
    pub(super) fn of_field(snapshot: Arc<Snapshot>, at: usize) -> Self {
        Self { snapshot, content: Content::Field(at), paged: AtomicBool::new(false) }
    }

    pub(super) fn of_view(bytes: SecretBytes, snapshot: &Arc<Snapshot>) -> Self {
        Self { snapshot: snapshot.clone(), content: Content::Rendered(bytes), paged: AtomicBool::new(false) }
    }

    /// The whole content.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Field(at) => {
                self.snapshot.secret.fields.get(*at).map_or(&[], |field| field.value.expose())
            }
            Content::Rendered(bytes) => bytes.expose(),
        }
    }

    /// The bytes of one read(2): at most `size` from `offset`; none past the end.
    pub fn read(&self, offset: u64, size: usize) -> &[u8] {
        let bytes = self.bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size).min(bytes.len());
        bytes.get(start..end).unwrap_or_default()
    }

    /// Notes that bytes went into the page cache (mmap, sendfile), where they must not stay.
    pub fn note_paged(&self) {
        self.paged.store(true, Ordering::Relaxed);
    }

    /// Whether bytes went into the page cache.
    pub fn was_paged(&self) -> bool {
        self.paged.load(Ordering::Relaxed)
    }

    /// The version that this handle keeps.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

/// All open files of this process. Numbers are never used twice.
#[derive(Default)]
pub(super) struct Handles {
    next: AtomicU64,
    /// Guards the map of open files; held for a map operation only.
    open: RwLock<HashMap<HandleNo, Arc<Handle>, BuildNumberHash>>,
}

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> HandleNo {
        let number = HandleNo(self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        self.open.write().unwrap_or_else(|e| e.into_inner()).insert(number, Arc::new(handle));
        number
    }

    pub(super) fn get(&self, number: HandleNo) -> Option<Arc<Handle>> {
        self.open.read().unwrap_or_else(|e| e.into_inner()).get(&number).cloned()
    }

    pub(super) fn remove(&self, number: HandleNo) -> Option<Arc<Handle>> {
        self.open.write().unwrap_or_else(|e| e.into_inner()).remove(&number)
    }

    pub(super) fn len(&self) -> usize {
        self.open.read().unwrap_or_else(|e| e.into_inner()).len()
    }
}
