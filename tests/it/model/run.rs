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
use secretfs::errno::Failure;
use secretfs::fs::{Attributes, HandleNo, Opened, SecretFs};
use secretfs::path::BackendPath;
use secretfs::tree::inode::INodeNo;
use secretfs::tree::{Tree, Trees};

use super::reference::{MAX_SIZE, NEGATIVE, Reference, TTL};
use super::{Op, Race};

/// Secrets and folders that overlap in every way.
const PATHS: [&str; 6] = ["a", "b", "a/a", "a/b", "b/a", "a/b/a"];
/// The first collides with a folder.
pub(super) const FIELDS: [&str; 2] = ["a", "k"];
/// What is looked up, the likely ones more often.
const NAMES: [&str; 12] =
    ["a", "b", "k", "a", "k", "b", ".json", ".env", ".meta", ".versions", "nothing", "%61"];

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

struct Open {
    number: HandleNo,
    ino: INodeNo,
    bytes: Vec<u8>,
    shown: Shown,
    snapshot: Weak<Snapshot>,
}

pub struct Run {
    backend: Arc<Faulty>,
    clock: Clock,
    cache: Arc<SecretCache>,
    pub(super) fs: SecretFs,
    pub(super) reference: Reference,
    puts: u64,
    pub(super) known: Vec<Known>,
    /// Every number that was ever given, for a place must keep its own.
    pub(super) numbers: HashMap<Place, INodeNo>,
    open: Vec<Open>,
    closed: Vec<HandleNo>,
    /// When a secret was last seen to be fetched: until its TTL the backend is not asked again.
    fetched: HashMap<String, Duration>,
    /// Snapshots and when they were seen.
    snapshots: Vec<(Weak<Snapshot>, Duration)>,
}

pub type Verdict = Result<(), String>;

pub(super) fn ensure(holds: bool, promise: &str) -> Verdict {
    if holds { Ok(()) } else { Err(promise.to_owned()) }
}

