//! Owns the token: had when it is first needed, kept alive, followed by another before it ends, given back.
//! Does not know what is asked with it.
//!
//! A token comes from `VAULT_TOKEN`, from a file, or from a login; another way to log in is another arm of [`settle`]'s `obtain`.

mod approle;
mod carried;
mod facts;
mod file;
mod ledger;
mod pace;
mod settle;
mod tend;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use futures_util::future::join_all;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use self::ledger::Ledger;
pub(super) use self::ledger::{Token, Use};
use self::settle::{Turn, Want};
use super::api::Call;
use super::config::TokenSource;
use super::wire::Wire;
use crate::backend::Error;
use crate::backend::issuer::{Parent, ParentId};
use crate::backend::tokens::NoteTokens;
use crate::clock::{Clock, Moment};

/// The tokens of one backend.
pub(super) struct Auth {
    core: Arc<Core>,
}

struct Core {
    wire: Wire,
    source: TokenSource,
    clock: Clock,
    /// Guards what is known of tokens; held for a look or a change, never across a call.
    ledger: Mutex<Ledger>,
    /// Whoever has it is the only one who logs in, reads the file, or asks whether the token lives: all others wait for what
    /// comes of it. Held across calls of this folder alone, each of which is bounded.
    turn: Arc<tokio::sync::Mutex<Turn>>,
    /// Guards the turn of nobody, kept while the next worker takes over; held to put it there or to take it away.
    paused: Mutex<Option<tokio::sync::OwnedMutexGuard<Turn>>>,
    /// Where the names of our logins' tokens are noted.
    notes: OnceLock<Arc<dyn NoteTokens>>,
    /// Told when what is known of a parent has changed.
    parents_changed: Notify,
    /// Told when there is another token to be tended.
    another: Notify,
}

impl Auth {
    /// No token yet. Asks nobody.
    pub(super) fn new(wire: Wire, source: TokenSource, clock: Clock) -> Self {
        let core = Core {
            wire,
            source,
            clock,
            ledger: Mutex::default(),
            turn: Arc::default(),
            paused: Mutex::default(),
            notes: OnceLock::new(),
            parents_changed: Notify::new(),
            another: Notify::new(),
        };
        Self { core: Arc::new(core) }
    }

    /// The way to the server.
    pub(super) fn wire(&self) -> &Wire {
        &self.core.wire
    }

    /// The token for one call. Waits only while there is none.
    pub(super) async fn token(&self, purpose: Use) -> Result<Arc<Token>, Error> {
        let taken = self.core.ledger().take(purpose);
        if let Some(token) = taken {
            return Ok(token);
        }
        self.settle(Want::Any(purpose)).await?.ok_or_else(|| self.core.refused())
    }

    /// After a 403 for `token`: the token to make the call with once more; `None` when it is the path that is refused. `invalid`:
    /// the server said that the token is invalid.
    pub(super) async fn other_than(
        &self,
        token: &Arc<Token>,
        invalid: bool,
        purpose: Use,
    ) -> Result<Option<Arc<Token>>, Error> {
        self.settle(Want::OtherThan(token.clone(), invalid, purpose)).await
    }

    /// Why a call fails whose token is dead, where no other is to be had.
    pub(super) fn refused(&self) -> Error {
        self.core.refused()
    }

    /// The server has answered a call with `token`.
    pub(super) fn is_good(&self, token: &Token) {
        self.core.ledger().is_good(token.id);
    }

    /// Notes there from now on, beginning with what is had.
    pub(super) fn note_in(&self, notes: Arc<dyn NoteTokens>) {
        let had = self.core.ledger().accessors(self.core.clock.now());
        had.iter().for_each(|(accessor, until)| notes.had(accessor, *until));
        let _ = self.core.notes.set(notes);
    }

    /// Whether a login of ours made the token that the server calls so.
    pub(super) fn knows(&self, accessor: &str) -> bool {
        let had = self.core.ledger().accessors(self.core.clock.now());
        had.iter().any(|(known, _)| known == accessor)
    }

    /// The server's name for a token of ours.
    pub(super) fn accessor(&self, id: ParentId) -> Option<String> {
        self.core.ledger().accessor(id)
    }

    /// What is known of a token that something was made with.
    pub(super) fn parent(&self, id: ParentId) -> Parent {
        let now = self.core.clock.now();
        self.core.ledger().parent(id, now)
    }

