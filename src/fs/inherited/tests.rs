//! Owns the tests of files that are open across the death of a worker: the same bytes or stale, and nothing else ever.
//! Does not know a kernel: the filesystem is driven as the adapter drives it, and the next worker made as a kill leaves it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::access::Permissions;
use crate::backend::faulty::Faulty;
use crate::backend::mint::{Mint, Role};
use crate::backend::{Backend, Error};
use crate::cache::{Limits, SecretCache, Source, SourceId};
use crate::clock::Clock;
use crate::fs::Caller;
use crate::leases::Leases;
use crate::path::BackendPath;
use crate::tree::journal::{Journal, Refused};
use crate::tree::{Tree, Trees};

/// A mount whose worker may be killed.
pub(in crate::fs) struct Mount<B> {
    pub(in crate::fs) backend: Arc<B>,
    clock: Clock,
    files: [OwnedFd; 2],
    configuration: u8,
    leases: Arc<Leases>,
    pub(in crate::fs) fs: SecretFs,
}

fn worker<B: Backend>(
    backend: &Arc<B>,
    clock: &Clock,
    files: &[OwnedFd; 2],
    configuration: u8,
) -> (SecretFs, Arc<Leases>, Result<(), Refused>) {
    let source = Source { name: "test".into(), backend: backend.clone() };
    let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), clock.clone()));
    let root = SecretRef::current(SourceId(0), BackendPath::root());
    let tree = Tree::of_place(vec!["all".into()], root, Permissions { uid: 7, gid: 8, file_mode: 0o400 });
    let leases = Arc::new(Leases::plain(cache.clone()));
    let files = files.each_ref().map(|file| file.try_clone().unwrap());
    let (journal, refused) = Journal::open(files, [configuration; 32]);
    let fs = SecretFs::new(Trees::new(vec![tree]), cache, 1024);
    (fs.with_leases(leases.clone()).with_journal(journal), leases, refused)
}

impl<B: Backend> Mount<B> {
    fn new(backend: B, clock: Clock) -> Self {
        let (backend, files) = (Arc::new(backend), Journal::make().unwrap());
        clock.advance(Duration::from_secs(1000));
        let (fs, leases, refused) = worker(&backend, &clock, &files, 0);
        assert_eq!(refused, Ok(()));
        Self { backend, clock, files, configuration: 0, leases, fs }
    }

    /// Another worker takes over, with nothing but what the holder has kept.
    pub(in crate::fs) fn kill(&mut self) {
        let refused;
        (self.fs, self.leases, refused) = worker(&self.backend, &self.clock, &self.files, self.configuration);
        assert_eq!(refused, Ok(()));
    }

    /// The same with another configuration.
    fn kill_and_refuse(&mut self) {
        self.configuration += 1;
        let refused;
        (self.fs, self.leases, refused) = worker(&self.backend, &self.clock, &self.files, self.configuration);
        assert_eq!(refused, Err(Refused::Fingerprint));
    }

    pub(in crate::fs) async fn walk(&self, path: &str) -> Result<INodeNo, Failure> {
        let mut at = INodeNo::ROOT;
        for name in path.split('/') {
            at = self.fs.lookup(at, OsStr::new(name)).await?.ino;
        }
        Ok(at)
    }

    pub(in crate::fs) async fn open(&self, path: &str) -> (INodeNo, HandleNo) {
        let ino = self.walk(path).await.unwrap();
        (ino, self.fs.open(ino, Caller(0)).await.unwrap().handle)
    }

    async fn read(&self, (ino, handle): (INodeNo, HandleNo)) -> Result<Vec<u8>, Failure> {
        let file = match self.fs.opened_at_once(ino, handle) {
            Some(file) => file?,
            None => self.fs.inherit(ino, handle).await?,
        };
        Ok(file.read(0, usize::MAX).to_vec())
    }
}

pub(in crate::fs) fn kept() -> Mount<Faulty> {
    Mount::new(Faulty::new(), Clock::manual())
}

