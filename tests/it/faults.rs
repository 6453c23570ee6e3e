//! Owns the proof that a backend that fails in any way costs its own cold paths an error in time, and nobody else anything.
//! Does not know a real backend: the faulty one is a fake Vault, the healthy one beside it a store.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::available;
use crate::support::fake::{Fake, Reply};
use crate::support::fake_vault;
use crate::support::mount::{HANG, Mount, Store, possible, run, secretfs, signal, wait_until};

/// On top of a deadline, for a machine that does other things.
const SLACK: Duration = Duration::from_secs(8);

/// What the fake Vault does to every request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Stopped,
    Silence,
    Stall,
    Closed,
    Status(u16),
    Half,
    Cut,
    Html,
    Flood,
    Stream,
}

/// A mount with the trees `sick` (the fake Vault) and `well` (a store).
struct Patient {
    mount: Mount,
    fake: Fake,
    fault: Arc<Mutex<Fault>>,
    _store: Store,
}

impl Patient {
    fn new(deadline: &str, ttl: &str) -> Self {
        let store = Store::new();
        let secrets: serde_json::Map<String, Value> =
            (0..20).map(|n| (format!("s{n}"), json!({"value": format!("canary-{n}")}))).collect();
        let import = store.folder.path().join("import.json");
        std::fs::write(&import, Value::from(secrets).to_string()).unwrap();
        let mut command = secretfs();
        command.args(["store", "import"]).arg(store.file()).arg(&import).arg("--identity");
        run(command.arg(store.identity()));

        let fault = Arc::new(Mutex::new(Fault::None));
        let now = fault.clone();
        let fake = Fake::start(move |request| {
            let healthy = || match fake_vault::asked(request) {
                (path, false) if path[0] == "sys" => fake_vault::kv2("kv"),
                (path, true) if path.len() == 2 => {
                    let names = (0..200).map(|n| format!("cold-{n}"));
                    fake_vault::keys(
                        &names
                            .chain((0..20).map(|n| format!("folder-{n}/")))
                            .chain(["warm".into()])
                            .map(Value::from)
                            .collect::<Vec<_>>(),
                    )
                }
                (_, true) => fake_vault::keys(&["in-a-folder".into()]),
                (path, false) => fake_vault::secret(&json!({"k": format!("canary-{}", path[2])})),
            };
            let whole =
                json!({"data": {"data": {"k": "canary canary canary"}, "keys": ["canary-name"]}}).to_string();
            match *now.lock().unwrap() {
                Fault::None | Fault::Stopped => healthy(),
                Fault::Silence => Reply::Silence,
                Fault::Stall => Reply::Stall(whole[..30].to_owned()),
                Fault::Closed => Reply::Close,
                Fault::Status(status) => fake_vault::error(status),
                Fault::Half => Reply::Answer(200, whole[..40].to_owned()),
                Fault::Cut => Reply::Cut(whole),
                Fault::Html => Reply::Answer(200, "<html><title>canary</title></html>".to_owned()),
                Fault::Flood => Reply::Flood(50 << 20),
                Fault::Stream => Reply::Stream(50 << 20),
            }
        });
        let plan = Mount::of("");
        let config = plan.folder().join("config.toml");
        let text = format!(
            "[backend.sick]\ntype = \"vault\"\naddress = \"{}\"\n\
             [backend.well]\ntype = \"store\"\nfile = \"{}\"\nidentity = \"{}\"\n\
             [[tree]]\npath = \"sick\"\nbackend = \"sick\"\nsource = \"kv\"\n\
             [[tree]]\npath = \"well\"\nbackend = \"well\"\n",
            fake.endpoint(),
            store.file().display(),
            store.identity().display()
        );
        std::fs::write(&config, text).unwrap();
        let plan = plan.arg("--config").arg(config).arg("--deadline").arg(deadline).arg("--ttl").arg(ttl);
        // What is held past its TTL must not hide a fault.
        let plan = plan.arg("--max-stale").arg("0");
        let mount = plan.envs([("VAULT_TOKEN", "canary-token")]).start();
        Self { mount, fake, fault, _store: store }
    }

    fn suffer(&self, fault: Fault) {
        let before = std::mem::replace(&mut *self.fault.lock().unwrap(), fault);
        match (before, fault) {
            (Fault::Stopped, Fault::Stopped) => {}
            (Fault::Stopped, _) => self.fake.resume(),
            (_, Fault::Stopped) => self.fake.stop(),
            _ => {}
        }
    }

    /// A program that waits for the faulty backend.
    fn waiting(&self, program: &str, path: PathBuf) -> Child {
        let before = self.fake.requests().len();
        let child = spawned(program, path);
        wait_until("the request of a waiting reader", || self.fake.requests().len() > before);
        child
    }

    /// Peak resident memory of the program, in KiB (VmHWM, proc(5)).
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.mount.worker())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

fn spawned(program: &str, path: PathBuf) -> Child {
    let mut command = Command::new(program);
    command.arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap())
}

