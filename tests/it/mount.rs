//! Owns what a mount promises whatever the backend: values, sizes, errors, change, end.
//! Runs on the embedded store.

use crate::support::available;
use crate::support::mount::{Store, possible};

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
