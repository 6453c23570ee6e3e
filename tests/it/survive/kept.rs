//! Owns the promise of a mount that a service manager keeps: its holder's death is a pause, from the first moment on.
//! Does not know systemd (tests/it/booted/drills.rs): the manager here keeps what it is given, and starts nobody.

use std::fs::OpenOptions;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::json;

use super::ends::planned;
use crate::support::fake::{Fake, Reply};
use crate::support::mount::{
    HANG, Mount, Plan, Store, possible, run, secretfs, signal, wait_until, workers_of,
};
use crate::support::{available, fake_vault, program};

/// Starts a program with descriptors that come over standard input, as a service manager does (sd_listen_fds(3)).
const STARTER: &str = r#"
import fcntl, os, socket, sys
names, program = sys.argv[1], sys.argv[2:]
came = socket.recv_fds(socket.socket(fileno=os.dup(0)), 1, 16)[1]
# out of the way first
came = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in came]
for number, fd in enumerate(came):
    os.dup2(fd, 3 + number)
os.closerange(3 + len(came), 100)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(came)), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"#;

/// Keeps every descriptor that comes to its socket, by name.
struct Manager {
    socket: PathBuf,
    is_over: Arc<AtomicBool>,
    keeping: Option<JoinHandle<Vec<(String, OwnedFd)>>>,
}

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let is_over = Arc::<AtomicBool>::default();
        let over = is_over.clone();
        let keeping = std::thread::spawn(move || {
            let mut kept = Vec::new();
            loop {
                // Asked before: what was said until then is still heard.
                let is_over = over.load(Ordering::SeqCst);
                let (mut room, mut space) = ([0; 512], [MaybeUninit::uninit(); 256]);
                let mut files = RecvAncillaryBuffer::new(&mut space);
                let Ok(came) =
                    recvmsg(&socket, &mut [IoSliceMut::new(&mut room)], &mut files, RecvFlags::CMSG_CLOEXEC)
                else {
                    if is_over {
                        return kept;
                    }
                    continue;
                };
                let said = String::from_utf8_lossy(&room[..came.bytes]).into_owned();
                let name = said.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
                for message in files.drain() {
                    if let RecvAncillaryMessage::ScmRights(files) = message {
                        kept.extend(files.map(|file| (name.to_owned(), file)));
                    }
                }
            }
        });
        Self { socket: path.to_owned(), is_over, keeping: Some(keeping) }
    }

    /// For a mount that it is to keep, and whose program is called so.
    fn of(plan: Plan) -> (Self, Plan) {
        let manager = Self::at(&plan.folder().join("notify"));
        let plan = plan.envs([("FDSTORE", "16")]).envs([("NOTIFY_SOCKET", &manager.socket)]);
        (manager, plan)
    }

    /// Lets go of all of them.
    fn let_go(&mut self) -> Vec<(String, OwnedFd)> {
        self.is_over.store(true, Ordering::SeqCst);
        self.keeping.take().unwrap().join().unwrap()
    }

    /// Starts the next holder with what is kept, for a mount at `at`; it logs where the first one did.
    fn start_next(&mut self, mount: &Mount, at: &Path) -> Next {
        let log = OpenOptions::new().append(true).open(mount.folder.path().join("log")).unwrap();
        let kept = self.let_go();
        let names: Vec<&str> = kept.iter().map(|(name, _)| &**name).collect();
        let (ours, input) = UnixStream::pair().unwrap();
        let program = secretfs();
        let mut command = Command::new("python3");
        command.args(["-c", STARTER, &names.join(":")]).arg(program.get_program()).arg("mount");
        command.arg(at).arg("--config").arg(mount.folder.path().join("config.toml"));
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("VAULT_TOKEN", "canary-token").env("SECRETFS_LOG", "trace");
        let child = command.stdin(OwnedFd::from(input)).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let files: Vec<BorrowedFd<'_>> = kept.iter().map(|(_, file)| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); 256];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(&ours, &[IoSlice::new(b"!")], &mut ancillary, SendFlags::empty()).unwrap();
        // Until it has them.
        let next = Next(child);
        wait_until("the program is started", || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", next.0.id())).unwrap_or_default();
            name.trim() == "secretfs"
        });
        next
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// The next holder of a mount.
struct Next(Child);