    /// Ready when [`Self::parent`] may answer otherwise than before.
    pub(super) async fn parents_changed(&self) {
        self.core.parents_changed.notified().await;
    }

    /// Gives back the tokens that logins of ours have made, but for those that the server calls as `kept` says; what goes wrong is
    /// logged. No login follows.
    pub(super) async fn close(&self, kept: &[String]) {
        let tokens = {
            let mut turn = self.core.turn.lock().await;
            turn.is_closed = true;
            let now = self.core.clock.now();
            self.core.ledger().to_give_back(now)
        };
        let server = self.core.wire.transport.origin();
        let is_kept = |token: &Arc<Token>| {
            self.core.ledger().accessor(token.id).is_some_and(|accessor| kept.contains(&accessor))
        };
        let (left, tokens): (Vec<_>, Vec<_>) = tokens.into_iter().partition(is_kept);
        if !left.is_empty() {
            let what =
                "are not given back, as what is to outlive the mount ends with them: they live to their ends";
            tracing::info!(server, "{} tokens of our logins {what}", left.len());
        }
        join_all(tokens.iter().map(|token| async move {
            let call = match Call::write(["auth", "token", "revoke-self"], Zeroizing::new(b"{}".to_vec())) {
                Ok(call) => call,
                Err(_) => return,
            };
            match self.core.wire.send_within(&call, &token.middleware).await {
                Ok(_) => {
                    self.core.note_gone(token.id);
                    tracing::info!(server, "the token of our login is given back");
                }
                // What is gone need not be given back.
                Err(no_body) if no_body.token_invalid => self.core.note_gone(token.id),
                Err(no_body) => {
                    let why = no_body.error;
                    tracing::warn!(
                        server,
                        "the token of our login is not given back, and lives to its end: {why}"
                    );
                }
            }
        }))
        .await;
    }

    /// In a task of its own: whoever waits may give up, and a token that is had must not be lost.
    async fn settle(&self, want: Want) -> Result<Option<Arc<Token>>, Error> {
        let core = self.core.clone();
        let settling = tokio::spawn(async move { core.settle(want).await });
        settling.await.unwrap_or_else(|_| Err(Error::Unreachable("no token: shutting down".to_owned())))
    }
}

impl Core {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes that a login of ours has made a token, or that it was renewed: before anything is made with it.
    fn note_had(&self, accessor: Option<&str>, until: Option<Moment>) {
        if let (Some(notes), Some(accessor)) = (self.notes.get(), accessor) {
            notes.had(accessor, until);
        }
    }

    fn note_gone(&self, id: ParentId) {
        let accessor = self.ledger().accessor(id);
        if let (Some(notes), Some(accessor)) = (self.notes.get(), accessor) {
            notes.gone(&accessor);
        }
    }

    /// Changes what is known, and tells who waits when that changes what is known of a parent.
    fn change<T>(&self, change: impl FnOnce(&mut Ledger, Moment) -> T) -> T {
        let now = self.clock.now();
        let mut ledger = self.ledger();
        let before = ledger.parents(now);
        let result = change(&mut ledger, now);
        if ledger.parents(now) != before {
            self.parents_changed.notify_one();
        }
        result
    }

    /// The server knows the token no more.
    fn is_dead_for_good(&self, token: &Token) {
        let news = self.change(|ledger, _| ledger.died(token.id));
        if news {
            self.note_gone(token.id);
            let server = self.wire.transport.origin();
            tracing::warn!(server, "the token is refused: it has expired, was revoked or is used up");
        }
    }

    /// Why a call fails whose token is dead. What is held must not be thrown away for that: it is no answer to a question. Where no
    /// token was ever good, the one that is set is wrong.
    pub(super) fn refused(&self) -> Error {
        if !self.ledger().was_ever_good() {
            return Error::Forbidden;
        }
        let what_to_do = match &self.source {
            TokenSource::File(_) => "run `vault login`, or put another one into its file",
            TokenSource::Literal(_) => "set another one (VAULT_TOKEN) and mount again, or use a token file",
            TokenSource::AppRole(_) | TokenSource::Absent => "a new login is needed",
        };
        Error::Unreachable(format!(
            "the token is refused: it has expired, was revoked or is used up: {what_to_do}"
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests;
