//! Owns the translation between our plain types and fuser's.
//! Does not know requests.

use std::time::UNIX_EPOCH;

use fuser::{FileAttr, FileType, FopenFlags, INodeNo, OpenFlags};

use crate::errno::Failure;
use crate::fs::{Attributes, Kind};
use crate::tree::inode;

/// Direct I/O: each open has its own bytes and nothing of them stays in the page cache. No flush request on close: there
/// is nothing to flush.
pub(super) const OPEN_FLAGS: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_NOFLUSH);

pub(super) fn errno(failure: &Failure) -> fuser::Errno {
    fuser::Errno::from_i32(failure.errno().number())
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

pub(super) fn attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: attributes.mtime,
        mtime: attributes.mtime,
        ctime: attributes.mtime,
        crtime: attributes.mtime,
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        // 1 for directories too: "the number of subdirectories is not known" to find(1) and its like.
        nlink: 1,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// What readdirplus says of `.` and `..`; the kernel takes the name and number only.
pub(super) fn bare_directory(ino: inode::INodeNo) -> FileAttr {
    let (kind, mtime) = (Kind::Directory, UNIX_EPOCH);
    attr(&Attributes { ino, kind, size: 0, mode: 0, uid: 0, gid: 0, mtime, lasting: true })
}

pub(super) fn wants_to_write(flags: OpenFlags) -> bool {
    flags.0 & libc::O_ACCMODE != libc::O_RDONLY || flags.0 & libc::O_TRUNC != 0
}

/// Directory offsets count entries from 1; what the kernel hands back is the next index.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

pub(super) fn offset(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX)
}
