//! Owns having a token: whether the one in use is dead, and where the next one comes from. One at a time, however many wait.
//! Does not know what a token is used for, or when it is renewed.

use std::sync::Arc;
use std::time::Duration;

use super::approle::{self, Failure, Unwrapped};
use super::facts::looked_up;
use super::ledger::{Token, Use};
use super::pace::{Doubt, Pause, chance, doubt};
use super::{Core, file};
use crate::backend::Error;
use crate::backend::issuer::ParentId;
use crate::backend::vault::api::{Call, header_text};
use crate::backend::vault::config::{AppRole, TokenSource};
use crate::clock::Moment;

const NO_TOKEN: &str = "no token: set VAULT_TOKEN or run `vault login`";
const NOT_A_TOKEN: &str = "what is set as the token is none: set VAULT_TOKEN or run `vault login`";
/// A token that was found to be dead, and is all there is, is looked at again after this: a standby that did not know it yet
/// says the same.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What only the one whose turn it is may touch.
#[derive(Default)]
pub(super) struct Turn {
    /// No login any more.
    pub(super) is_closed: bool,
    /// When which token was last asked about, because of a 403.
    asked: Option<(ParentId, Moment)>,
    logins: Pause,
    pub(super) unwrapped: Option<Unwrapped>,
    /// The token file when it was last read.
    read: Option<file::Mark>,
}

/// What is wanted of a turn.
pub(super) enum Want {
    /// A token that is not known to be dead.
    Any(Use),
    /// The same after a 403; whether the server named the token as the reason.
    OtherThan(Arc<Token>, bool, Use),
    /// That there is one, for nothing in particular.
    Some,
    /// A login anew, though the token lives.
    Successor(ParentId),
}

impl Core {
    /// The token for one call; `None` where it is the path that was refused, or where none was wanted.
    pub(super) async fn settle(&self, want: Want) -> Result<Option<Arc<Token>>, Error> {
        let mut turn = self.turn.lock().await;
        self.change(|ledger, _| ledger.bury());
        let purpose = match want {
            Want::Any(purpose) => purpose,
            Want::Some => {
                if !self.ledger().is_alive() {
                    self.obtain(&mut turn).await?;
                }
                return Ok(None);
            }
            Want::OtherThan(token, invalid, purpose) => {
                self.look_at_file(&mut turn).await;
                let doubted = self.ledger().is_current(token.id) && self.ledger().is_alive();
                if doubted && !self.is_dead(&mut turn, &token, invalid).await? {
                    return Ok(None);
                }
                purpose
            }
            Want::Successor(id) => {
                if let TokenSource::AppRole(role) = &self.source
                    && self.ledger().is_current(id)
                {
                    self.log_in(&mut turn, role).await?;
                }
                return Ok(None);
            }
        };
        let taken = self.ledger().take(purpose);
        if let Some(token) = taken {
            return Ok(Some(token));
        }
        self.obtain(&mut turn).await?;
        let taken = self.ledger().take(purpose);
        taken.map(Some).ok_or_else(|| self.refused())
    }

    /// When the next login may be tried; `None`: there is nothing to wait for.
    pub(super) async fn next_login(&self) -> Option<Moment> {
        let until = self.turn.lock().await.logins.until();
        until.filter(|until| self.clock.now() < *until)
    }

    /// Uses what the token file holds when it was written since it was last read.
    pub(super) async fn look_at_file(&self, turn: &mut Turn) {
        let TokenSource::File(path) = &self.source else { return };
        let mark = file::mark(path).await;
        if mark.is_none() || mark == turn.read {
            return;
        }
        if let Ok(Some(content)) = file::read(path, "token").await
            && let Some(token) = header_text(content.expose())
        {
            turn.read = mark;
            if !self.is_in_use(&token) {
                tracing::info!(server = self.wire.transport.origin(), "the token file holds another token");
                self.install(token);
            }
        }
    }

