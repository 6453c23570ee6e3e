//! Owns what passes between a worker and the one that takes its place: what is held goes over, and the old one stands still meanwhile.
//! Does not know when a worker is exchanged, or by whom.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::super::channel::{Channel, ToHolder, ToWorker};
use super::parts::{Parts, Shown};
use super::{FromHolder, say};
use crate::fs::CarriedFiles;
use crate::handover::{self, Fingerprint, Paused, Problem};

/// How long what was begun may take: a lease that is being made, a login.
const PATIENCE_TO_STAND_STILL: Duration = Duration::from_secs(5);
/// How long what is held may be on its way.
const PATIENCE_ON_THE_WAY: Duration = Duration::from_secs(10);

/// The side of the worker that goes.
pub(super) struct Old {
    /// Whether it is to go on after all; told to whoever stands still.
    goes_on: watch::Sender<u64>,
}

impl Old {
    /// Nothing is handed over yet.
    pub(super) fn new() -> Self {
        Self { goes_on: watch::Sender::new(0) }
    }

    /// Hands over all that is held, and stands still until it is told to go on or killed. Needs a runtime.
    pub(super) fn hand_over(&self, parts: &Shown, to: OwnedFd, fingerprint: Fingerprint, channel: &Channel) {
        let (cache, leases, fs) = (parts.cache.clone(), parts.leases.clone(), parts.fs.clone());
        let hooks = parts.hooks.clone();
        let (channel, mut goes_on) = (channel.clone(), self.goes_on.subscribe());
        tokio::spawn(async move {
            let handed = async {
                let mut paused = handover::pause(&cache, &leases, &fs, PATIENCE_TO_STAND_STILL).await?;
                paused.carry(hooks.stand_still());
                send(paused, UnixStream::from(to), fingerprint).await
            };
            match handed.await {
                Ok(paused) => {
                    say(&channel, &ToHolder::HandedOver(Ok(())));
                    let _ = goes_on.changed().await;
                    drop(paused);
                }
                Err(problem) => say(&channel, &ToHolder::HandedOver(Err(problem.to_string()))),
            }
            hooks.go_on();
        });
    }

    /// Nothing comes of it.
    pub(super) fn go_on(&self) {
        self.goes_on.send_modify(|times| *times += 1);
    }
}

/// Blocks for as long as the other side takes to read, so not among those who answer programs.
async fn send(mut paused: Paused, to: UnixStream, fingerprint: Fingerprint) -> Result<Paused, Problem> {
    let sending = tokio::task::spawn_blocking(move || {
        let counts = handover::send_over(&mut paused, &to, &fingerprint, PATIENCE_ON_THE_WAY)?;
        tracing::debug!(?counts, "handed over");
        Ok(paused)
    });
    sending.await.unwrap_or(Err(Problem::Stream(io::ErrorKind::Interrupted)))
}

/// The side of the worker that comes: takes in what the other holds, and waits until that is gone; what is open, for later. None where
/// nothing comes of it; a worker that was handed nothing begins with nothing.
pub(super) async fn succeed(
    parts: &Parts,
    legacy: Option<OwnedFd>,
    fingerprint: Fingerprint,
    channel: &Channel,
    told: &mut UnboundedReceiver<FromHolder>,
) -> Option<CarriedFiles> {
    say(channel, &ToHolder::Prepared);
    let (cache, leases) = (parts.cache.clone(), parts.leases.clone());
    let receiving = tokio::task::spawn_blocking(move || {
        let from = UnixStream::from(legacy.ok_or("nothing was handed over")?);
        handover::receive_from(&from, &fingerprint, &cache, &leases, PATIENCE_ON_THE_WAY * 2)
            .map_err(|why| why.to_string())
    });
    let mut receiving = Some(receiving);
    let mut files = CarriedFiles::default();
    loop {
        let message = tokio::select! {
            received = async { receiving.as_mut()?.await.ok() }, if receiving.is_some() => {
                receiving = None;
                let taken = match received.unwrap_or(Err("it could not be read".to_owned())) {
                    Ok(mut received) => {
                        tracing::debug!(counts = ?received.counts(), "taken in");
                        // Now, while the other answers still: it is gone from one moment to the next.
                        parts.hooks.import(received.take_hooks());
                        files = received.install(&parts.cache, &parts.leases).await;
                        Ok(())
                    }
                    Err(why) => Err(why),
                };
                say(channel, &ToHolder::TookIn(taken));
                continue;
            }
            message = told.recv() => message,
        };
        match message {
            // Also where the other died over it, and will hand over nothing more.
            Some(FromHolder::Told(ToWorker::TakeOver, _)) => return Some(files),
            Some(FromHolder::Told(..)) => {}
            Some(FromHolder::Gone) | None => return None,
        }
    }
}
