//! Owns the look at what is held that asks nobody: fresh or not, without waiting, and no use of the secret.
//! Does not know who may be given it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::slot::Answer;
use super::{Question, SecretCache, SecretRef, Snapshot};
use crate::backend::Error;

impl SecretCache {
    /// What is held of a secret, however old: for who tells the kernel about it, never for who reads it.
    pub fn peek(&self, of: &SecretRef) -> Option<Result<Arc<Snapshot>, Error>> {
        let question = Question::Read(of.clone());
        // moka has other things to do beside the search, which may have to wait; then nothing is said to be held.
        let found = pin!(self.slots.get(&question));
        let Poll::Ready(slot) = found.poll(&mut Context::from_waker(Waker::noop())) else { return None };
        match slot?.answer()? {
            Answer::Secret(result) => Some(result),
            Answer::Listing(_) => None,
        }
    }
}
