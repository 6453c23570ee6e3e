//! Owns the tokens that were had: which one is in use, what is known of each, until when what was made with it lives.
//! Does not know servers, logins or files: it is told.
//!
//! Tokens of few uses (`num_uses`; source: Vault's `Core.handleRequest` and `TokenStore.UseToken`): every call takes one, also one
//! that is refused, a look-up or a renewal. With the last one Vault revokes the token, and with that every lease that was made with
//! it; a lease that is asked for with the last use is revoked before it is answered. So a token of ours that a lease hangs on keeps
//! its last use, another one is had for what follows, and the last use gives it back in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use vaultrs::api::EndpointMiddleware;

use super::facts::Facts;
use crate::backend::issuer::{Parent, ParentId};
use crate::clock::Moment;
use crate::lease::{Action, Grant, Lease, Step, Terms};

/// Tokens of ours that are no longer in use and are kept, to be given back. Those before them end by themselves.
const KEPT: usize = 100;

/// A token. Dropped, and its text erased, when nobody uses it and it is not to be given back.
pub(in crate::backend::vault) struct Token {
    /// Its number: the first is 1.
    pub(in crate::backend::vault) id: ParentId,
    /// Holds the token as a `String`, because vaultrs wants one; it goes nowhere else.
    pub(in crate::backend::vault) middleware: EndpointMiddleware,
    /// Made by a login of ours, so ours to give back.
    pub(super) ours: bool,
}

/// What a token is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::vault) enum Use {
    /// A call that leaves nothing behind.
    Read,
    /// A call that makes something that ends with the token.
    Lease,
}

/// All tokens. Plain bookkeeping: who holds it does what it says.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) last: u64,
    pub(super) current: Option<Arc<Token>>,
    pub(super) known: BTreeMap<u64, Known>,
    /// A token of this backend was good once.
    pub(super) ever_good: bool,
}

pub(super) struct Known {
    /// While it is in use, and after that while it is to be given back.
    pub(super) token: Option<Arc<Token>>,
    /// The server's name for it, with which it can be revoked and not used; known of what our logins made.
    pub(super) accessor: Option<String>,
    /// `None`: nothing is known, or it has no end.
    pub(super) lease: Option<Lease>,
    /// Until when it may live at the latest, where that is later: a renewal had no answer.
    pub(super) may_last: Option<Moment>,
    pub(super) asked: bool,
    pub(super) looks: bool,
    pub(super) uses: Option<u32>,
    pub(super) used: bool,
    /// Something was made with it.
    pub(super) noted: bool,
    /// The server has answered a call with it.
    pub(super) good: bool,
    /// Renewing makes it longer, as far as is known.
    pub(super) grows: bool,
    pub(super) dead: bool,
}

impl Ledger {
    /// The token that is used now, dead or not.
    pub(super) fn current(&self) -> Option<&Arc<Token>> {
        self.current.as_ref()
    }

    /// Whether `id` is the one that is used now.
    pub(super) fn is_current(&self, id: ParentId) -> bool {
        self.current.as_ref().is_some_and(|token| token.id == id)
    }

    /// Whether there is a token that is not known to be dead.
    pub(super) fn is_alive(&self) -> bool {
        self.of_current().is_some_and(|known| !known.dead)
    }

    /// The token for one call; `None`: another one must be had first.
    pub(super) fn take(&mut self, purpose: Use) -> Option<Arc<Token>> {
        let token = self.current.clone()?;
        let known = self.known.get_mut(&token.id.0).filter(|known| !known.dead)?;
        if let Some(left) = known.uses.as_mut().filter(|_| token.ours) {
            let kept_back = *left == 1 && known.used && (known.noted || purpose == Use::Lease);
            if *left == 0 || kept_back {
                return None;
            }
            *left -= 1;
        }
        known.used = true;
        known.noted |= purpose == Use::Lease;
        Some(token)
    }

    /// Notes that the token of ours that was used for the last time has ended with that.
    pub(super) fn bury(&mut self) {
        if let Some(known) = self.of_current_mut()
            && known.uses == Some(0)
            && known.token.as_ref().is_some_and(|token| token.ours)
        {
            known.dead = true;
        }
    }

