//! Owns the control socket of a mount: who may ask, how many at once, for how long, and which question gets which answer.
//! Does not know command lines, and does not know a value: nothing it sends has a type that could hold one.

pub mod client;
pub mod leases;
mod place;
pub mod protocol;
pub mod status;
mod targets;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::cache::SecretCache;
use crate::fs::SecretFs;
use crate::leases::Leases;
use crate::tree::Trees;
pub use place::{Socket, Unclaimed, claim, folder, folders, make_folder};
use protocol::{Answer, Command, MAX_REQUEST, MAX_TARGETS, Refusal, RefusalKind, Reply, VERSION};
use status::{HookLine, Measure};

/// Conversations at once; whoever comes then waits in the queue of the socket.
const MOST: usize = 128;
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may take to listen to the answer.
const PATIENCE_TO_WRITE: Duration = Duration::from_secs(20);
/// How often it is seen to that the socket is there and in its place.
const LOOK: Duration = Duration::from_secs(5);

/// What is asked, and what it is asked of.
pub struct Control {
    /// What the mount shows.
    pub fs: Arc<SecretFs>,
    /// Where it shows what.
    pub trees: Trees,
    /// What is held.
    pub cache: Arc<SecretCache>,
    /// What is made on demand.
    pub leases: Arc<Leases>,
    /// When the mount began.
    pub since: SystemTime,
    /// The process that a user knows as the mount.
    pub process: u32,
    /// How many processes that served it have crashed.
    pub crashes: u64,
    /// The mount's deadline, for each secret that is asked for.
    pub deadline: Duration,
    /// Every hook as it is now. Must not wait.
    pub hooks: Box<dyn Fn() -> Vec<HookLine> + Send + Sync>,
    /// Whether inotify watchers are told of changes, or why not and what to do. Must not wait.
    pub watchers: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// What the process that answers has given up for good.
    pub sandbox: Vec<Measure>,
    /// Has the program exchanged, and whoever is at the other end of the socket told what came of it.
    pub upgrade: Box<dyn Fn(OwnedFd) -> io::Result<()> + Send + Sync>,
}

impl Control {
    /// Answers for ever, at `socket` and, should that be lost or not be there yet, at one that is claimed anew.
    pub async fn serve(&self, device: &str, mut socket: Option<Socket>) -> Infallible {
        loop {
            match socket.take() {
                Some(socket) => self.answer_at(&socket).await,
                None => tokio::time::sleep(LOOK).await,
            }
            socket = claim(device).await.ok();
            if let Some(socket) = &socket {
                tracing::info!(socket = %socket.path().display(), "the control socket is there now");
            }
        }
    }

    /// Until the socket is gone from its place.
    async fn answer_at(&self, socket: &Socket) {
        let mut talks = FuturesUnordered::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                accepted = socket.listener.accept(), if talks.len() < MOST => match accepted {
                    Ok((stream, _)) => talks.push(self.talk(stream)),
                    // Out of descriptors or memory: others give theirs back.
                    Err(error) => {
                        tracing::warn!("the control socket cannot take a connection: {}", error.kind());
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(()) = talks.next() => {}
                _ = look.tick() => if !socket.is_in_place() {
                    tracing::warn!(socket = %socket.path().display(), "the control socket was removed by somebody");
                    return;
                }
            }
        }
    }

    /// One question, one answer.
    async fn talk(&self, mut stream: UnixStream) {
        let us = rustix::process::geteuid().as_raw();
        let Ok(peer) = stream.peer_cred().map(|peer| peer.uid()) else { return };
        if !may_ask(peer, us) {
            let message =
                format!("user {peer} may not: only user {us}, to whom the mount belongs, and root may");
            answer(&mut stream, Reply::Refused(Refusal::new(RefusalKind::NotAllowed, message))).await;
            // Whoever is hung up on while they speak does not hear what they were told.
            let _ = protocol::read_line(&mut stream, MAX_REQUEST, PATIENCE).await;
            return;
        }
        let reply = match protocol::read_line(&mut stream, MAX_REQUEST, PATIENCE).await {
            Ok(line) => match protocol::parse(&line) {
                Ok(Command::Upgrade) => return self.upgrade(stream),
                command => self.reply(command).await,
            },
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                let message = format!("a request is at most {MAX_REQUEST} bytes");
                Reply::Refused(Refusal::new(RefusalKind::BadRequest, message))
            }
            Err(_) => return,
        };
        answer(&mut stream, reply).await;
    }

    /// The answer is not ours to give: with an upgrade this process ends.
    fn upgrade(&self, stream: UnixStream) {
        if let Err(error) = stream.into_std().and_then(|stream| (self.upgrade)(stream.into())) {
            tracing::warn!("an upgrade was asked for, and nobody hears it: {}", error.kind());
        }
    }

    async fn reply(&self, command: Result<Command, Refusal>) -> Reply {
        match command {
            Ok(Command::Status { secrets, lease_ids }) => {
                Reply::Status(Box::new(status::of(self, secrets, lease_ids)))
            }
            Ok(Command::Find { path, recursive }) => targets::find(self, &path, recursive).await,
            Ok(Command::FindLeases { path, recursive }) => leases::find(self, &path, recursive).await,
            Ok(Command::Refresh { targets } | Command::Revoke { targets }) if targets.len() > MAX_TARGETS => {
                let message = format!("at most {MAX_TARGETS} at once");
                Reply::Refused(Refusal::new(RefusalKind::BadRequest, message))
            }
            Ok(Command::Refresh { targets }) => Reply::Refreshed(targets::refresh(self, targets).await),
            Ok(Command::Revoke { targets }) => Reply::Revoked(leases::revoke(self, targets).await),
            Ok(Command::Flush) => targets::flush(self),
            Ok(Command::Upgrade) => {
                Reply::Refused(Refusal::new(RefusalKind::BadRequest, "an upgrade is asked for alone"))
            }
            Err(refusal) => Reply::Refused(refusal),
        }
    }
}

async fn answer(stream: &mut UnixStream, reply: Reply) {
    let line = protocol::line_of(&Answer { version: VERSION, reply });
    // A client that has gone, or does not listen, has given up its answer.
    let _ = tokio::time::timeout(PATIENCE_TO_WRITE, stream.write_all(&line)).await;
}

/// Who mounted, and root.
fn may_ask(peer: u32, owner: u32) -> bool {
    peer == owner || peer == 0
}
