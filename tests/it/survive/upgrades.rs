//! Owns the promise about upgrades: another build serves, nobody notices, and nothing is asked of a backend because of it.
//! Does not know upgrades that come to nothing (no_upgrade.rs), or leases (credentials.rs).

use std::time::Duration;

use serde_json::json;

use super::builds::{Builds, said, upgrade};
use super::crowd::Crowd;
use super::drill;
use super::grove::{EACH, Grove};
use super::kills::{SETTINGS, pauses};
use crate::support::mount::{Plan, run, signal, wait_until};

/// Nothing is asked again by age.
pub fn lasting() -> String {
    format!("{SETTINGS}\nttl = \"1h\"")
}

#[test]
fn readers_notice_nothing_of_upgrades_and_no_backend_is_asked_because_of_them() {
    let Some(grove) = Grove::of(&lasting(), Plan::installed) else { return };
    let builds = Builds::of(&grove.mount);
    grove.warm();
    grove.vault.enable_audit();
    let crowd = Crowd::of_readers(&grove.secrets);
    let mut worker = grove.mount.worker();
    for _ in 0..drill(6, 100) {
        builds.install_other();
        assert!(!builds.runs(worker));
        run(&mut upgrade(&grove.mount));
        let next = grove.mount.worker();
        assert_ne!(next, worker);
        assert!(builds.runs(next), "a worker of another build");
        worker = next;
        crowd.go_on_for(200);
    }
    let tally = crowd.stop();
    tally.none_failed("readers and upgrades");
    pauses(&tally, Duration::from_millis(100), &grove.mount);
    let asked = grove.asked();
    eprintln!("  {asked} requests to the backend");
    // Nor by those who ask for all of it once more.
    grove.warm();
    assert_eq!((asked, grove.asked()), (0, 0));
    assert!(!grove.mount.log().contains("begins with nothing"), "{}", grove.mount.log());
}

#[test]
fn a_signal_upgrades_as_the_command_does_and_two_at_once_are_fine() {
    let Some(grove) = Grove::of(&lasting(), Plan::installed) else { return };
    let builds = Builds::of(&grove.mount);
    grove.warm();
    let crowd = Crowd::of_readers(&grove.secrets);
    let first = grove.mount.worker();
    builds.install_other();
    signal(grove.mount.pid(), "USR2");
    wait_until("an upgrade", || {
        grove.mount.worker() != first && grove.mount.log().matches("upgraded: a new worker").count() == 1
    });
    let second = grove.mount.worker();
    assert!(builds.runs(second));
    builds.install_other();
    let both = [(); 2].map(|()| upgrade(&grove.mount).stderr(std::process::Stdio::piped()).spawn().unwrap());
    for one in both {
        let output = one.wait_with_output().unwrap();
        // One that comes when the other's worker is just being exchanged is told so.
        assert!(output.status.success() || said(&output).contains("try again"), "{output:?}");
    }
    assert_ne!(grove.mount.worker(), second);
    assert!(builds.runs(grove.mount.worker()));
    crowd.go_on_for(EACH);
    crowd.stop().none_failed("readers and upgrades by a signal, or two at once");
    assert!(!grove.mount.log().contains("no upgrade:"), "{}", grove.mount.log());
}

#[test]
fn whoever_waits_for_a_slow_backend_over_an_upgrade_gets_the_answer() {
    let Some(grove) = Grove::of(&format!("{}\ndeadline = \"25s\"", lasting()), Plan::installed) else {
        return;
    };
    grove.vault.kv_put("secret", "slow", json!({"k": "canary-slow"}));
    let builds = Builds::of(&grove.mount);
    assert_eq!(grove.mount.ls("v").unwrap().len(), EACH + 1);
    grove.vault.pause();
    let file = grove.mount.path("v/slow/k");
    let waits = std::thread::spawn(move || std::fs::read(file));
    std::thread::sleep(Duration::from_millis(300));
    builds.install_other();
    let output = upgrade(&grove.mount).output().unwrap();
    let waited = !waits.is_finished();
    grove.vault.resume();
    assert!(output.status.success(), "{}", said(&output));
    assert!(waited, "nobody waited");
    assert!(builds.runs(grove.mount.worker()));
    assert_eq!(waits.join().unwrap().unwrap(), b"canary-slow");
}

/// Whom to kill in the middle of an upgrade.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Old,
    New,
}

#[test]
fn a_worker_that_is_killed_in_the_middle_of_an_upgrade_is_a_pause_for_readers_and_nothing_else() {
    let Some(grove) = Grove::of(&lasting(), Plan::installed) else { return };
    let builds = Builds::of(&grove.mount);
    grove.warm();
    let crowd = Crowd::of_readers(&grove.secrets);
    let mut came = Vec::new();
    for round in 0..drill(10, 60) {
        let victim = [Victim::Old, Victim::New][round % 2];
        let before = grove.mount.worker();
        builds.install_other();
        let upgrading = upgrade(&grove.mount).spawn().unwrap();
        let mut new = None;
        wait_until("the next worker", || {
            new = grove.mount.workers().into_iter().find(|worker| *worker != before);
            new.is_some()
        });
        // From its first moment on until it serves.
        std::thread::sleep(Duration::from_millis(round as u64 / 2 * 97 % 200));
        let victim_pid = match victim {
            Victim::Old => before,
            Victim::New => new.unwrap(),
        };
        let _ = std::process::Command::new("kill")
            .args(["-KILL", &victim_pid.to_string()])
            .stderr(std::process::Stdio::null())
            .status();
        let output = upgrading.wait_with_output().unwrap();
        came.push((victim, output.status.code()));
        wait_until("a worker that serves", || {
            grove.mount.workers().len() == 1 && grove.mount.answers(Duration::from_secs(1))
        });
        crowd.go_on_for(200);
        std::thread::sleep(super::kills::LIFE);
    }
    eprintln!("  {came:?}");
    let tally = crowd.stop();
    tally.none_failed("readers, and workers that are killed in the middle of an upgrade");
    builds.install_other();
    run(&mut upgrade(&grove.mount));
    assert!(builds.runs(grove.mount.worker()));
}
