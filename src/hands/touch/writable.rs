//! Owns the writable clone of the mount, which nobody else sees, and what is done to a file through it.
//! Does not know which files, or how the requests that this causes are answered.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, openat2,
};
use rustix::mount::OpenTreeFlags;

use crate::mounts::{self, device_of, set_read_only};

/// Both times, as touch(1): IN_ATTRIB. The modification time alone: IN_MODIFY, as write(2) and truncate(2) (fsnotify_change,
/// include/linux/fsnotify.h); truncate(2) would also ask for the file's capabilities.
const BOTH: Timestamps = Timestamps { last_access: NOW, last_modification: NOW };
const MODIFICATION: Timestamps =
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: NOW };
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };

/// No name leads out of the clone, over a link or onto another filesystem, whatever the worker shows as a directory.
const INSIDE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// A clone of the mount that can be written through. It keeps the filesystem alive: an unmount ends nothing while it is
/// there. So it is made for a moment.
pub(super) struct Clone(OwnedFd);

impl Clone {
    /// Of the mount at `at`, whose device is `device`; where something else covers it, of the same filesystem elsewhere.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where the filesystem is nowhere in this mount namespace; what open_tree(2) and
    /// mount_setattr(2) say.
    pub(super) fn of(at: &Path, device: &str) -> io::Result<Self> {
        let clone = tree_at(at, device).or_else(|error| elsewhere(device).ok_or(error))?;
        set_read_only(clone.as_fd(), false)?;
        Ok(Self(clone))
    }

    /// A directory in it, to reach its files from.
    pub(super) fn directory(&self, way: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(&self.0, way, flags, Mode::empty(), INSIDE)?)
    }
}

/// Watchers of the file and of its directory are told as of a write: IN_OPEN, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE. Four
/// requests (OPEN, SETATTR twice, RELEASE), and a LOOKUP where the kernel does not know the name.
pub(super) fn changed(directory: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(directory, name, flags, Mode::empty(), INSIDE)?;
    rustix::fs::futimens(&file, &MODIFICATION)?;
    Ok(rustix::fs::futimens(&file, &BOTH)?)
}

/// Watchers of a file that is not there any more are told IN_ATTRIB, as of the unlink(2) of a file that is open. They keep their
/// watch: should the file come back, they are told of that.
pub(super) fn gone(directory: &OwnedFd, name: &str) -> io::Result<()> {
    Ok(rustix::fs::utimensat(directory, name, &BOTH, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A clone of what is mounted at `at`; [`io::ErrorKind::NotFound`] if that is not ours.
fn tree_at(at: &Path, device: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_NO_AUTOMOUNT
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let clone = rustix::mount::open_tree(CWD, at, flags)?;
    if device_of(clone.as_fd())? == device { Ok(clone) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn elsewhere(device: &str) -> Option<OwnedFd> {
    let mounts = mounts::ours().ok()?.into_iter().filter(|mount| mount.device == device);
    mounts.into_iter().find_map(|mount| tree_at(&mount.at, device).ok())
}