    /// Asks the server what it knows of a token; that it says nothing is taken note of as well. [`Error::Forbidden`]: it is dead.
    pub(super) async fn look_up(&self, token: &Token) -> Result<(), Error> {
        let asked = self.clock.now();
        let call = Call::read(["auth", "token", "lookup-self"])?;
        let no_body = match self.wire.send_within(&call, &token.middleware).await {
            Ok(body) => {
                match looked_up(&body) {
                    Ok(facts) => self.change(|ledger, _| ledger.learn(token.id, asked, facts, chance())),
                    Err(_) => self.change(|ledger, _| ledger.is_unknown(token.id)),
                }
                return Ok(());
            }
            Err(no_body) => no_body,
        };
        match no_body.error {
            Error::Forbidden if no_body.token_invalid || self.ledger().looks(token.id) => {
                Err(Error::Forbidden)
            }
            // No policy allows it, or the server has no such thing: so it says nothing of the token.
            Error::Forbidden | Error::NotFound | Error::Status(400 | 405) => {
                self.change(|ledger, _| ledger.is_unknown(token.id));
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Whether the token is dead, after a 403.
    async fn is_dead(&self, turn: &mut Turn, token: &Token, invalid: bool) -> Result<bool, Error> {
        let asked = turn.asked.filter(|(id, _)| *id == token.id).map(|(_, at)| at);
        let limited = self.ledger().is_limited(token.id);
        match doubt(asked, invalid, limited, self.clock.now()) {
            Doubt::Path => return Ok(false),
            Doubt::Ask => {}
            Doubt::AskAfter(pause) => tokio::time::sleep(pause).await,
        }
        turn.asked = Some((token.id, self.clock.now()));
        match self.look_up(token).await {
            Ok(()) => Ok(false),
            Err(Error::Forbidden) => {
                self.is_dead_for_good(token);
                // A login whose token is refused before it was of any use has failed: a standby that knows it later, or an
                // address that tokens are not taken from. Else each call would make another.
                if token.ours && !self.ledger().was_good(token.id) {
                    turn.logins.failed(self.clock.now(), self.refused(), true, chance());
                }
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Has a token where there is none, or none that lives.
    async fn obtain(&self, turn: &mut Turn) -> Result<(), Error> {
        let token = match &self.source {
            TokenSource::AppRole(role) => return self.log_in(turn, role).await,
            TokenSource::Absent => return Err(Error::Unreachable(NO_TOKEN.to_owned())),
            TokenSource::Literal(token) => header_text(token.expose()),
            TokenSource::File(path) => {
                let mark = file::mark(path).await;
                // Gone, or a pipe, which has given what it had.
                if mark.is_none() && self.ledger().current().is_some() {
                    return Err(self.refused());
                }
                let Some(content) = file::read(path, "token").await? else {
                    return Err(Error::Unreachable(NO_TOKEN.to_owned()));
                };
                turn.read = mark;
                header_text(content.expose())
            }
        };
        // An invalid header value would make the middleware panic.
        let token = token.filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Error::Unreachable(NOT_A_TOKEN.to_owned()))?;
        if !self.is_in_use(&token) {
            self.install(token);
            return Ok(());
        }
        let Some(dead) = self.ledger().current().cloned() else { return Err(self.refused()) };
        let now = self.clock.now();
        if turn.asked.is_some_and(|(id, at)| id == dead.id && now.since(at) < LOOK_AGAIN) {
            return Err(self.refused());
        }
        turn.asked = Some((dead.id, now));
        let call = Call::read(["auth", "token", "lookup-self"])?;
        match self.wire.send_within(&call, &dead.middleware).await {
            Ok(_) => {
                self.install(token);
                Ok(())
            }
            Err(_) => Err(self.refused()),
        }
    }

    async fn log_in(&self, turn: &mut Turn, role: &AppRole) -> Result<(), Error> {
        if turn.is_closed {
            return Err(Error::Unreachable("the mount is ending".to_owned()));
        }
        let asked = self.clock.now();
        if let Some(error) = turn.logins.refuses(asked) {
            return Err(error.clone());
        }
        let server = self.wire.transport.origin();
        let (error, refused) = match approle::log_in(&self.wire, role, &mut turn.unwrapped).await {
            Ok(login) => {
                let until = login.facts.grant.life.map(|life| asked.plus(life));
                self.note_had(login.accessor.as_deref(), until);
                let useful = {
                    let ledger = self.ledger();
                    ledger.current().is_none_or(|before| !before.ours || ledger.was_good(before.id))
                };
                if useful {
                    turn.logins.over()
                } else {
                    turn.logins.goes_on()
                }
                let middleware = self.wire.middleware(login.token);
                self.change(|ledger, now| {
                    ledger.install(
                        middleware,
                        true,
                        login.accessor,
                        Some(login.facts),
                        (asked, now),
                        chance(),
                    );
                });
                self.another.notify_one();
                tracing::info!(server, "logged in");
                return Ok(());
            }
            Err(Failure::Spoiled(error)) => return Err(error),
            Err(Failure::Refused(error)) => (error, true),
            Err(Failure::Failed(error)) => (error, false),
        };
        let pause = turn.logins.failed(self.clock.now(), error.clone(), refused, chance());
        let pause = humantime::format_duration(Duration::from_secs(pause.as_secs()));
        tracing::warn!(server, "no login, tried again in {pause} at the earliest: {error}");
        Err(error)
    }

    fn is_in_use(&self, token: &str) -> bool {
        self.ledger().current().is_some_and(|current| current.middleware.token == token)
    }

    fn install(&self, token: String) {
        let middleware = self.wire.middleware(token);
        self.change(|ledger, now| ledger.install(middleware, false, None, None, (now, now), chance()));
        self.another.notify_one();
    }
}
