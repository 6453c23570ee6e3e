//! Owns the making of a mount that its own program can write to and nobody else: a superblock that takes writes, behind a
//! mount that is read-only before anybody can see it. Does not know requests, or what is done where this cannot be had.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::mounts::{device_of, number_of, set_read_only};

/// A mount that stands in no tree yet. Dropped it is gone.
pub(super) struct Detached {
    /// `/dev/fuse`, where the kernel's requests come from.
    pub(super) requests: OwnedFd,
    mount: OwnedFd,
}

/// Makes a mount for `at`, read-only, without set-user-id, devices, programs and access times; only the user who mounts gets
/// in, or whom modes let in with `allow_other`. `source` is what the mount table shows.
///
/// By fsopen(2) and fsmount(2), not by mount(2) and a remount: what mount(2) puts into the tree can be written through until
/// the remount, and where the tree is shared, its copies in other namespaces can be for ever.
///
/// # Errors
/// What the system said. Without CAP_SYS_ADMIN over the mount namespace it is [`io::ErrorKind::PermissionDenied`], before
/// Linux 5.12 [`io::ErrorKind::Unsupported`].
pub(super) fn make(at: &Path, source: &str, allow_other: bool) -> io::Result<Detached> {
    let requests = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mode = at.metadata()?.permissions().mode();
    let wanted = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: String| rustix::mount::fsconfig_set_string(wanted.as_fd(), key, value);
    // Documentation/filesystems/fuse.rst: the four that must be given.
    set("source", cut(source))?;
    // The type that mount(8), findmnt(8) and fstab(5) know it by: fuse.secretfs.
    set("subtype", "secretfs".to_owned())?;
    set("fd", requests.as_raw_fd().to_string())?;
    set("rootmode", format!("{mode:o}"))?;
    set("user_id", rustix::process::getuid().as_raw().to_string())?;
    set("group_id", rustix::process::getgid().as_raw().to_string())?;
    // Without it a name that root looked up lets everybody in (libfuse issue 15).
    rustix::mount::fsconfig_set_flag(wanted.as_fd(), "default_permissions")?;
    if allow_other {
        rustix::mount::fsconfig_set_flag(wanted.as_fd(), "allow_other")?;
    }
    rustix::mount::fsconfig_create(wanted.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mount = rustix::mount::fsmount(wanted.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // Not among the attributes above: so it is known from the start whether a clone can be made writable.
    set_read_only(mount.as_fd(), true)?;
    Ok(Detached { requests, mount })
}

/// The part of a mount that is put into the tree. Dropped, the mount is gone.
pub struct Unattached(OwnedFd);

impl Detached {
    /// What requests come from, and what is put into the tree.
    pub(super) fn split(self) -> (OwnedFd, Unattached) {
        (self.requests, Unattached(self.mount))
    }
}

impl Unattached {
    /// The device number, as [`mounts::Mount`](crate::mounts::Mount) has it.
    pub fn device(&self) -> io::Result<String> {
        device_of(self.0.as_fd())
    }

    /// The number of the mount itself, which it keeps wherever it is put.
    pub fn number(&self) -> Option<u64> {
        number_of(self.0.as_fd())
    }

    /// Puts the mount into the tree at `at`, over what is there; a link that somebody puts there meanwhile is not followed.
    ///
    /// # Errors
    /// What open(2) and move_mount(2) said.
    pub fn attach(self, at: &Path) -> io::Result<()> {
        let there = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(at, there, Mode::empty())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(rustix::mount::move_mount(self.0, "", place, "", flags)?)
    }
}

/// The text, or as much of it as fsconfig(2) takes (strndup_user, fs/fsopen.c: 255 bytes).
fn cut(text: &str) -> String {
    const LONGEST: usize = 255;
    const MARK: &str = "...";
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let start = text.get(..text.floor_char_boundary(LONGEST - MARK.len())).unwrap_or_default();
    format!("{start}{MARK}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("secretfs#x"), "secretfs#x");
        assert_eq!(cut(&"x".repeat(255)), "x".repeat(255));
        assert_eq!(cut(&"x".repeat(256)), format!("{}...", "x".repeat(252)));
        let cut = cut(&format!("x{}", "é".repeat(200)));
        assert!(cut.len() == 254 && cut.ends_with("é..."), "{cut}");
    }
}
