//! Owns the handover of the cache: its door for answers, which is closed meanwhile, and every secret and listing that is kept.
//! Does not know the way it takes. "No such secret" is not carried: it is believed for a second.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::slot::{CarriedLife, Slot};
use super::{Question, SecretCache, SecretRef};
use crate::secret::Version;

/// One secret or listing that is held.
#[derive(Debug, Serialize, Deserialize)]
pub struct CarriedSlot {
    question: Question,
    life: CarriedLife,
}

impl CarriedSlot {
    /// Of what.
    pub fn of(&self) -> &SecretRef {
        self.question.of()
    }

    /// Whether the answer is one to its question.
    pub fn is_sound(&self) -> bool {
        matches!(self.question, Question::Read(_)) == self.life.is_secret()
    }
}

/// Which version of a secret those who watch its files know; `None`: that there is none.
pub type Watched = (SecretRef, Option<Version>);

/// The door through which answers come in. Whoever has asked a backend holds it open until the answer is in its place.
#[derive(Default)]
pub(super) struct Intake {
    door: Arc<RwLock<()>>,
    /// Guards what keeps it closed; held to put it there or to take it away.
    closed: Mutex<Option<OwnedRwLockWriteGuard<()>>>,
}

impl Intake {
    /// Waits while it is closed.
    pub(super) async fn open(&self) -> OwnedRwLockReadGuard<()> {
        self.door.clone().read_owned().await
    }

    fn keep(&self, closed: Option<OwnedRwLockWriteGuard<()>>) {
        *self.closed.lock().unwrap_or_else(|e| e.into_inner()) = closed;
    }
}

impl SecretCache {
    /// From now on nothing new comes in, so that nobody is shown here what the next worker does not know. What is held is served
    /// as ever; who asks for more waits, and so does an answer that is on its way.
    pub async fn pause(&self) {
        let closed = self.intake.door.clone().write_owned().await;
        self.intake.keep(Some(closed));
    }

    /// Ends [`Self::pause`]: there is no next worker.
    pub fn resume(&self) {
        self.intake.keep(None);
    }

    /// All that is kept, what was used last first.
    pub fn export(&self) -> Vec<CarriedSlot> {
        let now = self.clock.now();
        let kept = self.slots.iter().filter_map(|(question, slot)| {
            slot.carried(now).map(|life| CarriedSlot { question: question.as_ref().clone(), life })
        });
        let mut kept: Vec<CarriedSlot> = kept.collect();
        kept.sort_by_key(|slot| std::cmp::Reverse(slot.life.used()));
        kept
    }

    /// What those who watch files know.
    pub fn export_watched(&self) -> Vec<Watched> {
        let watched = self.watched.lock().unwrap_or_else(|e| e.into_inner());
        watched.iter().map(|(of, version)| (of.clone(), version.clone())).collect()
    }

    /// Holds what another worker held, from where that one left it. For a cache that nobody has asked yet.
    pub async fn import(&self, slots: Vec<CarriedSlot>, watched: Vec<Watched>) {
        for CarriedSlot { question, life } in slots {
            let of = question.of();
            let load = self.loads.get(of.source.index()).cloned().unwrap_or_default();
            let slot = Arc::new(Slot::of_carried(life, self.freshness(of), load));
            self.slots.insert(question.clone(), slot.clone()).await;
            self.put_on_schedule(question, &slot);
        }
        self.watched.lock().unwrap_or_else(|e| e.into_inner()).extend(watched);
        self.earlier.notify_one();
    }
}
