//! Owns keeping the token of the moment: looked up, renewed, followed by another one in time; and looking at the token file.
//! Does not know when, which `crate::lease` decides, or who logs in.

use std::time::Duration;

use zeroize::Zeroizing;

use super::facts::granted;
use super::ledger::is_near;
use super::pace::{Pause, chance};
use super::settle::Want;
use super::{Auth, Token};
use crate::backend::Error;
use crate::backend::issuer::ParentId;
use crate::backend::vault::api::Call;
use crate::backend::vault::config::TokenSource;
use crate::clock::Moment;
use crate::lease::Action;

/// The token file, and a token that cannot be had, are looked at this often.
const LOOK: Duration = Duration::from_secs(3);
/// A token that leases hang on is asked about this often: when somebody has revoked it, they are dead, and nothing else may be
/// asked of the server for long.
const ASK: Duration = Duration::from_secs(30);

/// What the loop remembers.
#[derive(Default)]
struct Tending {
    /// Questions about the token that had no answer.
    unanswered: Pause,
    /// The last complaint: the same one is not logged again and again.
    said: Option<String>,
    /// Whose end was announced.
    announced: Option<ParentId>,
    /// Which token was asked about last, because leases hang on it, and when.
    asked: Option<(ParentId, Moment)>,
}

impl Auth {
    /// Keeps the token, for as long as it is polled.
    pub(in crate::backend::vault) async fn tend(&self) {
        let mut tending = Tending::default();
        loop {
            let look = self.look_after(&mut tending).await;
            let wait = look.map_or(LOOK, |at| self.core.clock.wait_until(at));
            let ask = self.ask_after_leases(&mut tending).await;
            let wait = ask.map_or(wait, |at| wait.min(self.core.clock.wait_until(at)));
            tokio::select! {
                () = tokio::time::sleep(wait.max(Duration::from_millis(10))) => {}
                () = self.core.another.notified() => {}
            }
        }
    }

    /// Does what is due; when to look again, where that is known.
    async fn look_after(&self, tending: &mut Tending) -> Option<Moment> {
        let core = &self.core;
        let can_log_in = matches!(core.source, TokenSource::AppRole(_));
        let file_at = matches!(core.source, TokenSource::File(_)).then(|| core.clock.now().plus(LOOK));
        let (some, alive) = {
            let ledger = core.ledger();
            (ledger.current().is_some(), ledger.is_alive())
        };
        if !alive && (can_log_in || !some) {
            if let Err(error) = self.have_one().await {
                // A login has said so itself.
                if !can_log_in {
                    complain(tending, core.wire.transport.origin(), &error);
                }
                return core.next_login().await;
            }
        } else {
            let mut turn = core.turn.lock().await;
            core.look_at_file(&mut turn).await;
        }
        tending.said = None;
        let now = core.clock.now();
        let asked = {
            let ledger = core.ledger();
            if ledger.is_alive() && !ledger.is_asked() { ledger.current().cloned() } else { None }
        };
        if let Some(token) = asked {
            if let Some(until) = tending.unanswered.until().filter(|until| now < *until) {
                return Some(until);
            }
            match core.look_up(&token).await {
                Ok(()) => tending.unanswered.over(),
                Err(Error::Forbidden) => core.is_dead_for_good(&token),
                Err(error) => {
                    let now = core.clock.now();
                    tending.unanswered.failed(now, error, false, chance());
                    return tending.unanswered.until();
                }
            }
        }
        let step = core.ledger().step(can_log_in, now);
        let Some((token, step)) = step else { return file_at };
        if now < step.at {
            return Some(file_at.map_or(step.at, |at| at.min(step.at)));
        }
        match step.action {
            Action::Renew => self.renew(&token).await,
            Action::Replace if can_log_in => {
                if self.settle(Want::Successor(token.id)).await.is_err() {
                    // Its secret id may be used up: then this token is all there is.
                    if core.ledger().grows(token.id) {
                        self.renew(&token).await;
                    } else {
                        core.change(|ledger, now| ledger.failed(token.id, false, now, chance()));
                    }
                }
            }
            _ => {
                self.announce_end(tending, &token, now);
                return file_at;
            }
        }
        Some(core.clock.now())
    }

