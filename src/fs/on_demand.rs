//! Owns what is known of a secret that is made on demand without making it, and in which trees secrets are.
//! Does not know how one is made, which is the business of the book of leases, or what a name leads to.
//!
//! Looking asks the book what it holds and nothing else. Only [`SecretFs::take`], which an open of a file with a value in it
//! ends in, has one made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use super::SecretFs;
use crate::backend::Error;
use crate::cache::{SecretRef, Snapshot};
use crate::clock::Moment;
use crate::leases::Leases;
use crate::render::View;
use crate::secret::{Secret, Version};
use crate::tree::TreeId;
use crate::tree::inode::Place;

/// Secrets whose fields' names are remembered at most.
const MOST_NAMED: usize = 4096;
/// A backend that refuses to say what lies at the root of a tree is not asked again for this long.
const REFUSED: Duration = Duration::from_secs(60);
/// What stands for the version of a predecessor in a [`SecretRef`]; no backend is ever asked for it.
const PREDECESSOR: &str = "previous";

/// What is known of a secret without making it.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// It is kept by the backend, or was made and is good.
    Held(Arc<Snapshot>),
    /// It has not been made.
    NotMade {
        /// The names of the fields it will have, where that is known beforehand.
        fields: Option<Arc<[String]>>,
    },
}

/// Names of fields as they were answered, and until when that is believed.
#[derive(Clone)]
struct Named {
    answer: Result<Option<Arc<[String]>>, Error>,
    until: Moment,
}

/// What is remembered of the secrets of a mount that are made on demand.
pub(super) struct OnDemand {
    pub(super) leases: Arc<Leases>,
    /// Guards when backends have refused to say so; held for a map operation only.
    refused: Mutex<HashMap<TreeId, Moment>>,
    /// Guards the names of fields; held for a map operation only.
    names: Mutex<HashMap<SecretRef, Named>>,
    nothing: Arc<Snapshot>,
}

impl OnDemand {
    pub(super) fn new(leases: Arc<Leases>) -> Self {
        let secret = Secret { fields: vec![], version: Version::default(), created: None, expires: None };
        let nothing = Snapshot {
            secret: Arc::new(secret),
            fetched: SystemTime::UNIX_EPOCH,
            expires: SystemTime::UNIX_EPOCH,
            fresh_until: Moment::START,
            served_until: Moment::START,
        };
        Self { leases, refused: Mutex::default(), names: Mutex::default(), nothing: Arc::new(nothing) }
    }

    /// The same with another book.
    pub(super) fn with_leases(self, leases: Arc<Leases>) -> Self {
        Self { leases, ..self }
    }

    /// What stands for a secret that has not been made: a handle of its `.meta` keeps it, and its files look like it.
    pub(super) fn nothing(&self) -> &Arc<Snapshot> {
        &self.nothing
    }

