//! Owns the ledger: a record of the leases that live and of the tokens they hang on, which the next worker reads after a crash.
//! Does not know what is done about what it finds. Names and ids only: never a value, never a token.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backend::issuer::LeaseId;
use crate::backend::tokens::NoteTokens;
use crate::cache::{DemandId, Source};
use crate::clock::{Clock, Moment};
use crate::path::BackendPath;
use crate::record::{self, Entry, Opening, Record};

/// What was made under another configuration is given back all the same, so the ledger is never refused for that.
const EVERY_CONFIGURATION: [u8; 32] = *b"every configuration of the mount";

/// Of which backend something is. It is called by its name, as numbers are those of one configuration; and what it asks is known by
/// a hash, as the configuration may give the name to another server, which would say of what it never had that it is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct BackendRef {
    pub(super) name: String,
    whereabouts: [u8; 8],
}

impl BackendRef {
    pub(super) fn of(source: &Source) -> Self {
        let hash: [u8; 32] = Sha256::digest(source.backend.whereabouts()).into();
        let whereabouts = hash.first_chunk().copied().unwrap_or_default();
        Self { name: source.name.clone(), whereabouts }
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LedgerEntry(Line);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Line {
    Made(Made),
    Renewed { id: LeaseId, until: Option<Moment> },
    Gone { id: LeaseId },
    Token { backend: BackendRef, accessor: String, until: Option<Moment> },
    TokenGone { backend: BackendRef, accessor: String },
    Unwanted { id: LeaseId },
}

impl Entry for LedgerEntry {
    const OF: [u8; 8] = *b"leases\0\0";
    const FORMAT: u32 = 3;
}

/// A lease that was made, and may live.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) backend: BackendRef,
    pub(super) path: BackendPath,
    pub(super) demand: DemandId,
    pub(super) id: LeaseId,
    /// The latest end that it may have; `None`: it has none.
    pub(super) until: Option<Moment>,
    /// The server's name for the token that it was made with and ends with, where a login of ours made that.
    pub(super) accessor: Option<String>,
}

/// A token that a login of ours made, and that may live.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) backend: BackendRef,
    pub(super) accessor: String,
    pub(super) until: Option<Moment>,
}

/// A lease, as the ledger knows it.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) made: Made,
    /// It should be gone, and was to be given back when the worker ended at the latest.
    pub(super) is_unwanted: bool,
    /// Counts what was made.
    number: u64,
}

/// What the ledger says: what lives, as far as it knows.
#[derive(Default)]
pub(super) struct Living {
    leases: HashMap<LeaseId, Written>,
    tokens: BTreeMap<(BackendRef, String), Option<Moment>>,
    made: u64,
}

impl Living {
    fn apply(&mut self, line: Line) {
        match line {
            Line::Made(made) => {
                self.made += 1;
                let id = made.id.clone();
                self.leases.insert(id, Written { made, is_unwanted: false, number: self.made });
            }
            Line::Renewed { id, until } => {
                if let Some(written) = self.leases.get_mut(&id) {
                    written.made.until = until;
                }
            }
            Line::Gone { id } => drop(self.leases.remove(&id)),
            Line::Token { backend, accessor, until } => {
                self.tokens.insert((backend, accessor), until);
            }
            Line::TokenGone { backend, accessor } => drop(self.tokens.remove(&(backend, accessor))),
            Line::Unwanted { id } => {
                if let Some(written) = self.leases.get_mut(&id) {
                    written.is_unwanted = true;
                }
            }
        }
    }

    /// Forgets what has ended by `now`.
    fn prune(&mut self, now: Moment) {
        let lives = |until: &Option<Moment>| until.is_none_or(|until| now < until);
        self.leases.retain(|_, written| lives(&written.made.until));
        self.tokens.retain(|_, until| lives(until));
    }

    fn lines(&self) -> Vec<LedgerEntry> {
        let leases = self.leases().into_iter().flat_map(|Written { made, is_unwanted, .. }| {
            let unwanted = is_unwanted.then(|| Line::Unwanted { id: made.id.clone() });
            std::iter::once(Line::Made(made)).chain(unwanted)
        });
        let tokens = self.tokens().into_iter().map(|Token { backend, accessor, until }| Line::Token {
            backend,
            accessor,
            until,
        });
        leases.chain(tokens).map(LedgerEntry).collect()
    }

