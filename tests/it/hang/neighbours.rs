//! Owns one path that is never answered by a server that answers all others: who reads, lists, watches or leases beside it does
//! not notice. Does not know a server that answers nobody.

use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{alone, mounted, not_slower_than_twice, p99, reads, spawned, timed};
use crate::support::available;
use crate::support::fake::{Fake, Reply};
use crate::support::fake_vault::{self, asked, data, error};
use crate::support::inotify::Watcher;
use crate::support::mount::{HANG, Mount, possible, run, secretfs, signal, wait_until};

const NEIGHBOURS: usize = 50;
/// In each half of a round; five rounds have a thousand of them beside the hung path.
const TURNS: usize = 4;

/// A mount of the secrets `s0`, `s1`, ... and of `hung` beside them, which is never answered.
struct Street {
    mount: Mount,
    version: Arc<AtomicU64>,
    _fake: Fake,
}

impl Street {
    fn new() -> Self {
        let version = Arc::new(AtomicU64::new(1));
        let now = version.clone();
        let fake = Fake::start_keeping(move |request| match asked(request) {
            (path, false) if path[0] == "sys" => fake_vault::kv2("kv"),
            (path, true) if path.len() == 2 => {
                let names = (0..NEIGHBOURS).map(|number| format!("s{number}").into());
                fake_vault::keys(&names.chain(["hung".into()]).collect::<Vec<_>>())
            }
            // The versions of a folder at once: not a Vault that can.
            (path, _) if path.len() == 2 => error(404),
            (path, _) if path[2] == "hung" => Reply::Silence,
            (path, _) => {
                let version = now.load(Ordering::SeqCst);
                data(&json!({
                    "data": {"k": format!("canary-{}-{version}", path[2])},
                    "metadata": {
                        "version": version, "created_time": "2025-01-02T03:04:05.6Z", "deletion_time": "",
                        "destroyed": false, "custom_metadata": null,
                    },
                }))
            }
        });
        let tree = "[[tree]]\npath = \"/\"\nbackend = \"b\"\nsource = \"kv\"\n";
        let mount = mounted(&fake, "deadline = \"120s\"\nttl = \"1h\"", tree);
        let street = Self { mount, version, _fake: fake };
        for path in street.files() {
            std::fs::read(path).unwrap();
        }
        street
    }

    fn files(&self) -> Vec<PathBuf> {
        (0..NEIGHBOURS).map(|number| self.mount.path(&format!("s{number}/k"))).collect()
    }

    /// A new version of every secret, noticed by asking for each; the next open of each has it, and each watcher is told.
    fn rotate(&self, watcher: &Watcher) {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        let mut command = secretfs();
        command.arg("refresh");
        for number in 0..NEIGHBOURS {
            command.arg(self.mount.path(&format!("s{number}")));
        }
        run(&mut command);
        for number in [0, NEIGHBOURS - 1] {
            let value = self.mount.read(&format!("s{number}/k")).unwrap();
            assert_eq!(value, format!("canary-s{number}-{version}").as_bytes());
        }
        let wanted: Vec<_> = (0..NEIGHBOURS).map(|number| format!("s{number}/k CLOSE_WRITE")).collect();
        watcher.wait(&wanted.iter().map(String::as_str).collect::<Vec<_>>());
        let start = Instant::now();
        assert_eq!(self.mount.ls("").unwrap().len(), NEIGHBOURS + 1);
        assert!(start.elapsed() < HANG, "a listing took {:?}", start.elapsed());
    }

    /// Some rotations under somebody who reads; what his reads took.
    fn rotations(&self, watcher: &Watcher) -> Duration {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| reads(&self.files(), 1000, || !over.load(Ordering::SeqCst)));
            for _ in 0..TURNS {
                self.rotate(watcher);
            }
            over.store(true, Ordering::SeqCst);
            p99(reader.join().unwrap().unwrap())
        })
    }

    /// Every way to wait for the path that is not answered.
    fn waiting(&self) -> Vec<Child> {
        let mut waiting = vec![
            spawned("ls", &self.mount.path("hung")),
            spawned("cat", &self.mount.path("hung/.json")),
            spawned("cat", &self.mount.path("hung/.env")),
            spawned("stat", &self.mount.path("hung/.meta")),
        ];
        waiting.extend((0..10).map(|number| spawned("cat", &self.mount.path(&format!("hung/k{number}")))));
        std::thread::sleep(Duration::from_millis(500));
        waiting
    }
}

#[test]
fn one_hung_path_and_a_thousand_rotations_beside_it_delay_nobody_else() {
    let Some(()) = available("mount", possible()) else { return };
    let _alone = alone();
    let street = Street::new();
    let folders: Vec<_> = (0..NEIGHBOURS)
        .map(|number| (format!("s{number}"), street.mount.path(&format!("s{number}"))))
        .collect();
    let watcher = Watcher::on(folders.iter().map(|(name, path)| (name.as_str(), path.as_path())));
    let beside = AtomicUsize::new(0);
    not_slower_than_twice("readers beside a hung path", 5, || {
        let usual = street.rotations(&watcher);
        let mut waiting = street.waiting();
        let now = street.rotations(&watcher);
        for child in &mut waiting {
            assert!(child.try_wait().unwrap().is_none(), "it did not wait");
            signal(child.id(), "KILL");
        }
        for mut child in waiting {
            child.wait().unwrap();
        }
        beside.fetch_add(TURNS * NEIGHBOURS, Ordering::SeqCst);
        (usual, now)
    });
    assert!(beside.into_inner() >= 1000);
}

