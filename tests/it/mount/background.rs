//! Owns the promises of `--daemon`: it returns when the mount can be used, or says why there is none.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::lifecycle::{is_mounted, wait_for};
use super::small_store;
use crate::support::available;
use crate::support::mount::{Store, possible, run, secretfs};
use crate::users::is_root;

#[test]
fn daemon_returns_when_the_mount_can_be_used() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    for spelling in [&["--daemon"][..], &["-d"], &["-do", "noatime"], &["-d", "--ttl", "5s"]] {
        let at = Unmounted::beside(&store);
        let output = start(&store, &at.0, spelling);
        assert!(output.status.success(), "{spelling:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty(), "{spelling:?}");
        assert_eq!(std::fs::read(at.0.join("api-key/value")).unwrap(), b"canary-value", "{spelling:?}");
    }
}

#[test]
fn daemon_lets_go_of_the_pipes_of_its_caller() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let at = Unmounted::beside(&store);
    // The shell waits for the end of both pipes, which comes only when nobody holds them.
    let script = "text=$(\"$0\" mount \"$1\" \"$2\" --identity \"$3\" --daemon 2>&1); echo \"code $?\"";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_secretfs"));
    shell.arg(format!("store:{}", store.file().display())).arg(&at.0).arg(store.identity());
    let output = run(&mut shell);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "code 0\n");
    assert!(is_mounted(&at.0));
}

/// As under a program that is the first of its machine or container and has made no session, or with unshare(1).
#[test]
fn a_program_whose_session_began_in_another_pid_namespace_mounts_and_ends_like_any_other() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", is_root()) else { return };
    let store = small_store();
    let at = Unmounted::beside(&store);
    // Leaves it to the shell to wait: the mount is in its namespace alone.
    let script = "\"$0\" mount \"$1\" \"$2\" --identity \"$3\" & process=$!\n\
                  for _ in $(seq 300); do [ -e \"$2/api-key\" ] && break; sleep 0.1; done\n\
                  cat \"$2/api-key/value\"; sleep 0.1; cat \"$2/api-key/value\"; kill $process; wait $process; echo \" code $?\"";
    let mut shell = Command::new("unshare");
    shell.args(["--pid", "--fork", "--mount-proc", "sh", "-c", script]).arg(env!("CARGO_BIN_EXE_secretfs"));
    shell.arg(format!("store:{}", store.file().display())).arg(&at.0).arg(store.identity());
    let output = run(&mut shell);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "canary-valuecanary-value code 0\n");
}

#[test]
fn daemon_works_with_relative_paths() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let at = Unmounted::beside(&store);
    let mut command = secretfs();
    command.current_dir(store.folder.path()).args(["mount", "store:store.age"]);
    run(command.arg(at.0.file_name().unwrap()).args(["--identity", "identity", "--daemon"]));
    store.put("later", &["value=canary-later"]);
    assert_eq!(std::fs::read(at.0.join("later/value")).unwrap(), b"canary-later");
}

#[test]
fn daemon_says_why_there_is_no_mount_and_fails() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let at = Unmounted::beside(&store);
    let missing = store.folder.path().join("missing");
    let file = format!("store:{}", store.file().display());
    let attempt = |at: &Path, identity: &Path| {
        let mut command = secretfs();
        command
            .arg("mount")
            .arg(&file)
            .arg(at)
            .arg("--identity")
            .arg(identity)
            .arg("--daemon")
            .output()
            .unwrap()
    };
    for (output, code, reason) in [
        (attempt(&at.0, &missing), 78, "missing"),
        (attempt(&missing, &store.identity()), 66, "make it first"),
        (attempt(&store.file(), &store.identity()), 64, "is not a directory"),
        (secretfs().args(["mount", "--daemon", "nonsense"]).arg(&at.0).output().unwrap(), 64, "is no source"),
    ] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.lines().filter(|line| line.contains(reason)).count(), 1, "{reason}: {said}");
    }
    assert!(!is_mounted(&at.0));
}

/// As with `--daemon`, when the process that was called is killed before the other is ready.
#[test]
fn a_mount_that_nobody_can_be_told_of_any_more_is_ended() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let at = Unmounted::beside(&store);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = secretfs();
    command.args(["mount", "--announce"]).arg(format!("store:{}", store.file().display())).arg(&at.0);
    let output = command.arg("--identity").arg(store.identity()).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(71), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!is_mounted(&at.0));
}

fn start(store: &Store, at: &Path, options: &[&str]) -> Output {
    let mut command = secretfs();
    command.arg("mount").args(options).arg(format!("store:{}", store.file().display())).arg(at);
    command.arg("--identity").arg(store.identity()).output().unwrap()
}

/// A place for a mount in the background, which is ended with the test.
struct Unmounted(PathBuf);

impl Unmounted {
    fn beside(store: &Store) -> Self {
        let folder = store.folder.path().canonicalize().unwrap();
        let at = (0..).map(|number| folder.join(format!("at-{number}"))).find(|at| !at.exists()).unwrap();
        std::fs::create_dir(&at).unwrap();
        Self(at)
    }
}

impl Drop for Unmounted {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let _ = secretfs().arg("unmount").arg("--lazy").arg(&self.0).status();
            if !std::thread::panicking() {
                wait_for(|| !is_mounted(&self.0));
            }
        }
    }
}