impl Next {
    fn ended(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < HANG, "it did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&mut self) -> Option<i32> {
        signal(self.0.id(), "TERM");
        self.ended()
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// SIGKILL to the holder; the manager here kills nobody, so its worker ends by itself.
fn kill_holder(mount: &mut Mount) {
    let worker = mount.worker();
    signal(mount.pid(), "KILL");
    mount.ended();
    wait_until("its worker is gone", || {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    });
}

/// Reads a file by a process of its own: whoever waits for ever can be killed.
fn read(file: &Path) -> Child {
    let mut command = Command::new("timeout");
    command.arg(HANG.as_secs().to_string()).arg("cat").arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn what_was_read(reader: Child) -> String {
    let output = reader.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn device(at: &Path) -> Option<String> {
    secretfs::mounts::device_at(at).unwrap()
}

#[test]
fn the_death_of_the_very_first_holder_is_a_pause_for_who_waits_and_no_error() {
    let Some(()) = available("mount", possible()) else { return };
    let is_asked = Arc::<AtomicBool>::default();
    let asked = is_asked.clone();
    let fake = Fake::start_keeping(move |request| match fake_vault::asked(request) {
        (path, _) if path[0] == "sys" => fake_vault::kv2("kv"),
        (_, true) => fake_vault::keys(&[json!("a")]),
        _ => {
            asked.store(true, Ordering::SeqCst);
            Reply::Silence
        }
    });
    let plan = Mount::of("");
    let config = plan.folder().join("config.toml");
    let text = format!(
        "[mount]\ndeadline = \"5m\"\n[backend.b]\ntype = \"vault\"\naddress = \"{}\"\n[[tree]]\npath = \"/\"\nbackend = \"b\"\nsource = \"kv\"\n",
        fake.endpoint()
    );
    std::fs::write(&config, text).unwrap();
    let (mut manager, plan) = Manager::of(plan);
    let mut mount = plan.arg("--config").arg(config).envs([("VAULT_TOKEN", "canary-token")]).start();
    let file = mount.path("a/k");
    let (tell, told) = channel();
    let reader =
        std::thread::spawn(move || tell.send(std::fs::read(file).map_err(|error| error.raw_os_error())));
    wait_until("somebody waits for the backend", || is_asked.load(Ordering::SeqCst));
    kill_holder(&mut mount);
    assert_eq!(told.recv_timeout(Duration::from_millis(500)), Err(RecvTimeoutError::Timeout), "it waits");
    assert_eq!(manager.let_go().len(), 6);
    let told = told.recv_timeout(HANG).unwrap().unwrap_err().unwrap();
    assert!([libc::ENOTCONN, libc::ECONNABORTED].contains(&told), "{told}");
    reader.join().unwrap().unwrap();
    run(secretfs().arg("unmount").arg(&mount.at));
}

#[test]
fn a_worker_of_the_next_holder_that_is_killed_before_it_serves_is_a_pause_like_any_other() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(_) = available("python3", program("python3")) else { return };
    let store = Store::new();
    let (mut manager, plan) = Manager::of(planned(&store));
    let mut mount = plan.start();
    let first = device(&mount.at);
    kill_holder(&mut mount);
    // The worker reads its key, and waits for it: it does not get so far as to serve.
    let (identity, aside) = (store.identity(), store.folder.path().join("aside"));
    std::fs::rename(&identity, &aside).unwrap();
    run(Command::new("mkfifo").args(["-m", "600"]).arg(&identity));
    let mut next = manager.start_next(&mount, &mount.at);
    let reader = read(&mount.path("api-key/value"));
    let mut waits = None;
    wait_until("its worker waits for the key", || {
        waits = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&identity).ok();
        waits.is_some()
    });
    let worker = workers_of(next.0.id())[0];
    std::fs::rename(&aside, &identity).unwrap();
    signal(worker, "KILL");
    assert_eq!(what_was_read(reader), "canary-value", "{}", mount.log());
    assert_eq!(device(&mount.at), first);
    assert_eq!(next.stop(), Some(0), "{}", mount.log());
    assert!(!mount.is_mounted());
}

#[test]
fn a_next_holder_whose_configuration_cannot_work_says_so_by_its_exit_code_and_leaves_no_mount() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(_) = available("python3", program("python3")) else { return };
    let store = Store::new();
    let (mut manager, plan) = Manager::of(planned(&store));
    let mut mount = plan.start();
    kill_holder(&mut mount);
    std::fs::write(store.identity(), "canary, and no key").unwrap();
    let mut next = manager.start_next(&mount, &mount.at);
    assert_eq!(next.ended(), Some(78), "{}", mount.log());
    assert!(!mount.is_mounted());
}

#[test]
fn the_next_holder_goes_on_with_a_mount_that_it_is_told_of_by_a_link() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(_) = available("python3", program("python3")) else { return };
    let store = Store::new();
    let (mut manager, plan) = Manager::of(planned(&store));
    let mut mount = plan.start();
    let first = device(&mount.at);
    kill_holder(&mut mount);
    let link = mount.folder.path().join("link");
    symlink("mnt", &link).unwrap();
    let reader = read(&mount.path("api-key/value"));
    let mut next = manager.start_next(&mount, &link);
    assert_eq!(what_was_read(reader), "canary-value", "{}", mount.log());
    assert_eq!(device(&mount.at), first, "{}", mount.log());
    assert_eq!(next.stop(), Some(0), "{}", mount.log());
}

