//! Owns the promises to threads that read several files of a secret, and to whoever reads an older version by its name.
//! Does not know how they are kept: it has the rule of docs/semantics.md, "Pairs", and the history.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use secretfs::cache::Snapshot;
use secretfs::clock::Moment;
use secretfs::errno::Failure;
use secretfs::fs::{Attributes, Caller, DirListing, Kind, Opened, PAIR_WINDOW};
use secretfs::tree::inode::INodeNo;

use super::reference::MAX_SIZE;
use super::run::{Open, PATHS, Place, Run, Verdict, change, ensure, of, shown};

/// Threads that read, beside the one that cannot be seen.
const THREADS: u32 = 3;
/// Files of a secret, the fields more often.
const FILES: [&str; 7] = ["a", "k", "a", "k", ".json", ".env", ".meta"];

/// Reads of two files of one secret by one thread, and a change between them.
#[derive(Debug, Clone)]
pub struct Pair {
    pub path: usize,
    pub thread: usize,
    pub files: (usize, usize),
    /// As in a put; without a field the secret goes.
    pub fields: usize,
    pub size: usize,
    /// Milliseconds between the change and the second file.
    pub wait: u64,
    /// Whether the change is known by then.
    pub known: bool,
    /// Whether the thread opens the directory first.
    pub hold: bool,
}

