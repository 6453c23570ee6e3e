//! Owns the figures of how soon a new value is seen: by who reads again and again, by who asks for a refresh, by who watches.
//! Does not know how the program finds a change.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use secretfs::backend::store::{self, KeySource, SecretPath};
use secretfs::secret::{Field, Form, SecretBytes};
use serde_json::json;

use crate::client::Client;
use crate::support::inotify::Watcher;
use crate::support::mount::{HANG, Mount, Store, run, secretfs};
use crate::support::vault::{ROOT_TOKEN, Vault};
use crate::{median, percentile, quiet, timed};

/// A program that polls rests this long after it has looked at all its files.
const PAUSE: Duration = Duration::from_millis(1);
const BETWEEN: Duration = Duration::from_millis(30);
/// Values that are published of a store, and those that are refreshed by hand.
const SINGLES: u64 = 200;

/// From when a write of a new value has returned to when a program has read it.
pub(super) fn from_publish(vault: Option<&Vault>) {
    if let Some(vault) = vault {
        vault.enable_kv("visible", 2);
        polled(vault, Duration::from_secs(1), 50, 8);
        polled(vault, Duration::from_secs(5), 200, 2);
        refreshed(vault);
    }
    of_store();
}

/// A program that opens and reads secrets of Vault all the time; each is written anew once in a round, spread over the TTL.
fn polled(vault: &Vault, ttl: Duration, secrets: usize, rounds: u64) {
    let name = |i: usize| format!("t{}-{i}", ttl.as_secs());
    let put =
        |i: usize, number: u64| vault.kv_put("visible", &name(i), json!({ "value": number.to_string() }));
    (0..secrets).for_each(|i| put(i, 0));
    let mount = mount(vault, &format!("{}s", ttl.as_secs()));
    let paths = (0..secrets).map(|i| mount.path(&format!("{}/value", name(i)))).collect();
    let mut waits = vec![];
    Poller::during(paths, |poller| {
        for round in 1..=rounds {
            let begin = Instant::now();
            let mut published = vec![];
            for i in 0..secrets {
                let turn = begin + ttl.mul_f64(i as f64 / secrets as f64);
                std::thread::sleep(turn.saturating_duration_since(Instant::now()));
                put(i, round);
                published.push(Instant::now());
            }
            for _ in 0..secrets {
                let (i, number, seen) = poller.next();
                assert_eq!(number, round);
                waits.push(seen.saturating_duration_since(published[i]).as_secs_f64() / ttl.as_secs_f64());
            }
        }
    });
    println!(
        "published in Vault, seen by who reads all the time: after {:.2} of a TTL of {} s (p50), {:.2} (p99)",
        percentile(waits.clone(), 50),
        ttl.as_secs(),
        percentile(waits, 99)
    );
}

/// `secretfs refresh`, whose end is when the new value is there, against a start of the same program that does nothing, and the
/// GET that it must make.
fn refreshed(vault: &Vault) {
    let mount = mount(vault, "1h");
    let path = mount.path("by-hand/value");
    let mut client = Client::new(&vault.address);
    let (mut ratios, mut times) = (vec![], vec![]);
    for number in 0..SINGLES {
        vault.kv_put("visible", "by-hand", json!({ "value": format!("{number:064}") }));
        if number == 0 {
            read(&path);
        }
        let time = timed(|| drop(run(secretfs().arg("refresh").arg(&path))));
        assert_eq!(read(&path), number, "refresh has returned");
        let nothing = timed(|| drop(run(secretfs().arg("--version"))));
        let get = timed(|| client.get("/v1/visible/data/by-hand"));
        ratios.push(time / (nothing + get));
        times.push(time * 1e3);
    }
    println!(
        "`secretfs refresh`, at whose end it is visible: {:.2} of `secretfs --version` and a raw GET (p50), {:.2} (p99)   ({:.1} ms, {:.1} ms)",
        percentile(ratios.clone(), 50),
        percentile(ratios, 99),
        percentile(times.clone(), 50),
        percentile(times, 99)
    );
}

