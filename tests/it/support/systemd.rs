//! Owns a machine with a booted systemd: the cached Debian tree, started once for all tests of this process, ended with it.
//! Does not know what is tried in it. What a test changes is gone with the machine; the tree is only read.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{OnceLock, RwLock};
use std::time::{Duration, Instant};

use super::guard::Guard;
use super::mount::{HANG, Store, possible};

/// A machine. Its root is the cached tree, with `/usr/bin/secretfs` the program under test.
pub struct Machine {
    leader: u32,
    /// Guards that nobody talks to systemd while it begins anew; held while a program runs in the machine.
    talking: RwLock<()>,
    /// Ends it with this process: nobody drops what is static, but the guard sees that nobody is left.
    _guard: Guard,
}

/// How long a boot may take on a busy machine; it takes two seconds.
const BOOT: Duration = Duration::from_secs(60);
/// Where units lie that no package brings; systemd.unit(5), "Unit File Load Path".
const UNITS: &str = "/usr/local/lib/systemd/system";

/// The one machine of this process, as `prepare` left its folders before it booted. All tests have to give the same `prepare`.
///
/// Fails with the reason where there can be none.
pub fn machine(prepare: fn(&Prepared)) -> Result<&'static Machine, String> {
    static MACHINE: OnceLock<Result<Machine, String>> = OnceLock::new();
    MACHINE.get_or_init(|| Machine::boot(prepare)).as_ref().map_err(Clone::clone)
}

/// How many secrets there are for drills.
const DRILL_SECRETS: usize = 8;
/// Whoever reads all the time. It needs the mount to begin, and is not to be stopped with it.
const READERS: &str = "[Unit]\nWants=secretfs@%i.service\nAfter=secretfs@%i.service\n[Service]\n\
                       ExecStart=/usr/bin/perl /etc/secretfs/readers.pl /secrets/%i /run/readers-%i\n";

/// The configuration of an instance for drills.
pub fn drill(name: &str, more: &str) -> String {
    format!(
        "[mount]\nmountpoint = \"/secrets/{name}\"\n{more}\n[backend.local]\ntype = \"store\"\nfile = \"drills.age\"\n\
         identity = \"drills.identity\"\n[[tree]]\npath = \"/\"\nbackend = \"local\"\n"
    )
}

/// What is put into a machine before it boots. Folders of this machine, which the other one sees.
pub struct Prepared {
    folder: PathBuf,
}

impl Prepared {
    /// `/etc/secretfs` in there, with a store of two secrets, `api-key` and `other`, and its `identity`.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("etc")
    }

    /// An instance of the shipped unit: its configuration, whose store has this `identity`, and its mountpoint, `/secrets/NAME`.
    pub fn instance(&self, name: &str, identity: &str) {
        let text = format!(
            "[mount]\nmountpoint = \"/secrets/{name}\"\n[backend.local]\ntype = \"store\"\nfile = \"store.age\"\n\
             identity = \"{identity}\"\n[[tree]]\npath = \"/\"\nbackend = \"local\"\n"
        );
        put(&self.configuration().join(format!("{name}.toml")), &text);
        std::fs::create_dir_all(self.folder.join("secrets").join(name)).expect("a mountpoint");
    }

    /// One whose secrets are those that `readers.pl` knows, with these lines more in `[mount]`, and `readers@NAME.service`, which reads them.
    pub fn drill(&self, name: &str, more: &str) {
        put(&self.configuration().join(format!("{name}.toml")), &drill(name, more));
        std::fs::create_dir_all(self.folder.join("secrets").join(name)).expect("a mountpoint");
    }

    /// More for the configuration of an instance.
    pub fn add(&self, name: &str, text: &str) {
        let file = self.configuration().join(format!("{name}.toml"));
        let before = std::fs::read_to_string(&file).expect("an instance");
        put(&file, &(before + text));
    }

    /// A unit, or a piece of one (`NAME.service.d/x.conf`).
    pub fn unit(&self, name: &str, text: &str) {
        put(&self.folder.join("units").join(name), text);
    }

    /// As `systemctl enable` does, before the boot. `file` is the unit, for an instance its template.
    pub fn wanted_at_boot(&self, name: &str, file: &str) {
        let wants = self.folder.join("units/multi-user.target.wants");
        std::fs::create_dir_all(&wants).expect("scratch folder");
        symlink(format!("{UNITS}/{file}"), wants.join(name)).expect("a link");
    }
}

