//! Owns the worlds in which fuzz targets live: backends in memory, workers over them, what is done with what was taken in.
//! Does not know the fuzzer.

use std::ffi::OsStr;
use std::hash::Hasher;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use secretfs::access::Permissions;
use secretfs::backend::faulty::Faulty;
use secretfs::backend::mint::{Mint, Role};
use secretfs::cache::{Limits, SecretCache, SecretRef, Source, SourceId};
use secretfs::clock::Clock;
use secretfs::fs::{Caller, SecretFs};
use secretfs::handover::Fingerprint;
use secretfs::leases::Leases;
use secretfs::path::BackendPath;
use secretfs::tree::inode::INodeNo;
use secretfs::tree::journal::Journal;
use secretfs::tree::{Tree, Trees};
use siphasher::sip::SipHasher13;

/// The configuration of all workers.
pub const OURS: Fingerprint = [7; 32];
/// A value that is nowhere else.
pub const CANARY: &str = "canary-of-the-fuzzer";

/// What is outside of a worker.
pub struct World {
    pub clock: Clock,
    pub kept: Arc<Faulty>,
    pub mint: Arc<Mint>,
}

/// A worker.
pub struct Worker {
    pub cache: Arc<SecretCache>,
    pub leases: Arc<Leases>,
    pub fs: Arc<SecretFs>,
}

impl Default for World {
    fn default() -> Self {
        let clock = Clock::manual();
        clock.advance(Duration::from_secs(1000));
        let mint = Arc::new(Mint::new(clock.clone()));
        mint.role("role", Role::default());
        mint.log_in();
        let kept = Arc::new(Faulty::new());
        kept.put("a", &[("value", CANARY.as_bytes()), ("other", b"\0\xff")]);
        kept.put("folder/b", &[("value", b"b")]);
        Self { clock, kept, mint }
    }
}

impl World {
    /// A worker that holds nothing, the first of its mount.
    pub fn worker(&self) -> Worker {
        self.worker_with(Journal::open(secretfs::record::make("inodes").expect("memory files"), OURS).0)
    }

    /// A worker that holds nothing, and knows of inodes what this says.
    pub fn worker_with(&self, journal: Journal) -> Worker {
        let kept = Source { name: "kept".into(), backend: self.kept.clone() };
        let made = Source { name: "made".into(), backend: self.mint.clone() };
        let cache = Arc::new(SecretCache::new(vec![kept, made], Limits::default(), self.clock.clone()));
        let leases = Arc::new(Leases::plain(cache.clone()));
        let permissions = Permissions { uid: 7, gid: 8, file_mode: 0o400 };
        let tree = |number, name: &str| {
            let root = SecretRef::current(SourceId(number), BackendPath::root());
            Tree::of_place(vec![name.to_owned()], root, permissions)
        };
        let trees = Trees::new(vec![tree(0, "kept"), tree(1, "made")]);
        let fs = Arc::new(
            SecretFs::new(trees, cache.clone(), 1024).with_leases(leases.clone()).with_journal(journal),
        );
        Worker { cache, leases, fs }
    }
}

impl Worker {
    /// Has something of everything.
    pub async fn warm(&self, world: &World) {
        for path in ["a", "folder/b"] {
            self.cache.secret(&kept(path)).await.expect("it is there");
        }
        self.cache.listing(&kept("folder")).await.expect("it is there");
        self.cache.want(&kept("a"));
        self.work().await;
        self.leases.is_on_demand(&made()).await.expect("it is there");
        for path in [["kept", "a", "value"], ["kept", "a", ".json"]] {
            let mut at = INodeNo::ROOT;
            for name in path {
                at = self.fs.lookup(at, OsStr::new(name)).await.expect("it is there").ino;
            }
            self.fs.open(at, Caller(0)).await.expect("it is there");
        }
        for _ in 0..3 {
            let of = made();
            let replace = self.leases.replace(&of);
            tokio::pin!(replace);
            loop {
                tokio::select! {
                    biased;
                    replaced = &mut replace => break drop(replaced.expect("it is made")),
                    () = self.leases.woken() => self.work().await,
                }
            }
            world.clock.advance(Duration::from_secs(2));
        }
    }

    /// Does what is due, as the loop of a mount would.
    pub async fn work(&self) {
        let now = self.cache.clock().now();
        self.cache.sweep(now);
        for job in self.cache.take_jobs() {
            self.cache.refresh_ahead(&job).await;
        }
        for errand in self.leases.due(now).0 {
            self.leases.act(errand).await;
        }
    }

    /// Lives with what was taken in, now and later.
    pub async fn live(&self, world: &World) {
        for seconds in [0, 1, 70, 100_000_000] {
            world.clock.advance(Duration::from_secs(seconds));
            self.cache.held();
            self.leases.states();
            self.leases.counts();
            self.leases.current(&made());
            self.leases.previous(&made());
            for path in ["a", "folder/b"] {
                let _ = self.cache.secret(&kept(path)).await;
            }
            self.work().await;
        }
    }
}

fn kept(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).expect("a path"))
}

fn made() -> SecretRef {
    SecretRef::current(SourceId(1), BackendPath::parse("role").expect("a path"))
}

/// A runtime whose time does not pass by itself.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Pieces of an input, each after two bytes that say how long it is.
pub fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = input.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        input = rest;
        Some(piece)
    })
}

/// The other way round.
pub fn in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let length = u16::try_from(piece.len()).expect("a seed is small");
        bytes.extend(length.to_le_bytes());
        bytes.extend(piece);
    }
    bytes
}

/// A frame of a record, with its length and checksum.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let mut hasher = SipHasher13::new();
    hasher.write(body);
    let sum = hasher.finish();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let words = [length, !length, (sum ^ (sum >> 32)) as u32];
    words.iter().flat_map(|word| word.to_le_bytes()).chain(body.iter().copied()).collect()
}

/// The two files of a record, the first with these bytes.
pub fn record_of(bytes: &[u8]) -> [OwnedFd; 2] {
    let files = secretfs::record::make("fuzzed").expect("a memory file");
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&files[0], rest).expect("memory");
        rest = &rest[written..];
    }
    files
}
