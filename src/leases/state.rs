//! Owns what is told of leases, for `status`: never a value.
//! Does not know how it is shown.

use std::time::{Duration, SystemTime};

use super::Leases;
use super::entry::Doing;
use crate::backend::issuer::LeaseId;
use crate::cache::{SecretRef, SourceId};
use crate::lease::Action;

/// One lease.
#[derive(Debug, Clone)]
pub struct LeaseState {
    /// Of which secret.
    pub of: SecretRef,
    /// The backend's name for it; `None` where it has none, because it ends by itself.
    pub id: Option<LeaseId>,
    /// When it was made.
    pub made: SystemTime,
    /// When it ends; `None`: never, or it has not been made yet.
    pub ends: Option<SystemTime>,
    /// What is done next, in a word: `renew`, `replace`, `revoke`, `forget`, or what is being done.
    pub next: &'static str,
    /// In what time; zero for what is being done.
    pub next_in: Duration,
    /// Tries in a row that have failed.
    pub failures: u32,
    /// Whether its predecessor is good still.
    pub has_previous: bool,
    /// Whether it may be served now.
    pub good: bool,
}

/// How many leases of one backend there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseCount {
    /// Of which backend.
    pub source: SourceId,
    /// Secrets that are held, or being made for the first time.
    pub held: usize,
    /// As many may be, by the configuration.
    pub max_leases: usize,
    /// Leases that no file shows any more and that are ended with the mount at the latest: older than a predecessor, or not
    /// given back yet because the backend did not take them.
    pub set_aside: usize,
}

impl Leases {
    /// How many there are of each backend that makes secrets.
    pub fn counts(&self) -> Vec<LeaseCount> {
        let sources = (0..).map(SourceId::new).map_while(|id| Some((id, self.cache.source(id)?)));
        let makers: Vec<SourceId> =
            sources.filter(|(_, source)| source.backend.issuer().is_some()).map(|(id, _)| id).collect();
        let now = self.cache.clock().now();
        let book = self.book();
        let count = |source| LeaseCount {
            source,
            held: book.entries.iter().filter(|(of, entry)| of.source == source && entry.counts()).count(),
            max_leases: self.limits(source).max_leases,
            set_aside: book.left.alive(now).filter(|of| of.source == source).count(),
        };
        makers.into_iter().map(count).collect()
    }

    /// Every lease that is held, by path.
    pub fn states(&self) -> Vec<LeaseState> {
        let (now, wall) = (self.cache.clock().now(), SystemTime::now());
        let book = self.book();
        let held = book.entries.iter().filter_map(|(of, entry)| Some((of, entry, entry.current.as_ref()?)));
        let states = held.map(|(of, entry, held)| {
            let step = self.next(of, entry, held, now);
            let (next, next_in) = match (entry.doing, step.action) {
                (Doing::Making, _) => ("being replaced", Duration::ZERO),
                (Doing::Renewing, _) => ("being renewed", Duration::ZERO),
                (Doing::Revoking, _) => ("being revoked", Duration::ZERO),
                (Doing::Nothing, Action::Renew) => ("renew", step.at.since(now)),
                (Doing::Nothing, Action::Replace) => ("replace", step.at.since(now)),
                (Doing::Nothing, Action::Revoke) => ("revoke", step.at.since(now)),
                (Doing::Nothing, Action::Forget) => ("forget", step.at.since(now)),
            };
            let end = self.end(of, held);
            LeaseState {
                of: of.clone(),
                id: held.id.clone(),
                made: held.made,
                ends: end.and_then(|end| wall.checked_add(end.since(now))),
                next,
                next_in,
                failures: held.lease.failures(),
                has_previous: entry.previous.is_some(),
                good: entry.given().is_some_and(|held| self.alive(of, held, now).is_some()),
            }
        });
        let mut states: Vec<LeaseState> = states.collect();
        states.sort_by(|a, b| {
            (a.of.source, &a.of.path, a.of.demand).cmp(&(b.of.source, &b.of.path, b.of.demand))
        });
        states
    }
}
