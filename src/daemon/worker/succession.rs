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
        let nothing = || Taken::Lost("nothing was handed over".to_owned());
        let from = UnixStream::from(legacy.ok_or_else(nothing)?);
        handover::receive_from(&from, &fingerprint, &cache, &leases, PATIENCE_ON_THE_WAY * 2).map_err(|why| {
            if why.is_of_the_way() { Taken::Lost(why.to_string()) } else { Taken::Refused(why.to_string()) }
        })
    });
    let mut receiving = Some(receiving);
    let mut files = CarriedFiles::default();
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
                        files = received.install(&parts.cache, &parts.leases).await;
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
            Some(FromHolder::Told(ToWorker::TakeOver, _)) => return Some(files),
            Some(FromHolder::Told(..)) => {}
            Some(FromHolder::Gone) | None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use tokio::sync::{Notify, oneshot};

    use super::*;
    use crate::backend::mint::{Mint, Role};
    use crate::cache::{Limits, SecretRef, Source, SourceId};
    use crate::clock::Clock;
    use crate::hands;
    use crate::path::BackendPath;
    use crate::tree::Trees;

    const OURS: Fingerprint = [7; 32];

    /// What a worker holds of a backend that makes secrets slowly.
    fn held(mint: &Arc<Mint>) -> Held {
        let source = Source { name: "made".into(), backend: mint.clone() };
        let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), Clock::System));
        let leases = Arc::new(Leases::plain(cache.clone()));
        let fs = Arc::new(SecretFs::new(Trees::new(vec![]), cache.clone(), 1024).with_leases(leases.clone()));
        let hands = hands::Client::over(UnixStream::pair().unwrap().0, Err("none".to_owned())).unwrap();
        let trees = Trees::new(vec![]);
        let hooks = Hooks::new(vec![], trees, cache.clone(), leases.clone(), "/none".into(), hands).unwrap();
        (cache, leases, fs, Arc::new(hooks))
    }

    fn role() -> SecretRef {
        SecretRef::current(SourceId(0), BackendPath::parse("role").unwrap())
    }

    /// Somebody opens the secret, and what is due of it is done; tells when that begins.
    async fn opens(leases: Arc<Leases>, begins: Arc<Notify>) {
        let of = role();
        let opening = leases.open(&of);
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return drop(opened.unwrap()),
                () = leases.woken() => {}
            }
            for errand in leases.due(Clock::System.now()).0 {
                begins.notify_one();
                leases.act(errand).await;
            }
        }
    }

    /// Whether nothing can be given back.
    async fn stands_still(leases: &Leases) -> bool {
        tokio::time::timeout(Duration::from_millis(200), leases.revoke(&role())).await.is_err()
    }

    /// What the holder hears next.
    async fn heard(holder: &Channel) -> (u64, Handed) {
        let (holder, (tell, told)) = (holder.clone(), oneshot::channel());
        // No thread of the runtime's, whose end would wait for it.
        std::thread::spawn(move || tell.send(holder.receive::<ToHolder>().unwrap()));
        let heard = tokio::time::timeout(Duration::from_secs(30), told).await.unwrap().unwrap();
        match heard.unwrap().0 {
            ToHolder::HandedOver(successor, handed) => (successor, handed),
            other => panic!("{other:?}"),
        }
    }

    /// Reads all that is sent, and tells how much it was once that is closed.
    fn reader() -> (OwnedFd, oneshot::Receiver<usize>) {
        let ((ours, mut theirs), (tell, told)) = (UnixStream::pair().unwrap(), oneshot::channel());
        std::thread::spawn(move || {
            let mut all = Vec::new();
            tell.send(std::io::Read::read_to_end(&mut theirs, &mut all).unwrap())
        });
        (ours.into(), told)
    }

    #[tokio::test]
    async fn an_upgrade_that_was_abandoned_lets_nothing_go_on_that_stands_still_for_the_next() {
        let (holder, worker) = Channel::pair().unwrap();
        let worker = Channel::over(worker);
        let mint = Arc::new(Mint::new(Clock::System));
        mint.role("role", Role::default());
        mint.delay(Duration::from_secs(1));
        let (held, begins) = (held(&mint), Arc::<Notify>::default());
        let opening = tokio::spawn(opens(held.1.clone(), begins.clone()));
        begins.notified().await;
        let mut old = Old::new();
        let ((first, first_read), (second, second_read)) = (reader(), reader());
        old.hand_over(held.clone(), (1, first), OURS, &worker);
        // It waits for the lease that is being made.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        old.go_on();
        old.hand_over(held.clone(), (2, second), OURS, &worker);
        assert_eq!(heard(&holder).await, (2, Handed::All));
        opening.await.unwrap();
        mint.delay(Duration::ZERO);
        // Once nothing more can come of the first.
        assert_eq!(first_read.await.unwrap(), 0);
        assert!(second_read.await.unwrap() > 0);
        assert!(stands_still(&held.1).await && mint.counts().1 == 0);
        old.go_on();
        held.1.revoke(&role()).await.unwrap();
    }

    #[tokio::test]
    async fn a_worker_whose_state_is_not_taken_stands_still_until_it_is_told_what_follows() {
        let (holder, worker) = Channel::pair().unwrap();
        let worker = Channel::over(worker);
        let mint = Arc::new(Mint::new(Clock::System));
        mint.role("role", Role::default());
        let held = held(&mint);
        opens(held.1.clone(), Arc::default()).await;
        let mut old = Old::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        old.hand_over(held.clone(), (3, ours.into()), OURS, &worker);
        let (successor, handed) = heard(&holder).await;
        assert!(successor == 3 && matches!(handed, Handed::Broken(_)), "{handed:?}");
        assert!(stands_still(&held.1).await && mint.counts().1 == 0);
        old.go_on();
        held.1.revoke(&role()).await.unwrap();
    }
}
