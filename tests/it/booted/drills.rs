//! Owns the drills of survival: what happens to programs and their files on a machine, again and again, while others read.
//! Does not know the end of a service (ends.rs), or changes of its configuration (changes.rs).
//!
//! `SECRETFS_DRILL=full` does each 20 times; without it each is done three times.

use super::readers::Readers;
use super::{booted, device, holder, must_come_back, read_drill, signal, worker};
use crate::support::oom;
use crate::support::systemd::{Machine, Prepared};

pub fn prepare(machine: &Prepared) {
    for name in ["kill", "kill-all", "restart", "reload", "replace", "oom-holder", "related"] {
        machine.drill(name, "");
    }
    machine.drill("oom-worker", "max_crashes = 1000");
    machine.drill("watchdog", "");
    machine.unit("secretfs@watchdog.service.d/watchdog.conf", "[Service]\nWatchdogSec=2s\n");
    machine
        .unit("related.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n");
    machine.unit("secretfs@related.service.d/related.conf", "[Unit]\nPartOf=related.service\n");
}

/// Does it again and again while somebody reads: the mount is the same all the time, and no reader has an error.
fn drill(machine: &Machine, name: &str, mut strike: impl FnMut(usize)) {
    let rounds = if std::env::var("SECRETFS_DRILL").is_ok_and(|drill| drill == "full") { 20 } else { 3 };
    machine.must(&["systemctl", "start", &format!("secretfs@{name}")]);
    let first = device(machine, name);
    let readers = Readers::start(machine, name);
    for round in 0..rounds {
        strike(round);
        assert_eq!(read_drill(machine, name), "canary-drill-3");
        assert_eq!(device(machine, name), first, "another mount in round {round}");
        let said = machine.must(&["systemctl", "status", "--no-pager", &format!("secretfs@{name}")]);
        assert!(said.contains(&format!("Status: \"serving on /secrets/{name}")), "{said}");
    }
    let seen = readers.end();
    let log = machine.journal(&format!("secretfs@{name}"));
    if seen.failures > 0 {
        // by the clock of the readers' own reports
        let clock = "--output=short-monotonic";
        eprintln!(
            "{}",
            machine.must(&["journalctl", "--no-pager", clock, "--unit", &format!("secretfs@{name}")])
        );
    }
    seen.must_be_undisturbed(&format!("{name}, {rounds} times"));
    assert!(!log.contains("canary"), "a value in the log");
    machine.must(&["systemctl", "stop", &format!("secretfs@{name}")]);
}

#[test]
fn a_killed_holder_is_a_pause() {
    let Some(machine) = booted() else { return };
    drill(machine, "kill", |_| {
        let before = holder(machine, "kill");
        signal(machine, "KILL", before);
        must_come_back(machine, "kill", before);
    });
}

#[test]
fn a_killed_service_is_a_pause() {
    let Some(machine) = booted() else { return };
    drill(machine, "kill-all", |_| {
        let before = holder(machine, "kill-all");
        machine.must(&["systemctl", "kill", "--signal", "KILL", "secretfs@kill-all"]);
        must_come_back(machine, "kill-all", before);
    });
}

#[test]
fn a_restart_is_a_pause() {
    let Some(machine) = booted() else { return };
    drill(machine, "restart", |_| {
        let before = holder(machine, "restart");
        machine.must(&["systemctl", "restart", "secretfs@restart"]);
        assert_ne!(holder(machine, "restart"), before);
    });
    // none of this is a failure of the service, and so many are no reason to stop it
    assert_eq!(machine.property("secretfs@restart", "NRestarts"), "0");
    assert_eq!(machine.property("secretfs@restart", "Result"), "success");
}

#[test]
fn a_restart_that_comes_from_elsewhere_is_a_pause() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "related"]);
    drill(machine, "related", |round| {
        let before = holder(machine, "related");
        match round % 3 {
            0 => {
                machine.must(&["systemctl", "restart", "related"]);
                // systemctl waits for the job that it was asked for, and not for what follows from it
                must_come_back(machine, "related", before);
                String::new()
            }
            1 => machine.must(&["systemctl", "try-restart", "secretfs@related"]),
            _ => {
                // what is kept outlives systemd's own restart
                machine.reexecute();
                machine.must(&["systemctl", "daemon-reload"]);
                machine.must(&["systemctl", "restart", "secretfs@related"])
            }
        };
        assert_ne!(holder(machine, "related"), before);
    });
}

#[test]
fn a_reload_exchanges_the_worker_and_nobody_notices() {
    let Some(machine) = booted() else { return };
    drill(machine, "reload", |_| {
        let before = (holder(machine, "reload"), worker(machine, "reload"));
        machine.must(&["systemctl", "reload-or-restart", "secretfs@reload"]);
        assert_eq!(holder(machine, "reload"), before.0);
        assert_ne!(worker(machine, "reload"), before.1);
    });
}

#[test]
fn a_program_that_a_package_replaces_serves_after_a_reload_and_after_a_restart() {
    let Some(machine) = booted() else { return };
    drill(machine, "replace", |round| {
        let replace = "cp /usr/bin/secretfs /usr/bin/secretfs.dpkg-new && mv /usr/bin/secretfs.dpkg-new /usr/bin/secretfs";
        machine.must(&["sh", "-c", replace]);
        let installed = machine.must(&["stat", "--format=%d %i", "/usr/bin/secretfs"]);
        let of = |process: u32| {
            machine.must(&["stat", "--dereference", "--format=%d %i", &format!("/proc/{process}/exe")])
        };
        assert_ne!(of(worker(machine, "replace")), installed);
        let verb = ["reload", "restart"][round % 2];
        machine.must(&["systemctl", verb, "secretfs@replace"]);
        assert_eq!(of(worker(machine, "replace")), installed, "after {verb}");
        // the holder is a small program that goes on until a restart
        assert_eq!(of(holder(machine, "replace")) == installed, verb == "restart");
    });
}

#[test]
fn a_worker_that_the_kernel_kills_for_memory_is_a_pause() {
    let Some(machine) = booted() else { return };
    let Some(pressure) = crate::support::available("systemd", oom::Pressure::new()) else { return };
    drill(machine, "oom-worker", |_| {
        let before = worker(machine, "oom-worker");
        pressure.kill(machine.outer(before));
        machine.wait_until("another worker serves", || worker(machine, "oom-worker") != before);
    });
}

#[test]
fn a_holder_that_the_kernel_kills_for_memory_is_a_pause() {
    let Some(machine) = booted() else { return };
    let Some(pressure) = crate::support::available("systemd", oom::Pressure::new()) else { return };
    drill(machine, "oom-holder", |_| {
        let before = holder(machine, "oom-holder");
        pressure.kill(machine.outer(before));
        must_come_back(machine, "oom-holder", before);
    });
}

#[test]
fn a_holder_that_is_stuck_is_replaced_by_systemd() {
    let Some(machine) = booted() else { return };
    drill(machine, "watchdog", |_| {
        let before = holder(machine, "watchdog");
        signal(machine, "STOP", before);
        must_come_back(machine, "watchdog", before);
    });
}