/// A store: by a program that watches the file, and by one that reads all the time; against the time that the write takes.
fn of_store() {
    let store = Store::new();
    let key = KeySource::Identity(store.identity()).load().unwrap();
    let put = |number: u64| {
        store::change(&store.file(), &key, |document| {
            let value = SecretBytes::from(number.to_string());
            let field = Field { name: "value".into(), value, form: Form::Text };
            document.put(SecretPath::parse("a").unwrap(), vec![field], SystemTime::now());
            Ok::<_, store::FileError>(())
        })
        .unwrap();
    };
    put(0);
    let mount = quiet(store.mount()).start();
    let path = mount.path("a/value");
    assert_eq!(read(&path), 0);
    let show = |who: &str, waits: &[(f64, f64)]| {
        let ratios: Vec<f64> = waits.iter().map(|(wait, write)| wait / write).collect();
        let times: Vec<f64> = waits.iter().map(|(wait, _)| wait * 1e3).collect();
        println!(
            "published in a store, seen by {who}: {:.2} of the time of the write after it (p50), {:.2} (p99)   ({:.1} ms, {:.1} ms; the write {:.1} ms)",
            percentile(ratios.clone(), 50),
            percentile(ratios, 99),
            percentile(times.clone(), 50),
            percentile(times, 99),
            median(waits.iter().map(|(_, write)| write * 1e3).collect()),
        );
    };
    if rustix::process::geteuid().is_root() {
        let watcher = Watcher::on([("value", path.as_path())]);
        let waits: Vec<_> = (1..=SINGLES)
            .map(|number| {
                // The events of the one before have all come.
                std::thread::sleep(BETWEEN);
                watcher.take();
                let write = timed(|| put(number));
                let written = Instant::now();
                // Nothing but an event makes it read.
                while watcher.take().is_empty() || read(&path) != number {
                    assert!(written.elapsed() < HANG, "{number} was never told");
                    watcher.sleep(HANG);
                }
                (written.elapsed().as_secs_f64(), write)
            })
            .collect();
        show("who watches", &waits);
    } else {
        println!("published in a store, seen by who watches: only root's mounts tell");
    }
    let mut waits = vec![];
    Poller::during(vec![path], |poller| {
        for number in SINGLES + 1..=2 * SINGLES {
            let write = timed(|| put(number));
            let written = Instant::now();
            let (_, found, seen) = poller.next();
            assert_eq!(found, number);
            waits.push((seen.saturating_duration_since(written).as_secs_f64(), write));
        }
    });
    show("who reads all the time", &waits);
}

fn mount(vault: &Vault, ttl: &str) -> Mount {
    let plan = quiet(Mount::of("vault:visible")).arg("--ttl").arg(ttl);
    plan.envs([("VAULT_ADDR", vault.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)]).start()
}

fn read(path: &Path) -> u64 {
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// A thread that reads files in turn and tells each new number: whose, which, when it was read.
struct Poller(Receiver<(usize, u64, Instant)>);

impl Poller {
    /// Polls while `work` runs.
    fn during(paths: Vec<PathBuf>, work: impl FnOnce(&Self)) {
        let over = AtomicBool::new(false);
        let (sender, receiver) = channel();
        let mut last: Vec<u64> = paths.iter().map(|path| read(path)).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| poll(&paths, &mut last, &over, sender));
            // Also when the work fails.
            let _end = End(&over);
            work(&Self(receiver));
        });
    }

    fn next(&self) -> (usize, u64, Instant) {
        self.0.recv_timeout(HANG).unwrap()
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn poll(paths: &[PathBuf], last: &mut [u64], over: &AtomicBool, seen: Sender<(usize, u64, Instant)>) {
    while !over.load(Ordering::Relaxed) {
        for (i, path) in paths.iter().enumerate() {
            let number = read(path);
            if number != last[i] {
                last[i] = number;
                let _ = seen.send((i, number, Instant::now()));
            }
        }
        std::thread::sleep(PAUSE);
    }
}
