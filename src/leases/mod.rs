//! Owns the secrets that are made when somebody opens them: one lease each, shared by all readers, renewed, replaced, given back.
//! Does not know files, or how a backend makes a secret; when what is done is decided by `crate::lease` alone.
//!
//! A secret is made in the background and not by who opens it: a reader that gives up leaves nothing behind that nobody knows of.
//! The refresh loop asks [`Leases::due`] what is to be done and does it with [`Leases::act`].

mod act;
mod entry;
mod hand_over;
mod ledger;
mod left;
mod orphans;
mod renew;
mod revoke;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use tokio::sync::{Notify, watch};

use crate::backend::Error;
use crate::backend::issuer::{Demand, Nature, Parent, ParentId};
use crate::cache::{SecretCache, SecretRef, Snapshot, SourceId};
use crate::clock::Moment;
use crate::lease::{Step, Terms};
pub use act::Errand;
use entry::{Entry, Held};
pub use hand_over::{CarriedBook, CarriedLease, CarriedLeft, CarriedNature};
use ledger::Ledger;
pub use ledger::{LedgerEntry, make_ledger, read_ledger};
use left::LeftBehind;
use orphans::OrphanTokens;
pub use orphans::Orphans;
pub use revoke::{NotRevoked, Revoked};
pub use state::{LeaseCount, LeaseState};

/// Places whose nature is remembered at most.
const MOST_NATURES: usize = 10_000;

/// Leases of one backend at most, unless set otherwise.
pub const MAX_LEASES: usize = 1000;

/// What holds for the leases of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// As many are held at most; one more cannot be opened. Predecessors that have not ended do not count.
    pub max_leases: usize,
    /// Whether they are left to end by themselves when the mount ends.
    pub keep_leases: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_leases: MAX_LEASES, keep_leases: false }
    }
}

/// What the configuration says of the lease of one secret: decided by whoever knows trees.
pub type TermsOf = Box<dyn Fn(&SecretRef) -> Terms + Send + Sync>;

/// All leases of a mount. Every method may be called from any thread.
pub struct Leases {
    cache: Arc<SecretCache>,
    demands: Vec<Demand>,
    limits: Vec<Limits>,
    terms: TermsOf,
    /// Guards all leases; held for arithmetic and the copy of pointers only.
    book: Mutex<Book>,
    /// Told when something is to be done earlier than was known.
    earlier: Notify,
    /// Guards what lies where, as far as backends were asked; held for a map operation only.
    natures: Mutex<HashMap<SecretRef, Nature>>,
    /// Where what is made is written down, for a worker that follows a crash of this one.
    ledger: OnceLock<Arc<Ledger>>,
}

#[derive(Default)]
struct Book {
    entries: HashMap<SecretRef, Entry>,
    left: LeftBehind,
    tokens: OrphanTokens,
    /// Something has changed since it was looked through.
    changed: bool,
    /// The next that is to be done, when it was looked through the last time.
    next: Option<Moment>,
    /// By backend: nothing that can wait is done before this.
    pace: HashMap<SourceId, Moment>,
    /// The mount ends: nothing is made any more.
    closing: bool,
    /// The next worker takes over: nothing is made, renewed or given back meanwhile.
    paused: bool,
    /// What is being given back beside what is due.
    giving_back: usize,
}

impl Leases {
    /// No lease yet, over the backends of `cache`. `demands`: the ways of asking that are not plain, the first is
    /// [`crate::cache::DemandId`] 1. `limits`: by backend; the defaults for those that are not there.
    pub fn new(cache: Arc<SecretCache>, demands: Vec<Demand>, limits: Vec<Limits>, terms: TermsOf) -> Self {
        Self {
            cache,
            demands,
            limits,
            terms,
            book: Mutex::default(),
            earlier: Notify::new(),
            natures: Mutex::default(),
            ledger: OnceLock::new(),
        }
    }

    /// No lease, and nothing that is said of any: for a mount whose configuration says nothing.
    pub fn plain(cache: Arc<SecretCache>) -> Self {
        Self::new(cache, vec![], vec![], Box::new(|_| Terms::default()))
    }

