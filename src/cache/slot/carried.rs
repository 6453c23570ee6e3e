//! Owns the form in which a slot goes to the next worker, and what it is made of there.
//! Does not know which question it answers.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Asking, Held, Slot, State, Tended};
use crate::backend::{Entry, Listing};
use crate::carried::Carried;
use crate::clock::Moment;
use crate::freshness::Freshness;
use crate::secret::Secret;

/// What is held and when what is to be done about it. How old it may be is not carried: the configuration says so.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::cache) struct CarriedLife {
    kept: Kept,
    began: Moment,
    wall: Carried<SystemTime>,
    /// The store's is a mark of its file, and so the same in all processes; no other backend has one.
    generation: Option<u64>,
    arrived: Moment,
    fresh_until: Moment,
    served_until: Moment,
    used: Moment,
    refresh_at: Option<Moment>,
    tended: bool,
    excused_until: Option<Moment>,
    failures: u32,
}

#[derive(Debug, Serialize, Deserialize)]
enum Kept {
    Secret(Carried<Arc<Secret>>),
    Listing(Carried<Arc<Listing>>),
}

impl Serialize for Carried<Arc<Listing>> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.entries().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Carried<Arc<Listing>> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::<Entry>::deserialize(from).map(|entries| Self(Arc::new(Listing::new(entries))))
    }
}

impl CarriedLife {
    /// Whether it is a secret; else it is a listing.
    pub(in crate::cache) fn is_secret(&self) -> bool {
        matches!(self.kept, Kept::Secret(_))
    }

    /// When it was used the last time.
    pub(in crate::cache) fn used(&self) -> Moment {
        self.used
    }
}

impl Slot {
    /// What of it is to be carried; nothing, where it holds nothing that a backend keeps, or nothing any more at `now`.
    pub(in crate::cache) fn carried(&self, now: Moment) -> Option<CarriedLife> {
        let state = self.state();
        let kept = match state.answer.as_ref()? {
            Held::Secret(secret) => Kept::Secret(Carried(secret.clone())),
            Held::Listing(listing) => Kept::Listing(Carried(listing.clone())),
            Held::Error(_) => return None,
        };
        (now < state.served_until).then(|| CarriedLife {
            kept,
            began: state.asking.began,
            wall: Carried(state.asking.wall),
            generation: state.asking.generation,
            arrived: state.arrived,
            fresh_until: state.fresh_until,
            served_until: state.served_until,
            used: state.used,
            refresh_at: state.refresh_at,
            tended: state.tended.is_some(),
            excused_until: state.excused_until,
            failures: state.failures,
        })
    }

    /// A slot as it was in the worker before. A job for it that was on its way there is due here.
    pub(in crate::cache) fn of_carried(
        life: CarriedLife,
        freshness: Arc<Freshness>,
        load: Arc<AtomicU64>,
    ) -> Self {
        let (answer, bytes) = match life.kept {
            Kept::Secret(secret) => {
                let bytes = secret.0.weight();
                (Held::Secret(secret.0), bytes)
            }
            Kept::Listing(listing) => {
                let bytes = listing.0.weight();
                (Held::Listing(listing.0), bytes)
            }
        };
        let tended = life.tended.then(|| Tended::new(&load, freshness.ttl));
        let state = State {
            answer: Some(answer),
            asking: Asking { began: life.began, wall: life.wall.0, generation: life.generation },
            arrived: life.arrived,
            fresh_until: life.fresh_until,
            served_until: life.served_until,
            used: life.used,
            refresh_at: life.refresh_at,
            tended,
            scheduled: None,
            waits: false,
            excused_until: life.excused_until,
            failures: life.failures,
            stays: false,
        };
        Self { state: Mutex::new(state), freshness, load, weight: super::weight_of(bytes) }
    }
}
