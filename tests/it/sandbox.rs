//! Owns the proof of the worker's sandbox: each measure is tried, without it and within it, and so is what must still work.
//! Does not know how the sandbox is made. Nobody leaves one, so every attempt is a process of its own: this very program again.

mod attempts;
mod backends;
mod raw;

use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use secretfs::daemon::sandbox::{Entered, Rules, enter};

use crate::support::available;

const ATTEMPT: &str = "SECRETFS_TEST_ATTEMPT";
const IN_SANDBOX: &str = "SECRETFS_TEST_IN_SANDBOX";
const NAMED: &str = "SECRETFS_TEST_NAMED";
const ELSEWHERE: &str = "SECRETFS_TEST_ELSEWHERE";
const VICTIM: &str = "SECRETFS_TEST_VICTIM";
const ABSTRACT: &str = "SECRETFS_TEST_ABSTRACT";
const AS_USER: &str = "SECRETFS_TEST_AS_USER";
/// Before what came of an attempt.
const CAME: &str = "came of it: ";
/// A process says so when it wants something to change.
const READY: &str = "ready for the change";

/// Somebody without rights.
const USER: u32 = 65534;

/// What an attempt finds around it.
struct Stage {
    folder: tempfile::TempDir,
    /// A process outside.
    victim: Child,
    /// A socket without a file, by the name of the folder.
    _listener: UnixListener,
}

