//! Owns files that were opened by a worker which is gone: the very version that was opened is found again, or the file is stale.
//! Does not know how inodes and editions came here from that worker.
//!
//! Never another version, never another file: whatever is not certain is stale. Only where the backend gives no answer it is
//! the backend's failure, and a later read may succeed.

use std::sync::Arc;

use super::{Epoch, Handle, HandleNo, SecretFs};
use crate::backend::Error;
use crate::cache::{SecretRef, Snapshot};
use crate::errno::Failure;
use crate::tree::edition::Edition;
use crate::tree::inode::{INodeNo, Node};

impl SecretFs {
    /// Which worker of the mount this is.
    pub fn epoch(&self) -> Epoch {
        self.handles.epoch()
    }

    /// Whether another worker gave this handle.
    pub fn is_inherited(&self, number: HandleNo) -> bool {
        self.epoch().may_inherit_from(number.epoch())
    }

    /// The open file behind a handle of `ino`, when that needs no wait; none, where another worker opened it and nobody has
    /// [asked](Self::inherit) for it since.
    pub fn opened_at_once(&self, ino: INodeNo, number: HandleNo) -> Option<Result<Arc<Handle>, Failure>> {
        match self.handles.get(number) {
            Some(handle) if handle.ino() == ino => Some(Ok(handle)),
            None if self.is_inherited(number) => None,
            _ => Some(Err(Failure::BadHandle)),
        }
    }

    /// The open file behind a handle of `ino` that another worker gave: exactly what was opened. It stays open here until it is
    /// closed.
    ///
    /// # Errors
    /// [`Failure::Stale`]: that cannot be had again. What the backend's silence is at an open: it may be had later.
    pub async fn inherit(&self, ino: INodeNo, number: HandleNo) -> Result<Arc<Handle>, Failure> {
        if let Some(found) = self.opened_at_once(ino, number) {
            return found;
        }
        let node = self.node(ino)?;
        let edition = node.file.as_ref().and_then(|file| file.editions.get(number.content()));
        let edition = edition.ok_or(Failure::Stale)?;
        let snapshot = self.version_of(&node, &edition).await?;
        let handle = self.content(&node, snapshot).map_err(|_| Failure::Stale)?;
        let secret = &handle.snapshot().secret;
        if !edition.is_of(&secret.version, secret.created, handle.bytes().len() as u64) {
            return Err(Failure::Stale);
        }
        Ok(self.handles.keep(number, handle))
    }

    /// The secret of a file in the version of an edition: as it is held, as the backend has it now, or as an older version.
    async fn version_of(&self, node: &Node, edition: &Edition) -> Result<Arc<Snapshot>, Failure> {
        let (tree, of) = node.place.shown().ok_or(Failure::Stale)?;
        if self.is_on_demand(tree).await.map_err(unless_silent)? {
            // A secret that is made has no version by which it could be known again.
            return Err(Failure::Stale);
        }
        let is_it = |snapshot: &Arc<Snapshot>| is_of(edition, snapshot);
        let now = self.cache.clock().now();
        let held = self.cache.peek(of).and_then(Result::ok);
        if let Some(held) = held.filter(|held| is_it(held) && now < held.served_until) {
            return Ok(held);
        }
        match self.cache.secret(of).await {
            Ok(current) if is_it(&current) => return Ok(current),
            // Its current version is deleted; the others need not be.
            Ok(_) | Err(Error::NotFound) => {}
            Err(error) => return Err(unless_silent(error)),
        }
        let of = SecretRef { version: Some(edition.version.clone()), ..of.clone() };
        let older = self.cache.secret(&of).await.map_err(unless_silent)?;
        if is_it(&older) { Ok(older) } else { Err(Failure::Stale) }
    }
}

/// Whether a secret is of the version of an edition; the size of the file is looked at when there is one.
fn is_of(edition: &Edition, snapshot: &Snapshot) -> bool {
    let secret = &snapshot.secret;
    edition.is_of(&secret.version, secret.created, edition.size)
}

/// An answer of "no" means that it cannot be had again, silence that it may be later.
fn unless_silent(error: Error) -> Failure {
    if error.is_answer() { Failure::Stale } else { error.into() }
}

#[cfg(test)]
pub(super) mod tests;
