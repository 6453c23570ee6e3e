//! Owns the promises about which events come: of a new version, a new field, one that is gone, a return; and none else.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use secretfs::cache::Changed;
use secretfs::secret::Version;

use super::written;
use crate::support::available;
use crate::support::inotify::Watcher;
use crate::support::mount::{HANG, possible};
use crate::support::rig::{Rig, of};

/// A mount in which changes can be told, or the end of the test.
macro_rules! rig {
    ($tree:expr) => {{
        let Some(()) = available("mount", possible()) else { return };
        let rig = Rig::mount($tree);
        let Some(()) = available("root", rig.tells()) else { return };
        rig
    }};
}

/// The events of `watcher` up to those of `marker`, a secret that changes after everything that is to be looked at.
fn until_marker(rig: &Rig, watcher: &Watcher) -> Vec<String> {
    let was = std::fs::read_to_string(rig.at.join("marker/v")).unwrap();
    rig.rotate("marker", &[("v", &format!("{was}x"))]);
    let mut events = watcher.wait(&["marker CLOSE_WRITE"]);
    events.retain(|event| !event.starts_with("marker"));
    events
}

/// Puts the secrets, and watches each path and the marker.
fn watched(rig: &Rig, paths: &[&str]) -> Watcher {
    rig.backend.put("marker", &[("v", b"canary")]);
    std::fs::read(rig.at.join("marker/v")).unwrap();
    let marker = rig.at.join("marker/v");
    let paths: Vec<_> = paths.iter().map(|path| (*path, rig.at.join(path))).collect();
    let paths = paths.iter().map(|(name, path)| (*name, path.as_path()));
    Watcher::on(paths.chain([("marker", marker.as_path())]))
}

#[test]
fn a_new_version_is_a_write_to_those_who_watch_the_file_or_its_directory_and_to_nobody_else() {
    let rig = rig!(&[]);
    for secret in ["team/db", "team/other", "beside"] {
        rig.backend.put(secret, &[("user", b"canary-u"), ("password", b"canary-1")]);
        for file in ["user", "password", ".env"] {
            std::fs::read(rig.at.join(secret).join(file)).unwrap();
        }
    }
    let paths =
        ["team/db/password", "team/db", "team", "team/other/password", "team/other", "beside", "beside/user"];
    let watcher = watched(&rig, &paths);
    rig.rotate("team/db", &[("user", "canary-u"), ("password", "canary-2-longer")]);
    let mut events = until_marker(&rig, &watcher);
    let mut expected: Vec<String> =
        ["team/db/password", "team/db/user", "team/db/.env"].iter().flat_map(|file| written(file)).collect();
    // Once to those who watch the file, once to those who watch the directory.
    expected.extend(written("team/db/password"));
    events.sort();
    expected.sort();
    assert_eq!(events, expected);
}

#[test]
fn who_is_told_finds_the_new_version_at_once_its_size_and_its_time_too() {
    let rig = rig!(&[]);
    rig.backend.put("a", &[("k", b"canary")]);
    let file = rig.at.join("a/k");
    std::fs::read(&file).unwrap();
    let watcher = watched(&rig, &["a/k"]);
    let inode = file.metadata().unwrap().ino();
    for round in 1..50 {
        let value = format!("canary-{}", "x".repeat(round));
        let before = file.metadata().unwrap();
        rig.rotate("a", &[("k", &value)]);
        let events = watcher.wait(&["a/k MODIFY"]);
        let after = file.metadata().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), value);
        assert_eq!(after.len(), value.len() as u64);
        assert!(after.modified().unwrap() > before.modified().unwrap());
        assert_eq!(after.ino(), inode);
        if !events.contains(&"a/k CLOSE_WRITE".to_owned()) {
            watcher.wait(&["a/k CLOSE_WRITE"]);
        }
    }
}

#[test]
fn an_unchanged_secret_causes_no_event_however_often_it_is_asked_for() {
    let rig = rig!(&[]);
    rig.backend.put("a", &[("k", b"canary")]);
    std::fs::read(rig.at.join("a/k")).unwrap();
    let watcher = watched(&rig, &["a/k", "a", "."]);
    let before = rig.at.join("a/k").metadata().unwrap();
    for _ in 0..200 {
        rig.refresh("a");
        std::fs::read(rig.at.join("a/k")).unwrap();
    }
    assert_eq!(until_marker(&rig, &watcher), written("./marker/v")[..0]);
    let after = rig.at.join("a/k").metadata().unwrap();
    assert_eq!((before.mtime(), before.ino()), (after.mtime(), after.ino()));
}

#[test]
fn a_watched_directory_is_told_of_files_that_nobody_ever_looked_up() {
    let rig = rig!(&["apps", "db"]);
    rig.backend.put("team/main", &[("k", b"canary")]);
    rig.backend.put("marker", &[("v", b"canary")]);
    let directory = rig.at.join("apps/db/team/main");
    assert!(directory.is_dir());
    // The cache learns of the secret without the kernel.
    rig.refresh("team/main");
    let watcher = Watcher::on([("main", directory.as_path())]);
    rig.rotate("team/main", &[("k", "canary-2"), ("fresh", "canary")]);
    let events = watcher.wait(&["main/k CLOSE_WRITE", "main/fresh CLOSE_WRITE"]);
    let expected = [written("main/k"), written("main/fresh")].concat();
    assert_eq!(events, expected);
    // A name that a file cannot carry as it is, and one that is too long.
    let long = "x".repeat(300);
    rig.rotate("team/main", &[("a/b", "canary"), (&long, "canary")]);
    let events = watcher.wait(&["main/a%2Fb CLOSE_WRITE", "main/k ATTRIB", "main/fresh ATTRIB"]);
    assert_eq!(events.iter().filter(|event| event.contains("xxx%~")).count(), 3, "{events:?}");
}

