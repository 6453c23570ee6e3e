//! Owns the promise that what holds for a mount of root holds for one of a user: workers die and are exchanged.
//! Does not know what else a user may do (tests/it/users.rs).

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::support::available;
use crate::support::mount::{Mount, Plan, signal, wait_until};
use crate::users::{OWNER, cat, open_to_all, store_of_user, users_can_mount};

/// Of a small store by a user.
fn of_user() -> (crate::support::mount::Store, Plan) {
    let store = store_of_user();
    let plan = open_to_all(store.mount().by_user(OWNER));
    (store, plan)
}

/// What the user reads.
fn is_read(mount: &Mount) {
    assert_eq!(cat(OWNER, mount), Ok("canary-value".into()), "{}", mount.log());
}

#[test]
fn a_mount_of_a_user_survives_its_workers_and_is_upgraded() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let (_store, plan) = of_user();
    let mut mount = plan.start();
    is_read(&mount);
    for _ in 0..3 {
        let before = mount.worker();
        signal(before, "KILL");
        is_read(&mount);
        wait_until("the next worker", || mount.worker_now().is_some_and(|worker| worker != before));
        std::thread::sleep(super::kills::LIFE);
    }
    let before = mount.worker();
    let mut upgrade = Command::new(mount.folder.path().join("secretfs"));
    upgrade.env_clear().arg("upgrade").arg(&mount.at).current_dir("/").uid(OWNER).gid(OWNER);
    let output = upgrade.output().unwrap();
    assert!(output.status.success(), "{}", super::builds::said(&output));
    assert_ne!(mount.worker(), before);
    is_read(&mount);
    assert_eq!(mount.stop(), Some(0), "{}", mount.log());
    assert!(!mount.is_mounted());
}

/// It is in the tree before its first worker is there.
#[test]
fn a_user_mounts_on_the_folder_that_the_program_was_started_in() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let (_store, plan) = of_user();
    let mut mount = plan.in_mountpoint().start();
    wait_until("a worker", || mount.worker_now().is_some());
    is_read(&mount);
    assert_eq!(mount.stop(), Some(0), "{}", mount.log());
    assert!(!mount.is_mounted());
}

#[test]
fn a_mount_of_a_user_whose_workers_crash_too_often_is_taken_away() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let (store, plan) = of_user();
    let mut mount = plan.start();
    is_read(&mount);
    std::fs::remove_file(store.identity()).unwrap();
    signal(mount.worker(), "KILL");
    assert_eq!(mount.ended(), Some(70), "{}", mount.log());
    assert!(!mount.is_mounted());
}
