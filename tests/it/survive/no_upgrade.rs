//! Owns the promise about upgrades that come to nothing: the old worker goes on, with all it holds, and whoever asked is told why.
//! Does not know upgrades that work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::builds::{Builds, said, upgrade};
use super::crowd::Crowd;
use super::grove::Grove;
use super::kills::pauses;
use super::upgrades::lasting;
use crate::support::available;
use crate::support::fake::{Fake, Reply};
use crate::support::fake_vault::{asked, data, error};
use crate::support::mount::{Plan, possible, run, wait_until};

/// A program that does what the script `worker` in its folder says, whatever it is told: the first word is that.
const SHELL: &str = "/bin/bash";

#[test]
fn a_program_that_does_not_start_changes_nothing_and_is_told_of() {
    let Some(grove) = Grove::of(&lasting(), |plan| plan.installed().in_scratch()) else { return };
    let builds = Builds::of(&grove.mount);
    grove.warm();
    grove.vault.enable_audit();
    let worker = grove.mount.worker();
    let crowd = Crowd::of_readers(&grove.secrets);
    let shell = std::fs::read(SHELL).unwrap();
    let wrong = [
        ("text", builds.file("text", b"This is no program.\n"), "cannot be started"),
        (
            "one that ends at once",
            builds.file("ends", &std::fs::read("/bin/true").unwrap()),
            "does not start",
        ),
        ("one that fails", builds.file("fails", &shell), "does not start"),
        ("one that hangs", builds.file("hangs", &shell), "takes too long"),
    ];
    for (what, file, why) in wrong {
        let script = if what == "one that hangs" { "exec sleep 1000" } else { "exit 3" };
        std::fs::write(grove.mount.folder.path().join("worker"), script).unwrap();
        builds.install(&file);
        let began = Instant::now();
        let output = upgrade(&grove.mount).output().unwrap();
        eprintln!("{what}: after {:?}: {}", began.elapsed(), said(&output));
        assert!(!output.status.success(), "{what}");
        assert!(
            said(&output).contains(why) && said(&output).lines().count() == 1,
            "{what}: {}",
            said(&output)
        );
        assert_eq!(grove.mount.workers(), [worker], "{what}");
        crowd.go_on_for(grove.secrets.len());
    }
    // Nothing is there at all.
    std::fs::remove_file(grove.mount.folder.path().join("secretfs")).unwrap();
    let output = upgrade(&grove.mount).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("cannot be started"), "{}", said(&output));
    let tally = crowd.stop();
    tally.none_failed("readers and upgrades that come to nothing");
    pauses(&tally, Duration::from_millis(100), &grove.mount);
    assert_eq!(grove.mount.worker(), worker);
    assert_eq!(grove.asked(), 0, "it holds what it held");
    // And a good one is taken after that.
    builds.restore();
    builds.install_other();
    run(&mut upgrade(&grove.mount));
    assert!(builds.runs(grove.mount.worker()));
    assert_eq!(grove.asked(), 0);
}

#[test]
fn a_worker_in_the_middle_of_making_a_lease_goes_on_and_whoever_asked_for_an_upgrade_is_told_why() {
    let Some(()) = available("mount", possible()) else { return };
    let (is_asked, is_answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (begins, ends) = (is_asked.clone(), is_answered.clone());
    let fake = Fake::start_keeping(move |request| match &*asked(request).0 {
        [sys, internal, ..] if sys == "sys" && internal == "internal" => {
            data(&json!({"path": "database/", "type": "database"}))
        }
        [_, creds, _] if creds == "creds" => {
            begins.store(true, Ordering::SeqCst);
            while !ends.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Reply::json(json!({
                "lease_id": "database/creds/app/canary-id", "lease_duration": 3600, "renewable": true,
                "data": {"username": "canary-user", "password": "canary-password"}, "auth": null,
            }))
        }
        [_, leases, revoke] if leases == "leases" && revoke == "revoke" => error(204),
        _ => error(404),
    });
    let plan = Plan::of("").installed();
    let config = plan.folder().join("config.toml");
    let text = format!(
        "[mount]\ndeadline = \"5m\"\n[backend.v]\ntype = \"vault\"\naddress = \"{}\"\n\
         [[secret]]\npath = \"/app\"\nbackend = \"v\"\nsource = \"database/creds/app\"\n",
        fake.endpoint()
    );
    std::fs::write(&config, text).unwrap();
    let mut mount = plan.arg("--config").arg(config).envs([("VAULT_TOKEN", "canary-token")]).start();
    let (worker, file) = (mount.worker(), mount.path("app/password"));
    let reader = std::thread::spawn(move || std::fs::read(file));
    wait_until("a lease is being made", || is_asked.load(Ordering::SeqCst));
    let output = upgrade(&mount).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("did not end within 5s"), "{}", said(&output));
    wait_until("the new worker is gone", || mount.workers() == [worker]);
    is_answered.store(true, Ordering::SeqCst);
    assert_eq!(reader.join().unwrap().unwrap(), b"canary-password");
    run(&mut upgrade(&mount));
    assert_ne!(mount.worker(), worker);
    assert_eq!(mount.stop(), Some(0), "{}", mount.log());
}
