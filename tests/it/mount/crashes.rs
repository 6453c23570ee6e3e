//! Owns the promises about files and directories that are open when the worker dies: the same bytes, the same numbers, or ESTALE.
//! Does not know how long a crash takes.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, RawDir};

use super::directories::{MANY, crowded, name};
use crate::support::available;
use crate::support::mount::{HANG, Mount, Store, possible, signal};

/// As many files stay open.
const OPEN: usize = 300;

/// Kills the worker and waits for the next one.
fn kill_worker(mount: &Mount) {
    let before = mount.worker();
    signal(before, "KILL");
    let begun = Instant::now();
    while mount.worker_now().is_none_or(|worker| worker == before) {
        assert!(begun.elapsed() < HANG, "no worker came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn value(file: &File) -> std::io::Result<String> {
    let mut bytes = [0; 64];
    let read = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

#[test]
fn open_files_and_directories_live_on() {
    let Some(()) = available("mount", possible()) else { return };
    let (_store, mount) = crowded();
    let path = |number: usize| mount.path(&format!("many/{}/k", name(number)));
    let open: Vec<File> = (0..OPEN).map(|number| File::open(path(number)).unwrap()).collect();
    let inodes: Vec<u64> = open.iter().map(|file| file.metadata().unwrap().ino()).collect();
    let meta = File::open(mount.path(&format!("many/{}/.meta", name(0)))).unwrap();
    let folder =
        rustix::fs::open(mount.path("many"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut buffer = Vec::with_capacity(4096);
    let mut folder = RawDir::new(&folder, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    for _ in 0..4 {
        kill_worker(&mount);
        for (number, file) in open.iter().enumerate() {
            assert_eq!(value(file).unwrap(), format!("canary-{number}"));
        }
        let stale = value(&meta).unwrap_err();
        assert_eq!(stale.kind(), std::io::ErrorKind::StaleNetworkFileHandle);
        for (number, ino) in inodes.iter().enumerate() {
            assert_eq!(std::fs::metadata(path(number)).unwrap().ino(), *ino);
        }
        for _ in 0..MANY / 4 {
            let Some(entry) = folder.next() else { break };
            names.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
        }
    }
    while let Some(entry) = folder.next() {
        names.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), MANY + 2, "each once, `.` and `..` too");
    assert_eq!(names.into_iter().collect::<BTreeSet<_>>().len(), MANY + 2);
    drop(open);
    assert_eq!(std::fs::read_to_string(path(7)).unwrap(), "canary-7");
}

#[test]
fn a_version_that_the_backend_has_no_more_is_stale_and_the_next_open_has_the_newest() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    store.put("a", &["k=canary-old"]);
    store.put("b", &["k=canary-b"]);
    let mount = store.mount().start();
    let open = |path: &str| File::open(mount.path(path)).unwrap();
    let (a, b) = (open("a/k"), open("b/k"));
    store.put("a", &["k=canary-new"]);
    assert_eq!(value(&a).unwrap(), "canary-old");
    kill_worker(&mount);
    assert_eq!(value(&a).unwrap_err().kind(), std::io::ErrorKind::StaleNetworkFileHandle);
    assert_eq!(value(&b).unwrap(), "canary-b");
    assert_eq!(value(&open("a/k")).unwrap(), "canary-new");
    assert_eq!(value(&a).unwrap_err().kind(), std::io::ErrorKind::StaleNetworkFileHandle);
}