    /// Whether what lies at the root of a tree is made on demand. Asks the backend until it has once said so; where it refuses
    /// to say, what it keeps is all that it can give.
    ///
    /// # Errors
    /// The backend gave no answer.
    pub async fn is_on_demand(&self, root: &SecretRef) -> Result<bool, Error> {
        if let Some(known) = self.nature_known(root) {
            return Ok(known == Nature::OnDemand);
        }
        let path = root.path.clone();
        let asked = self.cache.look(root.source, async |backend| match backend.issuer() {
            Some(issuer) => issuer.nature(&path).await,
            None => Ok(Nature::Stored),
        });
        let nature = match asked.await {
            Err(error) if error.is_answer() => return Ok(false),
            Err(error) => {
                // The caller sees a bare EIO.
                tracing::warn!(backend = %self.name(root), path = %root.path, "no answer: {error}");
                return Err(error);
            }
            Ok(nature) => nature,
        };
        let mut natures = self.natures();
        // Who asks for reasons can ask about any path.
        if natures.len() < MOST_NATURES {
            natures.insert(root.clone(), nature);
        }
        drop(natures);
        Ok(nature == Nature::OnDemand)
    }

    /// As [`Self::is_on_demand`], as far as that is known without asking anybody.
    pub fn is_known_on_demand(&self, root: &SecretRef) -> Option<bool> {
        self.nature_known(root).map(|nature| nature == Nature::OnDemand)
    }

    /// The names of the fields that the secret will have once it is made, where that is known beforehand. Makes nothing.
    ///
    /// # Errors
    /// The backend gave no answer, or has no such thing.
    pub async fn fields(&self, of: &SecretRef) -> Result<Option<Vec<String>>, Error> {
        let path = of.path.clone();
        let asked = self.cache.look(of.source, async |backend| match backend.issuer() {
            Some(issuer) => issuer.fields(&path).await,
            None => Err(Error::NotFound),
        });
        asked.await
    }

    /// The secret as it is held now, if it is and is good. Makes nothing, asks nobody, and does not count as use.
    pub fn current(&self, of: &SecretRef) -> Option<Arc<Snapshot>> {
        let now = self.cache.clock().now();
        let book = self.book();
        self.alive(of, book.entries.get(of)?.given()?, now)
    }

    /// The predecessor of the secret, if it has not ended yet.
    pub fn previous(&self, of: &SecretRef) -> Option<Arc<Snapshot>> {
        let now = self.cache.clock().now();
        let book = self.book();
        self.alive(of, book.entries.get(of)?.previous.as_ref()?, now)
    }

    /// Why there is none, when the last try to make it has failed: known for a minute. Asks nobody.
    pub fn why_not_made(&self, of: &SecretRef) -> Option<Error> {
        let book = self.book();
        let entry = book.entries.get(of).filter(|entry| entry.given().is_none())?;
        entry.failed.as_ref().map(|failed| failed.error.clone())
    }

    /// The secret, made when there is none. All who wait share what is made.
    ///
    /// # Errors
    /// What the backend said when it was to be made, now or less than a pause ago; or there are too many leases.
    pub async fn open(&self, of: &SecretRef) -> Result<Arc<Snapshot>, Error> {
        let asked = self.cache.clock().now();
        let mut waited = false;
        loop {
            let mut done = {
                let now = self.cache.clock().now();
                let mut book = self.book();
                if let Some(entry) = book.entries.get_mut(of) {
                    entry.used = entry.used.max(now);
                    if let Some(held) = entry.given().and_then(|held| self.alive(of, held, now)) {
                        return Ok(held);
                    }
                    if let Some(error) = entry.failure(asked, now) {
                        return Err(error);
                    }
                    // Made for us, and over: to make another one would come to the same.
                    let made = |held: &Held| held.lease.made() >= asked && !entry.wanted;
                    if waited && entry.current.as_ref().is_some_and(made) {
                        return Err(Error::Unreachable("what was made has ended at once".to_owned()));
                    }
                }
                if book.closing {
                    return Err(Error::Unreachable("the mount is ending".to_owned()));
                }
                if !book.entries.get(of).is_some_and(Entry::counts) {
                    self.refuse_more(&book, of.source)?;
                }
                book.changed = true;
                let entry = book.entries.entry(of.clone()).or_insert_with(|| Entry::new(now));
                entry.wanted = true;
                entry.done.subscribe()
            };
            self.earlier.notify_one();
            // An error means that the entry was dropped: it is looked for anew.
            let _ = done.changed().await;
            waited = true;
        }
    }

