//! Owns the comparison of docs/operations.md with what its commands, signals and log lines really are, on a mount that is made for it.
//! Does not know the sections about systemd and containers, which have tests of their own.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::available;
use crate::support::mount::{Mount, Store, possible, run, secretfs, signal, wait_until};

const PAGE: &str = include_str!("../../docs/operations.md");

fn store() -> Store {
    let store = Store::new();
    store.put("api-key", &["value=canary-value"]);
    store
}

/// A mount with these settings in `[mount]`.
fn mount_with(store: &Store, settings: &str) -> Mount {
    let plan = Mount::of("");
    let (file, identity) = (store.file(), store.identity());
    let config = plan.folder().join("config.toml");
    let text = format!(
        "[mount]\n{settings}\n[backend.local]\ntype = \"store\"\nfile = {file:?}\nidentity = {identity:?}\n[[tree]]\npath = \"/\"\nbackend = \"local\"\n"
    );
    std::fs::write(&config, text).unwrap();
    plan.arg("--config").arg(config).start()
}

fn called(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Ends the worker as a crash does; the next one serves.
fn crash(mount: &Mount) {
    let worker = mount.worker();
    signal(worker, "KILL");
    wait_until("the next worker", || mount.worker_now().is_some_and(|next| next != worker));
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
}

/// What the log lines that the page shows say, without their times, places and values.
fn shown_messages() -> BTreeSet<String> {
    let lines = PAGE.lines().filter_map(|line| {
        let (time, line) = line.split_once('Z')?;
        time.starts_with("2026-").then_some(line)
    });
    let messages = lines.filter_map(|line| Some(line.split_once(": ")?.1));
    messages.map(|message| message.split('=').next().unwrap()).map(without_last_word).collect()
}

fn without_last_word(text: &str) -> String {
    text.rsplit_once(' ').map_or("", |(before, _)| before).to_owned()
}

#[test]
fn ps_and_status_show_both_processes_and_signals_are_for_the_holder() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let mount = store.mount().start();
    let (holder, worker) = (mount.pid(), mount.worker());
    assert_eq!((called(holder).as_str(), called(worker).as_str()), ("secretfs", "secretfs-worker"));
    assert!(
        PAGE.contains(" secretfs        /usr/bin/secretfs mount ")
            && PAGE.contains(" secretfs-worker secretfs worker ")
    );
    let status = run(secretfs().args(["status", "--json"]).arg(&mount.at)).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let told = &status["mounts"][0];
    assert_eq!((&told["pid"], &told["worker"]), (&holder.into(), &worker.into()));
    for name in ["TERM", "INT", "HUP", "USR2"] {
        signal(worker, name);
    }
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
    assert_eq!(mount.worker(), worker);
    signal(holder, "USR2");
    wait_until("an upgrade", || mount.log().contains("upgraded: a new worker serves"));
    assert_ne!(mount.worker(), worker);
}

#[test]
fn the_log_lines_that_the_page_shows_are_logged_and_the_last_crash_ends_with_70() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let mut mount = mount_with(&store, "watchdog = \"2s\"\nmax_crashes = 2");
    let upgraded = run(secretfs().arg("upgrade").arg(&mount.at));
    assert_eq!(String::from_utf8(upgraded.stdout).unwrap(), format!("{}: upgraded\n", mount.at.display()));
    let stuck = mount.worker();
    signal(stuck, "STOP");
    wait_until("a worker that is not stuck", || mount.worker_now().is_some_and(|next| next != stuck));
    crash(&mount);
    let open = std::fs::File::open(mount.path("api-key/value")).unwrap();
    signal(mount.worker(), "KILL");
    assert_eq!(mount.ended(), Some(70), "{}", mount.log());
    let error = std::io::Read::read(&mut &open, &mut [0; 64]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "as docs/semantics.md says");
    assert!(!mount.is_mounted() && PAGE.contains("| 70 | the process that serves crashed"));
    let (log, shown) = (mount.log(), shown_messages());
    assert!(shown.len() >= 5, "{shown:?}");
    for message in shown {
        assert!(log.contains(&message), "docs/operations.md shows `{message}`, the log does not:\n{log}");
    }
    assert!(log.contains("is given up after 3 crashes: their reasons are in the log"), "{log}");
    assert!(PAGE.contains("is given up after 6 crashes: their reasons are in the log"));
}

