//! Owns what is tried: by whoever took a worker over, and by a worker that does its work.
//! Does not know what comes of it, but for the table of what should.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, netlink, socket};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, dumpable_behavior, kill_process, prlimit,
    set_dumpable_behavior,
};
use rustix::thread::{set_thread_res_uid, set_thread_uid};
use secretfs::daemon::sandbox::{Entered, enter};

use super::{ABSTRACT, ELSEWHERE, NAMED, READY, VICTIM, missing, place, read_of, rules, say};
use crate::support::inotify::Watcher;

/// What is tried, what comes of it without the sandbox, and within. As root.
pub const FORBIDDEN: &[(&str, &str, &str)] = &[
    // files
    ("read elsewhere", "done", "EACCES"),
    ("read elsewhere from a thread", "done", "EACCES"),
    ("list elsewhere", "done", "EACCES"),
    ("write elsewhere", "done", "EACCES"),
    ("write beside what is named", "done", "EACCES"),
    ("change what is named", "done", "EACCES"),
    ("remove what is named", "done", "EACCES"),
    ("make a file in /etc", "done", "EACCES"),
    ("make a folder for sockets a folder for files", "done", "EACCES"),
    ("change an owner", "done", "EPERM"),
    ("change a mode", "done", "EPERM"),
    ("change a time", "done", "EPERM"),
    // capabilities
    ("read what another user closed", "done", "EACCES"),
    ("become another user", "done", "EPERM"),
    ("show CapEff", "full", "0000000000000000"),
    ("show CapPrm", "full", "0000000000000000"),
    ("show CapInh", "0000000000000000", "0000000000000000"),
    ("show CapAmb", "0000000000000000", "0000000000000000"),
    ("show CapBnd", "full", "0000000000000000"),
    ("show NoNewPrivs", "0", "1"),
    ("show Seccomp", "0", "2"),
    // other programs and processes
    ("start a program", "done", "EPERM"),
    ("become a program", "exit status: 0", "EPERM"),
    ("raw:clone into a namespace", "EINVAL", "EPERM"),
    ("raw:clone a process", "EINVAL", "EPERM"),
    ("raw:type into a terminal", "EBADF", "EPERM"),
    ("open another's memory", "done", "EACCES"),
    ("signal another", "done", "EPERM"),
    ("limit another", "done", "EPERM"),
    ("mount", "done", "EPERM"),
    // our own memory
    ("show dumpable", "Dumpable", "NotDumpable"),
    ("open our memory to others", "done", "EPERM"),
    // the network
    ("listen at a port", "done", "EACCES"),
    ("capture packets", "done", "EPERM"),
    ("hear the kernel's events", "done", "EPERM"),
    ("ask an abstract socket", "done", "EPERM"),
];

/// Attempts that only a newer kernel forbids, and the measure that says so.
pub const NEW: &[(&str, &str)] =
    &[("listen at a port", "TCP ports"), ("ask an abstract socket", "abstract sockets")];

/// What a worker does.
pub const ALLOWED: &[&str] = &[
    "start threads",
    "read what is named",
    "read /etc/resolv.conf",
    "look up a name",
    "connect",
    "claim the control socket",
    "replace a dead control socket",
    "look at another's status",
    "look at the mount table",
    "count processors",
    "see a file replaced",
];

/// What came of it.
pub fn attempt(name: &str, entered: Option<&Entered>) -> String {
    let did = match name {
        "abort" => std::process::abort(),
        "measures" => return missing(entered.unwrap()),
        "measures with a thread" => {
            let (_stop, stopped) = std::sync::mpsc::channel::<()>();
            std::thread::spawn(move || stopped.recv());
            return missing(&enter(&rules()));
        }
        "show dumpable" => return format!("{:?}", dumpable_behavior().unwrap()),
        _ => match name.strip_prefix("show ") {
            Some(key) => return status(key),
            None => forbidden(name).or_else(|| allowed(name)).expect("a known attempt"),
        },
    };
    did.map_or_else(|error| errno(&error), |()| "done".to_owned())
}

