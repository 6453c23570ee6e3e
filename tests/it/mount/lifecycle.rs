//! Owns the promises about beginning and end: ready early, ended in order by a signal or an unmount, mended after a death.

use std::fs::File;
use std::io::Read;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use super::small_store;
use crate::support::available;
use crate::support::mount::{HANG, Mount, Store, possible, run, secretfs, signal};

#[test]
fn every_signal_to_stop_unmounts_and_exits_with_zero() {
    let Some(()) = available("mount", possible()) else { return };
    for name in ["TERM", "INT", "HUP"] {
        let store = small_store();
        let mut mount = store.mount().start();
        assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
        signal(mount.pid(), name);
        assert_eq!(mount.ended(), Some(0), "SIG{name}");
        assert!(!mount.is_mounted(), "SIG{name}");
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_leaves_no_mount() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    for round in 0..12 {
        let at = store.folder.path().join(format!("at-{round}"));
        std::fs::create_dir(&at).unwrap();
        let mut command = secretfs();
        command.arg("mount").arg(format!("store:{}", store.file().display())).arg(&at);
        let mut child =
            command.arg("--identity").arg(store.identity()).stderr(Stdio::null()).spawn().unwrap();
        if round % 2 == 0 {
            // As soon as the kernel has it, which is before the program says that it is ready.
            wait_for(|| is_mounted(&at) || child.try_wait().unwrap().is_some());
        } else {
            std::thread::sleep(Duration::from_millis(round * 3));
        }
        let _ = std::process::Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status();
        child.wait().unwrap();
        let left = is_mounted(&at);
        if left {
            let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
        }
        assert!(!left, "round {round}");
    }
}

#[test]
fn a_mount_that_was_started_with_nohup_survives_the_terminal() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let at = store.folder.path().join("at");
    std::fs::create_dir(&at).unwrap();
    let mut command = std::process::Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_secretfs")).arg("mount").arg(format!("store:{}", store.file().display()));
    command.arg(&at).arg("--identity").arg(store.identity()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    wait_for(|| std::fs::read(at.join("api-key/value")).is_ok());
    for _ in 0..5 {
        signal(child.id(), "HUP");
        std::thread::sleep(Duration::from_millis(40));
    }
    let still = std::fs::read(at.join("api-key/value"));
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(still.unwrap(), b"canary-value");
}

#[test]
fn open_files_do_not_hold_up_the_end() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mut mount = store.mount().start();
    let mut file = File::open(mount.path("api-key/value")).unwrap();
    assert_eq!(mount.stop(), Some(0));
    assert!(!mount.is_mounted());
    assert!(mount.log().contains("was in use"), "{}", mount.log());
    let error = file.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
}

#[test]
fn a_busy_unmount_says_what_to_do_and_lazy_does_it() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mut mount = store.mount().start();
    let mut file = File::open(mount.path("api-key/value")).unwrap();
    let refused = unmount(&mount, &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(74), "{said}");
    assert!(said.contains("is in use") && said.contains("--lazy") && said.lines().count() == 1, "{said}");
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value", "nothing happened");
    run_ok(&unmount(&mount, &["--lazy"]));
    assert!(!mount.is_mounted());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "canary-value", "an open file outlives a lazy unmount");
    drop(file);
    assert_eq!(mount.ended(), Some(0), "it ends with the last open file");
}

#[test]
fn somebody_elses_umount_ends_the_program_in_good_order() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mut mount = store.mount().start();
    run(std::process::Command::new("umount").arg(&mount.at));
    assert_eq!(mount.ended(), Some(0));
    assert!(!mount.log().contains("WARN"), "{}", mount.log());
}

#[test]
fn a_dead_mount_is_named_and_cleaned_up() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mut mount = store.mount().start();
    mount.kill();
    assert_eq!(mount.ls("").unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    let refused = mount_again(&store, &mount);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("whose program is gone: run `secretfs unmount"), "{said}");
    run_ok(&unmount(&mount, &[]));
    assert!(!mount.is_mounted());
    assert!(mount.at.is_dir());
}

#[test]
fn mounting_on_a_mount_is_refused() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let refused = mount_again(&store, &mount);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("is a mount of secretfs already: unmount it first"), "{said}");
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
}

#[test]
fn a_mount_that_would_hide_its_own_store_is_refused() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mut command = secretfs();
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(store.folder.path());
    let refused = command.arg("--identity").arg(store.identity()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("would hide"), "{said}");
}

#[test]
fn a_mount_is_ready_before_its_store_exists() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    let kept = store.folder.path().join("kept");
    std::fs::rename(store.file(), &kept).unwrap();
    let mount = store.mount().start();
    assert_eq!(mount.read("api-key/value").unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(mount.ls("").unwrap_err().raw_os_error(), Some(libc::EIO), "an outage is no empty folder");
    std::fs::rename(&kept, store.file()).unwrap();
    store.put("api-key", &["value=canary-late"]);
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-late");
    assert_eq!(mount.ls("").unwrap(), ["api-key"]);
}

#[test]
fn a_log_that_nobody_reads_any_more_does_not_stop_the_mount() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let at = store.folder.path().join("at");
    std::fs::create_dir(&at).unwrap();
    let mut command = secretfs();
    command
        .arg("mount")
        .arg(format!("store:{}", store.file().display()))
        .arg(&at)
        .env("SECRETFS_LOG", "trace");
    let mut child = command.arg("--identity").arg(store.identity()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(|| is_mounted(&at));
    drop(child.stderr.take());
    std::fs::rename(store.file(), store.folder.path().join("kept")).unwrap();
    // Each of these is worth a warning in the log.
    let failed: Vec<_> = (0..20).map(|number| std::fs::read(at.join(format!("a{number}/value")))).collect();
    std::fs::rename(store.folder.path().join("kept"), store.file()).unwrap();
    let value = std::fs::read(at.join("api-key/value"));
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(
        failed.iter().all(|result| result.as_ref().unwrap_err().raw_os_error() == Some(libc::EIO)),
        "{failed:?}"
    );
    assert_eq!(value.unwrap(), b"canary-value");
}

/// Fails the test when `what` does not come true.
pub fn wait_for(mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < HANG, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a mount of ours is at exactly this place.
pub fn is_mounted(at: &std::path::Path) -> bool {
    secretfs::mounts::ours().unwrap().iter().any(|mount| mount.at == at)
}

pub fn unmount(mount: &Mount, options: &[&str]) -> Output {
    secretfs().arg("unmount").arg(&mount.at).args(options).output().unwrap()
}

fn mount_again(store: &Store, mount: &Mount) -> Output {
    let mut command = secretfs();
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(&mount.at);
    command.arg("--identity").arg(store.identity()).output().unwrap()
}

pub fn run_ok(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