    /// The leases, in the order in which they were made.
    pub(super) fn leases(&self) -> Vec<Written> {
        let mut leases: Vec<Written> = self.leases.values().cloned().collect();
        leases.sort_by_key(|written| written.number);
        leases
    }

    /// The tokens.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let each = self.tokens.iter().map(|((backend, accessor), until)| Token {
            backend: backend.clone(),
            accessor: accessor.clone(),
            until: *until,
        });
        each.collect()
    }
}

/// The ledger as it is written.
pub(super) struct Ledger {
    clock: Clock,
    /// Guards what lives and the record of it, so that no line is lost between a snapshot and the next; held for one write(2).
    pages: Mutex<Pages>,
}

struct Pages {
    living: Living,
    record: Record<LedgerEntry>,
}

/// Makes the two files of an empty ledger, which the holder keeps.
///
/// # Errors
/// The kernel has no memory file to give.
pub fn make_ledger() -> std::io::Result<[OwnedFd; 2]> {
    record::make("secretfs-leases")
}

/// Reads the ledger that a worker before left in these files, which the holder keeps. Not before that worker is gone: what it
/// wrote from then on would spoil it.
pub fn read_ledger(files: [OwnedFd; 2]) -> Opening<LedgerEntry> {
    let opening = Opening::read(files, EVERY_CONFIGURATION);
    if let Some(why) = opening.refused() {
        tracing::error!("leases that a worker before made are not known, and live to their ends: {why}");
    }
    opening
}

impl Ledger {
    /// Goes on with what was read; what lives by it.
    pub(super) fn open(mut opening: Opening<LedgerEntry>, clock: Clock) -> (Self, Living) {
        let (mut living, mut same) = (Living::default(), Living::default());
        for LedgerEntry(line) in opening.take_entries() {
            living.apply(line);
        }
        living.prune(clock.now());
        living.lines().into_iter().for_each(|LedgerEntry(line)| same.apply(line));
        let record = opening.begin(living.lines());
        (Self { clock, pages: Mutex::new(Pages { living, record }) }, same)
    }

    pub(super) fn made(&self, made: Made) {
        self.write(Line::Made(made));
    }

    pub(super) fn renewed(&self, id: &LeaseId, until: Option<Moment>) {
        self.write(Line::Renewed { id: id.clone(), until });
    }

    /// These should be gone, whatever becomes of this worker.
    pub(super) fn unwanted(&self, ids: &[LeaseId]) {
        for id in ids {
            let is_news = self.pages().living.leases.get(id).is_some_and(|written| !written.is_unwanted);
            if is_news {
                self.write(Line::Unwanted { id: id.clone() });
            }
        }
    }

    pub(super) fn gone(&self, id: &LeaseId) {
        self.write(Line::Gone { id: id.clone() });
    }

    pub(super) fn token_gone(&self, backend: &BackendRef, accessor: &str) {
        self.write(Line::TokenGone { backend: backend.clone(), accessor: accessor.to_owned() });
    }

    /// With which token a lease was made.
    pub(super) fn accessor_of(&self, id: &LeaseId) -> Option<String> {
        self.pages().living.leases.get(id)?.made.accessor.clone()
    }

    /// With which tokens the leases of a backend were made that may live.
    pub(super) fn accessors_of(&self, backend: &BackendRef) -> Vec<String> {
        let mut pages = self.pages();
        pages.living.prune(self.clock.now());
        let leases = pages.living.leases.values().map(|written| &written.made);
        let of_backend = leases.filter(|made| made.backend == *backend);
        let mut accessors: Vec<String> = of_backend.filter_map(|made| made.accessor.clone()).collect();
        accessors.sort_unstable();
        accessors.dedup();
        accessors
    }

    fn write(&self, line: Line) {
        let mut pages = self.pages();
        let Pages { living, record } = &mut *pages;
        record.append(&LedgerEntry(line.clone()));
        living.apply(line);
        if record.has_grown() {
            living.prune(self.clock.now());
            record.compact(living.lines());
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Where one backend notes its tokens.
pub(super) struct OfBackend {
    pub(super) ledger: Arc<Ledger>,
    pub(super) backend: BackendRef,
}

impl NoteTokens for OfBackend {
    fn had(&self, accessor: &str, until: Option<Moment>) {
        let (backend, accessor) = (self.backend.clone(), accessor.to_owned());
        self.ledger.write(Line::Token { backend, accessor, until });
    }

    fn gone(&self, accessor: &str) {
        self.ledger.token_gone(&self.backend, accessor);
    }
}
