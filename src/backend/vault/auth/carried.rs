//! Owns what of the tokens goes to the next worker, and what is made of it there: the same numbers mean the same tokens.
//! Does not know the way it takes.

use std::sync::Arc;

use super::approle::Unwrapped;
use super::ledger::{Known, Ledger, Token};
use super::{Auth, Core};
use crate::backend::Error;
use crate::backend::issuer::ParentId;
use crate::backend::tokens::{CarriedToken, CarriedTokens, CarriedUnwrapped};
use crate::backend::vault::api::header_text;
use crate::backend::vault::wire::Wire;
use crate::carried::Carried;
use crate::secret::SecretBytes;

impl Auth {
    /// Nothing is had any more, and whoever wants a token that is not there waits; what was had until now. A login that is on its
    /// way is waited for.
    pub(in crate::backend::vault) async fn hand_over(&self) -> CarriedTokens {
        let turn = self.core.turn.clone().lock_owned().await;
        let unwrapped = turn.unwrapped.as_ref().map(Unwrapped::carried);
        *self.core.paused() = Some(turn);
        CarriedTokens { unwrapped, ..self.core.ledger().carried() }
    }

    /// Ends [`Self::hand_over`]: there is no next worker.
    pub(in crate::backend::vault) fn resume(&self) {
        *self.core.paused() = None;
    }

    /// Has what another worker had. For tokens that nobody has asked for yet.
    pub(in crate::backend::vault) async fn take_over(&self, carried: CarriedTokens) {
        let mut turn = self.core.turn.lock().await;
        let CarriedTokens { unwrapped, .. } = &carried;
        turn.unwrapped = unwrapped.as_ref().map(Unwrapped::of_carried);
        *self.core.ledger() = Ledger::of_carried(carried, &self.core.wire);
        drop(turn);
        self.core.parents_changed.notify_one();
        self.core.another.notify_one();
    }
}

impl Core {
    fn paused(&self) -> std::sync::MutexGuard<'_, Option<tokio::sync::OwnedMutexGuard<super::Turn>>> {
        self.paused.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Ledger {
    fn carried(&self) -> CarriedTokens {
        let known = self.known.iter().map(|(id, known)| {
            let current = self.current.as_ref().filter(|current| current.id.0 == *id);
            let token = known.token.as_ref().or(current);
            let text = |token: &Arc<Token>| SecretBytes::new(token.middleware.token.as_bytes().to_vec());
            CarriedToken {
                id: *id,
                text: token.map(text).map(Carried),
                ours: token.is_some_and(|token| token.ours),
                accessor: known.accessor.clone(),
                lease: known.lease,
                may_last: known.may_last,
                asked: known.asked,
                looks: known.looks,
                uses: known.uses,
                used: known.used,
                noted: known.noted,
                good: known.good,
                grows: known.grows,
                dead: known.dead,
            }
        });
        CarriedTokens {
            last: self.last,
            current: self.current.as_ref().map(|token| token.id.0).filter(|id| self.known.contains_key(id)),
            known: known.collect(),
            ever_good: self.ever_good,
            unwrapped: None,
        }
    }

    fn of_carried(carried: CarriedTokens, wire: &Wire) -> Self {
        let mut ledger = Self { last: carried.last, ever_good: carried.ever_good, ..Self::default() };
        for token in carried.known {
            // What no header can hold would make the middleware panic.
            let text = token.text.and_then(|text| header_text(text.0.expose()));
            let (id, ours) = (ParentId(token.id), token.ours);
            let held = text.map(|text| Arc::new(Token { id, middleware: wire.middleware(text), ours }));
            if carried.current == Some(token.id) {
                ledger.current = held.clone();
            }
            let known = Known {
                token: held,
                accessor: token.accessor,
                lease: token.lease,
                may_last: token.may_last,
                asked: token.asked,
                looks: token.looks,
                uses: token.uses,
                used: token.used,
                noted: token.noted,
                good: token.good,
                grows: token.grows,
                dead: token.dead,
            };
            ledger.known.insert(token.id, known);
        }
        ledger
    }
}

impl Unwrapped {
    fn carried(&self) -> CarriedUnwrapped {
        let copy = |bytes: &SecretBytes| Carried(SecretBytes::new(bytes.expose().to_vec()));
        let outcome = self.outcome.as_ref().map(copy).map_err(ToString::to_string);
        CarriedUnwrapped { content: copy(&self.content), outcome }
    }

    fn of_carried(carried: &CarriedUnwrapped) -> Self {
        let copy = |bytes: &Carried<SecretBytes>| SecretBytes::new(bytes.0.expose().to_vec());
        let outcome = carried.outcome.as_ref().map(copy).map_err(|why| Error::Unreachable(why.clone()));
        Self { content: copy(&carried.content), outcome }
    }
}
