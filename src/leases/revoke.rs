//! Owns giving leases back before their end: one that somebody names, and all at the end of a mount.
//! Does not know why they are given back.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use super::Leases;
use super::entry::{Doing, Held};
use super::ledger::BackendRef;
use crate::backend::Error;
use crate::backend::issuer::LeaseId;
use crate::cache::{Priority, SecretRef, SourceId};

/// Leases given back at once.
const TOGETHER: usize = 16;
/// What is being given back is not tried by anybody else for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between tries to give back what cannot be given back later.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1600)];
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
    /// ended is tried again.
    pub async fn revoke(&self, of: &SecretRef) -> Result<Option<Revoked>, Error> {
        let _giving_back = self.begin_to_give_back().await;
        let held = self.taken(of);
        let was_held = held.is_some();
        let now = self.cache.clock().now();
        let ids = {
            // From here on they are not lost, should this be dropped.
            let mut book = self.book();
            held.into_iter().flatten().for_each(|held| book.left.keep(of, held, None));
            book.changed = true;
            book.left.unwanted(of, now, now.plus(PATIENCE))
        };
        if ids.is_empty() {
            return Ok(was_held.then_some(Revoked { leases: 0, only_forgotten: true }));
        }
        // Before it is asked for: it was ordered, and stays so if this worker ends here.
        self.write_unwanted(&ids);
        let each = ids.iter().map(async |id| {
            let outcome = self.give_back(of, id, Priority::Operator).await;
            self.book().left.tried(id, outcome.is_ok(), self.cache.clock().now());
            outcome
        });
        let outcomes = join_all(each).await;
        self.look_again();
        outcomes.into_iter().collect::<Result<Vec<()>, Error>>()?;
        Ok(Some(Revoked { leases: ids.len(), only_forgotten: false }))
    }

    /// What [`Self::revoke`] would find something of, by path.
    pub fn revocable(&self) -> Vec<SecretRef> {
        let now = self.cache.clock().now();
        let book = self.book();
        let held =
            book.entries.iter().filter(|(_, entry)| entry.current.is_some() || entry.previous.is_some());
        let mut all: Vec<SecretRef> = held.map(|(of, _)| of).chain(book.left.alive(now)).cloned().collect();
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
        let held = all.into_iter().flat_map(|of| {
            let ids = self.taken(&of).unwrap_or_default().into_iter().filter_map(|held| held.id);
            ids.map(move |id| (of.clone(), id)).collect::<Vec<_>>()
        });
        let mut each: Vec<(SecretRef, LeaseId)> = held.collect();
        each.extend(self.book().left.take(self.cache.clock().now()));
        each.retain(|(of, _)| !self.limits(of.source).keep_leases);
        let outcomes = stream::iter(each).map(async |(of, id)| {
            let left = deadline.since(self.cache.clock().now());
            let given = tokio::time::timeout(left, self.give_back_at_last(&of, &id)).await;
            let outcome = given.unwrap_or(Err(Error::TimedOut(limit)));
            outcome.err().map(|error| NotRevoked { of, error })
        });
        let mut left: Vec<NotRevoked> =
            outcomes.buffer_unordered(TOGETHER).filter_map(std::future::ready).collect().await;
        let (lost, kept) = (self.book().tokens.take(), self.tokens_kept());
        let ends_here = |(of, accessor): &&(SecretRef, String)| {
            let is_kept = kept.get(&of.source).is_some_and(|kept| kept.contains(accessor));
            if is_kept {
                let what = "the token of a worker that crashed lives to its end, as leases that are kept end with it";
                tracing::info!(backend = %self.name(of), "{what}");
            }
            !is_kept
        };
        let tokens = lost.iter().filter(ends_here).map(async |(of, accessor)| {
            let left = deadline.since(self.cache.clock().now());
            let ending = async {
                for pause in PAUSES {
                    if self.end_token(of, accessor, Priority::Operator).await {
                        return true;
                    }
                    tokio::time::sleep(pause).await;
                }
                self.end_token(of, accessor, Priority::Operator).await
            };
            if tokio::time::timeout(left, ending).await != Ok(true) {
                tracing::error!(backend = %self.name(of), "the token of a worker that crashed lives to its end");
            }
        });
        join_all(tokens).await;
        // What is still on its way may come to a lease that nobody here will know of.
        let book = self.book();
        let on_its_way = book.entries.iter().filter(|(_, entry)| entry.doing == Doing::Making);
        left.extend(on_its_way.map(|(of, _)| NotRevoked { of: of.clone(), error: Error::TimedOut(limit) }));
        left
    }

    /// The server's names for the tokens that leases hang on which are to outlive the mount, by backend.
    pub fn tokens_kept(&self) -> HashMap<SourceId, Vec<String>> {
        let Some(ledger) = self.ledger.get() else { return HashMap::new() };
        let sources = (0..).map(SourceId::new).map_while(|id| Some((id, self.cache.source(id)?)));
        let keepers = sources.filter(|(id, _)| self.limits(*id).keep_leases);
        keepers.map(|(id, source)| (id, ledger.accessors_of(&BackendRef::of(source)))).collect()
    }

    /// Takes what was held of a secret and of its predecessor out of the book.
    fn taken(&self, of: &SecretRef) -> Option<Vec<Held>> {
        let mut book = self.book();
        let entry = book.entries.get_mut(of)?;
        let held: Vec<Held> = [entry.current.take(), entry.previous.take()].into_iter().flatten().collect();
        // What is on its way has its place, or it would be made twice.
        if entry.doing != Doing::Making {
            book.entries.remove(of);
        }
        book.changed = true;
        (!held.is_empty()).then_some(held)
    }

    /// Ends a lease for which there is no later: what fails is tried again, but for what is forbidden. PostgreSQL refuses one of
    /// two that drop users at the same moment.
    async fn give_back_at_last(&self, of: &SecretRef, id: &LeaseId) -> Result<(), Error> {
        for pause in PAUSES {
            match self.give_back(of, id, Priority::Operator).await {
                Ok(()) => return Ok(()),
                Err(Error::Forbidden) => return Err(Error::Forbidden),
                Err(_) => tokio::time::sleep(pause).await,
            }
        }
        self.give_back(of, id, Priority::Operator).await
    }

    /// Ends a lease. One that is not there any more is as good as ended.
    pub(super) async fn give_back(&self, of: &SecretRef, id: &LeaseId, asker: Priority) -> Result<(), Error> {
        let asked = self.cache.ask(of.source, asker, async |backend| match backend.issuer() {
            Some(issuer) => issuer.revoke(id).await,
            None => Err(Error::NotFound),
        });
        match asked.await {
            Ok(()) | Err(Error::NotFound) => {
                if let Some(ledger) = self.ledger.get() {
                    ledger.gone(id);
                }
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