fn of(path: &str) -> SecretRef {
    SecretRef { source: SourceId(0), path: BackendPath::parse(path).unwrap() }
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
fn change(
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
    pub fn new() -> Self {
        let (backend, clock) = (Arc::new(Faulty::new()), Clock::manual());
        let source = Source { name: "test".into(), backend: backend.clone() };
        let limits = Limits { ttl: TTL, negative_ttl: NEGATIVE, ..Limits::default() };
        let cache = Arc::new(SecretCache::new(vec![source], limits, clock.clone()));
        let permissions = Permissions { uid: 7, gid: 8, file_mode: 0o400 };
        let trees = Trees::new(vec![Tree { at: vec![], root: of(""), permissions }]);
        let fs = SecretFs::new(trees, cache.clone(), MAX_SIZE);
        let root =
            Known { ino: INodeNo::ROOT, place: Place::Directory(String::new()), lookups: 1, told: None };
        Self {
            backend,
            clock,
            cache,
            fs,
            reference: Reference::new(),
            puts: 0,
            known: vec![root],
            numbers: HashMap::new(),
            open: vec![],
            closed: vec![],
            fetched: HashMap::new(),
            snapshots: vec![],
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
                let node = self.mostly_a_file(node);
                self.open(node).await?;
                if let Place::Field(path, _) | Place::View(path, _) = &self.known[node].place {
                    change(&self.backend, &mut self.reference, &mut self.puts, path, fields, size);
                }
                for wait in [TTL - Duration::from_millis(1), Duration::from_millis(1)] {
                    self.advance(wait);
                    self.open(node).await?;
                }
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
                self.check_erased(TTL)?;
            }
            Op::Flush => {
                self.cache.flush();
                self.fetched.clear();
                self.check_erased(Duration::ZERO)?;
            }
            Op::Race(ref race) => self.race(race).await?,
        }
        Ok(())
    }

    async fn open(&mut self, node: usize) -> Verdict {
        let (reads, is_held) = (self.backend.reads(), self.is_held(node));
        let opened = self.fs.open(self.known[node].ino).await;
        self.judge_open(node, opened, self.backend.reads() > reads, is_held).await
    }

    /// How often the backend was asked anything.
    pub(super) fn questions(&self) -> u64 {
        self.backend.reads() + self.backend.lists()
    }

    fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.reference.now += by;
        self.reference.asked = self.reference.now;
    }

    fn mostly_a_file(&self, node: usize) -> usize {
        let files: Vec<usize> = (0..self.known.len())
            .filter(|at| !matches!(self.known[*at].place, Place::Directory(_)))
            .collect();
        if files.is_empty() || node % 16 == 15 { node % self.known.len() } else { files[node % files.len()] }
    }

    /// Whether the secret is known to be in the cache now.
    fn is_held(&self, node: usize) -> bool {
        match &self.known[node].place {
            Place::Directory(_) => false,
            Place::Field(path, _) | Place::View(path, _) => {
                self.fetched.get(path).is_some_and(|fetched| self.reference.now < *fetched + TTL)
            }
        }
    }

    /// Two opens of one file at a slow backend that reads in the middle of its time; before that and after that the
    /// secret changes (or, without a field, goes) and time passes.
    async fn race(&mut self, race: &Race) -> Verdict {
        let &Race { node, before, after, fields, size, later } = race;
        let node = self.mostly_a_file(node);
        let (Place::Field(path, _) | Place::View(path, _)) = self.known[node].place.clone() else {
            return Ok(());
        };
        let (ino, reads) = (self.known[node].ino, self.backend.reads());
        let Self { backend, clock, fs, reference, puts, .. } = &mut *self;
        let asked = reference.asked;
        let mut pass = |by: u64, reference: &mut Reference| {
            clock.advance(Duration::from_millis(by));
            reference.now += Duration::from_millis(by);
        };
        let milliseconds = |count| tokio::time::sleep(Duration::from_millis(count));
        backend.delay(Duration::from_millis(10));
        let (first, second) = tokio::join!(fs.open(ino), async {
            milliseconds(2).await;
            pass(before, reference);
            change(backend, reference, puts, &path, 3, size);
            milliseconds(5).await;
            change(backend, reference, puts, &path, fields, size);
            pass(after, reference);
            milliseconds(1).await;
            fs.open(ino).await
        });
        backend.delay(Duration::ZERO);
        let (was_read, is_held) = (self.backend.reads() > reads, self.is_held(node));
        self.reference.asked = asked;
        self.judge_open(node, first, was_read, is_held).await?;
        self.judge_open(node, second, was_read, is_held).await?;
        if was_read {
            // Which of the two asked, and when, is not known.
            self.fetched.remove(&path);
        }
        let looked = asked + Duration::from_millis(before);
        if later && let Some(rest) = (looked + TTL).checked_sub(self.reference.now) {
            // From here on what the backend said then is too old.
            self.advance(rest);
            self.open(node).await?;
        }
        Ok(())
    }

    async fn judge_open(
        &mut self,
        node: usize,
        opened: Result<Opened, Failure>,
        was_read: bool,
        is_held: bool,
    ) -> Verdict {
        let asked = self.reference.asked;
        let (path, field) = match &self.known[node].place {
            Place::Directory(_) => {
                return ensure(opened.err() == Some(Failure::IsADirectory), "a directory has no bytes");
            }
            Place::Field(path, name) | Place::View(path, name) => (path.clone(), *name),
        };
        if is_held {
            ensure(!was_read, "a value within its TTL is served without asking")?;
        }
        let opened = match opened {
            Ok(opened) => opened,
            Err(Failure::TooLarge { limit }) => {
                let large = |value: &[u8]| value.len() > MAX_SIZE;
                let versions = self.reference.showable(&path);
                let is_large = versions.iter().any(|version| version.field(field).is_some_and(large));
                return ensure(limit == MAX_SIZE && is_large, "only a large value is refused as too large");
            }
            Err(failure) => {
                let outage = matches!(&failure, Failure::Backend(error) if *error != Error::NotFound);
                ensure(!(is_held && outage), "a value within its TTL is served through an outage")?;
                return self.judge_failure(&failure, self.must_open(node));
            }
        };
        let file = self.fs.opened(opened.handle).map_err(|failure| failure.to_string())?;
        let (bytes, snapshot) = (file.bytes().to_vec(), Arc::downgrade(file.snapshot()));
        drop(file);
        let fstat = self.fs.attributes(self.known[node].ino, Some(opened.handle)).await;
        let seen = shown(&fstat.map_err(|failure| failure.to_string())?);
        ensure(seen.0 == bytes.len() as u64, "fstat shows the size of what was opened")?;
        self.judge_bytes(node, &bytes, seen)?;
        if let Some(told) = self.known[node].told {
            ensure(
                opened.attributes_changed || told == seen,
                "the kernel is told when what it knows is old",
            )?;
        }
        if was_read {
            self.fetched.insert(path.clone(), asked);
        }
        self.snapshots.push((snapshot.clone(), self.reference.now));
        self.open.push(Open {
            number: opened.handle,
            ino: self.known[node].ino,
            bytes,
            shown: seen,
            snapshot,
        });
        Ok(())
    }

    /// Whether some version that may be shown has exactly these bytes.
    fn judge_bytes(&self, node: usize, bytes: &[u8], seen: Shown) -> Verdict {
        let fits = |path: &str, bytes_of: &dyn Fn(&super::reference::Version) -> bool| {
            let versions = self.reference.showable(path);
            versions.iter().any(|version| Duration::from_secs(version.number) == seen.1 && bytes_of(version))
        };
        match &self.known[node].place {
            Place::Directory(_) => Err("a directory was opened".into()),
            Place::Field(path, field) => {
                ensure(bytes.len() <= MAX_SIZE, "a value above the limit cannot be opened")?;
                let fits = fits(path, &|version| version.field(field) == Some(bytes));
                ensure(
                    fits,
                    &format!("{:?} is no value of it within the TTL", bytes.escape_ascii().to_string()),
                )
            }
            Place::View(path, ".meta") => {
                let text = String::from_utf8_lossy(bytes);
                ensure(!text.contains("canary"), ".meta holds no value")?;
                ensure(
                    fits(path, &|v| text.contains(&format!("\"version\":\"{}\"", v.number))),
                    ".meta is of a version",
                )
            }
            Place::View(path, view) => {
                let fits = fits(path, &|version| version.view(view).as_deref() == Some(bytes));
                ensure(
                    fits,
                    &format!("{:?} is no version of it within the TTL", bytes.escape_ascii().to_string()),
                )
            }
        }
    }

    pub(super) fn must_open(&self, node: usize) -> bool {
        let reference = &self.reference;
        reference.is_calm()
            && match &self.known[node].place {
                Place::Directory(_) => true,
                Place::Field(path, field) => reference.surely_has_field(path, field),
                Place::View(path, _) => reference.is_surely_there(path),
            }
    }

    pub(super) fn judge_failure(&self, failure: &Failure, must_be_found: bool) -> Verdict {
        match failure {
            Failure::NoEntry | Failure::Backend(Error::NotFound) => {
                ensure(!must_be_found, "what is there is found within the negative TTL")
            }
            Failure::Backend(error) => {
                ensure(self.reference.excuses(error), &format!("`{error}` is not what the backend says"))
            }
            other => Err(format!("an error that nothing explains: {other:?}")),
        }
    }

    fn read(&self, handle: usize, offset: u64, size: usize) -> Verdict {
        for number in &self.closed {
            let gone = self.fs.opened(*number).err() == Some(Failure::BadHandle);
            ensure(gone, "a closed handle is never another file's")?;
        }
        let Some(open) = (!self.open.is_empty()).then(|| &self.open[handle % self.open.len()]) else {
            return Ok(());
        };
        let file = self.fs.opened(open.number).map_err(|failure| failure.to_string())?;
        let start = usize::try_from(offset).unwrap().min(open.bytes.len());
        let end = (start + size).min(open.bytes.len());
        ensure(file.read(offset, size) == &open.bytes[start..end], "an open file keeps its version")
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
        self.check_counts()?;
        self.advance(TTL);
        self.cache.sweep(self.clock.now());
        self.check_erased(TTL)?;
        ensure(self.snapshots.is_empty(), "no value outlives its use")
    }
}
