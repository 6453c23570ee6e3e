//! Owns the promise that modes hold in containers as outside: for users who are not root there, and for users of another user namespace.

use super::*;

const READER: &str = "4322:4322";
const STRANGER: &str = "4323:4323";
/// Root in such a container is user 100000 outside.
const MAPPED: [&str; 2] = ["--uidmap=0:100000:65536", "--gidmap=0:100000:65536"];

fn podman(rig: &Rig, options: &[&str]) -> Inside {
    let volume = format!("{}:/whole:ro", rig.at(""));
    let options: Vec<String> = options.iter().copied().chain(["--volume", &volume]).map(Into::into).collect();
    Inside::podman(&options)
}

#[test]
fn a_user_in_a_container_reads_what_modes_allow_before_and_after_a_kill() {
    let Some(()) = mountable() else { return };
    let Some(()) = available("podman", containers_run()) else { return };
    let rig = Rig::new("allow_other = true\nmode = \"0440\"\ngid = 4322");
    let readers = [
        (podman(&rig, &["--user", READER]), rig.key()),
        (podman(&rig, &["--user", STRANGER]), "EACCES".into()),
        (podman(&rig, &MAPPED), "EACCES".into()),
    ];
    let mut last = None;
    for round in 0..3 {
        for (reader, expected) in &readers {
            assert_eq!(reader.read("/whole/api-key/value"), *expected, "{}, round {round}", reader.name);
        }
        last = Some(rig.kill_worker(last));
    }
}

#[test]
fn a_container_with_users_of_its_own_reads_what_is_open_to_all() {
    let Some(()) = mountable() else { return };
    let Some(()) = available("podman", containers_run()) else { return };
    let rig = Rig::new("allow_other = true\nmode = \"0444\"");
    let reader = podman(&rig, &MAPPED);
    for last in [None, Some(rig.mount.worker())] {
        assert_eq!(reader.read("/whole/api-key/value"), rig.key());
        if last.is_none() {
            rig.kill_worker(None);
        }
    }
}

#[test]
fn without_allow_other_only_the_user_who_mounted_gets_in_in_a_container_too() {
    let Some(()) = mountable() else { return };
    let Some(()) = available("podman", containers_run()) else { return };
    let rig = Rig::new("mode = \"0444\"");
    let root = podman(&rig, &[]);
    assert_eq!(root.read("/whole/api-key/value"), rig.key());
    let other = podman(&rig, &["--user", READER]);
    assert_eq!(other.read("/whole/api-key/value"), "EACCES");
}
