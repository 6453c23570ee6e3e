//! Owns the drills of a backend that accepts and never answers: who waits how long, who can be let go, and who never notices.
//! Does not know other faults; faults.rs has them.

mod crowds;
mod neighbours;
mod signals;
mod tools;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::fake::{Fake, Reply};
use crate::support::fake_vault;
use crate::support::mount::{Mount, wait_until};

/// How many names there are of each kind.
const WARM: usize = 20;
const COLD: usize = 1200;

/// Held by each of these tests: they measure, and what they measure is not each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// A mount of a Vault that can become a black hole: the secrets `warm-N` and `cold-N` with the
/// field `k`, the folders `folder-N`.
struct Hole {
    mount: Mount,
    /// While it is set nothing is answered.
    open: Arc<AtomicBool>,
    /// Requests that were not answered.
    swallowed: Arc<AtomicUsize>,
    closed: AtomicUsize,
    _fake: Fake,
    _alone: MutexGuard<'static, ()>,
}

impl Hole {
    /// `settings` as they stand in `[mount]`. All that is warm has been read, and the directory has been listed.
    fn new(settings: &str) -> Self {
        let alone = alone();
        let (open, swallowed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (swallows, count) = (open.clone(), swallowed.clone());
        let fake = Fake::start_keeping(move |request| {
            if swallows.load(Ordering::SeqCst) {
                count.fetch_add(1, Ordering::SeqCst);
                return Reply::Silence;
            }
            match fake_vault::asked(request) {
                (path, false) if path[0] == "sys" => fake_vault::kv2("kv"),
                (path, true) if path.len() == 2 => fake_vault::keys(&names()),
                (_, true) => fake_vault::keys(&["in-a-folder".into()]),
                // The versions of a folder at once: not a Vault that can.
                (path, false) if path.len() == 2 => fake_vault::error(404),
                (path, false) => fake_vault::secret(&json!({"k": format!("canary-{}", path[2])})),
            }
        });
        let mount = mounted(&fake, settings, "[[tree]]\npath = \"/\"\nbackend = \"b\"\nsource = \"kv\"\n");
        let hole = Self { mount, open, swallowed, closed: AtomicUsize::new(0), _fake: fake, _alone: alone };
        assert_eq!(hole.mount.ls("").unwrap().len(), names().len());
        for number in 0..WARM {
            hole.mount.read(&warm(number)).unwrap();
        }
        hole
    }

    fn open(&self) {
        self.swallowed.store(0, Ordering::SeqCst);
        self.open.store(true, Ordering::SeqCst);
    }

    /// Answers again, and returns when secrets that nobody had read before can be read.
    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        let number = self.closed.fetch_add(1, Ordering::SeqCst);
        wait_until("it answers again", || self.mount.read(&format!("heal-{number}/k")).is_ok());
    }

    fn swallowed(&self) -> usize {
        self.swallowed.load(Ordering::SeqCst)
    }
}

fn names() -> Vec<Value> {
    let kinds = [("warm-", WARM, ""), ("cold-", COLD, ""), ("heal-", 100, ""), ("folder-", 20, "/")];
    let names = |(kind, count, end)| (0..count).map(move |number| format!("{kind}{number}{end}").into());
    kinds.into_iter().flat_map(names).collect()
}

fn warm(number: usize) -> String {
    format!("warm-{number}/k")
}

fn cold(number: usize) -> String {
    format!("cold-{number}/k")
}

/// A mount by a configuration: of the server at the backend `b`, with these lines of `[mount]` and these trees. A line for each
/// request, at this size, would be a test of the log.
fn mounted(fake: &Fake, settings: &str, trees: &str) -> Mount {
    let plan = Mount::of("");
    let config = plan.folder().join("config.toml");
    let backend = format!("[backend.b]\ntype = \"vault\"\naddress = \"{}\"\n", fake.endpoint());
    std::fs::write(&config, format!("[mount]\n{settings}\n{backend}{trees}")).unwrap();
    let variables = [("VAULT_TOKEN", "canary-token"), ("SECRETFS_LOG", "warn")];
    plan.arg("--config").arg(config).envs(variables).start()
}

/// The error number of a read, 0 for none, and how long it took.
fn timed(mount: &Mount, path: &str) -> (i32, Duration) {
    let start = Instant::now();
    let errno = mount.read(path).err().map_or(0, |error| error.raw_os_error().unwrap());
    (errno, start.elapsed())
}

/// A program of its own, which says nothing.
fn spawned(program: &str, path: &Path) -> Child {
    let mut command = Command::new(program);
    command.arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// How long it took to open, read and close one of these, `times` times, and longer while `goes_on`.
fn reads(paths: &[PathBuf], times: usize, goes_on: impl Fn() -> bool) -> io::Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(times);
    let mut bytes = Vec::new();
    for path in paths.iter().cycle() {
        if took.len() >= times && !goes_on() {
            break;
        }
        let start = Instant::now();
        let mut file = File::open(path)?;
        file.read_to_end(&mut bytes)?;
        drop(file);
        took.push(start.elapsed());
        bytes.clear();
    }
    Ok(took)
}

/// Of a hundred, one takes longer than this.
fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

/// Compares two states in turns: fails when the second is slower than twice the first, by the medians of several rounds, three times
/// in a row. What is measured must not need the machine to be quiet, but may need some luck.
fn not_slower_than_twice(what: &str, rounds: usize, mut round: impl FnMut() -> (Duration, Duration)) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (usual, now): (Vec<_>, Vec<_>) = (0..rounds).map(|_| round()).unzip();
        let (usual, now) = (median(usual), median(now));
        seen.push(format!("{usual:?} and {now:?}"));
        if now <= usual * 2 {
            eprintln!("{what}: {}", seen.join(", "));
            return;
        }
    }
    panic!("{what}: {}", seen.join(", "));
}