#[test]
fn an_upgrade_that_cannot_be_says_why_and_changes_nothing() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("secretfs");
    std::fs::copy(env!("CARGO_BIN_EXE_secretfs"), &program).unwrap();
    let at = folder.path().join("at");
    std::fs::create_dir(&at).unwrap();
    let mut command = Command::new(&program);
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(&at).arg("-d");
    run(command.arg("--identity").arg(store.identity()).stderr(Stdio::null()));
    let upgrade = || {
        let output = secretfs().arg("upgrade").arg(&at).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let replace = |by: &Path| {
        let new = folder.path().join("new");
        std::fs::copy(by, &new).unwrap();
        std::fs::rename(&new, &program).unwrap();
    };
    replace(Path::new("/bin/false"));
    let bad = upgrade();
    std::fs::remove_file(&program).unwrap();
    let missing = upgrade();
    let read = std::fs::read(at.join("api-key/value"));
    replace(Path::new(env!("CARGO_BIN_EXE_secretfs")));
    let good = upgrade();
    run(secretfs().arg("unmount").arg(&at));
    assert_eq!(read.unwrap(), b"canary-value", "the old one goes on");
    assert_eq!(good.0, Some(0), "{}", good.1);
    for ((code, said), why) in [
        (bad, "the new program does not start; its reason is in the log"),
        (missing, "the new program cannot be started: No such file or directory"),
    ] {
        assert_eq!(code, Some(74), "{said}");
        assert!(said.contains(why) && PAGE.contains(why), "{said}");
    }
}

#[test]
fn requests_that_wait_are_counted_and_an_abort_ends_the_mount_with_71() {
    let Some(()) = available("mount", possible()) else { return };
    let connections = tempfile::tempdir().unwrap();
    let fusectl = ["-t", "fusectl", "none"];
    let counted = Command::new("mount").args(fusectl).arg(connections.path()).output();
    if !counted.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP: fusectl cannot be mounted");
        return;
    }
    let result = std::panic::catch_unwind(|| abort_in(connections.path()));
    run(Command::new("umount").arg(connections.path()));
    result.unwrap();
}

fn abort_in(connections: &Path) {
    let store = store();
    let mut mount = store.mount().start();
    let at = mount.at.canonicalize().unwrap();
    let found = secretfs::mounts::ours().unwrap().into_iter().find(|found| found.at == at).unwrap();
    let connection = connections.join(found.device.strip_prefix("0:").unwrap());
    let waiting = || std::fs::read_to_string(connection.join("waiting")).unwrap().trim().to_owned();
    assert_eq!(waiting(), "0");
    signal(mount.worker(), "STOP");
    let reader = Command::new("cat").arg(mount.path("api-key/value")).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("a request that waits", || waiting() == "1");
    let of_reader = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", reader.id())).unwrap();
    wait_until("a reader that sleeps", || of_reader("wchan") == "request_wait_answer");
    assert!(of_reader("stack").starts_with("[<0>] request_wait_answer+"), "{}", of_reader("stack"));
    std::fs::write(connection.join("abort"), "1").unwrap();
    let said = String::from_utf8(reader.wait_with_output().unwrap().stderr).unwrap();
    assert!(said.contains("Software caused connection abort"), "{said}");
    signal(mount.worker(), "CONT");
    assert_eq!(mount.ended(), Some(71), "{}", mount.log());
    assert!(!mount.is_mounted(), "what is aborted is not left in the tree");
    assert!(mount.log().contains("its connection was aborted"), "{}", mount.log());
}

#[test]
fn a_mount_whose_holder_was_killed_is_told_by_what_the_page_says_and_cleared_by_unmount() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let mut mount = store.mount().start();
    let open = std::fs::File::open(mount.path("api-key/value")).unwrap();
    let worker = mount.worker();
    signal(mount.pid(), "KILL");
    mount.ended();
    wait_until("the end of the worker", || !Path::new(&format!("/proc/{worker}")).exists());
    let said = |command: &mut Command| {
        let output = command.output().unwrap();
        let at = mount.at.display().to_string();
        (output.status.code(), String::from_utf8(output.stderr).unwrap().replace(&at, "/secrets"))
    };
    let listed = said(Command::new("ls").arg(&mount.at).env("LC_ALL", "C"));
    // Which call of ls(1) fails depends on what the kernel remembers.
    let (_, why) = listed.1.trim().split_once("'/secrets': ").unwrap();
    assert!(PAGE.contains(&format!("ls: cannot access '/secrets': {why}")), "{why}");
    let source = format!("store:{}", store.file().display());
    let mut again = secretfs();
    again.args(["mount", &source]).arg(&mount.at).arg("--identity").arg(store.identity());
    let in_use = said(secretfs().arg("unmount").arg(&mount.at));
    for (code, said) in [said(&mut again), in_use] {
        assert!(PAGE.contains(said.trim()), "{code:?} {said}");
    }
    run(secretfs().args(["unmount", "--lazy"]).arg(&mount.at));
    assert!(!mount.is_mounted());
    drop(open);
}
