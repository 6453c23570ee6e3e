//! Owns the sandbox of a worker: what a process gives up for good before it speaks with servers and with the kernel.
//! Does not know what a worker does; the rules say what it must still be able to open.
//!
//! A worker reads what strangers send, and holds the secrets of the mount. Whoever takes it over must not get further than
//! that: not to files that it does not serve, not to other processes, not to another program. Nothing in here can be
//! undone, by the process itself neither, and every thread that is started later is born into it.

mod calls;
mod capabilities;
mod files;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior, umask};
use rustix::thread::{no_new_privs, set_no_new_privs};

use super::needs::{Variables, of_backend};
use super::plan::{BackendPlan, Plan};
use crate::control;

const SOCKET_FILES: &str = "socket files (Landlock)";

/// What the process must still be able to open.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Files, and folders with all that is below them, that may be read. What is not there is left out.
    pub read: Vec<PathBuf>,
    /// Folders in which sockets may be made and removed, and asked.
    pub write: Vec<PathBuf>,
}

impl Rules {
    /// What the worker of a mount needs: the machine's own files, those that its backends name, the control socket's folder
    /// (which must be there: [`control::make_folder`]).
    pub fn of(plan: &Plan) -> Self {
        let mut rules = Self::of_backends(&plan.backends, |name| std::env::var_os(name));
        rules.write = control::folders();
        rules
    }

    fn of_backends(backends: &[(String, BackendPlan)], variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut rules = Self::of_machine();
        for (name, backend) in backends {
            for need in of_backend(name, backend, &Variables(&variable)) {
                rules.may_follow(&need.path);
            }
        }
        rules
    }

    /// What every process needs that looks up names, and callers.
    pub fn of_machine() -> Self {
        Self { read: files::MACHINE.iter().map(PathBuf::from).collect(), write: Vec::new() }
    }

    /// Lets a file be read, and the one that replaces it: see [`files::places`].
    pub fn may_follow(&mut self, file: &Path) {
        for place in files::places(file) {
            if !self.read.contains(&place) {
                self.read.push(place);
            }
        }
    }
}

/// Which measures hold. An error says, in a few words, why one does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// The process has one thread: others, which were there before, would stay outside.
    pub alone: Result<(), String>,
    /// No process of the same user reads our memory.
    pub memory: Result<(), String>,
    /// No capability is left, and none can be had.
    pub capabilities: Result<(), String>,
    /// No program that is run gives more rights (which seccomp and Landlock need, too).
    pub no_new_privileges: Result<(), String>,
    /// Files: only what the [`Rules`] name.
    pub files: Result<(), String>,
    /// No TCP port can be listened at.
    pub ports: Result<(), String>,
    /// No abstract socket of a process outside can be asked.
    pub abstract_sockets: Result<(), String>,
    /// No socket file can be asked but those of the [`Rules`] and of name lookup.
    pub socket_files: Result<(), String>,
    /// System calls that a worker has no use for are refused.
    pub calls: Result<(), String>,
}

impl Entered {
    /// Each measure, by its name.
    pub fn measures(&self) -> [(&'static str, &Result<(), String>); 9] {
        [
            ("one thread only", &self.alone),
            ("closed memory", &self.memory),
            ("no capabilities", &self.capabilities),
            ("no new privileges", &self.no_new_privileges),
            ("files (Landlock)", &self.files),
            ("TCP ports (Landlock)", &self.ports),
            ("abstract sockets (Landlock)", &self.abstract_sockets),
            (SOCKET_FILES, &self.socket_files),
            ("system calls (seccomp)", &self.calls),
        ]
    }

    /// One warning that says what is missing. The process goes on: the mount is still better than files on a disk.
    fn warn(&self) {
        // Few kernels have this one yet (Linux 7.1), so that it is missing is no news.
        let is_new = |name: &str| name == SOCKET_FILES;
        let missing =
            self.measures().into_iter().filter_map(|(name, held)| Some((name, held.as_ref().err()?)));
        let (new, bad): (Vec<_>, Vec<_>) = missing.partition(|(name, _)| is_new(name));
        let said = |missing: &[(&str, &String)]| {
            missing.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; ")
        };
        if !bad.is_empty() {
            tracing::warn!("the worker's sandbox is not complete: {}", said(&bad));
        }
        if !new.is_empty() {
            tracing::debug!("the worker's sandbox would be closer on a newer kernel: {}", said(&new));
        }
    }
}

/// Gives up everything but what the rules allow. To be called while the process has one thread: those that are there already
/// stay outside.
///
/// What the system cannot do is missing in the answer, and a warning says so.
pub fn enter(rules: &Rules) -> Entered {
    let capabilities = capabilities::drop_all();
    // After that one: a change of capabilities can open the memory again. So does running a program that all may read.
    let memory = close_memory();
    let no_new_privileges = give_up_privileges();
    // A mode cannot be changed from here on, so what is made is made as its owner's alone: the control socket.
    umask(Mode::XUSR | Mode::RWXG | Mode::RWXO);
    let files = files::restrict(rules);
    let alone = count_threads();
    // Last: it refuses what the others need.
    let calls = calls::refuse();
    let entered = Entered {
        alone,
        memory,
        capabilities,
        no_new_privileges,
        files: files.files,
        ports: files.ports,
        abstract_sockets: files.abstract_sockets,
        socket_files: files.socket_files,
        calls,
    };
    entered.warn();
    entered
}

fn close_memory() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| error.to_string())?;
    match dumpable_behavior() {
        Ok(DumpableBehavior::NotDumpable) => Ok(()),
        Ok(_) => Err("the system keeps it open".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn give_up_privileges() -> Result<(), String> {
    set_no_new_privs(true).map_err(|error| error.to_string())?;
    match no_new_privs() {
        Ok(true) => Ok(()),
        Ok(false) => Err("the system does not hold to it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn count_threads() -> Result<(), String> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(1) => Ok(()),
        Ok(threads) => Err(format!("there are {threads} threads, and only this one is in it")),
        Err(error) => Err(format!("/proc/self/task: {error}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::store::{Config, KeySource};
    use crate::backend::{aws, vault};

    #[test]
    fn the_folders_of_what_the_backends_name_may_be_read() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        let path = |name: &str| folder.join(name);
        for name in ["store", "keys", "tokens", "home/.aws/sso/cache"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        let key = KeySource::Identity(path("keys/identity"));
        let token = vault::TokenSource::File(path("tokens/token"));
        let backends = [
            ("s".to_owned(), BackendPlan::Store(Config { file: path("store/s.age"), key })),
            ("v".to_owned(), BackendPlan::Vault(vault::Config { token, ..vault::Config::default() })),
            ("a".to_owned(), BackendPlan::Aws(aws::Config::default())),
        ];
        let home = path("home");
        let rules = Rules::of_backends(&backends, |name| (name == "HOME").then(|| home.clone().into()));
        let ours: Vec<_> = rules.read.iter().filter(|read| read.starts_with(&folder)).collect();
        let expected = ["store", "keys", "tokens", "home/.aws", "home/.aws/sso/cache"].map(path);
        assert_eq!(ours, expected.iter().collect::<Vec<_>>(), "and the home folder itself is not among them");
        assert!(rules.read.contains(&PathBuf::from("/etc")));
        assert!(rules.write.is_empty());
    }
}