#[test]
fn a_field_that_is_gone_is_an_attribute_that_changed_and_the_watch_outlives_it() {
    let rig = rig!(&[]);
    rig.backend.put("a", &[("k", b"canary"), ("old", b"canary-old")]);
    let (file, old) = (rig.at.join("a/k"), rig.at.join("a/old"));
    for file in [&file, &old] {
        std::fs::read(file).unwrap();
    }
    let watcher = watched(&rig, &["a/old", "a"]);
    rig.rotate("a", &[("k", "canary-2")]);
    let mut events = until_marker(&rig, &watcher);
    let mut expected =
        [&written("a/k")[..], &["a/old ATTRIB".to_owned(), "a/old ATTRIB".to_owned()]].concat();
    events.sort();
    expected.sort();
    assert_eq!(events, expected);
    assert_eq!(std::fs::read(&old).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    rig.rotate("a", &[("k", "canary-3"), ("old", "canary-again")]);
    watcher.wait(&["a/old CLOSE_WRITE"]);
    assert_eq!(std::fs::read(&old).unwrap(), b"canary-again");
}

#[test]
fn a_deleted_secret_is_told_and_its_return_to_those_who_still_watch() {
    let rig = rig!(&[]);
    rig.backend.put("a", &[("k", b"canary")]);
    let file = rig.at.join("a/k");
    std::fs::read(&file).unwrap();
    let watcher = watched(&rig, &["a/k"]);
    rig.backend.delete("a");
    rig.refresh("a");
    assert_eq!(until_marker(&rig, &watcher), ["a/k ATTRIB"]);
    assert_eq!(std::fs::read(&file).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    rig.backend.put("a", &[("k", b"canary-back")]);
    std::fs::read(&file).unwrap();
    // Which versions come after which is the cache's matter; that a change is told is ours.
    rig.rotate("a", &[("k", "canary-after")]);
    assert_eq!(until_marker(&rig, &watcher), written("a/k"));
    assert_eq!(std::fs::read(&file).unwrap(), b"canary-after");
}

#[test]
fn mapped_bytes_of_a_secret_that_is_deleted_stay_readable() {
    let rig = rig!(&[]);
    let value = "canary-".repeat(2000);
    rig.backend.put("a", &[("k", value.as_bytes())]);
    let file = rig.at.join("a/k");
    let Some(python) = available("python3", crate::support::program("python3")) else { return };
    let script = "
import mmap, sys
file = open(sys.argv[1], 'rb')
pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
print(len(pages[:]), flush=True)
sys.stdin.readline()
print(len(pages[:]), pages[-7:].decode())
";
    let mut child = std::process::Command::new(python)
        .args(["-c", script])
        .arg(&file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let watcher = watched(&rig, &["a/k"]);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "14000\n");
    rig.backend.delete("a");
    rig.refresh("a");
    watcher.wait(&["a/k ATTRIB"]);
    drop(child.stdin.take());
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "14000 canary-\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_the_kernel_does_not_hold_is_not_touched() {
    let rig = rig!(&[]);
    rig.backend.put("a", &[("k", b"canary")]);
    rig.backend.put("b", &[("k", b"canary")]);
    for path in ["a", "b"] {
        rig.refresh(path);
    }
    std::fs::read(rig.at.join("a/k")).unwrap();
    let known = rig.fs.in_use().0;
    let watcher = watched(&rig, &["a/k"]);
    rig.rotate("b", &[("k", "canary-2")]);
    assert_eq!(until_marker(&rig, &watcher), written("a/k")[..0]);
    // The marker and its directory; nothing of `b`.
    assert_eq!(rig.fs.in_use().0, known + 2);
    assert!(Path::new(&rig.at).is_dir());
}

#[test]
fn a_touch_asks_no_backend_and_waits_for_none() {
    let rig = rig!(&[]);
    rig.backend.put("team/a", &[("k", b"canary")]);
    std::fs::read(rig.at.join("team/a/k")).unwrap();
    let watcher = watched(&rig, &["team/a/k"]);
    rig.backend.delay(HANG * 2);
    let asked = (rig.backend.reads(), rig.backend.lists());
    // Nothing is held any more, and the kernel has to ask for every name on the way.
    rig.cache.flush();
    std::thread::sleep(Duration::from_millis(1100));
    for version in ["2", "3"] {
        let version = Some(Version::new(version));
        rig.mounted.teller().tell(Changed { of: of("team/a"), version });
        assert_eq!(watcher.wait(&["team/a/k CLOSE_WRITE"]), written("team/a/k"));
    }
    rig.mounted.teller().tell(Changed { of: of("team/a"), version: None });
    assert_eq!(watcher.wait(&["team/a/k ATTRIB"]), ["team/a/k ATTRIB"]);
    assert_eq!((rig.backend.reads(), rig.backend.lists()), asked);
    assert_eq!(rig.tells(), Ok(()));
}