/// Ends within a time that no deadline of these tests explains.
fn ends_soon(what: &str, child: &mut Child) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < SLACK, "{what} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_fault_is_its_errno_in_time_and_touches_nothing_else() {
    let Some(()) = available("mount", possible()) else { return };
    let deadline = Duration::from_secs(2);
    let patient = Patient::new("2s", "1h");
    let mount = &patient.mount;
    assert_eq!(mount.read("sick/warm/k").unwrap(), b"canary-warm");
    let faults = [
        (Fault::Stopped, libc::EIO),
        (Fault::Silence, libc::ETIMEDOUT),
        (Fault::Stall, libc::ETIMEDOUT),
        (Fault::Closed, libc::EIO),
        (Fault::Status(400), libc::EIO),
        (Fault::Status(403), libc::EACCES),
        (Fault::Status(404), libc::ENOENT),
        (Fault::Status(429), libc::EIO),
        (Fault::Status(500), libc::EIO),
        (Fault::Status(503), libc::EIO),
        (Fault::Half, libc::EIO),
        (Fault::Cut, libc::EIO),
        (Fault::Html, libc::EIO),
        (Fault::Flood, libc::EFBIG),
        (Fault::Stream, libc::EFBIG),
    ];
    for (n, (fault, expected)) in faults.into_iter().enumerate() {
        let (cold, folder) = (format!("sick/cold-{n}/k"), format!("sick/folder-{n}"));
        patient.suffer(fault);
        let timed = |what: &dyn Fn() -> i32| {
            let start = Instant::now();
            let errno = what();
            assert!(start.elapsed() < deadline + SLACK, "{fault:?} took {:?}", start.elapsed());
            errno
        };
        std::thread::scope(|scope| {
            let read = scope.spawn(|| timed(&|| errno(mount.read(&cold))));
            let list = scope.spawn(|| timed(&|| errno(mount.ls(&folder))));
            // Meanwhile:
            assert_eq!(mount.read(&format!("well/s{n}/value")).unwrap(), format!("canary-{n}").as_bytes());
            assert_eq!(mount.ls("well").unwrap().len(), 20);
            assert_eq!(mount.ls("").unwrap(), ["sick", "well"]);
            assert_eq!(mount.read("sick/warm/k").unwrap(), b"canary-warm", "cached, {fault:?}");
            // A denial of a listed secret is an answer that makes the listing doubtful: it is asked again, and denied too.
            if !matches!(fault, Fault::Status(403 | 404)) {
                assert_eq!(mount.ls("sick").unwrap().len(), 221, "cached, {fault:?}");
            }
            rustix::fs::statvfs(&mount.at).unwrap();
            assert_eq!(read.join().unwrap(), expected, "read, {fault:?}");
            assert_eq!(list.join().unwrap(), expected, "list, {fault:?}");
        });
        patient.suffer(Fault::None);
        let listed = || mount.ls("sick").is_ok_and(|names| names.len() == 221);
        wait_until("healed", || mount.read(&cold).is_ok() && mount.ls(&folder).is_ok() && listed());
    }
}

#[test]
fn twenty_huge_answers_do_not_grow_the_program() {
    let Some(()) = available("mount", possible()) else { return };
    let patient = Patient::new("20s", "1h");
    patient.mount.ls("sick").unwrap();
    for (fault, base) in [(Fault::Flood, 0), (Fault::Stream, 10)] {
        patient.suffer(fault);
        for n in base..base + 5 {
            assert_eq!(errno(patient.mount.read(&format!("sick/cold-{n}/k"))), libc::EFBIG);
        }
    }
    assert!(patient.peak() < 200 << 10, "{} KiB", patient.peak());
    // Each answer is held up to the limit of 8 MiB, with room to grow.
    std::thread::scope(|scope| {
        for n in 20..30 {
            let mount = &patient.mount;
            scope.spawn(move || assert_eq!(errno(mount.read(&format!("sick/cold-{n}/k"))), libc::EFBIG));
        }
    });
    assert!(patient.peak() < 300 << 10, "{} KiB", patient.peak());
    // Not one of them was read to its end.
    assert!(patient.fake.sent() < 20 * (25 << 20), "{} bytes", patient.fake.sent());
}

