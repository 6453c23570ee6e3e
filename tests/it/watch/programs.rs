//! Owns the promises of the real program to watchers, over a real store and a real Vault: told of each change, and of nothing else.

use std::time::Duration;

use serde_json::json;

use super::{Poller, can_tell, written};
use crate::support::available;
use crate::support::inotify::Watcher;
use crate::support::mount::{Mount, Store, possible};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// Secrets of a mount, the way to change one, and a watcher of `team/db/password`, its directory and what lies beside.
fn tells_of_each_change(mount: &Mount, put: impl Fn(&str, &str)) {
    let paths = ["team/db/password", "team/db", "team", "team/other/password", "team/other", "."];
    for path in ["team/db/password", "team/other/password", "marker/password"] {
        mount.read(path).unwrap();
    }
    let paths: Vec<_> =
        paths.into_iter().chain(["marker/password"]).map(|path| (path, mount.path(path))).collect();
    let watcher = Watcher::on(paths.iter().map(|(name, path)| (*name, path.as_path())));
    let _asking = ["team/db/password", "team/other/password", "marker/password"]
        .map(|path| Poller::of(&mount.path(path)));
    for round in 0..5 {
        let value = format!("canary-{}", "x".repeat(round + 10));
        put("team/db", &value);
        let mut events = watcher.wait(&["team/db/password CLOSE_WRITE", "team/db/password ATTRIB"]);
        assert_eq!(mount.read("team/db/password").unwrap(), value.as_bytes());
        assert_eq!(mount.path("team/db/password").metadata().unwrap().len(), value.len() as u64);
        put("marker", &value);
        events.extend(watcher.wait(&["marker/password CLOSE_WRITE"]));
        events.retain(|event| !event.starts_with("marker"));
        events.sort();
        // To those who watch the file, and to those who watch its directory.
        let mut expected = [written("team/db/password"), written("team/db/password")].concat();
        expected.sort();
        assert_eq!(events, expected, "round {round}");
    }
}

/// Nothing happens to a secret for a while, though it is asked for all the time and another one in the same folder changes.
fn tells_nothing_of_what_does_not_change(mount: &Mount, put: impl Fn(&str, &str)) {
    let quiet = std::env::var("SECRETFS_TEST_QUIET_SECONDS").map_or(4, |seconds| seconds.parse().unwrap());
    mount.read("team/other/password").unwrap();
    mount.read("team/db/password").unwrap();
    let (file, folder) = (mount.path("team/other/password"), mount.path("team/other"));
    let before = file.metadata().unwrap();
    let watcher = Watcher::on([("file", &*file), ("folder", &*folder)]);
    let marker = mount.path("team/db/password");
    let changing = Watcher::on([("marker", &*marker)]);
    let _asking = [Poller::of(&file), Poller::of(&marker)];
    for second in 0..quiet {
        put("team/db", &format!("canary-{second}"));
        changing.wait(&["marker CLOSE_WRITE"]);
        watcher.sleep(Duration::from_secs(1));
        assert_eq!(watcher.take(), [""; 0], "after {second} s");
    }
    let after = file.metadata().unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

fn store() -> (Store, Mount) {
    let store = Store::new();
    for secret in ["team/db", "team/other", "marker"] {
        store.put(secret, &["password=canary-first"]);
    }
    let mount = store.mount().arg("--ttl").arg("100ms").start();
    (store, mount)
}

fn vault(server: &Vault, engine: &str, ttl: &str) -> Mount {
    server.enable_kv(engine, 2);
    for secret in ["team/db", "team/other", "marker"] {
        server.kv_put(engine, secret, json!({"password": "canary-first"}));
    }
    let environment = [("VAULT_ADDR", server.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)];
    Mount::of(&format!("vault:{engine}")).arg("--ttl").arg(ttl).envs(environment).start()
}

#[test]
fn each_change_in_a_store_is_told() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let (store, mount) = store();
    tells_of_each_change(&mount, |path, value| store.put(path, &[&format!("password={value}")]));
}

#[test]
fn a_store_whose_path_is_too_long_for_the_mount_table_is_told_of_as_well() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let store = Store::new();
    let folder = ["x".repeat(200), "y".repeat(200)]
        .iter()
        .fold(store.folder.path().to_owned(), |at, name| at.join(name));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("store.age");
    std::os::unix::fs::symlink(store.file(), &file).unwrap();
    store.put("api-key", &["value=canary-first"]);
    let mount =
        Mount::of(&format!("store:{}", file.display())).arg("--identity").arg(store.identity()).start();
    mount.read("api-key/value").unwrap();
    let path = mount.path("api-key/value");
    let watcher = Watcher::on([("file", &*path)]);
    store.put("api-key", &["value=canary-second"]);
    watcher.wait(&["file CLOSE_WRITE"]);
}

#[test]
fn each_change_in_vault_is_told() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let Some(server) = available("vault", Vault::shared()) else { return };
    let mount = vault(server, "told", "100ms");
    tells_of_each_change(&mount, |path, value| server.kv_put("told", path, json!({ "password": value })));
}

#[test]
fn nothing_is_told_of_an_unchanged_secret_in_a_store() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let (store, mount) = store();
    let put = |path: &str, value: &str| store.put(path, &[&format!("password={value}")]);
    tells_nothing_of_what_does_not_change(&mount, put);
}

#[test]
fn nothing_is_told_of_an_unchanged_secret_in_vault() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let Some(server) = available("vault", Vault::shared()) else { return };
    let mount = vault(server, "quiet", "100ms");
    let put = |path: &str, value: &str| server.kv_put("quiet", path, json!({ "password": value }));
    tells_nothing_of_what_does_not_change(&mount, put);
}

#[test]
fn who_watches_and_reads_nothing_is_told_long_after_the_last_read() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let Some(server) = available("vault", Vault::shared()) else { return };
    let mount = vault(server, "idle", "1s");
    let file = mount.path("team/db/password");
    assert_eq!(mount.read("team/db/password").unwrap(), b"canary-first");
    let watcher = Watcher::on([("file", &*file)]);
    // Not opened for more than three TTLs: by that alone it would be idle, and its changes nobody's business.
    std::thread::sleep(Duration::from_secs(6));
    for value in ["canary-second", "canary-third"] {
        server.kv_put("idle", "team/db", json!({ "password": value }));
        watcher.wait(&["file CLOSE_WRITE"]);
        assert_eq!(mount.read("team/db/password").unwrap(), value.as_bytes());
        std::thread::sleep(Duration::from_secs(4));
    }
}
