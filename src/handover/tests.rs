//! Owns the promises of a handover: the next worker answers as the one before, asks nobody for it, and takes all or nothing.
//! Does not know processes or sockets of a mount.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod files;
mod refusals;
mod same;
mod still;

use std::sync::Arc;
use std::time::Duration;

use crate::access::Permissions;
use crate::backend::faulty::Faulty;
use crate::backend::mint::{Mint, Role};
use crate::cache::{Limits, SecretCache, SecretRef, Source, SourceId};
use crate::clock::Clock;
use crate::freshness::Freshness;
use crate::leases::Leases;
use crate::path::BackendPath;
use crate::secret::Version;
use crate::tree::{Tree, Trees};

use super::*;

const OURS: Fingerprint = [7; 32];
const PATIENCE: Duration = Duration::from_secs(5);

/// The world outside of the workers.
struct World {
    clock: Clock,
    kept: Arc<Faulty>,
    mint: Arc<Mint>,
}

/// What one worker holds.
struct Worker {
    cache: Arc<SecretCache>,
    leases: Arc<Leases>,
    fs: Arc<SecretFs>,
}

impl World {
    fn new() -> Self {
        let clock = Clock::manual();
        clock.advance(Duration::from_secs(1000));
        let mint = Arc::new(Mint::new(clock.clone()));
        mint.role("role", Role::default());
        Self { clock, kept: Arc::default(), mint }
    }

    fn worker(&self) -> Worker {
        let kept = Source { name: "kept".into(), backend: self.kept.clone() };
        let made = Source { name: "made".into(), backend: self.mint.clone() };
        let freshness = Freshness { max_stale: Duration::from_secs(120), ..Freshness::default() };
        let limits = Limits { freshness, ..Limits::default() };
        let cache = Arc::new(SecretCache::new(vec![kept, made], limits, self.clock.clone()));
        Worker::over(cache)
    }

    /// How often the backends were asked for anything.
    fn asked(&self) -> (u64, u64, u64) {
        (self.kept.reads(), self.kept.lists(), self.mint.counts().2)
    }
}

impl Worker {
    fn over(cache: Arc<SecretCache>) -> Self {
        let leases = Arc::new(Leases::plain(cache.clone()));
        let permissions = Permissions { uid: 7, gid: 8, file_mode: 0o400 };
        let sources = (0..).map(SourceId::new).map_while(|id| Some((id, cache.source(id)?)));
        let trees = sources.map(|(id, source)| {
            let root = SecretRef::current(id, BackendPath::root());
            Tree::of_place(vec![source.name.clone()], root, permissions)
        });
        let fs = SecretFs::new(Trees::new(trees.collect()), cache.clone(), 1024);
        let fs = Arc::new(fs.with_leases(leases.clone()));
        Self { cache, leases, fs }
    }

    async fn pause(&self) -> Paused {
        pause(&self.cache, &self.leases, &self.fs, PATIENCE).await.unwrap()
    }

    async fn export(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut paused = self.pause().await;
        paused.carry(of_hooks());
        paused.send(&mut bytes, &OURS).unwrap();
        bytes
    }

    fn receive(&self, mut bytes: &[u8]) -> Result<State, Refused> {
        receive(&mut bytes, &OURS, &self.cache, &self.leases)
    }

    async fn take_over(&self, bytes: &[u8]) {
        self.fs.import(self.receive(bytes).unwrap().install(&self.cache, &self.leases).await);
    }

    /// Whether nothing is held.
    fn is_cold(&self) -> bool {
        self.cache.held().is_empty() && self.leases.states().is_empty() && self.leases.revocable().is_empty()
    }

    async fn open(&self, of: &SecretRef) {
        let opening = self.leases.open(of);
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return drop(opened.unwrap()),
                () = self.leases.woken() => self.act().await,
            }
        }
    }

    /// Does what is due of leases, as the refresh loop would.
    async fn act(&self) {
        for errand in self.leases.due(self.cache.clock().now()).0 {
            self.leases.act(errand).await;
        }
    }
}

