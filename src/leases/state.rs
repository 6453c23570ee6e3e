//! Owns what is told of leases, for `status`: never a value.
//! Does not know how it is shown.

use std::time::{Duration, SystemTime};

use super::Leases;
use super::entry::Doing;
use crate::backend::issuer::LeaseId;
use crate::cache::SecretRef;
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

impl Leases {
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
