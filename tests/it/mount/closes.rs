//! Owns the promise that a file which is closed is closed for good, also while the mount stands still for an upgrade.
//! Does not know upgrades; tests/it/survive has them.

use std::fs::File;
use std::io::ErrorKind;
use std::time::Duration;

use super::lifecycle::wait_for;
use crate::support::available;
use crate::support::mount::possible;
use crate::support::rig::Rig;

/// Answered too early, a close would be lost: the file was sent to the next worker as an open one.
#[test]
fn a_close_waits_for_as_long_as_a_mount_stands_still() {
    let Some(()) = available("mount", possible()) else { return };
    let rig = Rig::mount_within(Duration::from_secs(1), &[]);
    rig.backend.put("a", &[("k", b"canary")]);
    let file = File::open(rig.at.join("a/k")).unwrap();
    assert_eq!(rig.fs.in_use().1, 1);
    rig.fs.pause();
    drop(file);
    // Each waits until the deadline has passed, and was asked for after the close.
    for _ in 0..2 {
        assert_eq!(File::open(rig.at.join("a/k")).unwrap_err().kind(), ErrorKind::TimedOut);
    }
    assert_eq!(rig.fs.in_use().1, 1, "the next worker has it open as well");
    rig.fs.resume();
    wait_for(|| rig.fs.in_use().1 == 0);
    rig.unmount();
}