/// A mount of KV secrets, of a role that makes secrets at once and of some that never do.
struct Roles {
    mount: Mount,
    made: Arc<AtomicUsize>,
    asked_for_slow: Arc<AtomicUsize>,
    _fake: Fake,
}

impl Roles {
    const SLOW: usize = 4;
    const FAST: usize = 20;

    fn new() -> Self {
        let (made, asked_for_slow) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, slow) = (made.clone(), asked_for_slow.clone());
        let fake = Fake::start_keeping(move |request| {
            let (path, lists) = asked(request);
            let words: Vec<&str> = path.iter().map(String::as_str).collect();
            match (words.as_slice(), lists) {
                (["sys", "internal", .., "kv"] | ["sys", "internal", .., "kv", _], _) => {
                    fake_vault::kv2("kv")
                }
                (["sys", "internal", ..], _) => data(&json!({"path": "database/", "type": "database"})),
                (["database", "creds", role], _) if role.starts_with("slow") => {
                    slow.fetch_add(1, Ordering::SeqCst);
                    Reply::Silence
                }
                (["database", "creds", role], _) => {
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    Reply::json(json!({
                        "request_id": "r", "lease_id": format!("database/creds/{role}/canary{number}"),
                        "renewable": true, "lease_duration": 3600, "wrap_info": null, "warnings": null,
                        "auth": null,
                        "data": {"username": format!("canary-u{number}"), "password": format!("canary-p{number}")},
                    }))
                }
                (["sys", "leases", "revoke"], _) => Reply::Answer(204, String::new()),
                (["kv", _], true) => {
                    fake_vault::keys(&(0..200).map(|number| format!("s{number}").into()).collect::<Vec<_>>())
                }
                (["kv", "data", name], _) => fake_vault::secret(&json!({"k": format!("canary-{name}")})),
                _ => error(404),
            }
        });
        let secret = |role: String| {
            format!("[[secret]]\npath = \"db/{role}\"\nbackend = \"b\"\nsource = \"database/creds/{role}\"\n")
        };
        let slow = (0..Self::SLOW).map(|number| secret(format!("slow{number}")));
        let fast = (0..Self::FAST).map(|number| secret(format!("fast{number}")));
        let places: String = slow.chain(fast).collect();
        let tree = "[[tree]]\npath = \"kv\"\nbackend = \"b\"\nsource = \"kv\"\n";
        let settings = "deadline = \"10s\"\nttl = \"1h\"\nmax_in_flight = 16";
        let mount = mounted(&fake, settings, &format!("{tree}{places}"));
        Self { mount, made, asked_for_slow, _fake: fake }
    }
}

#[test]
fn a_role_whose_database_never_answers_delays_no_other_lease_and_no_kv_secret() {
    let Some(()) = available("mount", possible()) else { return };
    let _alone = alone();
    let roles = Roles::new();
    let mount = &roles.mount;
    // What an open costs where nobody waits.
    let opened = |path: &str| {
        let (errno, took) = timed(mount, path);
        assert_eq!(errno, 0, "{path}");
        took
    };
    let longest = |paths: &mut dyn Iterator<Item = String>| paths.map(|path| opened(&path)).max().unwrap();
    let usual = longest(&mut (0..5).map(|number| format!("db/fast{number}/password")));
    let usual_kv = longest(&mut (0..50).map(|number| format!("kv/s{number}/k")));
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..Roles::SLOW)
            .map(|number| scope.spawn(move || timed(mount, &format!("db/slow{number}/password"))))
            .collect();
        wait_until("all slow roles are asked", || roles.asked_for_slow.load(Ordering::SeqCst) >= Roles::SLOW);
        let leases = longest(&mut (5..Roles::FAST).map(|number| format!("db/fast{number}/password")));
        let kv = longest(&mut (50..200).map(|number| format!("kv/s{number}/k")));
        eprintln!(
            "the slowest lease {usual:?}, beside hung roles {leases:?}; KV secret {usual_kv:?}, {kv:?}"
        );
        assert!(leases < Duration::from_secs(5) && kv < Duration::from_secs(5), "{leases:?}, {kv:?}");
        assert!(slow.iter().all(|reader| !reader.is_finished()), "nobody waited any more");
        assert!(mount.ls("db").unwrap().len() == Roles::SLOW + Roles::FAST);
        for reader in slow {
            let (errno, took) = reader.join().unwrap();
            assert_eq!(errno, libc::ETIMEDOUT);
            assert!(took.as_secs_f64() > 9.0 && took.as_secs_f64() < 15.0, "{took:?}");
        }
    });
    // The roles hang still, though nobody waits for them: what is warm and what is cold is as before.
    let paths: Vec<_> = (0..5).map(|number| mount.path(&format!("db/fast{number}/username"))).collect();
    reads(&paths, 500, || false).unwrap();
    assert_eq!(roles.made.load(Ordering::SeqCst), Roles::FAST);
    // Once asked, a role is not asked again and again: what was asked for may still come.
    let again = roles.asked_for_slow.load(Ordering::SeqCst);
    assert!(again <= 2 * Roles::SLOW, "{again} questions for {} roles", Roles::SLOW);
}