    /// A successor of what is held now; the first, where nothing is. What is held stays good until its end.
    ///
    /// # Errors
    /// As those of [`Self::open`]; too many leases are also as many set aside as may be held.
    pub async fn replace(&self, of: &SecretRef) -> Result<Arc<Snapshot>, Error> {
        let asked = self.cache.clock().now();
        let limit = self.limits(of.source).max_leases;
        if self.book().left.set_aside(asked).filter(|left| left.source == of.source).count() >= limit {
            return Err(Error::TooManyLeases { limit });
        }
        let Some(mut done) = self.want_successor(of, asked) else { return self.open(of).await };
        loop {
            self.earlier.notify_one();
            if done.changed().await.is_err() {
                return self.open(of).await;
            }
            let now = self.cache.clock().now();
            let book = self.book();
            let Some(entry) = book.entries.get(of) else { continue };
            if let Some(held) = entry.current.as_ref().filter(|held| held.lease.made() >= asked)
                && let Some(snapshot) = self.alive(of, held, now)
            {
                return Ok(snapshot);
            }
            if let Some(error) = entry.failure(asked, now) {
                return Err(error);
            }
        }
    }

    fn want_successor(&self, of: &SecretRef, now: Moment) -> Option<watch::Receiver<()>> {
        let mut book = self.book();
        let entry = book.entries.get_mut(of).filter(|entry| entry.current.is_some())?;
        entry.used = entry.used.max(now);
        entry.wanted = true;
        let done = entry.done.subscribe();
        book.changed = true;
        Some(done)
    }

    /// Counts as an open, so that the lease does not become idle. Does nothing for what is not held; whether it is.
    pub fn note_use(&self, of: &SecretRef) -> bool {
        let now = self.cache.clock().now();
        let mut book = self.book();
        let Some(entry) = book.entries.get_mut(of) else { return false };
        entry.used = entry.used.max(now);
        entry.current.is_some()
    }

    /// What secrets were made with may have ended, or live longer than was known.
    pub fn look_again(&self) {
        self.book().changed = true;
        self.earlier.notify_one();
    }

    /// Ready when [`Self::due`] may have something earlier than it said.
    pub async fn woken(&self) {
        self.earlier.notified().await;
    }

    /// A lease that is held, as long as it is good.
    fn alive(&self, of: &SecretRef, held: &Held, now: Moment) -> Option<Arc<Snapshot>> {
        match self.parent(of.source, held.parent) {
            Parent::Current(end) | Parent::Superseded(end) => held.snapshot(end, now),
            Parent::Dead => None,
        }
    }

    /// What is known of what a secret was made with.
    fn parent(&self, source: SourceId, parent: Option<ParentId>) -> Parent {
        let issuer = self.cache.source(source).and_then(|source| source.backend.issuer());
        match (issuer, parent) {
            (Some(issuer), Some(parent)) => issuer.parent(parent),
            _ => Parent::Current(None),
        }
    }

    /// What is to be done next about a lease. The end of what it was made with counts only where a successor would outlive it.
    fn next(&self, of: &SecretRef, entry: &Entry, held: &Held, now: Moment) -> Step {
        let parent = match self.parent(of.source, held.parent) {
            Parent::Superseded(end) => end,
            Parent::Current(_) | Parent::Dead => None,
        };
        held.lease.next(&(self.terms)(of), parent, entry.used, now)
    }

    /// An error where one lease more would be too many.
    fn refuse_more(&self, book: &Book, source: SourceId) -> Result<(), Error> {
        let limit = self.limits(source).max_leases;
        let held = book.entries.iter().filter(|(of, entry)| of.source == source && entry.counts());
        if held.count() < limit {
            return Ok(());
        }
        let name = self.cache.source(source).map_or("", |source| &source.name);
        tracing::warn!(backend = %name, "a lease is refused: {limit} are held, as many as `max_leases` allows");
        Err(Error::TooManyLeases { limit })
    }

    fn limits(&self, source: SourceId) -> Limits {
        self.limits.get(source.index()).copied().unwrap_or_default()
    }

    fn demand(&self, of: &SecretRef) -> Demand {
        let at = usize::try_from(of.demand.0).ok().and_then(|number| number.checked_sub(1));
        at.and_then(|at| self.demands.get(at)).cloned().unwrap_or_default()
    }

    fn nature_known(&self, root: &SecretRef) -> Option<Nature> {
        match self.cache.source(root.source)?.backend.issuer() {
            Some(_) => self.natures().get(root).copied(),
            None => Some(Nature::Stored),
        }
    }

    fn natures(&self) -> MutexGuard<'_, HashMap<SecretRef, Nature>> {
        self.natures.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
pub(crate) mod tests;
