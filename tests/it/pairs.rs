//! Owns what threads that read username and password as two files see of a secret that rotates meanwhile, through a real mount.
//! Does not know the rule's corners, which are in src/fs/pairs/tests.rs.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, openat};
use secretfs::backend::store::{self, Key, SecretPath};
use secretfs::fs::PAIR_WINDOW;
use secretfs::secret::{Field, Form, SecretBytes};
use secretfs::tree::shown::KERNEL_TTL;
use serde_json::json;

use crate::support::available;
use crate::support::mount::{Mount, Store, possible};
use crate::support::vault::{ROOT_TOKEN, Vault};

const ROTATIONS: u64 = 1000;
const THREADS: u64 = 8;
const FIELDS: [&str; 2] = ["username", "password"];

/// Values of different lengths, so that a size of one version and the bytes of another do not fit.
fn value(number: u64) -> String {
    format!("canary-{number}-{}", "x".repeat(usize::try_from(number % 7).unwrap()))
}

/// A store that is written by this process: a thousand times in the time that the command takes for some dozens.
struct Rotating {
    store: Store,
    key: Key,
}

impl Rotating {
    fn new() -> Self {
        let store = Store::new();
        let key = Key::from_identity_file(&store.identity()).unwrap();
        let rotating = Self { store, key };
        rotating.rotate(0);
        rotating
    }

    fn rotate(&self, number: u64) {
        let field = |name: &str| Field {
            name: name.into(),
            value: SecretBytes::from(value(number)),
            form: Form::Text,
        };
        let put = |document: &mut store::Document| {
            document.put(SecretPath::parse("db").unwrap(), FIELDS.map(field).into(), SystemTime::now());
            Ok::<_, store::FileError>(())
        };
        store::change(&self.store.file(), &self.key, put).unwrap();
    }
}

/// Opens and reads a file by its name in a directory, and checks that fstat(2) after the open says its size.
fn read(directory: impl rustix::fd::AsFd, name: &str) -> String {
    let start = Instant::now();
    let mut file = File::from(openat(directory, name, OFlags::RDONLY, Mode::empty()).unwrap());
    let size = file.metadata().unwrap().len();
    // A machine so busy that the two are further apart proves nothing.
    let is_at_once = start.elapsed() < KERNEL_TTL;
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert!(!is_at_once || size == text.len() as u64, "fstat of {name} says {size}: {text}");
    text
}

/// Does something in a thread of its own.
fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// What one thread saw.
#[derive(Default)]
struct Seen {
    rounds: u64,
    mixed: u64,
    /// Rounds that a busy machine made longer than the window: they prove nothing.
    slow: u64,
    last: Vec<String>,
}

/// Reads pairs until `over`, and then two more.
fn read_pairs(secret: &Path, by_handle: bool, over: &AtomicBool) -> Seen {
    let directory =
        |path: &Path| openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    let held = by_handle.then(|| directory(secret));
    let round = || {
        FIELDS.map(|name| match &held {
            Some(directory) => read(directory, name),
            None => read(CWD, secret.join(name).to_str().unwrap()),
        })
    };
    let mut seen = Seen::default();
    while !over.load(Ordering::SeqCst) {
        let start = Instant::now();
        let [username, password] = round();
        seen.rounds += 1;
        if by_handle || start.elapsed() < PAIR_WINDOW {
            seen.mixed += u64::from(username != password);
        } else {
            seen.slow += 1;
        }
    }
    round();
    seen.last = round().into();
    seen
}

/// Eight threads in a tight loop while `rotate` makes a thousand versions; `settled` returns when the last can be seen.
fn rotate_under_readers(
    secret: &Path,
    by_handle: impl Fn(u64) -> bool,
    rotate: impl Fn(u64),
    settled: impl Fn(),
) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let (over, by_handle) = (&over, by_handle(number));
                scope.spawn(move || read_pairs(secret, by_handle, over))
            })
            .collect();
        for number in 1..=ROTATIONS {
            rotate(number);
        }
        settled();
        over.store(true, Ordering::SeqCst);
        let (mut rounds, mut slow) = (0, 0);
        for thread in threads {
            let seen = thread.join().unwrap();
            assert_eq!(seen.mixed, 0, "of {} rounds", seen.rounds);
            assert_eq!(seen.last, [value(ROTATIONS), value(ROTATIONS)], "the second round after the last");
            rounds += seen.rounds;
            slow += seen.slow;
        }
        assert!(rounds > ROTATIONS && slow < rounds / 2, "{rounds} rounds, {slow} of them slow");
        eprintln!(
            "pairs: {rounds} rounds of {THREADS} threads during {ROTATIONS} rotations, {slow} slow, 0 mixed"
        );
    });
}

#[test]
fn no_pair_by_path_is_mixed_during_a_thousand_rotations_of_a_store() {
    let Some(()) = available("mount", possible()) else { return };
    let rotating = Rotating::new();
    let mount = rotating.store.mount().start();
    rotate_under_readers(&mount.path("db"), |_| false, |number| rotating.rotate(number), || {});
}