/// How a process of an attempt ended, and what it said.
#[derive(Debug)]
struct Outcome {
    came: Option<String>,
    status: ExitStatus,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from_abstract_name(folder.path().as_os_str().as_bytes()).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let victim = Command::new("sleep").arg("1000").spawn().unwrap();
        let stage = Self { folder, victim, _listener: listener };
        for name in ["named", "elsewhere"] {
            std::fs::create_dir(stage.path(name)).unwrap();
            std::fs::write(stage.path(name).join("file"), "canary-old").unwrap();
        }
        let foreign = stage.path("named/foreign");
        std::fs::write(&foreign, "canary").unwrap();
        std::fs::set_permissions(&foreign, PermissionsExt::from_mode(0o600)).unwrap();
        chown(&foreign, Some(USER), None).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Tries in a process of its own; `change` happens when that asks for it.
    fn attempt(
        &self,
        name: &str,
        in_sandbox: bool,
        variables: &[(&str, String)],
        change: impl FnOnce(),
    ) -> Outcome {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sandbox::inside", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ATTEMPT, name).env(IN_SANDBOX, if in_sandbox { "yes" } else { "no" });
        command.env(NAMED, self.path("named")).env(ELSEWHERE, self.path("elsewhere"));
        command.env(VICTIM, self.victim.id().to_string()).env(ABSTRACT, self.folder.path());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut came, mut change) = (None, Some(change));
        for line in BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap) {
            if line.contains(READY) {
                change.take().unwrap()();
            } else if let Some((_, said)) = line.split_once(CAME) {
                came = Some(said.to_owned());
            }
        }
        Outcome { came, status: process.wait().unwrap() }
    }

    /// What came of it, without the sandbox and within.
    fn both(&self, name: &str) -> [String; 2] {
        [false, true].map(|in_sandbox| {
            let outcome = self.attempt(name, in_sandbox, &[], || ());
            outcome.came.unwrap_or_else(|| format!("{}", outcome.status))
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

/// What the process of an attempt does: enters the sandbox or does not, tries, says what came of it, and ends.
#[test]
#[ignore = "the other tests start it, each time in a process of its own"]
fn inside() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    if let Ok(user) = std::env::var(AS_USER) {
        // Which opens the memory again, too.
        let user = rustix::process::Uid::from_raw(user.parse().unwrap());
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
    }
    let entered = (std::env::var(IN_SANDBOX).unwrap() == "yes").then(|| enter(&rules()));
    let came = match name.split_once(':') {
        Some(("raw", call)) => raw::attempt(call),
        Some(("backend", which)) => backends::attempt(which),
        _ => attempts::attempt(&name, entered.as_ref()),
    };
    say(&format!("{CAME}{came}"));
    std::process::exit(0);
}

/// What a worker with one named file would have.
fn rules() -> Rules {
    let mut rules = Rules::of_machine();
    rules.may_follow(&place(NAMED).join("file"));
    rules.write = secretfs::control::folders();
    rules
}

fn place(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap().into()
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{line}").unwrap();
}

fn is_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".to_owned()) }
}

/// The stage, or the end of the test where not root.
macro_rules! stage {
    () => {
        match available("users", is_root()) {
            Some(()) => Stage::new(),
            None => return,
        }
    };
}

#[test]
fn every_measure_forbids_what_went_without_it() {
    let stage = stage!();
    let missing = stage.attempt("measures", true, &[], || ()).came.unwrap();
    for (name, without, within) in attempts::FORBIDDEN {
        if let Some((_, measure)) = attempts::NEW.iter().find(|(known, _)| known == name)
            && available("landlock", lacks(&missing, measure)).is_none()
        {
            continue;
        }
        assert_eq!(stage.both(name), [*without, *within].map(str::to_owned), "{name}");
    }
}

#[test]
fn what_a_worker_does_works_within() {
    let stage = stage!();
    secretfs::control::make_folder().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for name in attempts::ALLOWED {
        let outcome = stage.attempt(name, true, &[("PORT", port.to_string())], || {
            let next = stage.path("named/next");
            std::fs::write(&next, "canary-new").unwrap();
            std::fs::rename(next, stage.path("named/file")).unwrap();
        });
        assert_eq!(outcome.came.as_deref(), Some("done"), "{name}: {}", outcome.status);
        std::fs::write(stage.path("named/file"), "canary-old").unwrap();
    }
}

#[test]
fn every_refused_call_is_answered_with_eperm_and_was_not_without() {
    let stage = stage!();
    for (name, _) in raw::CALLS {
        let [without, within] = stage.both(&format!("raw:{name}"));
        // A kernel that does not have the call says ENOSYS.
        assert_ne!(without, "EPERM", "{name} without");
        assert_eq!(within, "EPERM", "{name}, which gave {without}");
    }
}

#[test]
fn calls_that_are_newer_than_the_list_do_not_exist() {
    let stage = stage!();
    assert_eq!(stage.both("raw:clone3"), ["EINVAL", "ENOSYS"], "so that the C library uses clone");
    // Linux 6.15; an older kernel does not have it either.
    let [without, within] = stage.both("raw:open_tree_attr");
    assert_ne!(without, "EPERM");
    assert_eq!(within, "ENOSYS");
}

#[test]
fn a_process_that_panics_for_good_still_ends() {
    let stage = stage!();
    let outcome = stage.attempt("abort", true, &[], || ());
    assert_eq!(outcome.status.signal(), Some(rustix::process::Signal::ABORT.as_raw()));
}

#[test]
fn every_measure_says_whether_it_holds() {
    let stage = stage!();
    // Not in this kernel, perhaps: Linux 7.1. The test harness has a thread beside that of the test.
    let missing = |name: &str, in_sandbox| {
        let came = stage.attempt(name, in_sandbox, &[], || ()).came.unwrap();
        came.replace("; socket files (Landlock): needs Linux 7.1", "")
    };
    let of_threads = |threads| {
        format!("missing; one thread only: there are {threads} threads, and only this one is in it")
    };
    assert_eq!(missing("measures", true), of_threads(2));
    assert_eq!(missing("measures with a thread", false), of_threads(3));
}

#[test]
fn a_user_without_rights_is_held_as_well() {
    let stage = stage!();
    for name in ["", "named", "elsewhere", "named/file", "elsewhere/file"] {
        chown(stage.path(name), Some(USER), None).unwrap();
    }
    let came = |name: &str, in_sandbox| {
        let as_user = [(AS_USER, USER.to_string()), ("PORT", "0".to_owned())];
        stage.attempt(name, in_sandbox, &as_user, || ()).came.unwrap()
    };
    for (name, without, within) in [
        ("read elsewhere", "done", "EACCES"),
        ("write beside what is named", "done", "EACCES"),
        ("change a mode", "done", "EPERM"),
        ("start a program", "done", "EPERM"),
        ("show NoNewPrivs", "0", "1"),
        ("show Seccomp", "0", "2"),
        ("show CapEff", "0000000000000000", "0000000000000000"),
        // What running a program could give; no_new_privs forbids it, and who has no rights may not lower the limit.
        ("show CapBnd", "full", "full"),
        ("read what is named", "done", "done"),
        ("start threads", "done", "done"),
        ("look up a name", "done", "done"),
    ] {
        assert_eq!([came(name, false), came(name, true)], [without, within], "{name}");
    }
    assert_eq!(came("show dumpable", true), "NotDumpable");
    let measures = came("measures", true);
    assert!(measures.starts_with("missing; one thread only"), "{measures}");
    assert!(!measures.contains("capabilities") && !measures.contains("memory"), "{measures}");
}

fn lacks(missing: &str, measure: &str) -> Result<(), String> {
    if missing.contains(measure) { Err(format!("{measure}: this kernel is too old")) } else { Ok(()) }
}

/// The measures that do not hold, in words.
fn missing(entered: &Entered) -> String {
    let missing =
        entered.measures().map(|(name, held)| held.as_ref().err().map(|why| format!("; {name}: {why}")));
    format!("missing{}", missing.into_iter().flatten().collect::<String>())
}

fn read_of(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| attempts::errno(&error))
}
