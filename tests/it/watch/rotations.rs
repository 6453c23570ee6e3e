//! Owns the promise to a watcher of a secret that rotates thousands of times: it never misses the last value, what it reads after
//! an event is never older than what anybody has seen before, and no reader ever sees a torn value.
//!
//! As many rotations as SECRETFS_TEST_ROTATIONS says; without it as many as half a minute is enough for, and no figures.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use secretfs::backend::store::{self, KeySource, SecretPath};
use secretfs::secret::{Field, Form, SecretBytes};
use serde_json::json;

use super::can_tell;
use crate::support::available;
use crate::support::inotify::Watcher;
use crate::support::mount::{HANG, Mount, Store, possible};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// A value of 64 KiB is its number, again and again, in 16 bytes each.
const SIZE: usize = 64 << 10;
const STEP: usize = 4 << 10;
const READERS: usize = 4;
const FILE: &str = "team/a/value";

fn value(number: u64) -> String {
    format!("canary{number:010}").repeat(SIZE / 16)
}

/// The number of a value that is whole.
fn number(value: &[u8]) -> u64 {
    assert_eq!(value.len(), SIZE, "torn");
    let (first, all) = (&value[..16], value.chunks(16));
    assert!(all.into_iter().all(|part| part == first), "torn");
    std::str::from_utf8(&first[6..]).unwrap().parse().unwrap()
}

/// Reads in steps, so that a change falls between two of them.
fn read(path: &Path) -> u64 {
    let mut file = std::fs::File::open(path).unwrap();
    let mut bytes = Vec::with_capacity(SIZE);
    let mut step = [0; STEP];
    loop {
        match file.read(&mut step).unwrap() {
            0 => return number(&bytes),
            length => bytes.extend_from_slice(&step[..length]),
        }
    }
}

/// What the readers and the watcher have seen together.
struct Seen {
    /// The newest number that a read has returned.
    newest: AtomicU64,
    /// The newest that the watcher has read after an event.
    told: AtomicU64,
    reads: AtomicU64,
    over: AtomicBool,
}

impl Seen {
    /// One read, which must not be older than what was seen when it began.
    fn read(&self, path: &Path, who: &str) -> u64 {
        let before = self.newest.load(Ordering::SeqCst);
        let found = read(path);
        assert!(found >= before, "{who} read {found} when {before} had been seen");
        self.newest.fetch_max(found, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::Relaxed);
        found
    }
}

/// Ends the threads that look at it, also when the test fails.
struct EndOf<'a>(&'a AtomicBool);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Rotates `usual` times with `put` while readers read and a watcher reads after each event only.
fn rotates(mount: &Mount, backend: &str, usual: u64, mut put: impl FnMut(u64)) {
    let asked = std::env::var("SECRETFS_TEST_ROTATIONS").ok().map(|count| count.parse::<u64>().unwrap());
    let rotations = asked.unwrap_or(usual);
    let path = mount.path(FILE);
    let (newest, told) = (AtomicU64::new(read(&path)), AtomicU64::new(0));
    let seen = Seen { newest, told, reads: AtomicU64::new(0), over: AtomicBool::new(false) };
    let watcher = Watcher::on([("value", path.as_path())]);
    let start = Instant::now();
    let mut waits = Vec::new();
    let (written, events) = std::thread::scope(|scope| {
        let end = EndOf(&seen.over);
        // For torn values, and for whether a read is ever older than another.
        for _ in 0..READERS {
            scope.spawn(|| {
                while !seen.over.load(Ordering::Relaxed) {
                    seen.read(&path, "a reader");
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let watching = scope.spawn(|| {
            let mut events = 0;
            while !seen.over.load(Ordering::Relaxed) {
                watcher.sleep(Duration::from_millis(20));
                let came = watcher.take().len();
                if came > 0 {
                    events += came;
                    let found = seen.read(&path, "the watcher");
                    seen.told.store(found, Ordering::SeqCst);
                }
            }
            events
        });
        for number in 1..=rotations {
            put(number);
        }
        let written = start.elapsed();
        // The last one must arrive, and so must single ones after it: how long does each take?
        let singles = (rotations + 1)..=(rotations + 20);
        for number in std::iter::once(rotations).chain(singles) {
            let began = Instant::now();
            if number > rotations {
                put(number);
            }
            let put_at = Instant::now();
            while seen.told.load(Ordering::SeqCst) < number {
                assert!(
                    began.elapsed() < HANG,
                    "{number} was never told: {}",
                    seen.told.load(Ordering::SeqCst)
                );
                assert!(!watching.is_finished());
                std::thread::sleep(Duration::from_micros(200));
            }
            waits.push(put_at.elapsed());
        }
        drop(end);
        (written, watching.join().unwrap())
    });
    assert_eq!(read(&path), rotations + 20);
    assert!(events > 0);
    if asked.is_some() {
        let reads = seen.reads.load(Ordering::Relaxed);
        waits.sort();
        let (middle, most) = (waits[waits.len() / 2], waits[waits.len() - 1]);
        let _ = writeln!(
            std::io::stderr(),
            "{backend}: {rotations} rotations in {written:.1?}, {events} events, {reads} reads of 64 KiB, \
             from the end of a put to the watcher's read {middle:.1?} (median), {most:.1?} (most of {})",
            waits.len()
        );
    }
}

#[test]
fn of_thousands_of_rotations_in_the_store_a_watcher_never_misses_the_last() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let store = Store::new();
    let key = KeySource::Identity(store.identity()).load().unwrap();
    let put = |number: u64| {
        store::change(&store.file(), &key, |document| {
            let value = SecretBytes::from(value(number));
            let field = Field { name: "value".into(), value, form: Form::Text };
            document.put(SecretPath::parse("team/a").unwrap(), vec![field], SystemTime::now());
            Ok::<_, store::FileError>(())
        })
        .unwrap();
    };
    put(0);
    let mount = store.mount().start();
    rotates(&mount, "store", 300, put);
}

#[test]
fn of_thousands_of_rotations_in_vault_a_watcher_never_misses_the_last() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let Some(server) = available("vault", Vault::start()) else { return };
    let put = |number: u64| server.kv_put("secret", "team/a", json!({"value": value(number)}));
    put(0);
    let address = [("VAULT_ADDR", server.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)];
    let mount = Mount::of("vault:secret").arg("--ttl").arg("20ms").envs(address).start();
    rotates(&mount, "vault", 1500, put);
}
