//! Owns a real mount of the real program, for one test: started, waited for, unmounted, its log searched.
//! Every value that a test uses holds the word `canary` (but those that an issue fixes), and every program logs at TRACE:
//! a log with that word in it fails the test, whatever the test was about.
// `as_user` is a step of a builder, no conversion.
#![allow(clippy::wrong_self_convention)]

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The word in every secret value and token of the tests.
pub const CANARY: &str = "canary";
/// Nothing that works takes this long, on the slowest machine.
pub const HANG: Duration = Duration::from_secs(30);

/// What to mount and how. `Mount::of("vault:secret").env(...).arg(...).start()`.
pub struct Plan {
    command: Command,
    folder: TempDir,
    user: Option<u32>,
}

/// A mount that serves until it is dropped.
pub struct Mount {
    /// The mount point.
    pub at: PathBuf,
    /// A scratch folder beside it.
    pub folder: TempDir,
    child: Child,
}

/// Whether this machine can mount at all.
pub fn possible() -> Result<(), String> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("/dev/fuse: {error}")),
    }
}

/// The program under test.
pub fn secretfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secretfs"));
    // Nothing of the machine's own environment decides a test.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["VAULT_", "BAO_", "AWS_", "SECRETFS_", "XDG_"].iter().any(|prefix| name_text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
    command
}

impl Plan {
    /// A mount of `source`, or by a configuration when `source` is empty.
    pub fn of(source: &str) -> Self {
        Self::in_folder(source, tempfile::tempdir().expect("scratch folder"))
    }

    /// The same with a scratch folder of one's own.
    pub fn in_folder(source: &str, folder: TempDir) -> Self {
        let at = folder.path().join("mnt");
        std::fs::create_dir(&at).expect("mount point");
        let mut command = secretfs();
        command
            .arg("mount")
            .args((!source.is_empty()).then_some(source))
            .arg(&at)
            .env("SECRETFS_LOG", "trace");
        Self { command, folder, user: None }
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Variables of the environment.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(mut self, pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        self.command.envs(pairs);
        self
    }

    /// Runs the program as this user (and group); the scratch folder becomes theirs, and a copy of the program lies in it
    /// (the build may be where they cannot go).
    pub fn by_user(mut self, uid: u32) -> Self {
        self = self.installed();
        for path in [self.folder.path().to_owned(), self.folder.path().join("mnt")] {
            std::os::unix::fs::chown(&path, Some(uid), Some(uid)).expect("chown");
        }
        self.command.uid(uid).gid(uid);
        self.user = Some(uid);
        self
    }

    /// Runs a program of its own, `secretfs` in the scratch folder, which a test may replace.
    pub fn installed(mut self) -> Self {
        let program = self.folder.path().join("secretfs");
        copy_program(&program);
        let mut command = Command::new(program);
        command.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.command = command;
        self
    }

    /// Runs the program in the scratch folder.
    pub fn in_scratch(mut self) -> Self {
        self.command.current_dir(self.folder.path());
        self
    }

    /// Runs the program in the folder that it mounts on.
    pub fn in_mountpoint(mut self) -> Self {
        self.command.current_dir(self.folder.path().join("mnt"));
        self
    }

    /// Runs the program in a process group of its own, as a shell does.
    pub fn in_group(mut self) -> Self {
        self.command.process_group(0);
        self
    }

    /// The scratch folder, to put files into before the start.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts, and waits until the kernel has the mount.
    pub fn start(mut self) -> Mount {
        let at = self.folder.path().join("mnt");
        let log = std::fs::File::create(self.folder.path().join("log")).expect("log");
        let child =
            self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("secretfs");
        let mut mount = Mount { at, folder: self.folder, child };
        let start = Instant::now();
        while !mount.is_mounted() {
            let ended = mount.child.try_wait().expect("wait");
            assert!(ended.is_none(), "the mount ended with {ended:?}:\n{}", mount.log());
            assert!(start.elapsed() < HANG, "not mounted:\n{}", mount.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        // The kernel has it before the program has answered its first request: this waits for that.
        let _ = std::fs::metadata(&mount.at);
        mount
    }
}

impl Mount {
    /// See [`Plan::of`].
    pub fn of(source: &str) -> Plan {
        Plan::of(source)
    }

    /// A path in the mount.
    pub fn path(&self, below: &str) -> PathBuf {
        self.at.join(below)
    }

    /// The bytes of a file in the mount.
    pub fn read(&self, below: &str) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.path(below))
    }

    /// The names in a directory of the mount, sorted.
    pub fn ls(&self, below: &str) -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(below))? {
            names.push(entry?.file_name().into_string().expect("names are UTF-8"));
        }
        names.sort();
        Ok(names)
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that serves at the moment: what the program itself has started.
    pub fn worker(&self) -> u32 {
        self.worker_now().expect("a worker")
    }

    /// The same; none where one has died and the next is not there yet.
    pub fn worker_now(&self) -> Option<u32> {
        self.workers().into_iter().next()
    }