    /// The snapshot of what was made or is kept; none where it stands for what was not made.
    pub(super) fn made<'a>(&self, snapshot: &'a Arc<Snapshot>) -> Option<&'a Snapshot> {
        (!Arc::ptr_eq(snapshot, &self.nothing)).then_some(snapshot)
    }

    /// What is held of a secret, or of its predecessor where `of` names that.
    fn held(&self, of: &SecretRef) -> Option<Arc<Snapshot>> {
        match &of.version {
            None => self.leases.current(of),
            Some(version) if version.as_str() == PREDECESSOR => self.leases.previous(&of.newest()),
            Some(_) => None,
        }
    }

    fn remember(&self, of: SecretRef, named: Named, now: Moment) {
        let mut names = self.names();
        if names.len() >= MOST_NAMED {
            names.retain(|_, named| now < named.until);
        }
        if names.len() >= MOST_NAMED {
            names.clear();
        }
        names.insert(of, named);
    }

    fn names(&self) -> MutexGuard<'_, HashMap<SecretRef, Named>> {
        self.names.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<TreeId, Moment>> {
        self.refused.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl SecretFs {
    /// Whether the secrets of a tree are made on demand. Asks the backend until it has once said so.
    ///
    /// # Errors
    /// The backend gave no answer, and none was had before.
    pub(super) async fn is_on_demand(&self, tree: TreeId) -> Result<bool, Error> {
        if let Some(known) = self.trees.is_on_demand(tree) {
            return Ok(known);
        }
        let shown = self.trees.get(tree).ok_or(Error::NotFound)?;
        let now = self.cache.clock().now();
        let refused = self.on_demand.refused().get(&tree).copied();
        if refused.is_some_and(|at| now.since(at) < REFUSED) {
            return Ok(false);
        }
        let leases = &self.on_demand.leases;
        match leases.is_on_demand(&shown.root).await {
            Ok(found) => {
                if leases.is_known_on_demand(&shown.root).is_some() {
                    self.trees.note_on_demand(tree, found);
                    self.inodes.note_on_demand(tree, found);
                } else {
                    self.on_demand.refused().insert(tree, now);
                }
                Ok(found)
            }
            Err(_) if refused.is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same as far as it is known, which it is of every tree that the kernel holds an inode in.
    pub(super) fn is_known_on_demand(&self, tree: TreeId) -> bool {
        self.trees.is_on_demand(tree).unwrap_or(false)
    }

    /// What is known of a secret. One that is kept is read; one that is made on demand is not made, and asked for the names of
    /// its fields at most.
    ///
    /// # Errors
    /// What the backend said. [`Error::NotFound`]: it has no such thing, or there is no predecessor (any more).
    pub(super) async fn known_secret(&self, tree: TreeId, of: &SecretRef) -> Result<Known, Error> {
        match self.secret_if_made(tree, of).await? {
            Some(snapshot) => Ok(Known::Held(snapshot)),
            None => Ok(Known::NotMade { fields: self.field_names(tree, of).await? }),
        }
    }

    /// The same without the names of fields: none where it has not been made.
    ///
    /// # Errors
    /// As those of [`Self::known_secret`].
    pub(super) async fn secret_if_made(
        &self,
        tree: TreeId,
        of: &SecretRef,
    ) -> Result<Option<Arc<Snapshot>>, Error> {
        if !self.is_on_demand(tree).await? {
            return self.cache.secret(of).await.map(Some);
        }
        match self.on_demand.held(of) {
            None if of.version.is_some() => Err(Error::NotFound),
            held => Ok(held),
        }
    }

    /// What is held now, without asking anybody and however old it is: for who tells the kernel about it.
    pub(super) fn held_now(&self, tree: TreeId, of: &SecretRef) -> Option<Arc<Snapshot>> {
        if self.is_known_on_demand(tree) {
            return self.on_demand.held(of);
        }
        self.cache.peek(of)?.ok()
    }

    /// The names of the fields that a secret will have once it is made: those that the configuration says, else those that the
    /// backend knows; none where neither does. An answer is believed as long as other answers are, so that listing a
    /// directory again costs no request.
    ///
    /// # Errors
    /// As those of [`Self::known_secret`].
    pub(super) async fn field_names(
        &self,
        tree: TreeId,
        of: &SecretRef,
    ) -> Result<Option<Arc<[String]>>, Error> {
        if let Some(said) = self.trees.get(tree).and_then(|tree| tree.fields.clone()) {
            return Ok(Some(said));
        }
        let now = self.cache.clock().now();
        let remembered = self.on_demand.names().get(of).cloned();
        if let Some(named) = remembered.as_ref().filter(|named| now < named.until) {
            return named.answer.clone();
        }
        match self.on_demand.leases.fields(of).await {
            // Without an answer the older one stands.
            Err(error) if !error.is_answer() => match remembered {
                Some(Named { answer: Ok(names), .. }) => Ok(names),
                _ => Err(error),
            },
            answer => {
                let answer = answer.map(|names| names.map(Arc::from));
                let freshness = self.trees.freshness_of(of);
                let life = if answer.is_ok() { freshness.ttl } else { freshness.negative_ttl };
                let named = Named { answer: answer.clone(), until: now.plus(life) };
                self.on_demand.remember(of.clone(), named, now);
                answer
            }
        }
    }

    /// The secret for who opens a file of it, in a tree whose secrets are made on demand: made, where it is not held, unless the
    /// file shows no value.
    ///
    /// # Errors
    /// Why it could not be made.
    pub(super) async fn take(&self, place: &Place, of: &SecretRef) -> Result<Arc<Snapshot>, Error> {
        if of.version.is_some() {
            return self.on_demand.held(of).ok_or(Error::NotFound);
        }
        if let Place::View { view: View::Meta, .. } = place {
            return Ok(self.on_demand.held(of).unwrap_or_else(|| self.on_demand.nothing.clone()));
        }
        self.on_demand.leases.open(of).await
    }

    /// Whether a lease that a thread has begun to read may still be served to it: not when it was given back or lost, which
    /// leaves no predecessor behind.
    pub(super) fn is_servable(&self, tree: TreeId, of: &SecretRef) -> bool {
        !self.is_known_on_demand(tree) || self.on_demand.leases.previous(&of.newest()).is_some()
    }

    /// The predecessor of a secret that is made on demand, if it has not ended yet.
    pub(super) fn predecessor(&self, of: &SecretRef) -> Option<SecretRef> {
        let predecessor = SecretRef { version: Some(Version::new(PREDECESSOR)), ..of.clone() };
        (of.version.is_none() && self.on_demand.held(&predecessor).is_some()).then_some(predecessor)
    }

    /// Whether what lies at a place is made on demand and the tree that leads there is not of such secrets: so nobody has
    /// declared it. Where the backend does not say, it is not.
    pub(super) async fn is_undeclared(&self, tree: TreeId, of: &SecretRef) -> bool {
        !self.is_known_on_demand(tree) && self.on_demand.leases.is_on_demand(of).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
