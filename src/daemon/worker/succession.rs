//! Owns what passes between a worker and the one that takes its place: what is held goes over, and the old one stands still meanwhile.
//! Does not know when a worker is exchanged, or by whom.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::channel::{Channel, Handed, Taken, ToHolder, ToWorker};
use super::parts::Parts;
use super::{FromHolder, say};
use crate::cache::SecretCache;
use crate::fs::{CarriedFiles, SecretFs};
use crate::handover::{self, Fingerprint, Paused, Problem};
use crate::hooks::Hooks;
use crate::leases::Leases;

/// How long what was begun may take: a lease that is being made, a login.
const PATIENCE_TO_STAND_STILL: Duration = Duration::from_secs(5);
/// How long what is held may be on its way.
const PATIENCE_ON_THE_WAY: Duration = Duration::from_secs(10);

/// What a worker holds.
pub(super) type Held = (Arc<SecretCache>, Arc<Leases>, Arc<SecretFs>, Arc<Hooks>);

/// The side of the worker that goes.
pub(super) struct Old {
    /// Whether it is to go on after all; told to whoever stands still.
    goes_on: watch::Sender<u64>,
    /// What was ordered last. When it has ended it has let all go on that it had stand still.
    last: Option<JoinHandle<()>>,
}

impl Old {
    /// Nothing is handed over yet.
    pub(super) fn new() -> Self {
        Self { goes_on: watch::Sender::new(0), last: None }
    }

    /// Hands over all that is held, and stands still until it is told to go on or killed. Needs a runtime.
    pub(super) fn hand_over(
        &mut self,
        (cache, leases, fs, hooks): Held,
        (successor, to): (u64, OwnedFd),
        fingerprint: Fingerprint,
        channel: &Channel,
    ) {
        let (former, mut goes_on, channel) = (self.last.take(), self.goes_on.subscribe(), channel.clone());
        self.last = Some(tokio::spawn(async move {
            // Else it would let go on what stands still for us.
            if let Some(former) = former {
                let _ = former.await;
            }
            let paused = tokio::select! {
                biased;
                _ = goes_on.changed() => return,
                paused = handover::pause(&cache, &leases, &fs, PATIENCE_TO_STAND_STILL) => paused,
            };
            let handed = match paused {
                Ok(mut paused) => {
                    paused.carry(hooks.stand_still());
                    send(paused, UnixStream::from(to), fingerprint).await
                }
                Err(problem) => Err(problem),
            };
            match handed {
                Ok((paused, handed)) => {
                    say(&channel, &ToHolder::HandedOver(successor, handed));
                    let _ = goes_on.changed().await;
                    drop(paused);
                }
                Err(problem) => {
                    say(&channel, &ToHolder::HandedOver(successor, Handed::Nothing(problem.to_string())));
                }
            }
            hooks.go_on();
        }));
    }

    /// Nothing comes of it.
    pub(super) fn go_on(&self) {
        self.goes_on.send_modify(|times| *times += 1);
    }
}

/// Blocks for as long as the other side takes to read, so not among those who answer programs. What stands still does so also where the
/// other side does not take it: it may want to begin with nothing, and until that is decided nothing is begun here.
async fn send(
    mut paused: Paused,
    to: UnixStream,
    fingerprint: Fingerprint,
) -> Result<(Paused, Handed), Problem> {
    let sending = tokio::task::spawn_blocking(move || {
        match handover::send_over(&mut paused, &to, &fingerprint, PATIENCE_ON_THE_WAY) {
            Ok(counts) => {
                tracing::debug!(?counts, "handed over");
                (paused, Handed::All)
            }
            Err(problem) => (paused, Handed::Broken(problem.to_string())),
        }
    });
    sending.await.map_err(|_| Problem::Stream(io::ErrorKind::Interrupted))
}

/// What was handed over and is being taken in.
#[derive(Default)]
pub(super) struct Inheritance(Option<JoinHandle<CarriedFiles>>);

impl Inheritance {
    /// Waits until all of it is in its place; what is open, for later.
    pub(super) async fn taken_in(self) -> CarriedFiles {
        match self.0 {
            // A panic ends this process before anybody gets to know of it here.
            Some(taking) => taking.await.unwrap_or_default(),
            None => CarriedFiles::default(),
        }
    }
}

/// The side of the worker that comes: takes in what the other holds, and waits until that is gone. None where nothing comes of it; a
/// worker that was handed nothing begins with nothing.
pub(super) async fn succeed(
    parts: &Parts,
    legacy: Option<OwnedFd>,
    fingerprint: Fingerprint,
    channel: &Channel,
    told: &mut UnboundedReceiver<FromHolder>,
) -> Option<Inheritance> {
    say(channel, &ToHolder::Prepared);
    let (cache, leases) = (parts.cache.clone(), parts.leases.clone());
    let receiving = tokio::task::spawn_blocking(move || {
        let nothing = || Taken::Lost("nothing was handed over".to_owned());
        let from = UnixStream::from(legacy.ok_or_else(nothing)?);
        handover::receive_from(&from, &fingerprint, &cache, &leases, PATIENCE_ON_THE_WAY * 2).map_err(|why| {
            if why.is_of_the_way() { Taken::Lost(why.to_string()) } else { Taken::Refused(why.to_string()) }
        })
    });
    let mut receiving = Some(receiving);
    let mut inheritance = Inheritance::default();
    loop {
        let message = tokio::select! {
            received = async { receiving.as_mut()?.await.ok() }, if receiving.is_some() => {
                receiving = None;
                let unread = || Err(Taken::Lost("it could not be read".to_owned()));
                let taken = match received.unwrap_or_else(unread) {
                    Ok(mut received) => {
                        tracing::debug!(counts = ?received.counts(), "taken in");
                        // Now, while the other answers still: it is gone from one moment to the next.
                        parts.hooks.import(received.take_hooks());
                        // Nothing can go wrong with that any more, and programs wait: the other is ended meanwhile.
                        let (cache, leases) = (parts.cache.clone(), parts.leases.clone());
                        let taking = async move { received.install(&cache, &leases).await };
                        inheritance = Inheritance(Some(tokio::spawn(taking)));
                        Taken::All
                    }
                    Err(taken) => taken,
                };
                say(channel, &ToHolder::TookIn(taken));
                continue;
            }
            message = told.recv() => message,
        };
        match message {
            // Also where the other died over it, and will hand over nothing more.
            Some(FromHolder::Told(ToWorker::TakeOver, _)) => return Some(inheritance),
            Some(FromHolder::Told(..)) => {}
            Some(FromHolder::Gone) | None => return None,
        }
    }
}

#[cfg(test)]
mod tests;