    /// Another token is used from now on, which was asked for at `asked`; what is known of it, where it is.
    pub(super) fn install(
        &mut self,
        middleware: EndpointMiddleware,
        ours: bool,
        accessor: Option<String>,
        facts: Option<Facts>,
        (asked, now): (Moment, Moment),
        chance: f64,
    ) {
        self.last += 1;
        let id = ParentId(self.last);
        let token = Arc::new(Token { id, middleware, ours });
        let first = self.current.is_none();
        if let Some(before) = self.current.replace(token.clone())
            && !before.ours
            && let Some(known) = self.known.get_mut(&before.id.0)
        {
            known.token = None;
        }
        self.known.retain(|_, known| !known.is_over(now));
        let mut kept = self.known.values_mut().filter(|known| known.token.is_some());
        if let Some(oldest) = kept.next()
            && kept.count() >= KEPT
        {
            oldest.token = None;
        }
        let mut known = Known {
            token: Some(token),
            accessor,
            lease: None,
            may_last: None,
            asked: false,
            looks: false,
            uses: None,
            used: false,
            noted: false,
            good: false,
            grows: false,
            dead: false,
        };
        if let Some(facts) = facts {
            known.learn(asked, facts, first, chance);
            self.ever_good = true;
        }
        self.known.insert(id.0, known);
    }

    /// What the server says of a token when it is looked up.
    pub(super) fn learn(&mut self, id: ParentId, asked: Moment, facts: Facts, chance: f64) {
        self.is_good(id);
        if let Some(known) = self.known.get_mut(&id.0) {
            if known.asked {
                known.looks = true;
            } else {
                known.learn(asked, facts, true, chance);
            }
        }
    }

    /// The server will not say anything of a token: no end is known.
    pub(super) fn is_unknown(&mut self, id: ParentId) {
        if let Some(known) = self.known.get_mut(&id.0) {
            known.asked = true;
        }
    }

    /// Whether the server was asked about the token that is used now, or has said so by itself.
    pub(super) fn is_asked(&self) -> bool {
        self.of_current().is_some_and(|known| known.asked)
    }

    /// The server has answered a call with the token.
    pub(super) fn is_good(&mut self, id: ParentId) {
        self.ever_good = true;
        if let Some(known) = self.known.get_mut(&id.0) {
            known.good = true;
        }
    }

    /// Whether the server has answered a call with the token.
    pub(super) fn was_good(&self, id: ParentId) -> bool {
        self.known.get(&id.0).is_some_and(|known| known.good)
    }

    /// Whether any token of this backend was good.
    pub(super) fn was_ever_good(&self) -> bool {
        self.ever_good
    }

    /// Whether a token may surely look itself up.
    pub(super) fn looks(&self, id: ParentId) -> bool {
        self.known.get(&id.0).is_some_and(|known| known.looks)
    }

    /// Whether each call uses the token up.
    pub(super) fn is_limited(&self, id: ParentId) -> bool {
        self.known.get(&id.0).is_some_and(|known| known.uses.is_some())
    }

    /// The token that is used now, where it lives, something was made with it, and asking about it takes none of its uses.
    pub(super) fn leant_on(&self) -> Option<Arc<Token>> {
        let known = self.of_current()?;
        let leant_on = known.noted && !known.dead && known.uses.is_none();
        self.current.clone().filter(|_| leant_on)
    }

    /// The token is dead, whatever was granted. Whether that is news.
    pub(super) fn died(&mut self, id: ParentId) -> bool {
        self.known.get_mut(&id.0).is_some_and(|known| !std::mem::replace(&mut known.dead, true))
    }

    /// The token is about to be renewed: at `at` at the latest, of which perhaps nobody will hear. Until when it may have lived before.
    pub(super) fn may_be_renewed(&mut self, id: ParentId, at: Moment) -> Option<Moment> {
        let known = self.known.get_mut(&id.0)?;
        let before = known.may_last;
        let life = known.lease.and_then(|lease| lease.life());
        known.may_last = known.may_last.max(life.map(|life| at.plus(life)));
        before
    }

    /// The token was not renewed after all: `before` is what [`Self::may_be_renewed`] has said.
    pub(super) fn was_not_renewed(&mut self, id: ParentId, before: Option<Moment>) {
        if let Some(known) = self.known.get_mut(&id.0) {
            known.may_last = before;
        }
    }

    /// The server's name for a token of ours, and until when it may live; `None`: it has no end.
    pub(super) fn named(&self, id: ParentId) -> Option<(String, Option<Moment>)> {
        let known = self.known.get(&id.0)?;
        Some((known.accessor.clone()?, known.lasts()))
    }

    /// The token that is used now was renewed; asked for at `asked`.
    pub(super) fn renewed(&mut self, id: ParentId, asked: Moment, grant: Grant, chance: f64) {
        let Some(known) = self.known.get_mut(&id.0) else { return };
        known.good = true;
        known.may_last = None;
        let Some(lease) = &mut known.lease else { return };
        match (grant.life, lease.life()) {
            // What was looked up was the rest of its life; now it has a whole one.
            (Some(life), Some(rest)) if life >= rest * 2 => *lease = Lease::new(asked, grant, false, chance),
            _ => lease.renewed(asked, grant, chance),
        }
        known.grows = known.step(asked).is_some_and(|step| step.action == Action::Renew);
    }

