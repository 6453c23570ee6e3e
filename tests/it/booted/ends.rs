//! Owns the ends of the service: what is left of it, and what a later start finds.
//! Does not know what happens to a service that goes on (drills.rs).

use std::time::{Duration, Instant};

use super::readers::Readers;
use super::{booted, device, holder, mounts_at, must_come_back, read_drill, signal, worker};
use crate::support::systemd::{Machine, Prepared};

/// Readers must know within this time that nobody serves them any more.
const SOON: Duration = Duration::from_secs(30);

pub fn prepare(machine: &Prepared) {
    for name in ["stop", "stop-restart", "stop-stuck", "crash-loop", "holder-loop", "leak"] {
        machine.drill(name, "");
    }
    machine.unit("secretfs@stop-stuck.service.d/soon.conf", "[Service]\nTimeoutStopSec=2s\n");
}

/// That nothing of it is left: no mount, no process, no descriptor.
fn must_be_gone(machine: &Machine, name: &str) {
    let unit = format!("secretfs@{name}");
    // what a killed process has left goes as soon as the service is down
    machine.wait_until("the mount is gone", || mounts_at(machine, name).is_empty());
    let serves = format!(
        "for process in /proc/[0-9]*; do tr '\\0' ' ' < $process/cmdline; echo; done 2> /dev/null | grep -E 'secretfs (mount|worker) .*/{name}[.]toml'"
    );
    let left = machine.run(&["sh", "-c", &serves]).stdout;
    let left = String::from_utf8_lossy(&left);
    // the shell and grep name it themselves
    let left: Vec<_> = left.lines().filter(|line| !line.contains("grep")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(machine.property(&unit, "NFileDescriptorStore"), "0");
}

#[test]
fn stop_leaves_no_mount_no_process_and_no_descriptor() {
    let Some(machine) = booted() else { return };
    for _ in 0..3 {
        machine.must(&["systemctl", "start", "secretfs@stop"]);
        assert_eq!(read_drill(machine, "stop"), "canary-drill-3");
        let stored = machine.property("secretfs@stop", "NFileDescriptorStore");
        assert_ne!(stored, "0");
        machine.must(&["systemctl", "restart", "secretfs@stop"]);
        assert_eq!(machine.property("secretfs@stop", "NFileDescriptorStore"), stored);
        machine.must(&["systemctl", "stop", "secretfs@stop"]);
        assert_eq!(machine.property("secretfs@stop", "Result"), "success");
        must_be_gone(machine, "stop");
    }
}

#[test]
fn stop_in_the_middle_of_a_restart_leaves_nothing_that_is_asked_or_in_the_way() {
    let Some(machine) = booted() else { return };
    let mut left = 0;
    for pause in [0, 10, 20, 30, 40, 50, 70, 100, 150, 200, 300] {
        machine.must(&["systemctl", "start", "secretfs@stop-restart"]);
        machine.must(&["systemctl", "restart", "--no-block", "secretfs@stop-restart"]);
        std::thread::sleep(Duration::from_millis(pause));
        machine.must(&["systemctl", "stop", "secretfs@stop-restart"]);
        assert_ne!(machine.property("secretfs@stop-restart", "ActiveState"), "active");
        // Between the end of the old process and the start of the new one systemd has a moment in which it runs nothing that could
        // take the mount away: then it is dead, whoever asks has an error at once, and the next start takes it away.
        let start = Instant::now();
        while !mounts_at(machine, "stop-restart").is_empty() && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
        }
        match mounts_at(machine, "stop-restart").len() {
            0 => must_be_gone(machine, "stop-restart"),
            _ => {
                left += 1;
                let said = machine.run(&["stat", "--file-system", "/secrets/stop-restart"]);
                let is_dead = String::from_utf8_lossy(&said.stderr).contains("not connected");
                assert!(is_dead || mounts_at(machine, "stop-restart").is_empty(), "{said:?}");
                assert_eq!(machine.property("secretfs@stop-restart", "NFileDescriptorStore"), "0");
            }
        }
        machine.run(&["systemctl", "reset-failed", "secretfs@stop-restart"]);
    }
    eprintln!("a dead mount was left {left} times");
    machine.must(&["systemctl", "start", "secretfs@stop-restart"]);
    assert_eq!(read_drill(machine, "stop-restart"), "canary-drill-3");
    device(machine, "stop-restart");
    machine.must(&["systemctl", "stop", "secretfs@stop-restart"]);
    must_be_gone(machine, "stop-restart");
}

#[test]
fn stop_after_a_kill_and_of_one_that_is_stuck_leaves_nothing_either() {
    let Some(machine) = booted() else { return };
    let unit = "secretfs@stop-stuck";
    for pause in [0, 60, 120, 180, 240] {
        machine.must(&["systemctl", "start", unit]);
        signal(machine, "KILL", holder(machine, "stop-stuck"));
        std::thread::sleep(Duration::from_millis(pause));
        machine.must(&["systemctl", "stop", unit]);
        must_be_gone(machine, "stop-stuck");
        machine.run(&["systemctl", "reset-failed", unit]);
    }
    machine.must(&["systemctl", "start", unit]);
    signal(machine, "STOP", holder(machine, "stop-stuck"));
    machine.must(&["systemctl", "stop", unit]);
    must_be_gone(machine, "stop-stuck");
    machine.run(&["systemctl", "reset-failed", unit]);
}