    /// Finds out whether the token that leases hang on still lives, where that is due; when to ask again. Not of one of few uses:
    /// each question takes one.
    async fn ask_after_leases(&self, tending: &mut Tending) -> Option<Moment> {
        let core = &self.core;
        let token = core.ledger().leant_on()?;
        let now = core.clock.now();
        let asked = tending.asked.filter(|(id, _)| *id == token.id).map_or(now, |(_, asked)| asked);
        if now < asked.plus(ASK) {
            tending.asked = Some((token.id, asked));
            return Some(asked.plus(ASK));
        }
        tending.asked = Some((token.id, now));
        if core.look_up(&token).await == Err(Error::Forbidden) {
            core.is_dead_for_good(&token);
            return Some(core.clock.now());
        }
        Some(now.plus(ASK))
    }

    /// A token that lives. None of its uses is taken.
    async fn have_one(&self) -> Result<(), Error> {
        self.settle(Want::Some).await.map(drop)
    }

    pub(super) async fn renew(&self, token: &Token) {
        let core = &self.core;
        let server = core.wire.transport.origin();
        let Ok(call) = Call::write(["auth", "token", "renew-self"], Zeroizing::new(b"{}".to_vec())) else {
            return;
        };
        let asked = core.clock.now();
        // Before it is sent: it may be done though nobody hears of it.
        let before = core.change(|ledger, _| ledger.may_be_renewed(token.id, asked.plus(core.wire.limit)));
        self.note_named(token);
        let answer = match core.wire.send_within(&call, &token.middleware).await {
            Ok(body) => granted(&body),
            Err(no_body) if no_body.token_invalid => {
                return core.is_dead_for_good(token);
            }
            Err(no_body) => Err(no_body.error),
        };
        match answer {
            Ok(renewal) => {
                let grant = renewal.facts.grant;
                core.change(|ledger, _| ledger.renewed(token.id, asked, grant, chance()));
                self.note_named(token);
                tracing::debug!(server, "the token is renewed");
            }
            Err(error) => {
                // Vault: 400 where a token is not to be renewed, 403 where no policy allows it.
                let for_good = matches!(error, Error::Forbidden | Error::NotFound | Error::Status(400 | 405));
                core.change(|ledger, now| ledger.failed(token.id, for_good, now, chance()));
                if for_good {
                    core.change(|ledger, _| ledger.was_not_renewed(token.id, before));
                    self.note_named(token);
                }
                tracing::warn!(server, "the token is not renewed: {error}");
            }
        }
    }

    /// Notes the name of a token of ours once more, with the end that is known now.
    fn note_named(&self, token: &Token) {
        let named = self.core.ledger().named(token.id);
        if let Some((accessor, until)) = named {
            self.core.note_had(Some(&accessor), until);
        }
    }

    /// Says once that a token ends which nobody can make longer.
    fn announce_end(&self, tending: &mut Tending, token: &Token, now: Moment) {
        let (end, life) = {
            let ledger = self.core.ledger();
            (ledger.ends(), ledger.life())
        };
        let Some(end) = end.filter(|end| is_near(*end, life, now)) else { return };
        if tending.announced != Some(token.id) {
            tending.announced = Some(token.id);
            let left = humantime::format_duration(Duration::from_secs(end.since(now).as_secs()));
            let server = self.core.wire.transport.origin();
            tracing::warn!(server, "the token ends in {left}, and cannot be made longer: run `vault login`");
        }
    }
}

fn complain(tending: &mut Tending, server: &str, error: &Error) {
    let text = error.to_string();
    if tending.said.as_ref() != Some(&text) {
        tracing::warn!(server, "{text}");
        tending.said = Some(text);
    }
}
