//! Owns the promise that a container which was there before sees the mount go on: over kills of the worker and over upgrades, in
//! the mount, a folder or a file of it that it has bound, with files open and watches set.

use std::time::Duration;

use super::*;

/// What containers have seen of a drill.
#[derive(Default)]
struct Seen {
    same: u32,
    stale: u32,
}

/// Everything that was opened before, and is read after: the same bytes, or ESTALE.
fn hold_files(readers: &[Reader], name: &str) {
    for reader in readers {
        for (number, path) in reader.keys().iter().chain(&reader.passwords()).enumerate() {
            assert_eq!(reader.inside.ask(&["hold", &format!("{name}-{number}"), path]), "held");
        }
    }
}

fn read_held(readers: &[Reader], name: &str, key: &str, seen: &mut Seen) {
    for reader in readers {
        let password = format!("={PASSWORD}1");
        for (number, expected) in [key, key, &password, &password].into_iter().enumerate() {
            let again = reader.inside.ask(&["again", &format!("{name}-{number}")]);
            match again.as_str() {
                "ESTALE" => seen.stale += 1,
                again => {
                    assert_eq!(again, expected, "{}: file {number} of {name}", reader.inside.name);
                    seen.same += 1;
                }
            }
        }
    }
}

fn release(readers: &[Reader], name: &str) {
    for reader in readers {
        for number in 0..4 {
            assert_eq!(reader.inside.ask(&["release", &format!("{name}-{number}")]), "released");
        }
    }
}

/// Each of them reads everything right, now.
fn all_read(rig: &Rig, readers: &[Reader]) {
    let right = [rig.key(), rig.key(), format!("={PASSWORD}1"), format!("={PASSWORD}1")];
    for reader in readers {
        assert_eq!(reader.reads(), right, "{}", reader.inside.name);
    }
}

/// Each of them comes to read the newest version, and nothing but that or the one before until then.
fn all_come_to_read(rig: &Rig, readers: &[Reader]) {
    let old = format!("={KEY}{}", rig.version - 1);
    for (reader, path) in readers.iter().flat_map(|reader| reader.keys().map(|path| (reader, path))) {
        wait_until(&format!("{}: the new version at {path}", reader.inside.name), || {
            let read = reader.inside.read(&path);
            assert!(read == rig.key() || read == old, "{}: {read} at {path}", reader.inside.name);
            read == rig.key()
        });
    }
}

/// Interrupts the mount again and again; every second time a new version is put before.
fn drill(mut rig: Rig, readers: &[Reader], times: u32, what: &str, mut interrupt: impl FnMut(&Rig)) -> Seen {
    let mut seen = Seen::default();
    all_read(&rig, readers);
    hold_files(readers, "first");
    readers.iter().for_each(Reader::begin);
    for round in 0..times {
        let before = rig.key();
        hold_files(readers, "before");
        if round % 2 == 1 {
            rig.rotate();
            interrupt(&rig);
            all_come_to_read(&rig, readers);
        } else {
            interrupt(&rig);
        }
        all_read(&rig, readers);
        read_held(readers, "before", &before, &mut seen);
        release(readers, "before");
        read_held(readers, "first", &format!("={KEY}1"), &mut seen);
    }
    assert!(seen.same > 0, "no file that was open before could be read after");
    for reader in readers {
        eprintln!("{times} {what}: {}", reader.end());
    }
    eprintln!("{times} {what}: files open before: {} the same, {} ESTALE", seen.same, seen.stale);
    // Those who have it bound still keep it in use.
    assert_eq!(rig.mount.stop(), Some(0));
    assert!(!rig.mount.is_mounted());
    seen
}

fn kill_drill(rig: Rig, readers: &[Reader]) {
    let mut last = None;
    drill(rig, readers, rounds(4, 25), "kills", |rig| {
        // One that has hardly lived is not replaced at once.
        std::thread::sleep(Duration::from_millis(1200));
        last = Some(rig.kill_worker(last));
    });
}

