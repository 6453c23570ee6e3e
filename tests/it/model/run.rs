//! Owns one life: does what an operation says to the filesystem and to the reference, and compares.
//! Does not know what may be answered; the reference does.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use secretfs::access::Permissions;
use secretfs::backend::Error;
use secretfs::backend::faulty::Faulty;
use secretfs::cache::{Limits, SecretCache, SecretRef, Snapshot, Source, SourceId};
use secretfs::clock::Clock;
use secretfs::freshness::Freshness;
use secretfs::fs::{Attributes, HandleNo, SecretFs};
use secretfs::path::BackendPath;
use secretfs::tree::inode::INodeNo;
use secretfs::tree::{Tree, Trees};

use super::Op;
use super::pairs::Readers;
use super::reference::{MAX_SIZE, NEGATIVE, Reference, TTL};

/// Secrets and folders that overlap in every way.
pub(super) const PATHS: [&str; 6] = ["a", "b", "a/a", "a/b", "b/a", "a/b/a"];
/// The first collides with a folder.
pub(super) const FIELDS: [&str; 2] = ["a", "k"];
/// What is looked up, the likely ones more often.
const NAMES: [&str; 12] =
    ["a", "b", "k", "a", "k", "b", ".json", ".env", ".meta", ".previous", "nothing", "%61"];

fn errors() -> [Error; 8] {
    [
        Error::NotFound,
        Error::Forbidden,
        Error::Refused("by rule".into()),
        Error::Unreachable("down".into()),
        Error::Status(503),
        Error::Malformed("half"),
        Error::TooLarge { limit: 7 },
        Error::TimedOut(Duration::from_secs(5)),
    ]
}

