//! Owns what containers see of the end of a mount, and of the next mount in its place; docs/operations.md tells it.

use super::*;

/// The same by another mount in its place, with the value that a store of its own has.
fn mounted_anew(rig: &Rig) -> (std::process::Child, Store) {
    let store = Store::new();
    store.put("api-key", &["value=canary-anew"]);
    let mut command = secretfs();
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(&rig.mount.at);
    let child =
        command.arg("--identity").arg(store.identity()).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the new mount", || {
        std::fs::read(rig.mount.path("api-key/value")).is_ok_and(|read| read == b"canary-anew")
    });
    (child, store)
}

fn stop(mut child: std::process::Child) {
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A container with the folder that the mount lies in.
fn with_the_folder(rig: &Rig, propagation: &str) -> (Inside, String) {
    let volume = format!("{}:/folder:{propagation}", rig.shared.path().display());
    let below = rig.mount.path("api-key/value");
    let below = below.strip_prefix(rig.shared.path()).unwrap();
    (Inside::podman(&["--volume".into(), volume]), format!("/folder/{}", below.display()))
}

/// A container with what is mounted now.
fn started_now(rig: &Rig) -> Inside {
    Inside::podman(&["--volume".into(), format!("{}:/whole", rig.at(""))])
}

fn rig() -> Option<Rig> {
    mountable()?;
    available("podman", containers_run())?;
    Some(Rig::new(""))
}

#[test]
fn the_programs_end_is_not_held_up_by_containers_which_get_errors_from_then_on() {
    let Some(mut rig) = rig() else { return };
    let readers = ["rprivate", "rslave"].map(|propagation| Reader::in_podman(&rig, propagation));
    for reader in &readers {
        assert_eq!(reader.inside.ask(&["hold", "open", &reader.one]), "held");
    }
    assert_eq!(rig.mount.stop(), Some(0));
    assert!(!rig.mount.is_mounted());
    let (anew, _store) = mounted_anew(&rig);
    for reader in &readers {
        assert_eq!(reader.reads(), ["ENOTCONN"; 4], "{}", reader.inside.name);
        assert_eq!(reader.inside.ask(&["again", "open"]), "ENOTCONN", "{}", reader.inside.name);
    }
    // The same container, started again.
    assert_eq!(started_now(&rig).read("/whole/api-key/value"), "=canary-anew");
    stop(anew);
}

#[test]
fn a_mount_that_is_unmounted_outside_lives_on_for_containers_until_the_last_of_them_ends() {
    let Some(mut rig) = rig() else { return };
    let readers = ["rprivate", "rslave"].map(|propagation| Reader::in_podman(&rig, propagation));
    run(secretfs().arg("unmount").arg(&rig.mount.at));
    assert!(!rig.mount.is_mounted());
    rig.rotate();
    rig.kill_worker(None);
    for reader in &readers {
        for path in reader.keys() {
            wait_until("the new version", || reader.inside.read(&path) == rig.key());
        }
    }
    drop(readers);
    assert_eq!(rig.mount.ended(), Some(0));
}

#[test]
fn a_mount_that_only_containers_have_left_ends_when_it_is_told_to() {
    let Some(mut rig) = rig() else { return };
    let reader = Reader::in_podman(&rig, "rprivate");
    run(secretfs().arg("unmount").arg(&rig.mount.at));
    assert_eq!(reader.inside.read(&reader.one), rig.key());
    assert_eq!(rig.mount.stop(), Some(0));
    assert_eq!(reader.reads(), ["ENOTCONN"; 4]);
}

#[test]
fn a_container_with_the_folder_as_slave_follows_the_mount_and_a_private_one_does_not() {
    let Some(mut rig) = rig() else { return };
    let (slave, at) = with_the_folder(&rig, "rslave");
    let (private, _) = with_the_folder(&rig, "rprivate");
    for inside in [&slave, &private] {
        assert_eq!(inside.read(&at), rig.key(), "{}", inside.name);
    }
    run(secretfs().arg("unmount").arg(&rig.mount.at));
    let folder = at.strip_suffix("/api-key/value").unwrap();
    assert_eq!(slave.ls(folder), "=", "an empty folder");
    assert_eq!(slave.read(&at), "ENOENT");
    assert_eq!(private.read(&at), rig.key(), "the old mount lives on");
    let (anew, _store) = mounted_anew(&rig);
    assert_eq!(slave.read(&at), "=canary-anew");
    assert_eq!(private.read(&at), rig.key());
    assert_eq!(rig.mount.stop(), Some(0));
    assert_eq!(private.read(&at), "ENOTCONN");
    assert_eq!(slave.read(&at), "=canary-anew");
    stop(anew);
    assert_eq!(slave.ls(folder), "=");
}

#[test]
fn a_container_as_slave_is_left_an_empty_folder_when_the_program_ends() {
    let Some(mut rig) = rig() else { return };
    let (slave, at) = with_the_folder(&rig, "rslave");
    assert_eq!(slave.ask(&["hold", "open", &at]), "held");
    assert_eq!(rig.mount.stop(), Some(0));
    assert_eq!(slave.read(&at), "ENOENT");
    assert_eq!(slave.ask(&["again", "open"]), "ENOTCONN");
}

#[test]
fn a_container_that_was_there_before_the_mount_sees_it_as_slave_only() {
    let Some(mut rig) = rig() else { return };
    assert_eq!(rig.mount.stop(), Some(0));
    let bound = |propagation: &str| {
        let at = rig.at("");
        Inside::podman(&["--volume".into(), format!("{}:/whole:{propagation}", at.trim_end_matches('/'))])
    };
    let (slave, private) = (bound("rslave"), bound("rprivate"));
    for by_signal in [false, true] {
        let (mut anew, _store) = mounted_anew(&rig);
        assert_eq!(slave.read("/whole/api-key/value"), "=canary-anew");
        assert_eq!(private.ls("/whole"), "=");
        if by_signal {
            stop(anew);
        } else {
            run(secretfs().arg("unmount").arg(&rig.mount.at));
            assert_eq!(anew.wait().unwrap().code(), Some(0));
        }
        assert_eq!(slave.ls("/whole"), "=");
    }
}

#[test]
fn a_killed_program_leaves_containers_with_errors_until_it_is_unmounted_or_they_are_started_again() {
    let Some(mut rig) = rig() else { return };
    let reader = Reader::in_podman(&rig, "rslave");
    let (slave, at) = with_the_folder(&rig, "rslave");
    let (private, _) = with_the_folder(&rig, "rprivate");
    rig.mount.kill();
    assert_eq!(reader.reads(), ["ENOTCONN"; 4]);
    assert_eq!([&slave, &private].map(|inside| inside.read(&at)), ["ENOTCONN"; 2]);
    run(secretfs().arg("unmount").arg(&rig.mount.at));
    let (anew, _store) = mounted_anew(&rig);
    assert_eq!(reader.reads(), ["ENOTCONN"; 4]);
    assert_eq!([&slave, &private].map(|inside| inside.read(&at)), ["=canary-anew", "ENOTCONN"]);
    assert_eq!(started_now(&rig).read("/whole/api-key/value"), "=canary-anew");
    stop(anew);
}