impl Machine {
    fn boot(prepare: fn(&Prepared)) -> Result<Self, String> {
        possible()?;
        if !rustix::process::geteuid().is_root() {
            return Err("only root can boot a machine".into());
        }
        let tree = tree()?;
        let nspawn = super::program("systemd-nspawn")?;
        // The guard removes it: this process keeps the machine until its own end.
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?.keep();
        for sub in ["etc", "units", "secrets"] {
            std::fs::create_dir(folder.join(sub)).map_err(|e| e.to_string())?;
        }
        let prepared = Prepared { folder };
        let store = Store::new();
        store.put("api-key", &["value=canary-value"]);
        store.put("other", &["value=canary-old"]);
        for (from, name) in [(store.file(), "store.age"), (store.identity(), "identity")] {
            std::fs::copy(from, prepared.configuration().join(name)).map_err(|e| e.to_string())?;
        }
        let shipped = include_str!("../../../systemd/secretfs@.service");
        prepared.unit("secretfs@.service", shipped);
        let shipped = include_str!("../../../systemd/secretfs-clean@.service");
        prepared.unit("secretfs-clean@.service", shipped);
        let drills = Store::new();
        for secret in 0..DRILL_SECRETS {
            drills.put(&format!("drill-{secret}"), &[&format!("value=canary-drill-{secret}")]);
        }
        for (from, name) in [(drills.file(), "drills.age"), (drills.identity(), "drills.identity")] {
            std::fs::copy(from, prepared.configuration().join(name)).map_err(|e| e.to_string())?;
        }
        put(&prepared.configuration().join("readers.pl"), include_str!("readers.pl"));
        prepared.unit("readers@.service", READERS);
        prepare(&prepared);
        let folder = prepared.folder;
        let bind = |from: &Path, to: &str| format!("{}:{to}", from.display());
        let mut command = Command::new(nspawn);
        command.args(["--quiet", "--boot", "--console=pipe", "--volatile=overlay", "--bind=/dev/fuse"]);
        // No user namespace: FUSE would show the mounts to that one only. No host's systemd that would have to know of it.
        command.args(["--private-users=no", "--register=no", "--keep-unit"]);
        command.arg(format!("--machine=secretfs-test-{}", std::process::id()));
        command.arg("--directory").arg(tree);
        command.arg("--bind").arg(bind(&folder.join("etc"), "/etc/secretfs"));
        command.arg("--bind").arg(bind(&folder.join("secrets"), "/secrets"));
        command.arg("--bind-ro").arg(bind(&folder.join("units"), UNITS));
        command.arg("--bind-ro").arg(bind(Path::new(env!("CARGO_BIN_EXE_secretfs")), "/usr/bin/secretfs"));
        let log = folder.join("server.log");
        let guard = Guard::start(&command, "TERM", &folder)?;
        let deadline = Instant::now() + BOOT;
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            let Some(leader) = only_child(guard.id()).and_then(only_child) else { continue };
            if is_booted(leader) {
                let machine = Self { leader, talking: RwLock::new(()), _guard: guard };
                // A file as a package installs it: one that can be replaced.
                let install = "cp /usr/bin/secretfs /usr/bin/secretfs.new && umount --lazy /usr/bin/secretfs && \
                               mv /usr/bin/secretfs.new /usr/bin/secretfs";
                machine.must(&["sh", "-c", install]);
                return Ok(machine);
            }
        }
        let log = std::fs::read_to_string(log).unwrap_or_default();
        Err(format!("no systemd has booted within {} seconds: {log}", BOOT.as_secs()))
    }

    /// Runs a program in the machine as its root; what came of it. Panics where that takes longer than a hang.
    pub fn run(&self, command: &[&str]) -> Output {
        let _talking = self.talking.read().unwrap_or_else(|e| e.into_inner());
        entered(self.leader, command)
    }

    /// Has systemd begin anew, with what it knows. Whoever speaks with it meanwhile is cut off.
    pub fn reexecute(&self) {
        let _alone = self.talking.write().unwrap_or_else(|e| e.into_inner());
        let output = entered(self.leader, &["systemctl", "daemon-reexec"]);
        assert!(output.status.success(), "{output:?}");
        while !is_booted(self.leader) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The same of a program that has to succeed: what it prints.
    pub fn must(&self, command: &[&str]) -> String {
        let output = self.run(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The number that a process of the machine has out here.
    pub fn outer(&self, pid: u32) -> u32 {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let of_machine = space(&self.leader.to_string());
        let found = std::fs::read_dir("/proc").expect("proc").flatten().find_map(|process| {
            let outer = process.file_name().into_string().ok()?;
            let status = std::fs::read_to_string(process.path().join("status")).ok()?;
            let inner =
                status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?;
            (inner == pid.to_string() && space(&outer) == of_machine).then(|| outer.parse().ok())?
        });
        found.expect("a process of the machine")
    }

    /// Writes a file in the machine that only its root can read.
    pub fn write(&self, file: &str, text: &str) {
        // Through the leader's root, as proc(5) has it: no secret is an argument of a program.
        let file = PathBuf::from(format!("/proc/{}/root{file}", self.leader));
        put(&file, text);
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("a file of ours");
    }

    /// What `systemctl show` says of a property.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.must(&["systemctl", "show", "--value", "--property", name, unit]).trim().to_owned()
    }

    /// What the journal has of a unit.
    pub fn journal(&self, unit: &str) -> String {
        self.must(&["journalctl", "--sync"]);
        self.must(&["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    /// Waits until it is so.
    pub fn wait_until(&self, what: &str, so: impl Fn() -> bool) {
        let deadline = Instant::now() + HANG;
        while !so() {
            assert!(Instant::now() < deadline, "not within {} seconds: {what}", HANG.as_secs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The tree that `make deps-systemd` has made.
fn tree() -> Result<PathBuf, String> {
    let tree = super::cache_dir().join("systemd/tree");
    match tree.join("usr/lib/systemd/systemd").is_file() {
        true => Ok(tree),
        false => Err("there is no tree of Debian to boot; run `make deps`".into()),
    }
}

/// proc(5), /proc/pid/task/tid/children.
fn only_child(of: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    children.trim().parse().ok()
}

/// Whether the systemd with this number has started what is started at boot, whatever came of it.
fn is_booted(leader: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{leader}/comm")).unwrap_or_default();
    if name.trim() != "systemd" {
        return false;
    }
    let said = entered(leader, &["systemctl", "is-system-running"]).stdout;
    [&b"running"[..], b"degraded"].contains(&said.trim_ascii())
}

fn entered(leader: u32, command: &[&str]) -> Output {
    let mut nsenter = Command::new("timeout");
    nsenter.arg(HANG.as_secs().to_string()).args(["nsenter", "--all", "--target", &leader.to_string(), "--"]);
    nsenter.args(command).env_clear().env("PATH", "/usr/sbin:/usr/bin").env("LC_ALL", "C");
    let output = nsenter.stdin(Stdio::null()).output().expect("timeout and nsenter run");
    assert_ne!(output.status.code(), Some(124), "{command:?} hangs");
    output
}

fn put(file: &Path, text: &str) {
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("scratch folder");
    std::fs::write(file, text).expect("scratch folder");
}