fn upgrade_drill(rig: Rig, readers: &[Reader]) {
    let seen = drill(rig, readers, rounds(2, 5), "upgrades", |rig| {
        let before = rig.mount.worker();
        run(secretfs().arg("upgrade").arg(&rig.mount.at));
        assert_ne!(rig.mount.worker(), before);
    });
    assert_eq!(seen.stale, 0, "open files are handed over");
}

fn containers() -> Option<(Rig, Vec<Reader>)> {
    mountable()?;
    available("podman", containers_run())?;
    let rig = Rig::new("");
    let readers = ["rprivate", "rslave"].map(|propagation| Reader::in_podman(&rig, propagation));
    Some((rig, readers.into()))
}

fn namespaces() -> Option<(Rig, Vec<Reader>)> {
    mountable()?;
    let bwrap = available("bubblewrap", program("bwrap"))?;
    let rig = Rig::new("");
    let mut readers = vec![Reader::in_bubblewrap(&rig, &bwrap)];
    readers.extend(["private", "slave"].map(|propagation| Reader::in_namespace(&rig, propagation)));
    Some((rig, readers))
}

#[test]
fn a_container_started_before_kills_reads_right_after_each() {
    let _alone = alone();
    let Some((rig, readers)) = containers() else { return };
    kill_drill(rig, &readers);
}

#[test]
fn a_sandbox_and_a_mount_namespace_read_right_after_each_kill() {
    let _alone = alone();
    let Some((rig, readers)) = namespaces() else { return };
    kill_drill(rig, &readers);
}

#[test]
fn a_container_started_before_upgrades_reads_right_after_each() {
    let _alone = alone();
    let Some((rig, readers)) = containers() else { return };
    upgrade_drill(rig, &readers);
}

#[test]
fn a_sandbox_and_a_mount_namespace_read_right_after_each_upgrade() {
    let _alone = alone();
    let Some((rig, readers)) = namespaces() else { return };
    upgrade_drill(rig, &readers);
}

#[test]
fn a_container_that_starts_while_a_worker_is_replaced_reads_at_once() {
    let Some(()) = mountable() else { return };
    let Some(()) = available("podman", containers_run()) else { return };
    let rig = Rig::new("");
    let mut last = None;
    for _ in 0..rounds(2, 10) {
        last = Some(rig.kill_worker(last));
        let reader = [Reader::in_podman(&rig, "rprivate")];
        all_read(&rig, &reader);
        last = Some(rig.kill_worker(last));
        all_read(&rig, &reader);
    }
}

#[test]
fn a_watcher_in_a_container_is_told_by_every_worker_that_follows() {
    let Some(()) = mountable() else { return };
    let Some(()) = available("podman", containers_run()) else { return };
    let mut rig = Rig::new("");
    let reader = Reader::in_podman(&rig, "rprivate");
    for (name, path) in [("file", &reader.one), ("folder", &format!("{}/api-key", reader.whole))] {
        assert_eq!(reader.inside.ask(&["watch", name, path]), "watching");
    }
    let mut last = None;
    for round in 0..rounds(4, 10) {
        // The first new version comes while a worker is there; all others before the next worker is.
        rig.rotate();
        for name in ["file", "folder"] {
            assert_eq!(reader.inside.ask(&["told", name]), "told", "{name}, round {round}");
        }
        assert_eq!(reader.keys().map(|path| reader.inside.read(&path)), [rig.key(), rig.key()]);
        if round == 1 {
            // From now on the new version is seen before anybody is told.
            reader.begin();
        }
        last = Some(rig.kill_worker(last));
    }
    reader.end();
}

#[test]
fn a_container_reads_again_when_a_stopped_worker_is_replaced() {
    let Some(()) = mountable() else { return };
    let Some(()) = available("podman", containers_run()) else { return };
    let mut rig = Rig::new("watchdog = \"1s\"");
    let reader = [Reader::in_podman(&rig, "rprivate")];
    reader[0].begin();
    signal(rig.mount.worker(), "STOP");
    rig.rotate();
    all_come_to_read(&rig, &reader);
    eprintln!("a stopped worker: {}", reader[0].end());
}