/// What a path of the mount stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Directory(String),
    Field(String, &'static str),
    View(String, &'static str),
}

/// What stat(2) shows of a version: size, and its number as the time of change.
pub(super) type Shown = (u64, Duration);

pub(super) struct Known {
    pub(super) ino: INodeNo,
    pub(super) place: Place,
    pub(super) lookups: u64,
    pub(super) told: Option<Shown>,
}

pub(super) struct Open {
    pub(super) number: HandleNo,
    pub(super) ino: INodeNo,
    pub(super) bytes: Vec<u8>,
    pub(super) shown: Shown,
    pub(super) snapshot: Weak<Snapshot>,
}

pub struct Run {
    pub(super) backend: Arc<Faulty>,
    pub(super) clock: Clock,
    pub(super) cache: Arc<SecretCache>,
    pub(super) fs: SecretFs,
    pub(super) reference: Reference,
    pub(super) puts: u64,
    pub(super) known: Vec<Known>,
    /// Every number that was ever given, for a place must keep its own.
    pub(super) numbers: HashMap<Place, INodeNo>,
    pub(super) open: Vec<Open>,
    pub(super) closed: Vec<HandleNo>,
    /// Whether the cache may let go of anything at any time.
    pub(super) evicts: bool,
    /// When a secret was last seen to be fetched: until its TTL the backend is not asked again.
    pub(super) fetched: HashMap<String, Duration>,
    /// Snapshots and when they were seen.
    pub(super) snapshots: Vec<(Weak<Snapshot>, Duration)>,
    pub(super) readers: Readers,
}

pub type Verdict = Result<(), String>;

pub(super) fn ensure(holds: bool, promise: &str) -> Verdict {
    if holds { Ok(()) } else { Err(promise.to_owned()) }
}

pub(super) fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

pub(super) fn shown(attributes: &Attributes) -> Shown {
    (attributes.size, attributes.mtime.duration_since(UNIX_EPOCH).unwrap())
}

/// A new version of a secret, whose every value says whose it is.
fn put(backend: &Faulty, reference: &mut Reference, puts: &mut u64, path: &str, fields: usize, size: usize) {
    *puts += 1;
    let value = |field: &str| {
        let text = format!("canary:{path}:{field}:{puts}:{}", "x".repeat(size));
        text.as_bytes()[..size].to_vec()
    };
    let present = FIELDS.iter().enumerate().filter(|(bit, _)| fields >> bit & 1 == 1);
    let fields: Vec<_> = present.map(|(_, field)| ((*field).to_owned(), value(field))).collect();
    let given: Vec<(&str, &[u8])> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    backend.put(path, &given);
    reference.put(path, fields);
}

/// As [`put`]; without a field the secret goes.
pub(super) fn change(
    backend: &Faulty,
    reference: &mut Reference,
    puts: &mut u64,
    path: &str,
    fields: usize,
    size: usize,
) {
    if fields == 0 {
        backend.delete(path);
        reference.delete(path);
    } else {
        put(backend, reference, puts, path, fields, size);
    }
}

impl Run {
    pub fn new(max_stale: Duration, room: u64) -> Self {
        let (backend, clock) = (Arc::new(Faulty::new()), Clock::manual());
        let source = Source { name: "test".into(), backend: backend.clone() };
        let limits = Limits {
            freshness: Freshness { ttl: TTL, negative_ttl: NEGATIVE, max_stale },
            max_bytes: room,
            ..Limits::default()
        };
        let cache = Arc::new(SecretCache::new(vec![source], limits, clock.clone()));
        let permissions = Permissions { uid: 7, gid: 8, file_mode: 0o400 };
        let trees = Trees::new(vec![Tree::of_place(vec![], of(""), permissions)]);
        let fs = SecretFs::new(trees, cache.clone(), MAX_SIZE);
        let root =
            Known { ino: INodeNo::ROOT, place: Place::Directory(String::new()), lookups: 1, told: None };
        Self {
            backend,
            clock,
            cache,
            fs,
            reference: Reference::new(max_stale),
            puts: 0,
            known: vec![root],
            numbers: HashMap::new(),
            open: vec![],
            closed: vec![],
            evicts: room < 1 << 20,
            fetched: HashMap::new(),
            snapshots: vec![],
            readers: Readers::default(),
        }
    }

    /// Does one thing, and judges the answer.
    pub async fn apply(&mut self, op: &Op) -> Verdict {
        self.reference.asked = self.reference.now;
        match *op {
            Op::Put { path, fields, size } => {
                let path = PATHS[path % PATHS.len()];
                put(&self.backend, &mut self.reference, &mut self.puts, path, fields, size);
            }
            Op::Delete { path } => {
                self.backend.delete(PATHS[path % PATHS.len()]);
                self.reference.delete(PATHS[path % PATHS.len()]);
            }
            Op::Lookup { node, name } => {
                self.look_up(node % self.known.len(), NAMES[name % NAMES.len()]).await?;
            }
            Op::Walk { ref names } => {
                let mut node = Some(0);
                for name in names {
                    let Some(at) = node else { break };
                    node = self.look_up(at, NAMES[name % NAMES.len()]).await?;
                }
            }
            Op::Open { node } => {
                let node = self.mostly_a_file(node);
                self.open(node).await?;
            }
            Op::Age { node, fields, size } => {
                self.age(node, fields, size).await?;
            }
            Op::Read { handle, offset, size } => self.read(handle, offset, size)?,
            Op::Release { handle } => {
                if !self.open.is_empty() {
                    let open = self.open.swap_remove(handle % self.open.len());
                    ensure(self.fs.release(open.number).is_some(), "an open file can be closed")?;
                    ensure(self.fs.release(open.number).is_none(), "and that once")?;
                    self.closed.push(open.number);
                }
            }
            Op::List { node, plus } => self.list(node % self.known.len(), plus).await?,
            Op::Attributes { node } => self.attributes(node % self.known.len()).await?,
            Op::AttributesOfHandle { handle } => {
                if let Some(open) = (!self.open.is_empty()).then(|| &self.open[handle % self.open.len()])
                    && self.known.iter().any(|known| known.ino == open.ino)
                {
                    let found = self.fs.attributes(open.ino, Some(open.number)).await;
                    let found = found.map_err(|failure| format!("fstat of an open file: {failure}"))?;
                    ensure(shown(&found) == open.shown, "fstat shows the version that was opened")?;
                    let (ino, seen) = (open.ino, open.shown);
                    for known in self.known.iter_mut().filter(|known| known.ino == ino) {
                        known.told = Some(seen);
                    }
                }
            }
            Op::Forget { node, lookups } => self.forget(node % self.known.len(), lookups).await?,
            Op::Fail { error } => {
                let error = errors()[error % errors().len()].clone();
                self.backend.fail_with(Some(error.clone()));
                self.reference.fail_with(Some(error));
            }
            Op::Heal => {
                self.backend.fail_with(None);
                self.reference.fail_with(None);
            }
            Op::ForbidListing(forbidden) => {
                if forbidden {
                    self.backend.forbid_listing()
                } else {
                    self.backend.allow_listing()
                }
                self.reference.forbid_listing(forbidden);
            }
            Op::Advance { millis } => self.advance(Duration::from_millis(millis)),
            Op::Sweep => {
                self.cache.sweep(self.clock.now());
                self.fs.sweep_pins(self.clock.now());
                self.check_erased(TTL + self.reference.max_stale)?;
            }
            Op::Refresh => {
                self.cache.sweep(self.clock.now());
                for job in self.cache.take_jobs() {
                    self.cache.refresh_ahead(&job).await;
                    // A "no" may have taken the place of what was held.
                    self.fetched.clear();
                }
                self.cache.drop_emptied().await;
            }
            Op::Flush => {
                self.fs.flush();
                self.unpin_all();
                self.fetched.clear();
                self.check_erased(Duration::ZERO)?;
            }
            Op::Race(ref race) => self.race(race).await?,
            Op::OpenBy { node, thread } => {
                let node = self.mostly_a_file(node);
                self.open_by(node, thread).await?;
            }
            Op::Pair(ref pair) => self.pair(pair).await?,
            Op::Hold { node, thread } => self.hold(node % self.known.len(), thread).await,
            Op::LetGo { which } => self.let_go_of_directory(which),
            Op::OlderVersion { path, number, file } => self.older_version(path, number, file).await?,
        }
        Ok(())
    }

    /// How often the backend was asked anything.
    pub(super) fn questions(&self) -> u64 {
        self.backend.reads() + self.backend.lists()
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.reference.now += by;
        self.reference.asked = self.reference.now;
    }

    /// A snapshot that was seen `age` ago or earlier, and that no open file has, is erased by now.
    fn check_erased(&mut self, age: Duration) -> Verdict {
        let due = |seen: Duration| seen + age <= self.reference.now;
        for (snapshot, seen) in &self.snapshots {
            if due(*seen) && snapshot.strong_count() > 0 {
                let is_open = self.open.iter().any(|open| open.snapshot.ptr_eq(snapshot));
                ensure(is_open, "a value is erased at its deadline")?;
            }
        }
        self.snapshots.retain(|(snapshot, _)| snapshot.strong_count() > 0);
        Ok(())
    }

    /// The kernel's counts and ours agree.
    pub fn check_counts(&self) -> Verdict {
        let (inodes, handles) = self.fs.in_use();
        ensure(inodes == self.known.len(), "as many inodes as were looked up and not forgotten")?;
        ensure(handles == self.open.len(), "as many handles as were opened and not closed")
    }

    /// Closes, forgets, and lets the TTL pass: nothing may be left.
    pub fn let_go(&mut self) -> Verdict {
        for open in std::mem::take(&mut self.open) {
            self.fs.release(open.number);
        }
        for known in self.known.drain(1..) {
            self.fs.forget(known.ino, known.lookups);
        }
        self.let_go_of_directories();
        self.check_counts()?;
        let longest = TTL + self.reference.max_stale;
        self.advance(longest);
        self.cache.sweep(self.clock.now());
        ensure(self.fs.sweep_pins(self.clock.now()).is_none(), "no pin outlives its version")?;
        self.check_erased(longest)?;
        ensure(self.cache.held().is_empty(), "what nobody uses is erased at its end")?;
        ensure(self.snapshots.is_empty(), "no value outlives its use")
    }
}