const LEASE: &str = "database/creds/app/id-of-the-lease";

#[test]
fn leases_of_a_mount_that_is_not_gone_on_with_are_given_back_by_the_one_that_is_made_anew() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(_) = available("python3", program("python3")) else { return };
    for is_moved in [true, false] {
        let fake = fake_vault::database(LEASE, || ());
        let plan = Mount::of("");
        let config = plan.folder().join("config.toml");
        let text = format!(
            "[backend.v]\ntype = \"vault\"\naddress = \"{}\"\n\
             [[secret]]\npath = \"/app\"\nbackend = \"v\"\nsource = \"database/creds/app\"\n",
            fake.endpoint()
        );
        std::fs::write(&config, text).unwrap();
        let (mut manager, plan) = Manager::of(plan);
        let mut mount = plan.arg("--config").arg(config).envs([("VAULT_TOKEN", "canary-token")]).start();
        assert_eq!(mount.read("app/password").unwrap(), b"canary-password", "{}", mount.log());
        kill_holder(&mut mount);
        let mut at = mount.at.clone();
        if is_moved {
            at = mount.folder.path().join("elsewhere");
            std::fs::create_dir(&at).unwrap();
        } else {
            run(secretfs().args(["unmount", "--lazy"]).arg(&at));
        }
        let mut next = manager.start_next(&mount, &at);
        wait_until("it is mounted", || device(&at).is_some());
        assert_eq!(mount.is_mounted(), !is_moved);
        let is_revoked = |fake: &Fake| {
            let of_lease = |body: &[u8]| String::from_utf8_lossy(body).contains(LEASE);
            fake.requests()
                .iter()
                .any(|asked| asked.target.ends_with("leases/revoke") && of_lease(&asked.body))
        };
        assert!(!is_revoked(&fake), "it may be in use still");
        assert_eq!(next.stop(), Some(0), "{}", mount.log());
        assert!(is_revoked(&fake), "{:?}\n{}", fake.requests(), mount.log());
    }
}