/// What threads have read.
#[derive(Default)]
pub struct Readers {
    readers: HashMap<(u32, &'static str), Reader>,
    holds: Vec<(u32, &'static str, Duration, DirListing)>,
}

#[derive(Default)]
struct Reader {
    pin: Option<Pin>,
    /// When it last opened something while it was not known what it is pinned to.
    unsure: Option<Duration>,
}

struct Pin {
    version: u64,
    names: BTreeSet<String>,
    opened: BTreeSet<&'static str>,
    last: &'static str,
    since: Duration,
    expires: Moment,
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Newest,
    Older(u64),
    Either,
}

impl Readers {
    /// Since when a thread holds the directory without a break.
    fn held_since(&self, thread: u32, path: &str) -> Option<Duration> {
        let own = self.holds.iter().filter(|(by, at, ..)| (*by, *at) == (thread, path));
        own.map(|(.., since, _)| *since).min()
    }

    /// Nothing is known any more of what is pinned: something may have ended it.
    fn doubt(&mut self, now: Duration, which: impl Fn(&str) -> bool) {
        for ((_, path), reader) in &mut self.readers {
            if which(path) && (reader.pin.is_some() || reader.unsure.is_some()) {
                *reader = Reader { pin: None, unsure: Some(now) };
            }
        }
    }
}

impl Run {
    /// A thread opens a file: the newest version, or the one that it is reading.
    pub(super) async fn open_by(&mut self, node: usize, thread: usize) -> Verdict {
        if self.evicts {
            // What is newest cannot be asked for without a chance that the open finds another.
            return self.open(node).await;
        }
        let thread = u32::try_from(thread).unwrap() % THREADS + 1;
        let place = self.known[node].place.clone();
        let (Place::Field(path, name) | Place::View(path, name)) = place else {
            return self.open(node).await;
        };
        let path = PATHS.into_iter().find(|known| *known == path).unwrap();
        let reads = self.backend.reads();
        let newest = self.cache.secret(&of(path)).await;
        if newest.is_ok() && self.backend.reads() > reads && !self.reference.is_failing() {
            self.fetched.insert(path.to_owned(), self.reference.asked);
        }
        let opened = self.fs.open(self.known[node].ino, Caller(thread)).await;
        let newest = match newest {
            Ok(newest) => newest,
            Err(error) => {
                if error.is_answer() {
                    self.readers.doubt(self.reference.now, |of| of == path);
                }
                return ensure(
                    opened.is_err(),
                    "what the backend denies or cannot say is not served from a pin",
                );
            }
        };
        let expected = self.expected(thread, path, name, &newest);
        self.judge_by(node, opened, &newest, &expected).map_err(|broken| {
            format!(
                "thread {thread}, {path}/{name}, newest {}, {expected:?}: {broken}",
                newest.secret.version
            )
        })
    }

    /// What the rule says, and notes that it happened.
    fn expected(
        &mut self,
        thread: u32,
        path: &'static str,
        name: &'static str,
        newest: &Arc<Snapshot>,
    ) -> Expected {
        let now = self.reference.now;
        let held = self.readers.held_since(thread, path);
        let reader = self.readers.readers.entry((thread, path)).or_default();
        if name == ".meta" {
            return Expected::Newest;
        }
        if reader.unsure.is_some_and(|last| held.is_none() && now >= last + PAIR_WINDOW) {
            reader.unsure = None;
        }
        let covers = |pin: &Pin| held.is_some_and(|held| pin.since >= held);
        let ended = |pin: &mut Pin| {
            self.clock.now() >= pin.expires || (!covers(pin) && now >= pin.since + PAIR_WINDOW)
        };
        reader.pin.take_if(ended);
        let denied = |pin: &Pin| self.reference.may_have_been_denied(path, pin.since);
        if reader.unsure.is_some() || reader.pin.as_ref().is_some_and(denied) {
            *reader = Reader { pin: None, unsure: Some(now) };
            return Expected::Either;
        }
        let version: u64 = newest.secret.version.as_str().parse().unwrap();
        let names: BTreeSet<String> = newest.secret.fields.iter().map(|field| field.name.clone()).collect();
        let is_view = name.starts_with('.');
        match &mut reader.pin {
            Some(pin) if pin.version == version => {
                if is_view || names.contains(name) {
                    if pin.opened.contains(name) && pin.last != name {
                        pin.opened.clear();
                    }
                    pin.opened.insert(name);
                    (pin.last, pin.since, pin.expires) = (name, now, newest.served_until);
                }
                return Expected::Newest;
            }
            Some(pin) if (is_view || pin.names.contains(name)) && !pin.opened.contains(name) => {
                pin.opened.insert(name);
                pin.last = name;
                return Expected::Older(pin.version);
            }
            _ => {}
        }
        if is_view || names.contains(name) {
            let pins = names.len() > 1;
            let (opened, expires) = (BTreeSet::from([name]), newest.served_until);
            reader.pin = pins.then_some(Pin { version, names, opened, last: name, since: now, expires });
        }
        Expected::Newest
    }

    fn judge_by(
        &mut self,
        node: usize,
        opened: Result<Opened, Failure>,
        newest: &Arc<Snapshot>,
        expected: &Expected,
    ) -> Verdict {
        let (Place::Field(path, name) | Place::View(path, name)) = self.known[node].place.clone() else {
            return Ok(());
        };
        let number: u64 = newest.secret.version.as_str().parse().unwrap();
        let may_be = |version: u64| match expected {
            Expected::Newest => version == number,
            Expected::Older(older) => version == *older,
            Expected::Either => true,
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(Failure::NoEntry) => {
                let absent = !name.starts_with('.') && newest.secret.field(name).is_none();
                return ensure(
                    absent && *expected != Expected::Older(number),
                    "a field that is there is opened",
                )
                .and(ensure(!matches!(expected, Expected::Older(_)), "the older version has it"));
            }
            Err(Failure::TooLarge { .. }) => {
                let large = |version: u64| {
                    let ever = self.reference.ever(&path, version);
                    ever.iter().any(|version| version.field(name).is_some_and(|value| value.len() > MAX_SIZE))
                };
                let some = (1..=number.max(9)).any(|version| may_be(version) && large(version));
                return ensure(some, "only a large value is refused as too large");
            }
            Err(failure) => return Err(format!("what can be served is served: {failure}")),
        };
        let file = self.fs.opened(opened.handle).map_err(|failure| failure.to_string())?;
        let version: u64 = file.snapshot().secret.version.as_str().parse().unwrap();
        let (bytes, snapshot) = (file.bytes().to_vec(), Arc::downgrade(file.snapshot()));
        ensure(self.clock.now() < file.snapshot().served_until, "an expired version is not opened")?;
        ensure(may_be(version), &format!("it is version {version}"))?;
        let fits = |version: &super::reference::Version| match name.starts_with('.') {
            true => name == ".meta" || version.view(name).as_deref() == Some(&*bytes),
            false => version.field(name) == Some(&*bytes),
        };
        ensure(
            self.reference.ever(&path, version).iter().any(|version| fits(version)),
            "bytes of that version",
        )?;
        drop(file);
        let seen = Duration::from_secs(version);
        let shown_now = (bytes.len() as u64, seen);
        if let Some(told) = self.known[node].told {
            ensure(
                opened.attributes_changed || told == shown_now,
                "the kernel is told when what it knows is old",
            )?;
        }
        self.snapshots.push((snapshot.clone(), self.reference.now));
        let (number, ino) = (opened.handle, self.known[node].ino);
        self.open.push(Open { number, ino, bytes, shown: shown_now, snapshot });
        Ok(())
    }

    /// Two files, and the first once more: what a thread in a loop does.
    pub(super) async fn pair(&mut self, pair: &Pair) -> Verdict {
        if self.evicts {
            return Ok(());
        }
        let path = PATHS[pair.path % PATHS.len()];
        let thread = u32::try_from(pair.thread).unwrap() % THREADS + 1;
        let mut directory = 0;
        for name in path.split('/') {
            let Some(found) = self.look_up(directory, name).await? else { return Ok(()) };
            directory = found;
        }
        if pair.hold {
            self.hold(directory, pair.thread).await;
        }
        let files = [pair.files.0, pair.files.1, pair.files.1, pair.files.0];
        for (turn, file) in files.into_iter().enumerate() {
            if turn == 1 {
                change(&self.backend, &mut self.reference, &mut self.puts, path, pair.fields, pair.size);
                self.advance(Duration::from_millis(pair.wait));
                if pair.known {
                    let denied = self.cache.refresh(&of(path)).await.is_err_and(|error| error.is_answer());
                    if denied {
                        self.readers.doubt(self.reference.now, |of| of == path);
                    }
                    self.fetched.remove(path);
                }
            }
            // The directory may be another node by now, but not another inode.
            let Place::Directory(known) = &self.known[directory].place else { return Ok(()) };
            if known != path {
                return Ok(());
            }
            if let Some(node) = self.look_up(directory, FILES[file % FILES.len()]).await? {
                self.open_by(node, pair.thread).await?;
            }
        }
        self.read_by_another(directory, thread).await
    }

    /// Whoever is not bound gets the newest.
    async fn read_by_another(&mut self, directory: usize, thread: u32) -> Verdict {
        if let Some(node) = self.look_up(directory, "k").await? {
            self.open_by(node, usize::try_from(thread).unwrap()).await?;
        }
        Ok(())
    }

    /// A thread opens a directory and keeps it open.
    pub(super) async fn hold(&mut self, node: usize, thread: usize) {
        let thread = u32::try_from(thread).unwrap() % THREADS + 1;
        let Place::Directory(path) = &self.known[node].place else { return };
        let Some(path) = PATHS.into_iter().find(|known| known == path) else { return };
        if let Ok(listing) = self.fs.open_directory(self.known[node].ino, Caller(thread)).await {
            self.readers.holds.push((thread, path, self.reference.now, listing));
        }
    }

    /// A directory is closed. Of several that a thread holds only the first counts from when it was opened.
    pub(super) fn let_go_of_directory(&mut self, which: usize) {
        if self.readers.holds.is_empty() {
            return;
        }
        let (thread, path, since, listing) = self.readers.holds.remove(which % self.readers.holds.len());
        drop(listing);
        let mut others = self.readers.holds.iter_mut().filter(|(by, at, ..)| (*by, *at) == (thread, path));
        if let Some((.., earliest, _)) = others.next() {
            *earliest = since.min(*earliest);
        }
    }

    pub(super) fn let_go_of_directories(&mut self) {
        self.readers.holds.clear();
    }

    /// Flush ends all pins.
    pub(super) fn unpin_all(&mut self) {
        self.readers.readers.clear();
    }

    /// An older version, found and read by its name; nothing of it stays.
    pub(super) async fn older_version(&mut self, path: usize, number: u64, file: usize) -> Verdict {
        let (path, file) = (PATHS[path % PATHS.len()], FILES[file % FILES.len()]);
        let mut looked_up = Vec::new();
        let found = self.walk_to_version(path, number, file, &mut looked_up).await;
        let verdict = match found {
            // A field of the secret above may have the name, until a listing must show the folder.
            Err(Failure::NotADirectory) => {
                let shadowed = self.reference.is_listable() && self.reference.must_list_directory(path);
                ensure(!shadowed, "a folder wins over a field")
            }
            Err(failure) => self.judge_failure(&failure, self.must_find_version(path, number, file)),
            Ok(ino) => self.judge_version(path, number, file, ino).await,
        };
        for found in looked_up.into_iter().rev() {
            for known in self.known.iter_mut().filter(|known| known.ino == found.ino) {
                known.told = (found.kind == Kind::File).then(|| shown(&found));
            }
            self.fs.forget(found.ino, 1);
        }
        verdict.map_err(|broken| format!("{path}/.versions/{number}/{file}: {broken}"))
    }

    async fn walk_to_version(
        &self,
        path: &str,
        number: u64,
        file: &str,
        looked_up: &mut Vec<Attributes>,
    ) -> Result<INodeNo, Failure> {
        let number = number.to_string();
        let mut ino = INodeNo::ROOT;
        for name in path.split('/').chain([".versions", &number, file]) {
            let found = self.fs.lookup(ino, OsStr::new(name)).await?;
            ino = found.ino;
            looked_up.push(found);
        }
        Ok(ino)
    }

    fn must_find_version(&self, path: &str, number: u64, file: &str) -> bool {
        let reference = &self.reference;
        let has =
            |version: &super::reference::Version| file.starts_with('.') || version.field(file).is_some();
        reference.is_listable()
            && reference.surely_keeps_version(path, number)
            && reference.ever(path, number).iter().all(|version| has(version))
    }

    async fn judge_version(&mut self, path: &str, number: u64, file: &str, ino: INodeNo) -> Verdict {
        let ever = self.reference.ever(path, number);
        ensure(!ever.is_empty(), "there never was such a version")?;
        let opened = match self.fs.open(ino, Caller(1)).await {
            Ok(opened) => opened,
            Err(Failure::TooLarge { .. }) => {
                let large =
                    ever.iter().any(|version| version.field(file).is_some_and(|v| v.len() > MAX_SIZE));
                return ensure(large, "only a large value is refused as too large");
            }
            Err(failure) => return self.judge_failure(&failure, true),
        };
        let handle = self.fs.opened(opened.handle).map_err(|failure| failure.to_string())?;
        let seen = self.fs.attributes(ino, Some(opened.handle)).await;
        let seen = shown(&seen.map_err(|failure| failure.to_string())?);
        let bytes = handle.bytes();
        ensure(seen == (bytes.len() as u64, Duration::from_secs(number)), "size and age are that version's")?;
        let fits = match file {
            ".meta" => String::from_utf8_lossy(bytes).contains(&format!("\"version\":\"{number}\"")),
            _ => ever.iter().any(|version| {
                version.field(file) == Some(bytes) || version.view(file).as_deref() == Some(bytes)
            }),
        };
        self.snapshots.push((Arc::downgrade(handle.snapshot()), self.reference.now));
        drop(handle);
        self.fs.release(opened.handle);
        ensure(fits, "the bytes are that version's")
    }
}