#[tokio::test]
async fn what_a_former_worker_has_told_the_kernel_is_cut_by_nobody_and_told_anew_to_whoever_opens() {
    let mut mount = kept();
    mount.backend.put("a", &[("k", b"canary-value"), ("other", b"canary")]);
    let k = mount.open("all/a/k").await.0;
    let other = mount.walk("all/a/other").await.unwrap();
    mount.kill();
    assert_eq!(mount.fs.known(k).unwrap().attributes.size, 12, "somebody may have mapped it");
    assert_eq!(mount.fs.known(other), None, "nobody knows what the kernel was told");
    let opened = mount.fs.open(k, Caller(0)).await.unwrap();
    assert!(opened.attributes_changed && opened.grown.is_none());
    mount.walk("all/a/k").await.unwrap();
    assert!(!mount.fs.open(k, Caller(0)).await.unwrap().attributes_changed, "it was told since");
}

#[tokio::test]
async fn an_open_file_has_the_same_bytes_after_a_kill_whether_it_was_rotated_or_not() {
    let mut mount = kept();
    mount.backend.put("a", &[("k", b"canary-1"), ("other", b"canary")]);
    let (file, view) = (mount.open("all/a/k").await, mount.open("all/a/.json").await);
    let root = mount.fs.attributes(INodeNo::ROOT, None).await;
    mount.kill();
    assert_eq!(mount.fs.attributes(INodeNo::ROOT, None).await, root, "its times too");
    assert_eq!(mount.read(file).await.unwrap(), b"canary-1");
    assert_eq!(mount.walk("all/a/k").await.unwrap(), file.0);
    mount.backend.put("a", &[("k", b"canary-2")]);
    mount.clock.advance(Duration::from_secs(3600));
    mount.kill();
    let reads = mount.backend.reads();
    assert_eq!(mount.read(file).await.unwrap(), b"canary-1");
    assert_eq!(mount.read(view).await.unwrap(), b"{\"k\":\"canary-1\",\"other\":\"canary\"}\n");
    assert_eq!(mount.backend.reads(), reads + 2, "the newest, and the one that was opened");
    assert_eq!(mount.fs.attributes(file.0, Some(file.1)).await.unwrap().size, 8);
    let (_, new) = mount.open("all/a/k").await;
    assert_eq!(mount.read((file.0, new)).await.unwrap(), b"canary-2");
    assert!(!mount.fs.is_inherited(new) && mount.fs.is_inherited(file.1));
    assert_eq!(mount.read(file).await.unwrap(), b"canary-1", "it is kept");
    assert_eq!(mount.backend.reads(), reads + 2);
    assert_eq!(mount.fs.release(file.1).unwrap().bytes(), b"canary-1");
    assert!(mount.fs.release(view.1).is_some() && mount.fs.release(view.1).is_none());
}

#[tokio::test]
async fn in_an_outage_it_is_the_outage_that_is_told_and_a_later_read_has_the_bytes() {
    let mut mount = kept();
    mount.backend.put("a", &[("k", b"canary-1")]);
    let file = mount.open("all/a/k").await;
    mount.kill();
    mount.backend.fail_with(Some(Error::Status(503)));
    assert_eq!(mount.read(file).await, Err(Failure::Backend(Error::Status(503))));
    let attributes = mount.fs.attributes(file.0, Some(file.1)).await;
    assert_eq!(attributes, Err(Failure::Backend(Error::Status(503))));
    mount.backend.fail_with(None);
    mount.clock.advance(Duration::from_secs(60));
    assert_eq!(mount.read(file).await.unwrap(), b"canary-1");
}