#[test]
fn no_pair_through_one_directory_handle_is_mixed_during_a_thousand_rotations_of_a_store() {
    let Some(()) = available("mount", possible()) else { return };
    let rotating = Rotating::new();
    let mount = rotating.store.mount().start();
    rotate_under_readers(&mount.path("db"), |_| true, |number| rotating.rotate(number), || {});
}

#[test]
fn no_pair_is_mixed_during_a_thousand_rotations_in_vault() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(server) = available("vault", Vault::shared()) else { return };
    server.enable_kv("pairs", 2);
    let rotate = |number| {
        let fields = json!({FIELDS[0]: value(number), FIELDS[1]: value(number)});
        server.kv_put("pairs", "db", fields);
    };
    rotate(0);
    let ttl = Duration::from_millis(50);
    let environment = [("VAULT_ADDR", server.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)];
    let mount = Mount::of("vault:pairs").envs(environment).arg("--ttl").arg("50ms").start();
    let secret = mount.path("db");
    rotate_under_readers(&secret, |number| number % 2 == 0, rotate, || std::thread::sleep(ttl * 2));
}

#[test]
fn a_handle_binds_for_as_long_as_it_is_held_and_a_path_for_the_window() {
    let Some(()) = available("mount", possible()) else { return };
    let rotating = Rotating::new();
    let mount = rotating.store.mount().start();
    let secret = mount.path("db");
    let by_path = |name: &str| read(CWD, secret.join(name).to_str().unwrap());
    let slow = || std::thread::sleep(PAIR_WINDOW + Duration::from_millis(500));
    elsewhere(|| {
        let directory = openat(CWD, &secret, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(read(&directory, "username"), value(0));
        rotating.rotate(1);
        slow();
        assert_eq!(read(&directory, "password"), value(0));
        assert_eq!(read(&directory, "password"), value(1), "opened again");
        assert_eq!(read(&directory, "username"), value(1));
    });
    elsewhere(|| {
        assert_eq!(by_path("username"), value(1));
        rotating.rotate(2);
        slow();
        assert_eq!(by_path("password"), value(2), "the window is over");
    });
    elsewhere(|| {
        // The directory that a listing is read from is a handle like any other.
        let mut pair = Vec::new();
        for entry in std::fs::read_dir(&secret).unwrap() {
            if !pair.is_empty() {
                rotating.rotate(3);
                slow();
            }
            pair.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
        }
        assert_eq!(pair, [value(2), value(2)]);
    });
}

#[test]
fn two_threads_with_two_versions_of_one_file_each_see_the_size_of_theirs() {
    let Some(()) = available("mount", possible()) else { return };
    let rotating = Rotating::new();
    let mount = rotating.store.mount().start();
    let path = mount.path("db").join("password");
    let username = mount.path("db").join("username");
    for number in (1..60).step_by(2) {
        let (older, newest) = (value(number - 1), value(number));
        assert_ne!(older.len(), newest.len());
        // A thread that has opened nothing yet.
        elsewhere(|| {
            assert_eq!(std::fs::read_to_string(&username).unwrap(), older);
            rotating.rotate(number);
            let start = Instant::now();
            let mut mine = File::open(&path).unwrap();
            let theirs = elsewhere(|| {
                let file = File::open(&path).unwrap();
                assert_eq!(
                    file.metadata().unwrap().len(),
                    newest.len() as u64,
                    "another thread has the newest"
                );
                assert_eq!(std::fs::read_to_string(&path).unwrap(), newest);
                file
            });
            for _ in 0..3 {
                let size = mine.metadata().unwrap().len();
                if start.elapsed() < KERNEL_TTL {
                    assert_eq!(size, older.len() as u64, "mine is the older");
                }
                let size = elsewhere(|| theirs.metadata().unwrap().len());
                assert_eq!(size, newest.len() as u64, "and theirs the newest");
            }
            let mut text = String::new();
            mine.read_to_string(&mut text).unwrap();
            assert_eq!(text, older);
            drop(mine);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), newest, "opened again");
        });
        assert_eq!(std::fs::metadata(&path).unwrap().len(), newest.len() as u64, "stat shows the newest");
        rotating.rotate(number + 1);
    }
}

#[test]
fn a_shell_script_reads_a_pair_from_env() {
    let Some(()) = available("mount", possible()) else { return };
    let rotating = Rotating::new();
    let mount = rotating.store.mount().start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                rotating.rotate(number);
            }
        });
        let script = "i=0; while [ $i -lt 20 ]; do . \"$1\"; echo \"$username $password\"; i=$((i+1)); done";
        let shell = Command::new("sh").args(["-c", script, "sh"]).arg(mount.path("db/.env")).output();
        over.store(true, Ordering::SeqCst);
        let text = String::from_utf8(shell.unwrap().stdout).unwrap();
        let pairs: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!(pairs.len(), 20);
        assert!(pairs.iter().all(|(username, password)| username == password && username.contains("canary")));
    });
}
