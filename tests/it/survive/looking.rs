//! Owns the promises to those who list, look and watch while workers die: whole listings, the same numbers, every change told.
//! Does not know those who read.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::builds::upgrade;
use super::crowd::{Bad, Crowd};
use super::drill;
use super::grove::{EACH, Grove};
use super::kills::{SETTINGS, kill_again_and_again};
use crate::support::available;
use crate::support::inotify::Watcher;
use crate::support::mount::run;

type Try = Box<dyn FnMut(usize) -> Result<(), Bad> + Send>;

/// A listing is all names of a folder, or ESTALE.
fn lists(folder: PathBuf) -> Try {
    let names: BTreeSet<String> = (0..EACH).map(|number| format!("s{number}")).collect();
    Box::new(move |_| {
        let failed = |error: std::io::Error| match error.raw_os_error() {
            Some(libc::ESTALE) => Ok(()),
            _ => Err(Bad::Failed(format!("listing {}: {error}", folder.display()))),
        };
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => return failed(error),
        };
        for entry in entries {
            match entry {
                Ok(entry) => found.push(entry.file_name().to_string_lossy().into_owned()),
                Err(error) => return failed(error),
            }
        }
        let count = found.len();
        let found: BTreeSet<String> = found.into_iter().collect();
        if count == EACH && found == names {
            return Ok(());
        }
        let strange: Vec<_> = found.symmetric_difference(&names).take(5).collect();
        Err(Bad::Wrong(format!("{} lists {count} names, other {strange:?}", folder.display())))
    })
}

fn ls(folder: &Path) -> Output {
    Command::new("ls")
        .args(["-liR", "--time-style=full-iso"])
        .arg(folder)
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

/// `ls -liR` says the same as before, or that something is stale: inodes, sizes, times, all of it.
fn looks_through(folder: PathBuf) -> Try {
    let before = ls(&folder);
    assert!(before.status.success(), "{before:?}");
    Box::new(move |_| {
        let now = ls(&folder);
        let said = String::from_utf8_lossy(&now.stderr).into_owned();
        if let Some(other) = said.lines().find(|line| !line.contains("Stale file handle")) {
            return Err(Bad::Failed(format!("ls: {other}")));
        }
        if !said.is_empty() || now.stdout == before.stdout {
            return Ok(());
        }
        let (was, is) = (String::from_utf8_lossy(&before.stdout), String::from_utf8_lossy(&now.stdout));
        let other = was.lines().zip(is.lines()).find(|(was, is)| was != is);
        Err(Bad::Wrong(format!("ls: {other:?}")))
    })
}

/// The number, the size and the time of each file stay as they are.
fn looks_at(files: Vec<PathBuf>) -> Try {
    let look = |file: &Path| {
        let found = std::fs::metadata(file);
        found.map(|found| (found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    let before: Vec<_> = files.iter().map(|file| look(file).unwrap()).collect();
    Box::new(move |round| {
        let at = round % files.len();
        match look(&files[at]) {
            Ok(now) if now == before[at] => Ok(()),
            Ok(now) => Err(Bad::Wrong(format!("{}: {:?} became {now:?}", files[at].display(), before[at]))),
            Err(error) => Err(Bad::Failed(format!("stat {}: {error}", files[at].display()))),
        }
    })
}

#[test]
fn listings_are_whole_and_numbers_stay_while_workers_die() {
    let Some(grove) = Grove::new(SETTINGS) else { return };
    grove.warm();
    let at = |name: &str| grove.mount.path(name);
    let files = || grove.secrets.iter().map(|secret| secret.file.clone()).collect();
    let tries =
        [lists(at("s")), lists(at("v")), looks_through(at("s")), looks_at(files()), looks_at(files())];
    let crowd = Crowd::start(tries);
    kill_again_and_again(&grove.mount, drill(5, 100));
    crowd.go_on_for(50);
    crowd.stop().none_failed("those who look, and kills");
}

#[test]
fn whoever_watches_is_told_of_changes_by_the_next_worker_too() {
    let Some(()) =
        available("root", if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".into()) })
    else {
        return;
    };
    let Some(grove) = Grove::new(&format!("{SETTINGS}\nttl = \"1s\"")) else { return };
    let [one, other] = [0, 1].map(|number| &grove.secrets[EACH + number]);
    for secret in [one, other] {
        std::fs::read(&secret.file).unwrap();
    }
    let folder = other.file.parent().unwrap();
    let watcher = Watcher::on([("one", one.file.as_path()), ("folder", folder)]);
    // A change may be told twice: the second time is none of the next one.
    let told = |wanted: &[&str], version: u64| loop {
        watcher.wait(wanted);
        let now = one.check(&std::fs::read(&one.file).unwrap()).unwrap();
        assert!(now <= version);
        if now == version {
            return;
        }
    };
    let mut version = 1;
    for _ in 0..drill(3, 20) {
        kill_again_and_again(&grove.mount, 1);
        version += 1;
        grove.rotate(0);
        grove.rotate(1);
        told(&["one CLOSE_WRITE", "folder/k CLOSE_WRITE"], version);
        // One that dies over the change itself leaves the telling to the next.
        version += 1;
        grove.rotate(0);
        grove.mount.kill_worker();
        std::thread::sleep(Duration::from_millis(10));
        told(&["one CLOSE_WRITE"], version);
    }
    run(&mut upgrade(&grove.mount));
    watcher.take();
    grove.rotate(0);
    told(&["one CLOSE_WRITE"], version + 1);
}