    /// The token that is used now was not renewed, or had no successor. `for_good`: renewing is of no use any more.
    pub(super) fn failed(&mut self, id: ParentId, for_good: bool, now: Moment, chance: f64) {
        let Some(known) = self.known.get_mut(&id.0) else { return };
        let Some(lease) = &mut known.lease else { return };
        if for_good {
            lease.cannot_grow();
            known.grows = false;
        }
        lease.failed(&terms(lease), now, chance);
    }

    /// Whether renewing makes a token longer, as far as is known.
    pub(super) fn grows(&self, id: ParentId) -> bool {
        self.known.get(&id.0).is_some_and(|known| known.grows)
    }

    /// What is to be done with the token that is used now; nothing, where it has no end or is dead. Without `successor` none can
    /// be had, and renewing goes on to the end.
    pub(super) fn step(&self, successor: bool, now: Moment) -> Option<(Arc<Token>, Step)> {
        let known = self.of_current().filter(|known| !known.dead)?;
        let mut step = known.step(now)?;
        if step.action == Action::Replace && !successor && known.grows {
            step.action = Action::Renew;
        }
        Some((self.current.clone()?, step))
    }

    /// When the token that is used now ends.
    pub(super) fn ends(&self) -> Option<Moment> {
        self.of_current()?.lease?.ends()
    }

    /// How long the token that is used now was first granted for.
    pub(super) fn life(&self) -> Option<Duration> {
        self.of_current()?.lease?.life()
    }

    /// What is known of a token that something was made with. One that nobody remembers has ended.
    pub(super) fn parent(&self, id: ParentId, now: Moment) -> Parent {
        let Some(known) = self.known.get(&id.0).filter(|known| !known.dead) else { return Parent::Dead };
        let ends = known.lease.and_then(|lease| lease.ends());
        if !self.is_current(id) {
            return Parent::Superseded(ends);
        }
        let renewed = known.step(now).is_some_and(|step| step.action == Action::Renew);
        Parent::Current(ends.filter(|_| !renewed))
    }

    /// What [`Self::parent`] says of each.
    pub(super) fn parents(&self, now: Moment) -> Vec<(u64, Parent)> {
        self.known.keys().map(|id| (*id, self.parent(ParentId(*id), now))).collect()
    }

    /// The tokens of ours that are not known to have ended.
    pub(super) fn to_give_back(&self, now: Moment) -> Vec<Arc<Token>> {
        let alive = self.known.values().filter(|known| !known.is_over(now) && known.uses != Some(0));
        alive.filter_map(|known| known.token.clone()).filter(|token| token.ours).collect()
    }

    /// The server's name for a token of ours.
    pub(super) fn accessor(&self, id: ParentId) -> Option<String> {
        self.known.get(&id.0)?.accessor.clone()
    }

    /// The server's names for the tokens of ours that are not known to have ended, and when they do.
    pub(super) fn accessors(&self, now: Moment) -> Vec<(String, Option<Moment>)> {
        let alive = self.known.values().filter(|known| !known.is_over(now));
        let named = alive.filter_map(|known| Some((known.accessor.clone()?, known.lasts())));
        named.collect()
    }

    fn of_current(&self) -> Option<&Known> {
        self.known.get(&self.current.as_ref()?.id.0)
    }

    fn of_current_mut(&mut self) -> Option<&mut Known> {
        self.known.get_mut(&self.current.as_ref()?.id.0)
    }
}

impl Known {
    fn learn(&mut self, asked: Moment, facts: Facts, first: bool, chance: f64) {
        self.asked = true;
        self.looks |= facts.looks;
        self.uses = facts.uses;
        self.grows = facts.grant.renewable;
        self.lease = facts.grant.life.map(|_| Lease::new(asked, facts.grant, first, chance));
    }

    fn step(&self, now: Moment) -> Option<Step> {
        let lease = self.lease.as_ref()?;
        // A token is always in use.
        Some(lease.next(&terms(lease), None, now, now))
    }

    fn is_over(&self, now: Moment) -> bool {
        self.dead || self.lasts().is_some_and(|end| end <= now)
    }

    /// Until when it lives at the latest; `None`: it has no end, as far as is known.
    fn lasts(&self) -> Option<Moment> {
        let end = self.lease?.ends()?;
        Some(self.may_last.map_or(end, |last| last.max(end)))
    }
}

/// The successor of a token is had when a quarter of its life is left: in that time all that was made with it has to be made anew,
/// one after the other.
fn terms(lease: &Lease) -> Terms {
    Terms { overlap: lease.life().map(|life| life / 4), idle_revoke: None }
}

/// How long before its end the end of a token that nobody can make longer is said in the log.
pub(super) fn is_near(end: Moment, life: Option<Duration>, now: Moment) -> bool {
    end.since(now) <= life.unwrap_or(Duration::ZERO) / 4
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