#[tokio::test]
async fn what_is_not_certain_is_stale() {
    let mut mount = kept();
    mount.backend.put("a", &[("k", b"canary-1")]);
    mount.backend.put("b", &[("k", b"canary-b")]);
    let (a, b, meta) =
        (mount.open("all/a/k").await, mount.open("all/b/k").await, mount.open("all/a/.meta").await);
    let stale = Err(Failure::Stale);
    assert_eq!(mount.read((a.0, b.1)).await, Err(Failure::BadHandle), "a handle is of one file");
    mount.kill();
    assert_eq!(mount.read(meta).await, stale, "it told a time");
    assert_eq!(mount.read((a.0, b.1)).await, stale);
    assert_eq!(mount.read((a.0, HandleNo(a.1.0 ^ 1 << 63))).await, stale, "there is no such edition");
    assert_eq!(mount.read((INodeNo(77), a.1)).await, Err(Failure::BadHandle));
    assert_eq!(mount.read((a.0, HandleNo(0))).await, Err(Failure::BadHandle));
    mount.backend.fail_path("a", Some(Error::Forbidden));
    assert_eq!(mount.read(a).await, stale, "it may not be read any more");
    mount.backend.fail_path("a", None);
    mount.backend.delete("b");
    assert_eq!(mount.read(b).await, stale);
    // Another secret in its place.
    mount.backend.put("b", &[("k", b"canary-other")]);
    mount.clock.advance(Duration::from_secs(3600));
    assert_eq!(mount.read(b).await, stale, "its size is another");
    mount.kill_and_refuse();
    assert_eq!(mount.read(a).await, Err(Failure::BadHandle));
    assert_eq!(Failure::BadHandle.errno().name(), "ESTALE");
    assert!(mount.fs.release(a.1).is_none());
}

#[tokio::test]
async fn an_older_version_by_name_is_found_again_too() {
    let mut mount = kept();
    mount.backend.put("a", &[("k", b"canary-1")]);
    mount.backend.put("a", &[("k", b"canary-2")]);
    let file = mount.open("all/a/.versions/1/k").await;
    mount.kill();
    assert_eq!(mount.read(file).await.unwrap(), b"canary-1");
}

#[tokio::test]
async fn a_lease_is_stale_after_a_kill_and_watching_its_file_makes_none() {
    let clock = Clock::manual();
    let mut mount = Mount::new(Mint::new(clock.clone()), clock);
    let role = Role { fields: vec!["password".to_owned()], ..Role::default() };
    mount.backend.role("app", role);
    let ino = mount.walk("all/app/password").await.unwrap();
    let opening = mount.fs.open(ino, Caller(0));
    let handle = crate::leases::tests::run(&mount.leases, opening).await.unwrap().handle;
    mount.kill();
    mount.fs.note_watched([ino]);
    assert_eq!(mount.read((ino, handle)).await, Err(Failure::Stale));
    assert!(mount.fs.cache.held().is_empty());
    let known = mount.fs.node(ino).unwrap();
    assert!(mount.fs.is_known_on_demand(known.place.shown().unwrap().0), "it is known before anybody asks");
}

const PATHS: [&str; 3] = ["a", "b", "team/c"];
const NAMES: [&str; 4] = ["user", "password", ".json", ".meta"];

#[derive(Debug, Clone)]
enum Op {
    Put { path: usize, size: usize },
    Open { path: usize, name: usize },
    Read { handle: usize },
    Attributes { handle: usize },
    Release { handle: usize },
    Advance { seconds: u64 },
    Fail(bool),
    Deny { path: usize, denied: bool },
    Kill,
    KillAndRefuse,
}

fn op() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    let handle = || 0..64_usize;
    prop_oneof![
        4 => (path(), 0..3_usize).prop_map(|(path, size)| Op::Put { path, size }),
        6 => (path(), 0..NAMES.len()).prop_map(|(path, name)| Op::Open { path, name }),
        8 => handle().prop_map(|handle| Op::Read { handle }),
        2 => handle().prop_map(|handle| Op::Attributes { handle }),
        2 => handle().prop_map(|handle| Op::Release { handle }),
        2 => prop_oneof![Just(1), Just(60), Just(3600)].prop_map(|seconds| Op::Advance { seconds }),
        1 => any::<bool>().prop_map(Op::Fail),
        1 => (path(), any::<bool>()).prop_map(|(path, denied)| Op::Deny { path, denied }),
        4 => Just(Op::Kill),
        1 => Just(Op::KillAndRefuse),
    ]
}

/// A file that some program has open.
#[derive(Debug, Clone)]
struct Open {
    at: (INodeNo, HandleNo),
    path: usize,
    name: usize,
    bytes: Vec<u8>,
    /// Whether its worker is gone, and whether the journal has been refused since.
    inherited: bool,
    refused: bool,
}

