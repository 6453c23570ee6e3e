//! Owns the promises in mount namespaces of others: a watcher in a container is told, of a file that is bind-mounted alone too,
//! finds the new value without a restart, and can change nothing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::{Poller, can_tell};
use crate::mount::readonly::CHANGE;
use crate::support::container::{Name, containers_run, podman, root};
use crate::support::mount::{HANG, Mount, Store, possible, run};
use crate::support::{available, program};

/// Tries to write to argv[1], watches it, and reads it again once each event of a write has come.
const WATCH: &str = r#"
import ctypes, errno, os, struct, sys
path = sys.argv[1]
def refusal():
    try: os.open(path, os.O_WRONLY)
    except OSError as error: return errno.errorcode[error.errno]
libc = ctypes.CDLL(None, use_errno=True)
events = libc.inotify_init1(0)
MODIFY, ATTRIB, CLOSE_WRITE = 2, 4, 8
assert libc.inotify_add_watch(events, path.encode(), MODIFY | ATTRIB | CLOSE_WRITE) > 0
print("watching", refusal(), open(path).read(), flush=True)
while True:
    seen = 0
    while seen != MODIFY | ATTRIB | CLOSE_WRITE:
        came, at = os.read(events, 4096), 0
        while at < len(came):
            _, mask, _, length = struct.unpack_from("iIII", came, at)
            seen, at = seen | mask, at + 16 + length
    print("told", refusal(), open(path).read(), flush=True)
"#;

/// A watcher in a container: what it prints, line by line.
struct Watcher {
    child: Child,
    lines: Receiver<String>,
}

impl Watcher {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Self { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(HANG).expect("the watcher says nothing")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn store() -> (Store, Mount) {
    let store = Store::new();
    store.put("api-key", &["value=canary-0"]);
    let mount = store.mount().start();
    (store, mount)
}

/// Whether the watcher that `command` makes sees a rotation, and another one.
fn is_told(store: &Store, mount: &Mount, command: &mut Command) {
    let watcher = Watcher::start(command);
    assert_eq!(watcher.next(), "watching EROFS canary-0", "{command:?}");
    let _asking = Poller::of(&mount.path("api-key/value"));
    for value in ["canary-1", "canary-2-longer"] {
        store.put("api-key", &[&format!("value={value}")]);
        assert_eq!(watcher.next(), format!("told EROFS {value}"), "{command:?}");
    }
    store.put("api-key", &["value=canary-0"]);
    assert_eq!(watcher.next(), "told EROFS canary-0");
}

#[test]
fn in_another_mount_namespace_and_in_a_sandbox_with_the_file_alone() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let Some(python) = available("python3", program("python3")) else { return };
    let Some(bwrap) = available("bubblewrap", program("bwrap")) else { return };
    let (store, mount) = store();
    let file = mount.path("api-key/value");
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "--propagation", "private", "--kill-child"])
        .arg(&python)
        .args(["-c", WATCH])
        .arg(&file);
    is_told(&store, &mount, &mut unshare);
    let inside = store.folder.path().join("inside");
    std::fs::write(&inside, "").unwrap();
    for bind in ["--ro-bind", "--bind"] {
        let mut command = Command::new(&bwrap);
        command.args(["--die-with-parent", "--dev-bind", "/", "/", bind]).arg(&file).arg(&inside);
        is_told(&store, &mount, command.arg(&python).args(["-c", WATCH]).arg(&inside));
    }
}

#[test]
fn in_a_container_with_the_file_alone() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let Some(()) = available("podman", containers_run()) else { return };
    let root = root();
    let (store, mount) = store();
    let volume = format!("{}:/secret", mount.path("api-key/value").display());
    let name = Name::new();
    let mut command = podman();
    command.arg(name.option()).args(["--volume", &volume, "--rootfs"]).arg(root.path());
    is_told(&store, &mount, command.args(["/usr/bin/python3", "-c", WATCH, "/secret"]));
}

#[test]
fn a_writable_bind_in_another_namespace_can_change_nothing() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", can_tell()) else { return };
    let Some(_) = available("python3", program("python3")) else { return };
    let (store, mount) = store();
    let inside = store.folder.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let script =
        "mount --bind \"$0\" \"$1\" && mount -o remount,bind,rw \"$1\" && exec python3 -c \"$2\" \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    let output = run(command.arg(&mount.at).arg(&inside).arg(CHANGE));
    // A request that the protocol library does not know: the kernel answers for it.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "tmpfile ENOTSUP\ntried 26\n");
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-0");
}
