//! Owns what `.versions` shows of the older versions that real backends keep.
//! Does not know how names become versions, which is in src/fs/tests.rs.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::support::available;
use crate::support::moto::{Content, Moto};
use crate::support::mount::{Mount, Plan, Store, possible, run, secretfs};
use crate::support::vault::{ROOT_TOKEN, Vault};

fn vault_mount(server: &Vault, engine: &str) -> Plan {
    let environment = [("VAULT_ADDR", server.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)];
    Mount::of(&format!("vault:{engine}")).envs(environment).arg("--ttl").arg("1h")
}

fn text(mount: &Mount, file: &str) -> String {
    String::from_utf8(mount.read(file).unwrap_or_else(|error| panic!("{file}: {error}"))).unwrap()
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap())
}

#[test]
fn an_older_version_in_vault_is_read_by_its_number() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(server) = available("vault", Vault::shared()) else { return };
    server.enable_kv("older-files", 2);
    for number in 1..=4 {
        server.kv_put("older-files", "team/db", json!({"k": format!("canary-{number}"), "n": number}));
    }
    server.must("POST", "older-files/destroy/team/db", json!({"versions": [2]}));
    server.must("POST", "older-files/delete/team/db", json!({"versions": [3]}));
    let mount = vault_mount(server, "older-files").start();
    let versions = "team/db/.versions";
    assert_eq!(text(&mount, "team/db/k"), "canary-4");
    assert_eq!(text(&mount, &format!("{versions}/1/k")), "canary-1");
    assert_eq!(text(&mount, &format!("{versions}/4/k")), "canary-4");
    assert_eq!(mount.ls(&format!("{versions}/1")).unwrap(), ["k", "n"]);
    assert_eq!(mount.ls(versions).unwrap(), [""; 0]);
    assert_eq!(text(&mount, &format!("{versions}/1/.json")), "{\"k\":\"canary-1\",\"n\":1}\n");
    let meta: Value = serde_json::from_str(&text(&mount, &format!("{versions}/1/.meta"))).unwrap();
    assert_eq!((&meta["version"], &meta["path"]), (&json!("1"), &json!("older-files/team/db")));
    let explained = run(secretfs().arg("explain").arg(mount.path(&format!("{versions}/1/k"))));
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.contains("version: 1") && explained.contains("readable: yes"), "{explained}");
    let times = ["1/k", "1", "4/k"]
        .map(|name| mount.path(&format!("{versions}/{name}")).metadata().unwrap().mtime_nsec());
    assert_eq!(times[0], times[1], "a version's directory is as old as the version");
    assert_ne!(times[0], times[2]);
    let before = server.audit_requests().len();
    for gone in ["2", "3", "2/k", "5", "99999"] {
        assert_eq!(errno(mount.read(&format!("{versions}/{gone}"))), libc::ENOENT, "{gone}");
    }
    for none in ["0", "01", "+1", "latest", "%2F", "1 "] {
        assert_eq!(errno(mount.read(&format!("{versions}/{none}/k"))), libc::ENOENT, "{none}");
    }
    let asked = server.audit_requests().split_off(before);
    let asked = asked.iter().filter(|(_, path)| path.starts_with("older-files/")).count();
    assert!(asked <= 5, "{asked} requests: what is no number is not asked for");
}

#[test]
fn the_previous_version_in_aws_is_read_by_its_stage() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(moto) = Moto::shared() else { return };
    let first = moto.create("older/db", Content::Text(r#"{"k": "canary-1"}"#));
    moto.put("older/db", Content::Text(r#"{"k": "canary-2"}"#));
    let mount = Mount::of("aws:older").envs(moto.environment()).arg("--deadline").arg("60s").start();
    assert_eq!(text(&mount, "db/k"), "canary-2");
    assert_eq!(text(&mount, "db/.versions/AWSPREVIOUS/k"), "canary-1");
    assert_eq!(text(&mount, "db/.versions/AWSCURRENT/k"), "canary-2");
    assert_eq!(errno(mount.read("db/.versions/AWSPENDING/k")), libc::ENOENT);
    let meta: Value = serde_json::from_str(&text(&mount, "db/.versions/AWSPREVIOUS/.meta")).unwrap();
    let version = meta["version"].as_str().unwrap();
    assert_eq!(text(&mount, &format!("db/.versions/{version}/k")), "canary-1");
    assert!(!first.is_empty());
}

#[test]
fn a_backend_without_older_versions_has_none_by_any_name() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    store.put("a", &["k=canary-1"]);
    store.put("a", &["k=canary-2"]);
    let mount = store.mount().start();
    assert_eq!(mount.ls("a/.versions").unwrap(), [""; 0]);
    for name in ["1", "2", "AWSPREVIOUS", "..%2F", "%~"] {
        assert_eq!(errno(mount.read(&format!("a/.versions/{name}"))), libc::ENOENT, "{name}");
    }
    assert_eq!(mount.ls("a").unwrap(), ["k"]);
    let found = run(std::process::Command::new("find").arg(mount.path("a")));
    assert!(!String::from_utf8(found.stdout).unwrap().contains(".versions"));
}
