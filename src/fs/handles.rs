//! Owns open files: each keeps the version it was opened with until it is closed; and what a handle says of itself.
//! Does not know what an inode stands for or how the bytes were had.

mod carried;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use tokio::sync::watch;

pub use carried::{CarriedFiles, CarriedHandle};

use crate::cache::Snapshot;
use crate::number_hash::BuildNumberHash;
use crate::secret::SecretBytes;
use crate::tree::inode::INodeNo;

/// A file handle as the kernel carries it, from one worker to the next: 24 bits that say what was opened, 12 bits that say
/// which worker did it, and 28 bits that tell it from others. 0 is never one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleNo(pub u64);

const NUMBER_BITS: u32 = 28;
const EPOCH_BITS: u32 = 12;

impl HandleNo {
    /// What was opened, in 24 bits; the rest is cut off.
    pub fn content(self) -> u32 {
        u32::try_from(self.0 >> (NUMBER_BITS + EPOCH_BITS)).unwrap_or(0)
    }

    /// Which worker gave it.
    pub fn epoch(self) -> Epoch {
        Epoch((self.0 >> NUMBER_BITS) & ((1 << EPOCH_BITS) - 1))
    }
}

/// Tells the workers of a mount apart; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    /// Of the how-manieth worker, counted from 1. After 4095 of them they begin anew.
    pub fn of(worker: u32) -> Self {
        const EPOCHS: u32 = (1 << EPOCH_BITS) - 1;
        Self(u64::from(worker.saturating_sub(1) % EPOCHS + 1))
    }

    /// Whether this worker may have got a handle of that epoch from one before it.
    pub fn may_inherit_from(self, other: Self) -> bool {
        other != self && other.0 != 0
    }
}

/// Gives handles of one worker, in turn.
#[derive(Debug)]
pub struct Numbers {
    epoch: Epoch,
    next: AtomicU64,
}

impl Numbers {
    /// The numbers of one worker. They begin anywhere: a handle of the worker that had the same epoch long ago, which some
    /// program may have kept, is none of ours.
    pub fn of(epoch: Epoch) -> Self {
        Self { epoch, next: AtomicU64::new(RandomState::new().hash_one(())) }
    }

    /// Whose they are.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The next handle for what was opened; who has it still among the open ones takes another.
    pub fn next(&self, content: u32) -> HandleNo {
        let number = self.next.fetch_add(1, Ordering::Relaxed) & ((1 << NUMBER_BITS) - 1);
        HandleNo(u64::from(content) << (NUMBER_BITS + EPOCH_BITS) | self.epoch.0 << NUMBER_BITS | number)
    }
}

/// One open file.
#[derive(Debug)]
pub struct Handle {
    ino: INodeNo,
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
    pub(super) fn of_field(ino: INodeNo, snapshot: Arc<Snapshot>, at: usize) -> Self {
        Self { ino, snapshot, content: Content::Field(at), paged: AtomicBool::new(false) }
    }

    pub(super) fn of_view(ino: INodeNo, bytes: SecretBytes, snapshot: &Arc<Snapshot>) -> Self {
        let content = Content::Rendered(bytes);
        Self { ino, snapshot: snapshot.clone(), content, paged: AtomicBool::new(false) }
    }

    /// Which file was opened.
    pub fn ino(&self) -> INodeNo {
        self.ino
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

/// All open files of this process.
pub(super) struct Handles {
    numbers: Numbers,
    /// Guards the open files, and whether they stand still; held for a map operation only.
    open: RwLock<Open>,
    /// Tells who waits for it whether they stand still.
    still: watch::Sender<bool>,
}

#[derive(Default)]
struct Open {
    files: HashMap<HandleNo, Arc<Handle>, BuildNumberHash>,
    /// The next worker takes over: nothing is opened or closed.
    still: bool,
}

impl Handles {
    pub(super) fn of(epoch: Epoch) -> Self {
        Self { numbers: Numbers::of(epoch), open: RwLock::default(), still: watch::Sender::new(false) }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.numbers.epoch()
    }

    /// Keeps what was opened, as an edition or 0; none while they stand still.
    pub(super) fn insert(&self, edition: u32, handle: Handle) -> Option<HandleNo> {
        let mut open = self.open.write().unwrap_or_else(|e| e.into_inner());
        if open.still {
            return None;
        }
        loop {
            let number = self.numbers.next(edition);
            if let Entry::Vacant(free) = open.files.entry(number) {
                free.insert(Arc::new(handle));
                return Some(number);
            }
        }
    }

    /// Keeps what another worker opened, under the handle that it gave. Who comes second gets what the first has found.
    pub(super) fn keep(&self, number: HandleNo, handle: Handle) -> Arc<Handle> {
        let mut open = self.open.write().unwrap_or_else(|e| e.into_inner());
        open.files.entry(number).or_insert_with(|| Arc::new(handle)).clone()
    }

    pub(super) fn get(&self, number: HandleNo) -> Option<Arc<Handle>> {
        self.open.read().unwrap_or_else(|e| e.into_inner()).files.get(&number).cloned()
    }

    /// What was closed, if it was open; none while they stand still.
    pub(super) fn remove(&self, number: HandleNo) -> Option<Option<Arc<Handle>>> {
        let mut open = self.open.write().unwrap_or_else(|e| e.into_inner());
        (!open.still).then(|| open.files.remove(&number))
    }

    pub(super) fn len(&self) -> usize {
        self.open.read().unwrap_or_else(|e| e.into_inner()).files.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_says_what_and_who() {
        for worker in [1, 2, 4095, 4096, u32::MAX] {
            let numbers = Numbers::of(Epoch::of(worker));
            for content in [0, 1, 0xff_ffff] {
                let handle = numbers.next(content);
                assert_eq!((handle.content(), handle.epoch()), (content, Epoch::of(worker)));
                assert_ne!(handle, numbers.next(content));
                assert_ne!(handle.0, 0);
            }
        }
        assert_eq!(HandleNo(0).content(), 0);
        assert!(!Epoch::of(1).may_inherit_from(HandleNo(0).epoch()), "it is nobody's");
        assert_eq!(Epoch::of(4096), Epoch::of(1));
        assert_ne!(Epoch::of(4095), Epoch::of(1));
    }

    #[test]
    fn a_number_wraps_without_touching_the_rest() {
        let numbers = Numbers { epoch: Epoch::of(5), next: AtomicU64::new(u64::MAX) };
        let (last, first) = (numbers.next(3), numbers.next(3));
        assert_eq!((last.content(), last.epoch(), first.content()), (3, Epoch::of(5), 3));
        assert_ne!(last, first);
    }
}
