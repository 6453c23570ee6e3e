//! Owns the promises about the end of a mount whose processes are dying, killed, or told to end at the same time.
//! Does not know ends in good order (tests/it/mount/lifecycle.rs), or what leases a mount has (credentials.rs).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::builds::{Builds, said, upgrade};
use super::kills::SETTINGS;
use crate::support::available;
use crate::support::mount::{HANG, Mount, Plan, Store, possible, run, secretfs, signal, wait_until};

/// A mount that does not give up over workers that die.
pub(super) fn planned(store: &Store) -> Plan {
    store.put("api-key", &["value=canary-value"]);
    let plan = Mount::of("");
    let (file, identity) = (store.file(), store.identity());
    let text = format!(
        "[mount]\n{SETTINGS}\n[backend.s]\ntype = \"store\"\nfile = {file:?}\nidentity = {identity:?}\n\
         [[tree]]\npath = \"/\"\nbackend = \"s\"\n"
    );
    let config = plan.folder().join("config.toml");
    std::fs::write(&config, text).unwrap();
    plan.arg("--config").arg(config)
}

/// Kills one worker after the other as soon as there is one, so many; the last one's end is known to its holder.
fn kill_in_a_row(mount: &Mount, count: usize) {
    let mut last = None;
    for _ in 0..count {
        wait_until("a worker", || mount.worker_now().is_some_and(|worker| Some(worker) != last));
        let worker = mount.worker();
        signal(worker, "KILL");
        last = Some(worker);
    }
    let start = Instant::now();
    while mount.worker_now() == last {
        assert!(start.elapsed() < HANG);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// After so many in a row the next one comes 1.6 s later.
const LONG_PAUSE: usize = 6;

/// Until there is none for a while. On a machine that does other things one may live long enough not to count.
fn kill_until_none_lives(mount: &Mount) {
    kill_in_a_row(mount, LONG_PAUSE);
    let start = Instant::now();
    while mount.worker_now().is_some() {
        assert!(start.elapsed() < HANG);
        kill_in_a_row(mount, 1);
    }
}

#[test]
fn workers_that_are_killed_while_they_start_are_followed_by_one_that_serves() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    let mut mount = planned(&store).start();
    for _ in 0..3 {
        kill_in_a_row(&mount, 3);
        assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
    }
    assert_eq!(mount.stop(), Some(0), "{}", mount.log());
}

#[test]
fn a_holder_that_is_told_to_end_while_no_worker_lives_ends_in_good_order() {
    let Some(()) = available("mount", possible()) else { return };
    for name in ["TERM", "INT"] {
        let store = Store::new();
        let mut mount = planned(&store).start();
        kill_until_none_lives(&mount);
        signal(mount.pid(), name);
        assert_eq!(mount.ended(), Some(0), "{}", mount.log());
        assert!(!mount.is_mounted());
    }
}

#[test]
fn an_unmount_while_no_worker_lives_ends_the_program() {
    let Some(()) = available("mount", possible()) else { return };
    for lazy in [false, true] {
        let store = Store::new();
        let mut mount = planned(&store).start();
        kill_until_none_lives(&mount);
        let mut umount = Command::new("umount");
        umount.args(lazy.then_some("-l")).arg(&mount.at).stdin(Stdio::null());
        let (mut umount, start) = (umount.spawn().unwrap(), Instant::now());
        while umount.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < HANG, "umount hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(mount.ended(), Some(0), "{}", mount.log());
        assert!(!mount.is_mounted());
    }
}

/// As with `cd /secrets && secretfs mount SOURCE .`.
#[test]
fn a_mount_over_the_folder_that_its_program_was_started_in_survives_its_worker_and_can_be_unmounted() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    let mut mount = planned(&store).in_mountpoint().start();
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
    // What the kernel remembers of the mount it does not ask for: for a second.
    std::thread::sleep(Duration::from_millis(1500));
    signal(mount.worker(), "KILL");
    assert!(mount.answers(HANG), "{}", mount.log());
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
    run(secretfs().arg("unmount").arg(&mount.at));
    assert_eq!(mount.ended(), Some(0), "{}", mount.log());
}

#[test]
fn an_unmount_during_an_upgrade_ends_that_too_and_whoever_asked_for_it_is_told() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    let mut mount = planned(&store).installed().in_scratch().start();
    let builds = Builds::of(&mount);
    std::fs::write(mount.folder.path().join("worker"), "exec sleep 1000").unwrap();
    builds.install(&builds.file("hangs", &std::fs::read("/bin/bash").unwrap()));
    let upgrading = upgrade(&mount).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("an upgrade", || mount.log().contains("upgrading program="));
    run(Command::new("umount").arg(&mount.at));
    let told = upgrading.wait_with_output().unwrap();
    assert!(!told.status.success() && said(&told).contains("the mount is ending"), "{}", said(&told));
    assert_eq!(mount.ended(), Some(0), "{}", mount.log());
}

#[test]
fn signals_to_both_processes_at_once_are_one_end() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    for name in ["-TERM", "-INT", "-HUP"] {
        let mut mount = planned(&store).start();
        let pids = [mount.pid(), mount.worker()].map(|pid| pid.to_string());
        run(Command::new("kill").arg(name).args(&pids));
        assert_eq!(mount.ended(), Some(0), "{}", mount.log());
        assert!(!mount.is_mounted());
        assert!(!mount.log().contains("was killed"), "{}", mount.log());
    }
}

#[test]
fn an_interrupt_from_the_terminal_is_one_end() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    let mut mount = planned(&store).in_group().start();
    let group = format!("-{}", mount.pid());
    run(Command::new("kill").args(["-INT", "--", &group]));
    assert_eq!(mount.ended(), Some(0), "{}", mount.log());
    assert!(!mount.is_mounted());
    assert!(!mount.log().contains("ERROR"), "{}", mount.log());
}

#[test]
fn a_holder_that_is_killed_takes_its_worker_along_and_the_place_can_be_used_again() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    let mut mount = planned(&store).start();
    let worker = mount.worker();
    let file = mount.path("api-key/value");
    let reader = std::thread::spawn(move || {
        loop {
            if let Err(error) = std::fs::read(&file) {
                return error.raw_os_error();
            }
        }
    });
    signal(mount.pid(), "KILL");
    mount.ended();
    let start = Instant::now();
    while !reader.is_finished() {
        assert!(start.elapsed() < HANG, "a reader hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
    // EIO: while the worker was at its end.
    let told = reader.join().unwrap().unwrap();
    assert!([libc::ENOTCONN, libc::ECONNABORTED, libc::EIO].contains(&told), "{told}");
    wait_until("its worker ends", || !std::path::Path::new(&format!("/proc/{worker}")).exists());
    assert!(mount.log().contains("the holder of the mount is gone: the mount ends"), "{}", mount.log());
    assert_eq!(mount.ls("").unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    run(secretfs().arg("unmount").arg(&mount.at));
    assert!(!mount.is_mounted());
    let mut command = secretfs();
    command.arg("mount").arg("--config").arg(mount.folder.path().join("config.toml")).arg(&mount.at);
    let mut again = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is mounted again", || mount.is_mounted());
    let value = mount.read("api-key/value");
    signal(again.id(), "TERM");
    assert_eq!(again.wait().unwrap().code(), Some(0));
    assert_eq!(value.unwrap(), b"canary-value");
}