fn forbidden(name: &str) -> Option<io::Result<()>> {
    let (named, elsewhere) = (place(NAMED), place(ELSEWHERE));
    let file = named.join("file");
    let sockets = secretfs::control::folder().unwrap();
    Some(match name {
        "read elsewhere" => fs::read(elsewhere.join("file")).map(drop),
        "read elsewhere from a thread" => {
            std::thread::spawn(move || fs::read(elsewhere.join("file")).map(drop)).join().unwrap()
        }
        "list elsewhere" => fs::read_dir(elsewhere).map(drop),
        "write elsewhere" => fs::write(elsewhere.join("new"), ""),
        "write beside what is named" => fs::write(named.join("new"), ""),
        "change what is named" => fs::OpenOptions::new().write(true).open(file).map(drop),
        "remove what is named" => {
            fs::remove_file(file).and_then(|()| fs::write(named.join("file"), "canary-old"))
        }
        "make a file in /etc" => make_and_remove(Path::new("/etc/secretfs-canary-test")),
        "make a folder for sockets a folder for files" => {
            fs::create_dir_all(&sockets).unwrap();
            make_and_remove(&sockets.join("canary-test"))
        }
        "change an owner" => chown(file, Some(4322), None),
        "change a mode" => fs::set_permissions(file, PermissionsExt::from_mode(0o644)),
        "change a time" => File::open(file).and_then(|file| file.set_modified(std::time::UNIX_EPOCH)),
        "read what another user closed" => fs::read(named.join("foreign")).map(drop),
        "become another user" => become_another(),
        "start a program" => Command::new("/bin/true").status().map(drop),
        "become a program" => Err(Command::new("/bin/true").exec()),
        "open another's memory" => File::open(format!("/proc/{}/mem", victim())).map(drop),
        "signal another" => kill_process(victim(), Signal::CONT).map_err(Into::into),
        "limit another" => {
            let limit = Rlimit { current: Some(0), maximum: Some(0) };
            prlimit(Some(victim()), Resource::Core, limit).map(drop).map_err(Into::into)
        }
        "mount" => mount(&elsewhere),
        "open our memory to others" => set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(Into::into),
        "listen at a port" => TcpListener::bind("127.0.0.1:0").map(drop),
        "capture packets" => {
            socket(AddressFamily::PACKET, SocketType::RAW, None).map(drop).map_err(Into::into)
        }
        "hear the kernel's events" => {
            let events = Some(netlink::KOBJECT_UEVENT);
            socket(AddressFamily::NETLINK, SocketType::RAW, events).map(drop).map_err(Into::into)
        }
        "ask an abstract socket" => {
            let address = SocketAddr::from_abstract_name(std::env::var(ABSTRACT).unwrap());
            address.and_then(|address| UnixStream::connect_addr(&address).map(drop))
        }
        _ => return None,
    })
}

fn allowed(name: &str) -> Option<io::Result<()>> {
    let file = place(NAMED).join("file");
    Some(match name {
        "start threads" => {
            let threads = (0..8).map(|_| std::thread::Builder::new().spawn(|| ()));
            threads
                .collect::<io::Result<Vec<_>>>()
                .map(|all| all.into_iter().for_each(|one| one.join().unwrap()))
        }
        "read what is named" => fs::read(file).map(drop),
        "read /etc/resolv.conf" => fs::read("/etc/resolv.conf").map(drop),
        "look up a name" => {
            ("localhost", 0).to_socket_addrs().map(|mut found| assert!(found.next().is_some()))
        }
        "connect" => {
            TcpStream::connect(("127.0.0.1", std::env::var("PORT").unwrap().parse().unwrap())).map(drop)
        }
        "claim the control socket" => claim(false),
        "replace a dead control socket" => claim(true),
        "look at another's status" => fs::read(format!("/proc/{}/status", victim())).map(drop),
        "look at the mount table" => {
            fs::read_to_string("/proc/self/mountinfo").map(|table| assert!(!table.is_empty()))
        }
        "count processors" => fs::read_dir("/sys/fs/cgroup")
            .map(drop)
            .and_then(|()| std::thread::available_parallelism().map(drop)),
        "see a file replaced" => {
            assert_eq!(read_of(&file).unwrap(), "canary-old");
            let watcher = Watcher::on([("folder", place(NAMED).as_path())]);
            say(READY);
            watcher.wait(&["folder/file MOVED_TO"]);
            assert_eq!(read_of(&file).unwrap(), "canary-new");
            Ok(())
        }
        _ => return None,
    })
}

/// Puts a control socket into its place, asks it, and removes it.
fn claim(dead: bool) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // No device has these numbers; each process has its own.
    let device = format!("99999:{}", std::process::id());
    let path = secretfs::control::folder().unwrap().join(device.replace(':', "-") + ".sock");
    if dead {
        drop(std::os::unix::net::UnixListener::bind(&path)?);
        assert!(path.symlink_metadata().is_ok(), "as a killed process leaves it");
    }
    let socket = runtime.block_on(secretfs::control::claim(&device)).map_err(io::Error::other)?;
    assert_eq!(socket.path(), path);
    assert_eq!(path.metadata()?.mode() & 0o7777, 0o600);
    UnixStream::connect(&path)?;
    let _runtime = runtime.enter();
    drop(socket);
    assert!(path.symlink_metadata().is_err(), "it is removed");
    Ok(())
}

fn become_another() -> io::Result<()> {
    // First one that keeps the way back.
    let nobody = rustix::process::Uid::from_raw(65534);
    set_thread_res_uid(None, nobody, None)?;
    set_thread_uid(rustix::process::Uid::ROOT)?;
    Ok(())
}

fn mount(at: &Path) -> io::Result<()> {
    rustix::mount::mount("none", at, "tmpfs", rustix::mount::MountFlags::empty(), None)?;
    rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH)?;
    Ok(())
}

fn make_and_remove(file: &Path) -> io::Result<()> {
    File::create_new(file)?;
    fs::remove_file(file)
}

fn victim() -> Pid {
    Pid::from_raw(std::env::var(VICTIM).unwrap().parse().unwrap()).unwrap()
}

/// A line of our own status; `full` where root has every capability.
fn status(key: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let value = line.unwrap().trim();
    let many = key.starts_with("Cap") && value != "0000000000000000";
    if many { "full".to_owned() } else { value.to_owned() }
}

/// How long whatever waits may take.
pub const HANG: Duration = Duration::from_secs(60);

/// The name of an error number.
pub fn errno(error: &io::Error) -> String {
    let name = match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM",
        Some(libc::EACCES) => "EACCES",
        Some(libc::ENOSYS) => "ENOSYS",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::EBADF) => "EBADF",
        _ => return error.to_string(),
    };
    name.to_owned()
}
