//! Owns what a mount promises whatever the backend: values, sizes, errors, change, end.
//! Runs on the embedded store.

mod ages;
mod background;
mod changes;
mod closes;
mod copies;
mod crashes;
mod directories;
mod fstab;
mod hidden;
pub mod lifecycle;
mod moved;
mod names;
mod panics;
mod permissions;
pub mod readonly;
mod service;
mod successors;

use std::path::Path;
use std::process::Command;

use crate::support::mount::{Store, possible, run};
use crate::support::{available, program};

#[test]
fn a_value_is_exactly_its_bytes_and_a_put_is_seen_without_remount() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    store.put("api-key", &["value=canary-1"]);
    let mount = store.mount().start();
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-1");
    store.put("api-key", &["value=canary-2-longer"]);
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-2-longer");
    assert_eq!(mount.path("api-key/value").metadata().unwrap().len(), 15);
    store.put("team/db", &["user=canary"]);
    assert_eq!(mount.ls("").unwrap(), ["api-key", "team"]);
}

/// A store that holds `api-key/value` = `canary-value`.
fn small_store() -> Store {
    let store = Store::new();
    store.put("api-key", &["value=canary-value"]);
    store
}

/// Runs a Python program with arguments; its output, or nothing where there is no Python (printed).
fn python(script: &str, arguments: &[&Path]) -> Option<String> {
    let python = available("python3", program("python3"))?;
    let output = run(Command::new(python).arg("-c").arg(script).args(arguments));
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

/// A file of configuration with one store and trees as given, readable by its owner only.
fn configuration(store: &Store, mount: &str, trees: &str) -> std::path::PathBuf {
    let file = store.folder.path().join("config.toml");
    let (age, identity) = (store.file(), store.identity());
    let text = format!(
        "[mount]\n{mount}\n[backend.local]\ntype = \"store\"\nfile = {age:?}\nidentity = {identity:?}\n{trees}"
    );
    std::fs::write(&file, text).expect("configuration");
    file
}