#[test]
fn a_crowd_at_a_black_hole_is_let_go_in_time_and_nobody_else_queues() {
    let Some(()) = available("mount", possible()) else { return };
    let deadline = Duration::from_secs(2);
    let patient = Patient::new("2s", "1h");
    patient.mount.read("sick/warm/k").unwrap();
    patient.suffer(Fault::Silence);
    let mount = &patient.mount;
    let start = Instant::now();
    std::thread::scope(|scope| {
        // More than max_in_flight: the rest queue until their deadline.
        let crowd: Vec<_> =
            (0..100).map(|n| scope.spawn(move || errno(mount.read(&format!("sick/cold-{n}/k"))))).collect();
        wait_until("a full queue", || patient.fake.requests().len() >= 64);
        assert_eq!(mount.read("sick/warm/k").unwrap(), b"canary-warm");
        assert_eq!(mount.read("well/s1/value").unwrap(), b"canary-1");
        assert!(start.elapsed() < deadline + SLACK);
        for one in crowd {
            // The first to give up show that nobody answers: those who still queue need not ask any more.
            let outcome = one.join().unwrap();
            assert!([libc::ETIMEDOUT, libc::EIO].contains(&outcome), "{outcome}");
        }
    });
    assert!(start.elapsed() < deadline + SLACK, "{:?}", start.elapsed());
    patient.suffer(Fault::None);
    wait_until("healed", || mount.read("sick/cold-99/k").is_ok());
}

#[test]
fn a_killed_reader_is_gone_long_before_the_deadline_wherever_it_waits() {
    let Some(()) = available("mount", possible()) else { return };
    let patient = Patient::new("60s", "1s");
    let mount = &patient.mount;
    assert_eq!(mount.read("sick/cold-0/k").unwrap(), b"canary-cold-0");
    // Through this descriptor the file is opened without a lookup.
    let known =
        rustix::fs::open(mount.path("sick/cold-0/k"), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
    let known = known.unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&known);
    let link = PathBuf::from(format!("/proc/{}/fd/{number}", std::process::id()));
    patient.suffer(Fault::Silence);
    // What was asked for ahead just before has ended too.
    std::thread::sleep(Duration::from_millis(1100));
    // They share the request that they wait for, so that cannot tell when each has begun to wait.
    let mut waiting = [
        ("a reader in open", spawned("cat", link)),
        ("a reader in lookup", spawned("cat", mount.path("sick/cold-2/k"))),
        ("a lister", spawned("ls", mount.path("sick/folder-1"))),
    ];
    std::thread::sleep(Duration::from_millis(500));
    for (what, child) in &mut waiting {
        assert!(child.try_wait().unwrap().is_none(), "{what} did not wait");
    }
    for (what, child) in &mut waiting {
        signal(child.id(), "KILL");
        ends_soon(what, child);
    }
    patient.suffer(Fault::None);
    assert_eq!(mount.read("sick/cold-2/k").unwrap(), b"canary-cold-2");
}

#[test]
fn df_ls_elsewhere_and_unmount_never_wait_for_a_black_hole() {
    let Some(()) = available("mount", possible()) else { return };
    let patient = Patient::new("60s", "1h");
    let at = patient.mount.at.clone();
    patient.suffer(Fault::Silence);
    let mut reader = patient.waiting("cat", at.join("sick/cold-1/k"));
    let quick = |command: &mut Command| {
        let start = Instant::now();
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(start.elapsed() < SLACK, "{command:?} took {:?}", start.elapsed());
        output
    };
    for arguments in [&["df"][..], &["stat", "-f"], &["ls", "-l"], &["stat"]] {
        let output = quick(Command::new(arguments[0]).args(&arguments[1..]).arg(&at));
        assert!(output.status.success(), "{arguments:?}");
    }
    assert!(quick(Command::new("ls").arg("-lR").arg(at.join("well"))).status.success());
    let busy = quick(secretfs().arg("unmount").arg(&at));
    assert!(!busy.status.success() && String::from_utf8_lossy(&busy.stderr).contains("in use"));
    assert!(quick(secretfs().arg("unmount").arg("--lazy").arg(&at)).status.success());
    assert!(!patient.mount.is_mounted());
    assert!(reader.try_wait().unwrap().is_none(), "the reader still waits");
    signal(reader.id(), "KILL");
    ends_soon("the reader", &mut reader);
}

#[test]
fn sigterm_ends_the_mount_and_its_waiting_readers() {
    let Some(()) = available("mount", possible()) else { return };
    let mut patient = Patient::new("60s", "1h");
    patient.suffer(Fault::Silence);
    let mut reader = patient.waiting("cat", patient.mount.path("sick/cold-1/k"));
    let start = Instant::now();
    assert_eq!(patient.mount.stop(), Some(0));
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    assert!(!patient.mount.is_mounted());
    ends_soon("the reader", &mut reader);
    assert!(start.elapsed() < HANG);
}

#[test]
fn two_readers_of_one_unknown_name_are_both_let_go_by_the_deadline() {
    let Some(()) = available("mount", possible()) else { return };
    let patient = Patient::new("2s", "1h");
    patient.suffer(Fault::Silence);
    let path = patient.mount.path("sick/cold-1/k");
    let mut first = patient.waiting("cat", path.clone());
    let mut second = spawned("cat", path);
    std::thread::sleep(Duration::from_millis(300));
    // The kernel lets the second wait for the first one's lookup, deaf to SIGKILL (d_wait_lookup, fs/dcache.c).
    signal(second.id(), "KILL");
    ends_soon("the second", &mut second);
    ends_soon("the first", &mut first);
}
