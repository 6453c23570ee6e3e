//! Owns the handover of the book of leases: when it stands still, and what of it goes to the next worker.
//! Does not know the way it takes. What is being made or given back is waited for, so that no lease is on its way.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::entry::{Doing, Entry, Held};
use super::{Leases, MOST_NATURES};
use crate::backend::issuer::{LeaseId, Nature, ParentId};
use crate::cache::SecretRef;
use crate::carried::Carried;
use crate::clock::Moment;
use crate::lease::Lease;
use crate::secret::Secret;

/// How often it is looked whether what was begun has ended.
const LOOK: Duration = Duration::from_millis(2);

/// One secret that is made on demand, with its predecessor.
#[derive(Debug, Serialize, Deserialize)]
pub struct CarriedLease {
    of: SecretRef,
    current: Option<CarriedHeld>,
    previous: Option<CarriedHeld>,
    used: Moment,
    failures: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct CarriedHeld {
    lease: Lease,
    id: Option<LeaseId>,
    parent: Option<ParentId>,
    made: Carried<SystemTime>,
    granted: (Moment, Carried<SystemTime>),
    until: Option<Moment>,
    secret: Option<Carried<Arc<Secret>>>,
}

/// A lease that nobody is given any more and that may live still.
#[derive(Debug, Serialize, Deserialize)]
pub struct CarriedLeft {
    pub(super) of: SecretRef,
    pub(super) id: LeaseId,
    pub(super) until: Option<Moment>,
    pub(super) again: Option<Moment>,
    pub(super) failures: u32,
    pub(super) orphan: bool,
}

/// What lies at a place, as a backend once said.
pub type CarriedNature = (SecretRef, Nature);

/// The whole book.
#[derive(Debug, Default)]
pub struct CarriedBook {
    /// What is held.
    pub leases: Vec<CarriedLease>,
    /// What is not shown any more.
    pub left: Vec<CarriedLeft>,
    /// What lies where.
    pub natures: Vec<CarriedNature>,
}

impl CarriedLease {
    /// Of which secret.
    pub fn of(&self) -> &SecretRef {
        &self.of
    }
}

impl CarriedLeft {
    /// Of which secret.
    pub fn of(&self) -> &SecretRef {
        &self.of
    }
}

impl From<Held> for CarriedHeld {
    fn from(held: Held) -> Self {
        let Held { lease, id, parent, made, granted, until, secret } = held;
        let granted = (granted.0, Carried(granted.1));
        Self { lease, id, parent, made: Carried(made), granted, until, secret: secret.map(Carried) }
    }
}

impl From<CarriedHeld> for Held {
    fn from(held: CarriedHeld) -> Self {
        let CarriedHeld { lease, id, parent, made, granted, until, secret } = held;
        let granted = (granted.0, granted.1.0);
        Self { lease, id, parent, made: made.0, granted, until, secret: secret.map(|secret| secret.0) }
    }
}

/// Something that is being given back beside what is due: the book does not stand still before it is done.
pub(super) struct GivingBack<'a>(&'a Leases);

impl Drop for GivingBack<'_> {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.giving_back = book.giving_back.saturating_sub(1);
    }
}

impl Leases {
    /// From now on nothing is made, renewed or given back, and who waits for it goes on waiting; what was begun is done when this
    /// returns. False: it was not within `limit`, and all goes on as before.
    pub async fn pause(&self, limit: Duration) -> bool {
        self.book().paused = true;
        // Also when whoever waits for this gives up.
        let mut resume = Resume { leases: self, wanted: true };
        let still = async {
            while !self.stands_still() {
                tokio::time::sleep(LOOK).await;
            }
        };
        resume.wanted = tokio::time::timeout(limit, still).await.is_err();
        !resume.wanted
    }

    /// Ends [`Self::pause`]: there is no next worker.
    pub fn resume(&self) {
        self.book().paused = false;
        self.look_again();
    }

    /// Begins to give something back, which waits while the book stands still.
    pub(super) async fn begin_to_give_back(&self) -> GivingBack<'_> {
        loop {
            {
                let mut book = self.book();
                if !book.paused {
                    book.giving_back += 1;
                    return GivingBack(self);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn stands_still(&self) -> bool {
        let book = self.book();
        let entries = book.entries.values().all(|entry| entry.doing == Doing::Nothing);
        entries && book.giving_back == 0 && !book.left.is_trying() && !book.tokens.is_trying()
    }

    /// All that is held and left behind, and what is known of places.
    pub fn export(&self) -> CarriedBook {
        let natures = self.natures().iter().map(|(of, nature)| (of.clone(), *nature)).collect();
        let book = self.book();
        let held =
            book.entries.iter().filter(|(_, entry)| entry.current.is_some() || entry.previous.is_some());
        let leases = held.map(|(of, entry)| CarriedLease {
            of: of.clone(),
            current: entry.current.as_ref().map(|held| held.share().into()),
            previous: entry.previous.as_ref().map(|held| held.share().into()),
            used: entry.used,
            failures: entry.failures,
        });
        CarriedBook { leases: leases.collect(), left: book.left.export(), natures }
    }

    /// Holds what another worker held, from where that one left it. For a book that nobody has asked yet.
    pub fn import(&self, carried: CarriedBook) {
        let mut natures = self.natures();
        natures.extend(carried.natures.into_iter().take(MOST_NATURES));
        drop(natures);
        let mut book = self.book();
        for CarriedLease { of, current, previous, used, failures } in carried.leases {
            let mut entry = Entry::new(used);
            (entry.current, entry.previous) = (current.map(Held::from), previous.map(Held::from));
            entry.failures = failures;
            book.entries.insert(of, entry);
        }
        book.left.import(carried.left);
        drop(book);
        self.look_again();
    }

    /// Whether there is such a way of asking ([`crate::cache::DemandId`]).
    pub fn has_demand(&self, of: &SecretRef) -> bool {
        usize::try_from(of.demand.0).is_ok_and(|number| number <= self.demands.len())
    }
}

/// Lets the book go on, unless it stands still.
struct Resume<'a> {
    leases: &'a Leases,
    wanted: bool,
}

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        if self.wanted {
            self.leases.resume();
        }
    }
}
