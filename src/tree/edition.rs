//! Owns the small numbers for the versions of a file that were opened: what a file handle can carry of them.
//! Does not know handles, or how a version is had again.

use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use crate::secret::Version;

/// Editions remembered of one file. Who keeps a file open through more versions than this may find it gone after a crash.
pub const MOST: usize = 16;
/// As many can be told apart in a file handle.
pub const LAST: u32 = (1 << 24) - 1;

/// One version of one file, as it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    /// Its number, the same in all workers of a journal; never 0.
    pub number: u32,
    /// The backend's version; never empty.
    pub version: Version,
    /// When the backend made this version.
    pub created: Option<SystemTime>,
    /// The size of the file.
    pub size: u64,
}

impl Edition {
    /// Whether these are of this edition.
    pub fn is_of(&self, version: &Version, created: Option<SystemTime>, size: u64) -> bool {
        self.size == size && self.version == *version && self.created == created
    }
}

/// The editions of one file, the last one last.
#[derive(Debug, Default)]
pub struct Editions {
    /// Guards them; held for a short search, and while one is recorded.
    remembered: Mutex<Vec<Edition>>,
}

impl Editions {
    /// Those that a former worker has left.
    pub(super) fn inherited(editions: Vec<Edition>) -> Self {
        Self { remembered: Mutex::new(editions) }
    }

    /// The edition of this number, if it is one of this file and remembered.
    pub fn get(&self, number: u32) -> Option<Edition> {
        self.lock().iter().find(|edition| edition.number == number).cloned()
    }

    /// The newest of them.
    pub(super) fn last(&self) -> Option<Edition> {
        self.lock().last().cloned()
    }

    /// All that are remembered.
    pub(super) fn all(&self) -> Vec<Edition> {
        self.lock().clone()
    }

    /// The number of what is opened; 0 where it has none yet.
    pub(super) fn number(&self, version: &Version, created: Option<SystemTime>, size: u64) -> u32 {
        let editions = self.lock();
        // What is opened is nearly always the last one.
        let found = editions.iter().rev().find(|edition| edition.is_of(version, created, size));
        found.map_or(0, |edition| edition.number)
    }

    /// The number of what is opened, which `record` gives it where it has none; 0 when that gives none.
    pub(super) fn number_or(&self, opened: Edition, record: impl FnOnce(&mut Edition) -> bool) -> u32 {
        let mut editions = self.lock();
        let is_it = |known: &&Edition| known.is_of(&opened.version, opened.created, opened.size);
        if let Some(known) = editions.iter().rev().find(is_it) {
            return known.number;
        }
        let mut new = opened;
        if !record(&mut new) {
            return 0;
        }
        if editions.len() >= MOST {
            editions.remove(0);
        }
        // Most files have one, for as long as the kernel knows them.
        editions.reserve_exact(1);
        let number = new.number;
        editions.push(new);
        number
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Edition>> {
        self.remembered.lock().unwrap_or_else(|e| e.into_inner())
    }
}
