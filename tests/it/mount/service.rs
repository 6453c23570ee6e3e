//! Owns the promises to a service manager: told READY=1 when the mount can be used and not before, STOPPING=1 at the end.
//! Speaks sd_notify(3)'s protocol itself; no systemd is needed.

use std::os::unix::net::UnixDatagram;

use super::lifecycle::is_mounted;
use super::small_store;
use crate::support::available;
use crate::support::mount::{HANG, possible, secretfs, signal};

#[test]
fn systemd_is_told_when_the_mount_can_be_used_and_when_it_ends() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let folder = store.folder.path().canonicalize().unwrap();
    let (at, path) = (folder.join("at"), folder.join("notify"));
    std::fs::create_dir(&at).unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    let mut command = secretfs();
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(&at);
    let mut child =
        command.arg("--identity").arg(store.identity()).env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let first = hear(&socket, "READY=1");
    let usable = is_mounted(&at) && std::fs::read(at.join("api-key/value")).is_ok();
    signal(child.id(), "TERM");
    let told = hear(&socket, "STOPPING=1").is_some();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(told, "STOPPING=1 is never said");
    assert!(first.is_some() && usable, "READY=1 came before the mount: {first:?}");
}

#[test]
fn a_service_that_cannot_mount_never_says_ready() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let folder = store.folder.path().canonicalize().unwrap();
    let path = folder.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = secretfs();
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(folder.join("missing"));
    let output =
        command.arg("--identity").arg(store.identity()).env("NOTIFY_SOCKET", &path).output().unwrap();
    assert_eq!(output.status.code(), Some(66));
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err());
}

/// However seldom the holder looks after its worker.
#[test]
fn systemd_hears_signs_of_life_as_often_as_it_wants_to() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let folder = store.folder.path().canonicalize().unwrap();
    let (at, path) = (folder.join("at"), folder.join("notify"));
    std::fs::create_dir(&at).unwrap();
    let config = folder.join("config.toml");
    let text = format!(
        "[mount]\nmountpoint = {at:?}\nwatchdog = \"1h\"\n[backend.local]\ntype = \"store\"\nfile = {:?}\nidentity = {:?}\n\
         [[tree]]\npath = \"/\"\nbackend = \"local\"\n",
        store.file(),
        store.identity()
    );
    std::fs::write(&config, text).unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    let mut command = secretfs();
    command
        .args(["mount", "--config"])
        .arg(&config)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000");
    let mut child = command.spawn().unwrap();
    let signs =
        ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"].map(|line| hear(&socket, line).is_some());
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(signs, [true; 4]);
}

/// Until this is said: what is said before is about descriptors that are to be kept. None where it never is.
fn hear(socket: &UnixDatagram, line: &str) -> Option<String> {
    loop {
        let mut message = [0; 512];
        let length = socket.recv(&mut message).ok()?;
        let said = String::from_utf8_lossy(&message[..length]).into_owned();
        if said.lines().any(|said| said == line) {
            return Some(said);
        }
    }
}