#[test]
fn workers_that_crash_again_and_again_end_the_mount_and_a_later_start_works() {
    let Some(machine) = booted() else { return };
    let unit = "secretfs@crash-loop";
    machine.must(&["systemctl", "start", unit]);
    let readers = Readers::start(machine, "crash-loop");
    let start = Instant::now();
    while machine.property(unit, "ActiveState") != "failed" {
        assert!(start.elapsed() < 3 * SOON, "it does not give up");
        match worker(machine, "crash-loop") {
            0 => {}
            worker => drop(machine.run(&["sh", "-c", &format!("kill -KILL {worker}")])),
        }
    }
    // as configured: six within a minute
    let crashes = machine.journal(unit).matches("a worker was killed").count();
    assert_eq!(crashes, 6);
    assert_eq!(machine.property(unit, "ExecMainStatus"), "70");
    assert_eq!(machine.property(unit, "NRestarts"), "0");
    must_be_gone(machine, "crash-loop");
    let seen = readers.end();
    eprintln!("{seen:?}");
    assert!(seen.reads > 0 && seen.wrong == 0 && seen.longest < SOON, "{seen:?}");
    assert!(seen.errors.contains("Input/output"), "{seen:?}");
    machine.must(&["systemctl", "start", unit]);
    assert_eq!(read_drill(machine, "crash-loop"), "canary-drill-3");
    machine.must(&["systemctl", "stop", unit]);
}

#[test]
fn a_holder_that_crashes_at_once_is_given_up_and_a_later_start_works() {
    let Some(machine) = booted() else { return };
    let unit = "secretfs@holder-loop";
    machine.must(&["systemctl", "start", unit]);
    let readers = Readers::start(machine, "holder-loop");
    let folder = "/run/systemd/system/secretfs@holder-loop.service.d";
    machine.must(&["mkdir", "-p", folder]);
    let crash = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'kill -KILL $$$$'\n";
    machine.write(&format!("{folder}/crash.conf"), crash);
    machine.must(&["systemctl", "daemon-reload"]);
    let start = Instant::now();
    signal(machine, "KILL", holder(machine, "holder-loop"));
    while machine.property(unit, "ActiveState") != "failed" {
        assert!(start.elapsed() < SOON, "it does not give up");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(machine.property(unit, "NFileDescriptorStore"), "0");
    eprintln!("given up after {:?}, {} starts", start.elapsed(), machine.property(unit, "NRestarts"));
    let seen = readers.end();
    eprintln!("{seen:?}");
    assert!(seen.failures > 0 && seen.wrong == 0 && seen.longest < SOON, "{seen:?}");
    machine.must(&["rm", "-r", folder]);
    machine.must(&["systemctl", "daemon-reload"]);
    machine.must(&["systemctl", "reset-failed", unit]);
    machine.must(&["systemctl", "start", unit]);
    assert_eq!(read_drill(machine, "holder-loop"), "canary-drill-3");
    device(machine, "holder-loop");
    machine.must(&["systemctl", "stop", unit]);
}

#[test]
fn descriptors_of_systemd_are_open_in_nobody_who_is_not_to_have_them() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "secretfs@leak"]);
    let count = |process: u32| {
        let list = machine.must(&["ls", "-l", &format!("/proc/{process}/fd")]);
        ["memfd:secretfs-about", "memfd:secretfs-inodes", "memfd:", "/dev/fuse"]
            .map(|name| list.matches(name).count())
    };
    let first = (count(holder(machine, "leak")), count(worker(machine, "leak")));
    for _ in 0..3 {
        let before = holder(machine, "leak");
        signal(machine, "KILL", before);
        must_come_back(machine, "leak", before);
    }
    // `about` was read, and all else is there once as before
    let now = (count(holder(machine, "leak")), count(worker(machine, "leak")));
    assert_eq!((now.0[0], now.1[0]), (0, 0), "{now:?}");
    assert_eq!((now.0[1], now.0[3]), (2, 1), "{now:?}");
    assert_eq!(now.1, first.1, "a worker has more than the first one had");
    // proc(5): O_CLOEXEC is 02000000
    let open_on_exec = format!(
        "for file in /proc/{}/fdinfo/*; do case ${{file##*/}} in 0|1|2) ;; *) grep -q 'flags:.*2[0-7]\\{{6\\}}$' $file || echo $file;; esac; done",
        holder(machine, "leak")
    );
    let left = machine.must(&["sh", "-c", &open_on_exec]);
    assert!(left.is_empty(), "a program of a hook would get these: {left}");
    machine.must(&["systemctl", "stop", "secretfs@leak"]);
}
