//! Owns places with a mount table of their own in which a program reads a mount: OCI containers, sandboxes, mount namespaces.
//! Does not know what is read; `inside.py` is the program.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};

use tempfile::TempDir;

use super::mount::{HANG, run};
use super::program;

/// The program inside: it is told words, and answers each line with one.
const PROGRAM: &str = include_str!("inside.py");

/// `podman run` with runc, which starts where crun does not, and with limits that a small machine can give.
pub fn podman() -> Command {
    let mut command = Command::new("podman");
    command.args(["--runtime", "runc", "run", "--rm", "--network", "none", "--stop-signal", "KILL"]);
    command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--volume", "/usr:/usr:ro"]);
    command
}

/// Who root is outside, in a container with users of its own.
pub const MAPPED_ROOT: u32 = 100_000;

/// A folder that is the root of a container: the machine's own programs are bound into it.
pub fn root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for folder in ["usr", "proc", "dev", "sys", "tmp", "run", "etc"] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
        // Root of a container with users of its own makes places there for what is bound.
        chown(root.path().join(folder), Some(MAPPED_ROOT), Some(MAPPED_ROOT)).unwrap();
    }
    chown(root.path(), Some(MAPPED_ROOT), Some(MAPPED_ROOT)).unwrap();
    for link in ["bin", "lib", "lib64", "sbin"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), root.path().join(link)).unwrap();
    }
    // For users in it who are not root.
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    root
}

/// Whether containers can be run here at all.
pub fn containers_run() -> Result<(), String> {
    program("podman")?;
    program("runc")?;
    let root = root();
    let output =
        podman().arg("--rootfs").arg(root.path()).arg("/usr/bin/true").output().map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// The name of a container, which is taken away by it when this is dropped: whoever kills `podman run` leaves the container behind.
pub struct Name(String);

impl Name {
    /// A new one, for `--name`.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(format!("secretfs-test-{}-{number}", std::process::id()))
    }

    /// As podman is told.
    pub fn option(&self) -> String {
        format!("--name={}", self.0)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = Command::new("podman").args(["rm", "--force", "--ignore", &self.0]).output();
    }
}

/// A folder whose mounts are told to those who want to hear of them (`mount --make-shared`), as all are where systemd has booted.
pub struct Shared(TempDir);

impl Shared {
    /// A new one.
    pub fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        run(Command::new("mount").arg("--bind").args([folder.path(), folder.path()]));
        let shared = Self(folder);
        run(Command::new("mount").arg("--make-shared").arg(shared.path()));
        shared
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// A program in such a place. Killed when it is dropped, and the place with it.
pub struct Inside {
    /// What to call it where something is wrong.
    pub name: String,
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    /// Of a container: its name and its root.
    _container: Option<(Name, TempDir)>,
}

impl Inside {
    /// In a container of podman with these options.
    pub fn podman(options: &[String]) -> Self {
        let (container, root) = (Name::new(), root());
        let mut command = podman();
        command.arg("--interactive").arg(container.option()).args(options).arg("--rootfs").arg(root.path());
        command.arg("/usr/bin/python3");
        // Without paths, which are long and say nothing.
        let mut name: Vec<&str> = options.iter().filter_map(|option| option.rsplit(':').next()).collect();
        name.retain(|word| !word.starts_with("--volume"));
        name.dedup();
        let mut inside = Self::start(format!("podman {}", name.join(" ")), &mut command);
        inside._container = Some((container, root));
        inside
    }

    /// In a sandbox of bubblewrap that has the machine's programs and these binds.
    pub fn bubblewrap(program: &Path, binds: &[[String; 2]]) -> Self {
        let mut command = Command::new(program);
        command.args([
            "--die-with-parent",
            "--unshare-pid",
            "--ro-bind",
            "/usr",
            "/usr",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ]);
        for link in ["bin", "lib", "lib64", "sbin"] {
            command.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
        }
        for [from, to] in binds {
            command.args(["--ro-bind", from, to]);
        }
        Self::start("bubblewrap".into(), command.arg("/usr/bin/python3"))
    }

    /// In a mount namespace whose copies of the mounts below `shared` have this propagation, with these binds.
    pub fn namespace(propagation: &str, shared: &Path, binds: &[[String; 2]]) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "--kill-child", "--fork", "--", "sh", "-c"]);
        let mut script = format!("mount --make-r{propagation} '{}' && ", shared.display());
        for [from, to] in binds {
            script += &format!("mount --bind '{from}' '{to}' && ");
        }
        command.arg(format!("{script} exec /usr/bin/python3 \"$@\"")).arg("sh");
        let inside = Self::start(format!("namespace, {propagation}"), &mut command);
        // A copy of a mount keeps it alive, and those of other tests are to end when they say so.
        assert_eq!(inside.ask(&["only", &shared.to_string_lossy()]), "only");
        inside
    }

    fn start(name: String, command: &mut Command) -> Self {
        let mut child = command
            .args(["-u", "-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        let orders = child.stdin.take();
        let inside = Self { name, child, orders, answers, _container: None };
        assert_eq!(inside.ask(&["hello"]), "hello", "{command:?}");
        inside
    }

    /// The answer to an order: see `inside.py`.
    pub fn ask(&self, order: &[&str]) -> String {
        let mut orders = self.orders.as_ref().expect("until it is dropped");
        orders.write_all(format!("{}\n", order.join("\t")).as_bytes()).unwrap();
        let answer = self.answers.recv_timeout(HANG);
        answer.unwrap_or_else(|_| panic!("{}: no answer to {order:?}", self.name))
    }

    /// `=VALUE` of a file by open, read and close, or the name of the error.
    pub fn read(&self, path: &str) -> String {
        self.ask(&["read", path])
    }

    /// `=NAMES` of a directory, sorted, or the name of the error.
    pub fn ls(&self, path: &str) -> String {
        self.ask(&["ls", path])
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The program ends with its input, and the place with the program.
        drop(self.orders.take());
        let start = std::time::Instant::now();
        while self.child.try_wait().ok().flatten().is_none() && start.elapsed() < HANG / 3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