    /// All of them, the oldest first: two during an upgrade.
    pub fn workers(&self) -> Vec<u32> {
        workers_of(self.pid())
    }

    /// Whether the mount answers. What a mount without a worker is asked waits, so a process of its own asks, which can be killed.
    pub fn answers(&self, at_most: Duration) -> bool {
        let mut stat = Command::new("stat");
        stat.arg("-f").arg(&self.at).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (mut stat, start) = (stat.spawn().expect("stat"), Instant::now());
        while start.elapsed() < at_most {
            if let Some(status) = stat.try_wait().expect("wait") {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = stat.kill();
        let _ = stat.wait();
        false
    }

    /// Waits until another worker than `before` serves, and gives that one.
    pub fn worker_after(&self, before: u32) -> u32 {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < HANG, "no worker after {before}:\n{}", self.log());
            let now = self.worker_now();
            if let Some(now) = now.filter(|now| *now != before)
                && self.answers(HANG)
            {
                return now;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL to the worker; the next one, which serves.
    pub fn kill_worker(&self) -> u32 {
        let before = self.worker();
        signal(before, "KILL");
        self.worker_after(before)
    }

    /// What the program has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join("log")).unwrap_or_default())
            .into_owned()
    }

    /// Whether the kernel has the mount.
    pub fn is_mounted(&self) -> bool {
        let at = self.at.canonicalize().unwrap_or(self.at.clone());
        secretfs::mounts::ours().expect("mountinfo").iter().any(|mount| mount.at == at || mount.at == self.at)
    }

    /// SIGKILL to all of the program, the holder first, and its end.
    pub fn kill(&mut self) {
        let worker = self.worker_now();
        if let Some(worker) = worker {
            // So that it has no time to end in good order.
            signal(worker, "STOP");
        }
        signal(self.child.id(), "KILL");
        self.ended();
        if let Some(worker) = worker {
            signal(worker, "KILL");
            let start = Instant::now();
            while Path::new(&format!("/proc/{worker}")).exists() {
                assert!(start.elapsed() < HANG, "worker {worker} does not die");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// SIGTERM, and the exit code; fails when the program does not end.
    pub fn stop(&mut self) -> Option<i32> {
        signal(self.child.id(), "TERM");
        self.ended()
    }

    /// Waits for the program to end by itself, and the exit code; fails when it does not end.
    pub fn ended(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code();
            }
            assert!(start.elapsed() < HANG, "it did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            signal(self.child.id(), "TERM");
            let start = Instant::now();
            while self.child.try_wait().ok().flatten().is_none() && start.elapsed() < HANG {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let left = self.is_mounted();
        if left {
            let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        }
        if !std::thread::panicking() {
            assert!(!left, "the mount outlived its program");
            let log = self.log();
            let leak = log.lines().find(|line| line.contains(CANARY));
            assert!(leak.is_none(), "a secret in the log: {leak:?}");
            assert!(!log.contains("panicked"), "a panic:\n{log}");
        }
    }
}

/// The program under test at another place: a link where that can be, else a copy.
pub fn copy_program(to: &Path) {
    let built = env!("CARGO_BIN_EXE_secretfs");
    std::fs::hard_link(built, to)
        .or_else(|_| std::fs::copy(built, to).map(drop))
        .expect("copy of the program");
}

/// The workers of a holder, the oldest first.
pub fn workers_of(holder: u32) -> Vec<u32> {
    let children = format!("/proc/{holder}/task/{holder}/children");
    let children = std::fs::read_to_string(children).expect("children of the program");
    let is_worker = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"worker")
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_worker).collect()
}

/// Sends a signal by name (kill(1)): TERM, KILL, STOP, CONT, INT.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().expect("kill");
    assert!(status.success(), "kill -{name} {pid}");
}

/// Runs a command to its end; fails the test with its output when it does not succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

/// Looks again and again until `done`; fails when that never comes.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A store for one test: the file, its identity, and `put`.
pub struct Store {
    /// The scratch folder that both lie in.
    pub folder: TempDir,
}

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        let store = Self { folder: tempfile::tempdir().expect("scratch folder") };
        run(secretfs().args(["store", "init"]).arg(store.file()).arg("--identity").arg(store.identity()));
        store
    }

    /// The age file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("store.age")
    }

    /// Its key.
    pub fn identity(&self) -> PathBuf {
        self.folder.path().join("identity")
    }

    /// `secretfs store put FILE PATH FIELDS...`; `KEY=@FILE` for bytes.
    pub fn put(&self, path: &str, fields: &[&str]) {
        let mut command = secretfs();
        command.args(["store", "put"]).arg(self.file()).arg(path).args(fields);
        run(command.arg("--identity").arg(self.identity()));
    }

    /// A mount of it.
    pub fn mount(&self) -> Plan {
        Plan::of(&format!("store:{}", self.file().display())).arg("--identity").arg(self.identity())
    }
}
