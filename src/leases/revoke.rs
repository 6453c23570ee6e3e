//! Owns giving leases back before their end: one that somebody names, and all at the end of a mount.
//! Does not know why they are given back.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use super::Leases;
use super::entry::{Doing, Held};
use crate::backend::Error;
use crate::backend::issuer::LeaseId;
use crate::cache::{Priority, SecretRef};

/// Leases given back at once.
const TOGETHER: usize = 16;
/// What is being given back is not tried by anybody else for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether what was being made has been.
const LOOK: Duration = Duration::from_millis(20);

/// What came of giving back one secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// Leases that were ended: its own, and its predecessor's.
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
    /// Ends the lease of a secret and its predecessor's now; the next open makes another one. `None`: there is none.
    ///
    /// # Errors
    /// What the backend said. The secret is erased here in any case.
    pub async fn revoke(&self, of: &SecretRef) -> Result<Option<Revoked>, Error> {
        let Some(held) = self.taken(of) else { return Ok(None) };
        let ids: Vec<LeaseId> = held.iter().filter_map(|held| held.id.clone()).collect();
        let mut revoked = Revoked { leases: 0, only_forgotten: ids.is_empty() };
        let now = self.cache.clock().now();
        {
            // From here on they are not lost, should this be dropped.
            let mut book = self.book();
            held.into_iter().for_each(|held| book.left.keep(of, held, Some(now.plus(PATIENCE))));
            book.changed = true;
        }
        let mut failed = None;
        for id in ids {
            let outcome = self.give_back(of, &id, Priority::Operator).await;
            self.book().left.tried(&id, outcome.is_ok(), self.cache.clock().now());
            match outcome {
                Ok(()) => revoked.leases += 1,
                Err(error) => failed = Some(error),
            }
        }
        self.look_again();
        failed.map_or(Ok(Some(revoked)), Err)
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
        let held = all.into_iter().flat_map(|of| {
            let ids = self.taken(&of).unwrap_or_default().into_iter().filter_map(|held| held.id);
            ids.map(move |id| (of.clone(), id)).collect::<Vec<_>>()
        });
        let mut each: Vec<(SecretRef, LeaseId)> = held.collect();
        each.extend(self.book().left.take());
        each.retain(|(of, _)| !self.limits(of.source).keep_leases);
        let outcomes = stream::iter(each).map(async |(of, id)| {
            let left = deadline.since(self.cache.clock().now());
            let given = tokio::time::timeout(left, self.give_back(&of, &id, Priority::Operator)).await;
            let outcome = given.unwrap_or(Err(Error::TimedOut(limit)));
            outcome.err().map(|error| NotRevoked { of, error })
        });
        outcomes.buffer_unordered(TOGETHER).filter_map(std::future::ready).collect().await
    }

    /// Takes a secret out of the book: what was held of it and of its predecessor.
    fn taken(&self, of: &SecretRef) -> Option<Vec<Held>> {
        let mut book = self.book();
        let entry = book.entries.remove(of)?;
        book.changed = true;
        let held: Vec<Held> = [entry.current, entry.previous].into_iter().flatten().collect();
        (!held.is_empty()).then_some(held)
    }

    /// Ends a lease. One that is not there any more is as good as ended.
    pub(super) async fn give_back(&self, of: &SecretRef, id: &LeaseId, asker: Priority) -> Result<(), Error> {
        let asked = self.cache.ask(of.source, asker, async |backend| match backend.issuer() {
            Some(issuer) => issuer.revoke(id).await,
            None => Err(Error::NotFound),
        });
        match asked.await {
            Ok(()) | Err(Error::NotFound) => {
                self.cache.counters().leases_revoked.count();
                Ok(())
            }
            Err(error) => {
                self.cache.counters().leases_failed.count();
                Err(error)
            }
        }
    }
}
