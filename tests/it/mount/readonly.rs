//! Owns the promise that nothing in a mount can be changed: EROFS, for root too, whatever the call.

use super::{python, small_store};
use crate::support::available;
use crate::support::mount::possible;

/// Tries every call that changes something below argv[1]; prints those that got another answer than EROFS.
pub const CHANGE: &str = r#"
import errno, os, stat, sys
root = sys.argv[1]
file, folder, fresh = root + "/api-key/value", root + "/api-key", root + "/api-key/fresh"
calls = {
    "write-open": lambda: os.open(file, os.O_WRONLY),
    "read-write-open": lambda: os.open(file, os.O_RDWR),
    "append-open": lambda: os.open(file, os.O_WRONLY | os.O_APPEND),
    "truncating-open": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
    "create": lambda: os.open(fresh, os.O_RDONLY | os.O_CREAT, 0o600),
    "create-in-root": lambda: os.open(root + "/fresh", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600),
    "tmpfile": lambda: os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o600),
    "truncate": lambda: os.truncate(file, 0),
    "unlink": lambda: os.unlink(file),
    "rename": lambda: os.rename(file, fresh),
    "rename-folder": lambda: os.rename(folder, root + "/other"),
    "mkdir": lambda: os.mkdir(fresh),
    "rmdir": lambda: os.rmdir(folder),
    "chmod": lambda: os.chmod(file, 0o644),
    "chmod-folder": lambda: os.chmod(folder, 0o755),
    "chown": lambda: os.chown(file, 1, 1),
    "utimes": lambda: os.utime(file),
    "utimes-to": lambda: os.utime(file, (1, 1)),
    "symlink": lambda: os.symlink("value", fresh),
    "link": lambda: os.link(file, fresh),
    "mknod": lambda: os.mknod(fresh, stat.S_IFREG | 0o600),
    "mkfifo": lambda: os.mkfifo(fresh),
    "setxattr": lambda: os.setxattr(file, "user.secretfs.version", b"canary"),
    "setxattr-own": lambda: os.setxattr(folder, "user.mine", b"canary"),
    "removexattr": lambda: os.removexattr(file, "user.secretfs.version"),
    "access": lambda: os.access(file, os.W_OK) and None or (_ for _ in ()).throw(OSError(errno.EROFS, "")),
}
for name, call in calls.items():
    try:
        call()
        print(name, "succeeded")
    except OSError as error:
        if error.errno != errno.EROFS: print(name, errno.errorcode[error.errno])
print("tried", len(calls))
"#;

#[test]
fn every_call_that_changes_something_gets_erofs() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let Some(told) = python(CHANGE, &[&mount.at]) else { return };
    assert_eq!(told, "tried 26\n");
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
}

#[test]
fn a_mount_made_writable_by_force_still_refuses_every_change() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    if let Err(error) = rustix::mount::mount_remount(&mount.at, rustix::mount::MountFlags::empty(), "") {
        // Only root may try, and a kernel may refuse it: as good as an EROFS.
        eprintln!("skipped: remount: {error}");
        return;
    }
    let Some(told) = python(CHANGE, &[&mount.at]) else { return };
    // A request that the protocol library does not know: the kernel answers for it.
    assert_eq!(told, "tmpfile ENOTSUP\ntried 26\n");
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
}
