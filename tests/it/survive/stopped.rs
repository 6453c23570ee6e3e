//! Owns the promise about processes that are stopped: a worker that does not answer is replaced, a holder that slept kills nobody.
//! Does not know workers that die.

use std::time::Duration;

use serde_json::json;

use super::crowd::Crowd;
use super::drill;
use super::grove::{EACH, Grove};
use super::kills::{LIFE, SETTINGS, pauses};
use crate::support::mount::{HANG, secretfs, signal};

#[test]
fn a_worker_that_is_stopped_is_replaced_and_whoever_waits_gets_their_bytes() {
    let Some(grove) = Grove::new(&format!("{SETTINGS}\nwatchdog = \"1s\"\ndeadline = \"25s\"")) else {
        return;
    };
    let times = drill(3, 10);
    let late = |round: usize| format!("late-{round}");
    for name in (0..times).map(late) {
        grove.vault.kv_put("secret", &name, json!({"k": format!("canary-{name}")}));
    }
    grove.warm();
    let crowd = Crowd::of_readers(&grove.secrets);
    for round in 0..times {
        crowd.go_on_for(grove.secrets.len());
        std::thread::sleep(LIFE);
        let stopped = grove.mount.worker();
        // Somebody who waits for a backend when it happens.
        let name = late(round);
        grove.vault.pause();
        let file = grove.mount.path(&format!("v/{name}/k"));
        let waits = std::thread::spawn(move || std::fs::read(file));
        std::thread::sleep(Duration::from_millis(100));
        signal(stopped, "STOP");
        grove.vault.resume();
        let next = grove.mount.worker_after(stopped);
        assert_ne!(next, stopped);
        let (value, wanted) = (waits.join().unwrap().unwrap(), format!("canary-{name}"));
        assert!(value == wanted.as_bytes(), "somebody who waited got something else");
    }
    crowd.go_on_for(grove.secrets.len());
    let tally = crowd.stop();
    tally.none_failed("readers, and workers that are stopped");
    // The watchdog's second, and then at once, also the tenth time.
    pauses(&tally, Duration::from_secs(2), &grove.mount);
    let log = grove.mount.log();
    assert!(log.contains("does not answer: it is replaced"), "{log}");
}

#[test]
fn a_holder_that_was_stopped_for_a_while_kills_nobody() {
    let Some(grove) = Grove::new("watchdog = \"4s\"") else { return };
    grove.warm();
    let worker = grove.mount.worker();
    let crowd = Crowd::of_readers(&grove.secrets[..EACH]);
    for _ in 0..drill(1, 5) {
        signal(grove.mount.pid(), "STOP");
        std::thread::sleep(Duration::from_secs(10));
        signal(grove.mount.pid(), "CONT");
        std::thread::sleep(Duration::from_secs(6));
        assert_eq!(grove.mount.worker(), worker);
    }
    crowd.stop().none_failed("readers, and a holder that is stopped");
    let status = secretfs().args(["status", "--json"]).arg(&grove.mount.at).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status.to_string().contains("\"crashes\":0"), "{status}");
    assert!(grove.mount.answers(HANG));
}
