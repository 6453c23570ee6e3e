//! Owns the promise that the death of a worker is a pause for those who read, list, look and watch, and nothing else.
//! Does not know files that are open meanwhile (open_files.rs).

use std::time::Duration;

use serde_json::json;

use super::crowd::{Crowd, Tally};
use super::grove::Grove;
use super::{drill, is_full};
use crate::support::available;
use crate::support::mount::{Mount, Store, possible, wait_until};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// As often as it takes, with a mount that does not give up over it.
pub const SETTINGS: &str = "max_crashes = 1000";
/// A worker that has served for so long is replaced at once when it dies.
pub const LIFE: Duration = Duration::from_millis(1100);

/// Kills the worker so many times; each has served for a while.
pub fn kill_again_and_again(mount: &Mount, times: usize) {
    for _ in 0..times {
        std::thread::sleep(LIFE);
        mount.kill_worker();
    }
}

/// The pauses are told; the drill holds them to this.
pub fn pauses(tally: &Tally, limit: Duration, mount: &Mount) {
    let took = took(&mount.log());
    eprintln!("  a worker serves after {:?} to {:?}, {} of them", took.first(), took.last(), took.len());
    if is_full() {
        assert!(tally.longest() <= limit, "a pause of {:?}, where {limit:?} is the most", tally.longest());
    }
}

/// How long each worker took until it served, as its holder says, from the shortest on.
fn took(log: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains("a worker serves"));
    let mut took: Vec<String> =
        lines.filter_map(|line| Some(line.split_once("took")?.1.to_owned())).collect();
    took.sort_by_key(|took| (took.len(), took.clone()));
    took
}

#[test]
fn readers_notice_nothing_of_workers_that_are_killed_but_a_pause() {
    let Some(grove) = Grove::new(SETTINGS) else { return };
    grove.warm();
    let crowd = Crowd::of_readers(&grove.secrets);
    kill_again_and_again(&grove.mount, drill(5, 100));
    crowd.go_on_for(grove.secrets.len());
    let tally = crowd.stop();
    tally.none_failed("readers and kills");
    pauses(&tally, Duration::from_millis(250), &grove.mount);
}

/// How many descriptors of inotify(7) a process has.
fn watching(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let files = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    files.filter(|file| file.as_os_str() == "anon_inode:inotify").count()
}

/// The kernel ends who has the last descriptor of a watch only after it has waited for all processors.
#[test]
fn the_death_of_a_worker_does_not_wait_for_its_watches() {
    let Some(()) = available("mount", possible()) else { return };
    // Whose descriptors these are root alone may see.
    let Some(()) = available("root", crate::users::is_root()) else { return };
    let store = Store::new();
    store.put("api-key", &["value=canary"]);
    let mount = store.mount().start();
    let watched = watching(mount.worker());
    assert!(watched > 0, "a worker with a store watches its file");
    assert!(watching(mount.pid()) >= watched, "the holder has a copy of each");
    let worker = mount.kill_worker();
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary");
    wait_until("the former worker's are closed", || {
        watching(worker) == watched && watching(mount.pid()) == watched
    });
}

/// An engine is found out, and a connection made, while the mount comes back and not while programs wait.
#[test]
fn who_follows_a_crash_has_what_reads_need_before_it_is_asked_for_anything() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(vault) = available("vault", Vault::start()) else { return };
    vault.kv_put("secret", "api-key", json!({"value": "canary"}));
    vault.enable_audit();
    let looked_up = || {
        let asked = vault.audit_requests().into_iter();
        asked.filter(|(_, path)| path.starts_with("sys/internal/ui/mounts")).count()
    };
    let variables = [("VAULT_ADDR", vault.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)];
    let mount = Mount::of("vault:secret").envs(variables).start();
    assert_eq!(looked_up(), 0, "nobody has asked for anything");
    // That it was found out is seen a moment before it is known: on a machine that stands still just then a read asks once more.
    let is_used = (0..5).any(|_| {
        let before = looked_up();
        mount.kill_worker();
        wait_until("the engine is found out", || looked_up() > before);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(mount.read("api-key/value").unwrap(), b"canary");
        looked_up() == before + 1
    });
    assert!(is_used, "what was found out is of no use to those who read");
}
