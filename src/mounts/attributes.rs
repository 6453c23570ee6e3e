//! Owns what is asked and told of a mount by its descriptor: its number, that of its device, and by mount_setattr(2), which no safe crate
//! has, whether it can be written through. Does not know why somebody asks.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, StatxFlags};

/// Makes the mount that `mount` is the root of read-only, or takes that away; all its other attributes stay, and other
/// mounts of the same filesystem do not notice. Linux 5.12 and later.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] without CAP_SYS_ADMIN, [`io::ErrorKind::Unsupported`] on an older kernel, and what else
/// mount_setattr(2) says.
pub fn set_read_only(mount: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let (set, clear) = if read_only { (libc::MOUNT_ATTR_RDONLY, 0) } else { (0, libc::MOUNT_ATTR_RDONLY) };
    let change = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the kernel reads an empty string that ends in NUL and `change`, of the size that is given, and keeps neither;
    // both live until it returns. It changes no memory of ours, and the descriptor is open while it is borrowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The device number of what `file` lies on, as `major:minor`. The filesystem is asked nothing.
///
/// # Errors
/// What statx(2) says.
pub fn device_of(file: BorrowedFd<'_>) -> io::Result<String> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(file, "", flags, StatxFlags::empty())?;
    Ok(format!("{}:{}", found.stx_dev_major, found.stx_dev_minor))
}

/// The number of the mount that `file` lies in, as the mount table has it (statx(2), Linux 5.8); none where the kernel does not say it. The
/// filesystem is asked nothing.
pub fn number_of(file: BorrowedFd<'_>) -> Option<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(file, "", flags, StatxFlags::MNT_ID).ok()?;
    StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID).then_some(found.stx_mnt_id)
}
