//! Owns the promise that a mount ends wherever it is by then: moved with its folder, bound elsewhere, or with something mounted on it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use secretfs::mounts;

use super::lifecycle::wait_for;
use super::small_store;
use crate::support::available;
use crate::support::mount::{Store, possible, run, secretfs, signal, workers_of};
use crate::users::is_root;

/// A mount at `above/mnt` in the folder of its store.
struct Moved {
    store: Store,
    program: Child,
    device: String,
}

impl Moved {
    fn start() -> Self {
        Self::start_beside(small_store())
    }

    fn start_beside(store: Store) -> Self {
        let at = Self::folder_of(&store).join("above/mnt");
        std::fs::create_dir_all(&at).unwrap();
        let mut command = secretfs();
        command.arg("mount").arg(format!("store:{}", store.file().display())).arg(&at);
        let program = command.arg("--identity").arg(store.identity()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(|| std::fs::read(at.join("api-key/value")).is_ok());
        let device = mounts::device_at(&at).unwrap().unwrap();
        Self { store, program, device }
    }

    fn folder_of(store: &Store) -> PathBuf {
        store.folder.path().canonicalize().unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        Self::folder_of(&self.store).join(below)
    }

    /// Where it is to be seen.
    fn seen(&self) -> Vec<PathBuf> {
        let all = mounts::ours().unwrap().into_iter();
        all.filter(|mount| mount.device == self.device).map(|mount| mount.at).collect()
    }

    fn stop(&mut self) -> Option<i32> {
        signal(self.program.id(), "TERM");
        self.program.wait().unwrap().code()
    }
}

fn unmount(at: &Path) {
    run(Command::new("umount").arg(at));
}

#[test]
fn a_mount_whose_folder_was_renamed_is_taken_away_at_its_end() {
    let Some(()) = available("mount", possible()) else { return };
    let mut moved = Moved::start();
    std::fs::rename(moved.path("above"), moved.path("renamed")).unwrap();
    assert_eq!(std::fs::read(moved.path("renamed/mnt/api-key/value")).unwrap(), b"canary-value");
    let code = moved.stop();
    let seen = moved.seen();
    seen.iter().for_each(|at| unmount(at));
    assert_eq!((code, seen), (Some(0), vec![]));
}

#[test]
fn a_mount_that_was_moved_is_taken_away_at_its_end_and_a_bind_of_it_is_left_to_whoever_made_it() {
    let Some(()) = available("root", possible().and_then(|()| is_root())) else { return };
    let mut moved = Moved::start();
    let bound = moved.path("bound");
    std::fs::create_dir(&bound).unwrap();
    run(Command::new("mount").arg("--bind").arg(moved.path("above/mnt")).arg(&bound));
    std::fs::rename(moved.path("above"), moved.path("renamed")).unwrap();
    let code = moved.stop();
    let seen = moved.seen();
    seen.iter().for_each(|at| unmount(at));
    assert_eq!((code, seen), (Some(0), vec![bound]));
}

#[test]
fn a_mount_that_mount_has_moved_goes_on_over_a_crash_and_is_taken_away_at_its_end() {
    let Some(()) = available("root", possible().and_then(|()| is_root())) else { return };
    let store = small_store();
    let above = Moved::folder_of(&store).join("above");
    std::fs::create_dir(&above).unwrap();
    // From a mount that is shared with other namespaces nothing can be moved.
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&above));
    run(Command::new("mount").arg("--make-private").arg(&above));
    let mut moved = Moved::start_beside(store);
    let elsewhere = above.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    run(Command::new("mount").arg("--move").arg(above.join("mnt")).arg(&elsewhere));
    signal(workers_of(moved.program.id())[0], "KILL");
    let value = std::fs::read(elsewhere.join("api-key/value"));
    let code = moved.stop();
    let seen = moved.seen();
    seen.iter().for_each(|at| unmount(at));
    unmount(&above);
    assert_eq!((value.unwrap(), code, seen), (b"canary-value".to_vec(), Some(0), vec![]));
}

#[test]
fn what_somebody_has_mounted_on_a_mount_is_left_alone_and_the_end_says_that_it_is_in_the_way() {
    let Some(()) = available("root", possible().and_then(|()| is_root())) else { return };
    let mut moved = Moved::start();
    let at = moved.path("above/mnt");
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&at));
    std::fs::write(at.join("theirs"), "").unwrap();
    let code = moved.stop();
    let theirs = at.join("theirs").exists();
    unmount(&at);
    let seen = moved.seen();
    seen.iter().for_each(|at| unmount(at));
    assert!(theirs, "it was taken away");
    assert!(code != Some(0) && seen == [at], "{code:?} {seen:?}");
}
