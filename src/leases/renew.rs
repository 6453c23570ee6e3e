//! Owns making a lease longer, and what is known of its end while nobody has heard whether that was done.
//! Does not know when that is due: `crate::lease` decides.
//!
//! Two ends are kept of a lease. It is served to the one that the backend has granted; it is looked after, and given back at the end of
//! the mount, until the latest one that it may have. They differ after a renewal that had no answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Book, Leases};
use crate::backend::issuer::LeaseId;
use crate::backend::{Backend, Error};
use crate::cache::{Priority, SecretRef, chance};
use crate::clock::Moment;
use crate::lease::{FLOOR, Grant};

/// Renewing is given up after this: it is tried again, and nobody waits for it.
const LONGEST_RENEWAL: Duration = Duration::from_secs(5);

impl Leases {
    pub(super) async fn renew(&self, of: &SecretRef, id: &LeaseId, until: Moment, life: Option<Duration>) {
        let mut asked = (self.cache.clock().now(), SystemTime::now());
        let mut before = None;
        let asking = async |backend: Arc<dyn Backend>| {
            asked = (self.cache.clock().now(), SystemTime::now());
            let Some(issuer) = backend.issuer() else { return Err(Error::NotFound) };
            let limit = until.since(asked.0).clamp(FLOOR, LONGEST_RENEWAL);
            // Before it is sent: it may be done though nobody hears of it.
            let latest = |end: Option<Moment>| Some(end?.max(asked.0.plus(limit).plus(life?)));
            before = self.note_end(of, id, latest);
            tokio::time::timeout(limit, issuer.renew(id)).await.unwrap_or(Err(Error::TimedOut(limit)))
        };
        let renewed: Result<Grant, Error> = self.cache.ask(of.source, Priority::Lease, asking).await;
        let counters = self.cache.counters();
        match &renewed {
            Ok(grant) => {
                self.note_end(of, id, |_| grant.life.map(|life| asked.0.plus(life)));
                counters.leases_renewed.count();
            }
            Err(error) => {
                if let Some(before) = before.filter(|_| error.is_answer()) {
                    self.note_end(of, id, |_| before);
                }
                counters.leases_failed.count();
                tracing::warn!(backend = %self.name(of), path = %of.path, "a lease is not renewed: {error}");
            }
        }
        let mut last = false;
        self.take_note_of(of, id, |entry| {
            let Some(held) = &mut entry.current else { return };
            match renewed {
                Ok(grant) => {
                    held.lease.renewed(asked.0, grant, chance());
                    last = !held.lease.grows();
                    held.granted = asked;
                }
                Err(Error::NotFound) => {
                    held.lease.died(self.cache.clock().now());
                    held.secret = None;
                }
                Err(error) => {
                    if error.is_answer() {
                        held.lease.cannot_grow();
                    }
                    // One that got no answer has waited already.
                    let now = self.cache.clock().now();
                    let from = if matches!(error, Error::TimedOut(_)) { asked.0 } else { now };
                    held.lease.failed(&(self.terms)(of), from, chance());
                }
            }
        });
        if last {
            let what = "a lease is renewed no more: it does not get longer, and is replaced before its end";
            tracing::info!(backend = %self.name(of), path = %of.path, "{what}");
        }
    }

    /// Notes until when a lease may live, wherever it is in the books by now; what was noted before. None: it is not there any more.
    fn note_end(
        &self,
        of: &SecretRef,
        id: &LeaseId,
        end: impl FnOnce(Option<Moment>) -> Option<Moment>,
    ) -> Option<Option<Moment>> {
        let (before, after) = {
            let mut book = self.book();
            let until = book.until(of, id)?;
            let before = *until;
            *until = end(before);
            (before, *until)
        };
        if let Some(ledger) = self.ledger.get() {
            ledger.renewed(id, after);
        }
        Some(before)
    }
}

impl Book {
    fn until(&mut self, of: &SecretRef, id: &LeaseId) -> Option<&mut Option<Moment>> {
        let Self { entries, left, .. } = self;
        let held = entries.get_mut(of).and_then(|entry| entry.current.as_mut());
        match held.filter(|held| held.id.as_ref() == Some(id)) {
            Some(held) => Some(&mut held.until),
            None => left.until(id),
        }
    }
}