async fn live(ops: Vec<Op>) {
    let mut mount = kept();
    let (mut count, mut failing, mut denied) = (0, false, [false; PATHS.len()]);
    let mut put = |mount: &Mount<Faulty>, path: usize, size: usize| {
        count += 1;
        let value = |name: &str| format!("canary-{name}-{path}-{count:04}{}", "x".repeat(size)).into_bytes();
        mount.backend.put(PATHS[path], &[("user", &value("u")), ("password", &value("p"))]);
    };
    (0..PATHS.len()).for_each(|path| put(&mount, path, 0));
    let mut numbers = std::collections::HashMap::new();
    let mut open: Vec<Open> = Vec::new();
    for op in ops {
        match op {
            Op::Put { path, size } => put(&mount, path, size),
            Op::Advance { seconds } => mount.clock.advance(Duration::from_secs(seconds)),
            Op::Fail(fails) => {
                failing = fails;
                mount.backend.fail_with(fails.then_some(Error::Status(503)));
                mount.clock.advance(Duration::from_secs(60));
            }
            Op::Deny { path, denied: is_denied } => {
                denied[path] = is_denied;
                mount.backend.fail_path(PATHS[path], is_denied.then_some(Error::Forbidden));
            }
            Op::Kill => {
                mount.kill();
                open.iter_mut().for_each(|open| open.inherited = true);
            }
            Op::KillAndRefuse => {
                mount.kill_and_refuse();
                numbers.clear();
                open.iter_mut().for_each(|open| (open.inherited, open.refused) = (true, true));
            }
            Op::Open { path, name } => {
                let Ok(ino) = mount.walk(&format!("all/{}/{}", PATHS[path], NAMES[name])).await else {
                    continue;
                };
                assert_eq!(*numbers.entry((path, name)).or_insert(ino), ino, "a file keeps its number");
                let Ok(opened) = mount.fs.open(ino, Caller(0)).await else { continue };
                let at = (ino, opened.handle);
                assert!(open.iter().all(|other| other.at.1 != at.1), "two open files have one handle");
                let bytes = mount.read(at).await.unwrap();
                open.push(Open { at, path, name, bytes, inherited: false, refused: false });
            }
            Op::Read { handle } if !open.is_empty() => {
                let at = handle % open.len();
                let file = open[at].clone();
                let other = &open[(at + 1) % open.len()];
                if other.at.0 != file.at.0 {
                    let mixed = mount.read((other.at.0, file.at.1)).await;
                    assert!(mixed.is_err(), "a handle opens no other file: {file:?} {other:?}");
                }
                match mount.read(file.at).await {
                    Ok(bytes) => assert_eq!(bytes, file.bytes, "{file:?}"),
                    Err(Failure::Stale | Failure::BadHandle) => {
                        let excused = file.refused || denied[file.path] || NAMES[file.name] == ".meta";
                        // Whoever was answered in an outage or a denial may be answered so for a while.
                        assert!(file.inherited && excused, "{file:?}");
                    }
                    Err(Failure::Backend(_)) => assert!(file.inherited && failing, "{file:?}"),
                    Err(other) => panic!("{other:?} of {file:?}"),
                }
            }
            Op::Attributes { handle } if !open.is_empty() => {
                let file = &open[handle % open.len()];
                if let Ok(seen) = mount.fs.attributes(file.at.0, Some(file.at.1)).await {
                    assert_eq!((seen.ino, seen.size), (file.at.0, file.bytes.len() as u64));
                }
            }
            Op::Release { handle } if !open.is_empty() => {
                let at = handle % open.len();
                let file = open.swap_remove(at);
                mount.fs.release(file.at.1);
                let again = mount.fs.opened_at_once(file.at.0, file.at.1);
                assert!(!matches!(again, Some(Ok(_))), "what is closed is not open");
            }
            Op::Read { .. } | Op::Attributes { .. } | Op::Release { .. } => {}
        }
        if matches!(op, Op::Deny { denied: false, .. }) {
            // What was denied is believed for a while.
            mount.clock.advance(Duration::from_secs(60));
        }
    }
}

proptest! {
    #[test]
    fn every_read_has_the_bytes_that_were_opened_or_is_stale(ops in prop::collection::vec(op(), 1..100)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(ops));
    }
}
