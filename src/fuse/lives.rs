//! Owns the questions whether the kernel still has a mount, wherever that is, and asks anybody through it, put to its own descriptor.
//! Does not know who serves it, or whether anybody does.
//!
//! Whoever asked a path instead would hold whatever is mounted there by now, and keep others from unmounting it.

use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

/// FUSE_NOTIFY_INVAL_INODE (linux/fuse.h).
const INVAL_INODE: i32 = 2;
/// `fuse_out_header` and `fuse_notify_inval_inode_out`.
const LENGTH: u32 = 16 + 24;
/// The root, as the kernel calls it.
const ROOT: u64 = 1;
/// Attributes alone: for pages it would wait.
const NO_PAGES: i64 = -1;

/// Whether the mount behind a descriptor of `/dev/fuse` is still there: in a tree, or out of every tree and in use. It may be that nobody
/// can be asked through it any more, for its connection was aborted.
///
/// The kernel is told to forget the attributes of its root, and knows no root once the mount is gone (`fuse_reverse_inval_inode`,
/// fs/fuse/inode.c); an aborted connection takes this as well (`fuse_dev_do_write`, fs/fuse/dev.c).
pub fn lives(requests: BorrowedFd<'_>) -> bool {
    let Ok(requests) = requests.try_clone_to_owned() else { return false };
    let mut notification = Vec::from(LENGTH.to_ne_bytes());
    notification.extend(INVAL_INODE.to_ne_bytes());
    notification.extend(0_u64.to_ne_bytes());
    notification.extend(ROOT.to_ne_bytes());
    notification.extend(NO_PAGES.to_ne_bytes());
    notification.extend(0_i64.to_ne_bytes());
    File::from(requests).write_all(&notification).is_ok()
}

/// Whether requests may still come from a descriptor of `/dev/fuse`: neither has the mount ended, nor was its connection aborted.
pub(super) fn is_connected(requests: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(requests, PollFlags::IN)];
    // `fuse_dev_poll` (fs/fuse/dev.c): an error is all that there is of a connection that is gone.
    let result = retry_on_intr(|| poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })));
    result.is_ok() && asked.iter().all(|asked| !asked.revents().contains(PollFlags::ERR))
}