/// What hooks know, of everything something.
fn of_hooks() -> CarriedHooks {
    let sight = |path, version, told| CarriedSight { of: kept(path), version, told };
    let wait = |hook, waits, ran, paths: &[&str]| CarriedWait {
        hook,
        waits,
        ran,
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        truncated: hook == 1,
    };
    CarriedHooks {
        seen: vec![sight("a", Some(Version::new("1")), true), sight("gone", None, false)],
        waiting: vec![
            wait(1, Some(Duration::from_millis(700)), None, &["kept/a", "kept/folder/b"]),
            wait(4, None, Some(Duration::from_secs(3)), &[]),
        ],
    }
}

fn kept(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

fn made(path: &str) -> SecretRef {
    SecretRef::current(SourceId(1), BackendPath::parse(path).unwrap())
}

/// A worker that holds something of everything.
async fn warm(world: &World) -> Worker {
    let worker = world.worker();
    for (path, value) in [("a", "canary-a"), ("folder/b", "canary-b")] {
        world.kept.put(path, &[("value", value.as_bytes()), ("other", b"canary-\0\xff")]);
        worker.cache.secret(&kept(path)).await.unwrap();
    }
    worker.cache.listing(&kept("folder")).await.unwrap();
    worker.cache.want(&kept("a"));
    for job in worker.cache.take_jobs() {
        worker.cache.refresh_ahead(&job).await;
    }
    worker.leases.is_on_demand(&made("role")).await.unwrap();
    worker.open(&made("role")).await;
    for _ in 0..2 {
        world.clock.advance(Duration::from_secs(2));
        let of = made("role");
        let replace = worker.leases.replace(&of);
        tokio::pin!(replace);
        loop {
            tokio::select! {
                biased;
                replaced = &mut replace => break drop(replaced.unwrap()),
                () = worker.leases.woken() => worker.act().await,
            }
        }
    }
    worker
}

#[tokio::test]
async fn a_socket_that_gives_nothing_is_given_up_and_one_that_does_gives_all() {
    let world = World::new();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let (old, new) = (warm(&world).await, world.worker());
    let limit = Duration::from_millis(50);
    let nothing = receive_from(&theirs, &OURS, &new.cache, &new.leases, limit).unwrap_err();
    assert_eq!(nothing, Refused::Stream(io::ErrorKind::TimedOut));
    let mut paused = old.pause().await;
    let sending = std::thread::spawn(move || send_over(&mut paused, &ours, &OURS, PATIENCE).unwrap());
    let state = receive_from(&theirs, &OURS, &new.cache, &new.leases, PATIENCE).unwrap();
    assert_eq!(state.counts(), sending.join().unwrap());
    assert!(state.counts().kept == 3 && state.counts().leases == 1 && state.counts().left_behind == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_was_ever_shown_what_the_next_worker_does_not_know() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let version =
        |snapshot: &crate::cache::Snapshot| snapshot.secret.version.as_str().parse::<u64>().unwrap();
    for _ in 0..40 {
        let world = World::new();
        let old = warm(&world).await;
        let (seen, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let readers: Vec<_> = (0..6)
            .map(|number| {
                let (cache, kept_by, clock) = (old.cache.clone(), world.kept.clone(), world.clock.clone());
                let (seen, over) = (seen.clone(), over.clone());
                tokio::spawn(async move {
                    while !over.load(Ordering::SeqCst) {
                        if number == 0 {
                            kept_by.put("a", &[("value", b"canary")]);
                            clock.advance(Duration::from_millis(1));
                        }
                        let read = if number < 3 {
                            cache.refresh(&kept("a")).await
                        } else {
                            cache.secret(&kept("a")).await
                        };
                        seen.fetch_max(version(&read.unwrap()), Ordering::SeqCst);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        while seen.load(Ordering::SeqCst) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut bytes = Vec::new();
        let mut paused = old.pause().await;
        paused.send(&mut bytes, &OURS).unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        let shown = seen.load(Ordering::SeqCst);
        let new = world.worker();
        new.take_over(&bytes).await;
        let known = version(&new.cache.peek(&kept("a")).unwrap().unwrap());
        assert!(known >= shown, "{shown} was shown and {known} is known");
        over.store(true, Ordering::SeqCst);
        drop(paused);
        for reader in readers {
            reader.await.unwrap();
        }
    }
}
