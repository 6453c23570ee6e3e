//! Owns giving leases back before their end: one that somebody names, and all at the end of a mount.
//! Does not know why they are given back.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use super::entry::{Doing, Held, Owed};
use super::{Book, Leases};
use crate::backend::Error;
use crate::backend::issuer::LeaseId;
use crate::cache::{Priority, SecretRef};

/// Leases given back at once.
const TOGETHER: usize = 16;
/// How often it is looked whether what was being made has been.
const LOOK: Duration = Duration::from_millis(20);

/// What came of giving back one secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// Leases that were ended: its own, its predecessor's, and others that it once had and that still lived.
    pub leases: usize,
    /// It has no lease that could be ended: it is erased here, and good until its end wherever else it is.
    pub only_forgotten: bool,
}

/// A lease that could not be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRevoked {
    /// Of which secret.
    pub of: SecretRef,
    /// Why.
    pub error: Error,
}

impl Leases {
    /// Ends the lease of a secret and all that came before it now; the next open makes another one. `None`: there is none.
    ///
    /// # Errors
    /// What the backend said first. The secret is erased here in any case, also when this is dropped half-way; what is not
    /// ended is tried again when this is called again, and when the mount ends.
    pub async fn revoke(&self, of: &SecretRef) -> Result<Option<Revoked>, Error> {
        let was_held = self.set_aside(of);
        let now = self.cache.clock().now();
        let owed = |book: &Book| -> Vec<LeaseId> {
            let owed = book.owed.iter().filter(|owed| owed.of == *of && owed.is_good(now));
            owed.map(|owed| owed.id.clone()).collect()
        };
        let ids = owed(&self.book());
        if ids.is_empty() {
            return Ok(was_held.then_some(Revoked { leases: 0, only_forgotten: true }));
        }
        let outcomes = join_all(ids.iter().map(|id| self.settle(of, id))).await;
        outcomes.into_iter().collect::<Result<Vec<()>, Error>>()?;
        Ok(Some(Revoked { leases: ids.len(), only_forgotten: false }))
    }

    /// What [`Self::revoke`] would find something of, by path.
    pub fn revocable(&self) -> Vec<SecretRef> {
        let now = self.cache.clock().now();
        let book = self.book();
        let held =
            book.entries.iter().filter(|(_, entry)| entry.current.is_some() || entry.previous.is_some());
        let owed = book.owed.iter().filter(|owed| owed.is_good(now)).map(|owed| &owed.of);
        let mut all: Vec<SecretRef> = held.map(|(of, _)| of).chain(owed).cloned().collect();
        all.sort_by(|a, b| (a.source, &a.path, a.demand).cmp(&(b.source, &b.path, b.demand)));
        all.dedup();
        all
    }

    /// The mount ends: nothing is made any more, and all that may be is given back, for `limit` at most. The rest comes back.
    pub async fn revoke_all(&self, limit: Duration) -> Vec<NotRevoked> {
        self.book().closing = true;
        let deadline = self.cache.clock().now().plus(limit);
        let late = || self.cache.clock().now() >= deadline;
        while self.book().entries.values().any(|entry| entry.doing == Doing::Making) && !late() {
            tokio::time::sleep(LOOK).await;
        }
        let all: Vec<SecretRef> = self.book().entries.keys().cloned().collect();
        for of in all.iter().filter(|of| !self.limits(of.source).keep_leases) {
            self.set_aside(of);
        }
        let now = self.cache.clock().now();
        let owed = |book: &Book| -> Vec<(SecretRef, LeaseId)> {
            let mine = |owed: &&Owed| owed.is_good(now) && !self.limits(owed.of.source).keep_leases;
            book.owed.iter().filter(mine).map(|owed| (owed.of.clone(), owed.id.clone())).collect()
        };
        let each = owed(&self.book());
        let outcomes = stream::iter(each).map(async |(of, id)| {
            let left = deadline.since(self.cache.clock().now());
            let given = tokio::time::timeout(left, self.settle(&of, &id)).await;
            let outcome = given.unwrap_or(Err(Error::TimedOut(limit)));
            outcome.err().map(|error| NotRevoked { of, error })
        });
        outcomes.buffer_unordered(TOGETHER).filter_map(std::future::ready).collect().await
    }

    /// Takes what is held of a secret out of the book, which erases it; its leases are owed from then on. Whether anything was held.
    fn set_aside(&self, of: &SecretRef) -> bool {
        let mut book = self.book();
        let Some(entry) = book.entries.get_mut(of) else { return false };
        let held: Vec<Held> = [entry.current.take(), entry.previous.take()].into_iter().flatten().collect();
        // What is on its way has its place, or it would be made twice.
        if entry.doing != Doing::Making {
            book.entries.remove(of);
        }
        book.changed = true;
        let was_held = !held.is_empty();
        self.owe(&mut book, of, held);
        was_held
    }

    /// Notes what is to be ended still, and drops what has ended by itself.
    pub(super) fn owe(&self, book: &mut Book, of: &SecretRef, held: impl IntoIterator<Item = Held>) {
        let now = self.cache.clock().now();
        book.owed.retain(|owed| owed.is_good(now));
        book.owed.extend(held.into_iter().filter_map(|held| Owed::of(of, held)));
    }

    /// Ends a lease that is owed.
    async fn settle(&self, of: &SecretRef, id: &LeaseId) -> Result<(), Error> {
        self.give_back(of, id).await?;
        self.book().owed.retain(|owed| owed.of != *of || owed.id != *id);
        Ok(())
    }

    /// Ends a lease. One that is not there any more is as good as ended.
    pub(super) async fn give_back(&self, of: &SecretRef, id: &LeaseId) -> Result<(), Error> {
        let asked = self.cache.ask(of.source, Priority::Lease, async |backend| match backend.issuer() {
            Some(issuer) => issuer.revoke(id).await,
            None => Err(Error::NotFound),
        });
        match asked.await {
            Ok(()) | Err(Error::NotFound) => {
                self.cache.counters().leases_revoked.count();
                tracing::info!(backend = %self.name(of), path = %of.path, "a lease is revoked");
                Ok(())
            }
            Err(error) => {
                self.cache.counters().leases_failed.count();
                Err(error)
            }
        }
    }
}
