//! Owns the promises to whoever mounts in the place of a mount that ends: its end leaves that one alone, and is not in its way.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use secretfs::fuse::SessionEnd;

use super::lifecycle::{run_ok, unmount, wait_for};
use super::small_store;
use crate::support::available;
use crate::support::mount::{Store, possible, run, secretfs, signal, workers_of};
use crate::support::rig::Rig;

/// Somebody's mount in the same place.
fn mount_anew(store: &Store, at: &Path) -> Child {
    let mut command = secretfs();
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(at);
    command.arg("--identity").arg(store.identity()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn the_end_of_a_lazily_unmounted_program_leaves_its_successor_alone() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    for by_signal in [false, true] {
        let mut first = store.mount().start();
        let file = File::open(first.path("api-key/value")).unwrap();
        run_ok(&unmount(&first, &["--lazy"]));
        let mut second = mount_anew(&store, &first.at);
        wait_for(|| first.is_mounted());
        if by_signal {
            signal(first.pid(), "TERM");
        } else {
            drop(file);
        }
        assert_eq!(first.ended(), Some(0));
        let left = first.read("api-key/value");
        signal(second.id(), "TERM");
        assert_eq!(second.wait().unwrap().code(), Some(0));
        assert_eq!(left.unwrap(), b"canary-value");
    }
}

/// The kernel gives the number of a device to the next mount as soon as it is free.
#[test]
fn the_end_of_a_mount_that_somebody_has_taken_away_leaves_its_successor_alone() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let first = Rig::mount(&[]);
    let device = || std::fs::metadata(&first.at).unwrap().dev();
    let before = device();
    run(std::process::Command::new("umount").arg(&first.at));
    assert_eq!(first.runtime.block_on(first.mounted.over()), SessionEnd::Gone);
    let mut second = mount_anew(&store, &first.at);
    let read = |at: &std::path::Path| std::fs::read(at.join("api-key/value"));
    wait_for(|| read(&first.at).is_ok());
    println!("the same number: {}", before == device());
    let at = first.at.clone();
    drop(first.mounted);
    let left = read(&at);
    signal(second.id(), "TERM");
    assert_eq!(second.wait().unwrap().code(), Some(0));
    assert_eq!(left.unwrap(), b"canary-value");
}

/// To ask a mount is to be in its way: whoever unmounts it just then is told that it is busy.
#[test]
fn the_end_of_a_mount_does_not_ask_what_is_mounted_in_its_place() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mut first = store.mount().start();
    let at = first.at.clone();
    let device = || std::fs::metadata(&at).unwrap().dev();
    let before = device();
    // Its worker has seen that it was unmounted, and it has not yet.
    signal(first.pid(), "STOP");
    run(std::process::Command::new("umount").arg(&at));
    let mut second = mount_anew(&store, &at);
    wait_for(|| std::fs::read(at.join("api-key/value")).is_ok());
    println!("the same number: {}", before == device());
    let [worker] = workers_of(second.id())[..] else { panic!("one worker") };
    signal(worker, "STOP");
    signal(first.pid(), "CONT");
    std::thread::sleep(Duration::from_millis(300));
    let unmounted = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty());
    signal(worker, "CONT");
    let ended = first.ended();
    signal(second.id(), "TERM");
    assert_eq!((second.wait().unwrap().code(), ended, unmounted), (Some(0), Some(0), Ok(())));
}
