//! Owns promises about leases that other agents were found to break, each with the issue that tells of it.
//! Does not know how those agents work; src/leases/tests/regressions.rs tries the same in hours of a clock of its own.

use std::time::Instant;

use serde_json::json;

use super::database::servers;
use super::faults::{PACE, declared, none_failed, seconds, sleep, text, works};
use super::login::{POLICY, from_file, requests, token};
use super::mount_with;
use crate::support::available;
use crate::support::mount::{Mount, possible, run, secretfs, wait_until};
use crate::support::postgres::{Postgres, database_role};
use crate::support::samples::Samples;
use crate::support::vault::Vault;

/// hashicorp/vault#16439: the last renewal gives less than a whole life, the agent slept for longer than that.
/// hashicorp/consul-template#949: a successor was asked for when the lease had ended already.
#[test]
fn what_reaches_its_max_ttl_has_a_successor_before_and_works_until_then() {
    let (vault, postgres) = servers!();
    // Renewed once or twice, each time for less.
    database_role(&vault, &postgres, "database", "app", "9s", "12s");
    let mut mount = mount_with(&vault, "", &declared("app")).start();
    let samples = Samples::start(postgres.port, &mount.path("app"), PACE);
    let (began, mut shown, mut changes) = (Instant::now(), String::new(), 0);
    while began.elapsed() < seconds(45) {
        let user = text(&mount, "app/username").unwrap();
        if !shown.is_empty() && user != shown {
            changes += 1;
            assert_eq!(text(&mount, "app/.previous/username").unwrap(), shown, "it has not ended yet");
            assert!(works(&mount, &postgres, "app/.previous"), "change {changes}");
        }
        shown = user;
        std::thread::sleep(PACE);
    }
    none_failed(&samples.stop(), 200);
    assert!((3..=6).contains(&changes), "{changes} changes");
    let made = vault.audit_times("database/creds/app");
    let apart = made.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap());
    assert!(apart.max().unwrap() < seconds(12), "each before the end of the one before");
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

/// hashicorp/consul-template#1433: another token is in the file, and what was made with the old one, be it a moment ago, dies
/// with that one.
#[test]
fn what_was_made_with_an_old_token_is_replaced_before_that_one_ends() {
    let (vault, postgres) = servers!();
    for role in ["app", "late"] {
        database_role(&vault, &postgres, "database", role, "1h", "2h");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let old = Instant::now();
    std::fs::write(&file, token(&vault, json!({"ttl": "20s", "explicit_max_ttl": "20s"}))).unwrap();
    let mut mount = mount_with(&vault, &from_file(&file), &(declared("app") + &declared("late"))).start();
    let samples = Samples::start(postgres.port, &mount.path("app"), PACE);
    std::thread::sleep(seconds(11).saturating_sub(old.elapsed()));
    assert!(works(&mount, &postgres, "late"));
    let late = Samples::start(postgres.port, &mount.path("late"), PACE);
    std::fs::write(&file, token(&vault, json!({"ttl": "1h"}))).unwrap();
    std::thread::sleep(seconds(32).saturating_sub(old.elapsed()));
    none_failed(&samples.stop(), 150);
    none_failed(&late.stop(), 100);
    for role in ["app", "late"] {
        assert_eq!(requests(&vault, &format!("database/creds/{role}")), 2, "{role}");
    }
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

/// hashicorp/vault#25712: a renewal that is answered 403 was asked for again and again, without a pause.
#[test]
fn a_renewal_that_no_policy_allows_is_asked_for_once_a_lease() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "10s", "30s");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    // Which engine covers a path is in the policy `default`, as renewing is.
    let policy = format!("{POLICY}\npath \"sys/internal/ui/mounts/*\" {{ capabilities = [\"read\"] }}");
    vault.must("PUT", "sys/policies/acl/poor", json!({ "policy": policy }));
    let poor = json!({"ttl": "1h", "policies": ["poor"], "no_default_policy": true});
    std::fs::write(&file, token(&vault, poor)).unwrap();
    let mut mount = mount_with(&vault, &from_file(&file), &declared("app")).start();
    let samples = Samples::start(postgres.port, &mount.path("app"), PACE);
    sleep(35);
    none_failed(&samples.stop(), 150);
    let (made, renewals) = (requests(&vault, "database/creds/app"), requests(&vault, "sys/leases/renew"));
    assert!((3..=8).contains(&made), "{made} leases");
    assert!((1..=made).contains(&renewals), "{renewals} renewals of {made} leases");
    assert!(vault.audit_requests().len() < 100, "{} requests", vault.audit_requests().len());
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

/// hashicorp/vault#19684: what an agent held for others hid that there was a newer one, or that the lease had ended.
#[test]
fn what_was_revoked_is_never_shown_again() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "10s", "1h");
    let mut mount = mount_with(&vault, "", &declared("app")).start();
    let mut users = std::collections::BTreeSet::new();
    let mut is_new = |mount: &Mount, postgres: &Postgres| {
        assert!(works(mount, postgres, "app"));
        let user = text(mount, "app/username").unwrap();
        let whole = text(mount, "app/.json").unwrap();
        assert!(whole.contains(&user), "one lease in all files");
        assert!(users.insert(user), "an old one is shown");
    };
    is_new(&mount, &postgres);
    for _ in 0..3 {
        run(secretfs().arg("revoke").arg(mount.path("app")));
        is_new(&mount, &postgres);
    }
    // By somebody else: known at the next renewal at the latest.
    vault.must("POST", "sys/leases/revoke-prefix/database/creds/app", json!({"sync": true}));
    let began = Instant::now();
    wait_until("another one", || works(&mount, &postgres, "app"));
    assert!(began.elapsed() < seconds(8), "{:?}", began.elapsed());
    is_new(&mount, &postgres);
    run(secretfs().arg("refresh").arg(mount.path("app")));
    is_new(&mount, &postgres);
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

/// The same issue: two ways of asking for what lies at one path are two secrets.
#[test]
fn what_was_made_with_other_parameters_is_never_shown() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(vault) = available("vault", Vault::start()) else { return };
    vault.enable_audit();
    vault.must("POST", "sys/mounts/ssh", json!({"type": "ssh"}));
    let role = json!({"key_type": "otp", "default_user": "u", "cidr_list": "127.0.0.0/8"});
    vault.must("POST", "ssh/roles/otp", role);
    let host = |name: &str, ip: &str| {
        format!(
            "[[secret]]\npath = \"/{name}\"\nbackend = \"v\"\nsource = \"ssh/creds/otp\"\nfields = [\"key\", \"ip\"]\n\
             parameters = {{ ip = \"{ip}\" }}\n"
        )
    };
    let hosts = [("one", "127.0.0.1"), ("two", "127.0.0.2")];
    let mount = mount_with(&vault, "", &hosts.map(|(name, ip)| host(name, ip)).concat()).start();
    let read =
        |name: &str| (text(&mount, &format!("{name}/ip")), text(&mount, &format!("{name}/key")).unwrap());
    let mut keys = std::collections::BTreeSet::new();
    for round in 0..3 {
        for (name, ip) in hosts {
            let (shown, key) = read(name);
            assert_eq!(shown.unwrap(), ip);
            assert!(keys.insert(key), "round {round}: a key was shown before");
        }
        // One of the two is left alone.
        let (_, left) = read("two");
        run(secretfs().arg("revoke").arg(mount.path("one")));
        assert_eq!(read("two").1, left);
        run(secretfs().arg("revoke").arg(mount.path("two")));
    }
    assert_eq!((requests(&vault, "ssh/creds/otp"), vault.leases("ssh/creds/otp")), (6, 0));
}
