//! Owns the baseline of the warm figure: a FUSE filesystem with the same shape and mode that does nothing.
//! Does not know secretfs; it answers every request from constants.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};

/// How long the kernel may use a name: as in secretfs, so that what is compared is what happens behind the kernel.
const KERNEL_TTL: Duration = Duration::from_secs(1);

struct EmptyFs {
    files: u64,
    value: Vec<u8>,
}

/// Serves `files` directories `s0`, `s1`, ... with a 64 byte file `value` in each, until unmounted.
pub(super) fn serve(at: &Path, files: usize) {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName("secretfs-bench-empty".into()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
    ];
    config.n_threads = Some(std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8));
    let files = u64::try_from(files).unwrap();
    fuser::mount(EmptyFs { files, value: vec![b'x'; 64] }, at, &config).unwrap();
}

/// Directory `sN` is inode `2N + 2`, its file the number after.
fn attr(ino: u64) -> FileAttr {
    let file = ino > 1 && ino % 2 == 1;
    FileAttr {
        ino: INodeNo(ino),
        size: if file { 64 } else { 0 },
        blocks: 1,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if file { FileType::RegularFile } else { FileType::Directory },
        perm: if file { 0o400 } else { 0o500 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 4096,
    }
}

impl Filesystem for EmptyFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // As secretfs asks for them.
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_str().unwrap_or_default();
        let number = name.strip_prefix('s').and_then(|n| n.parse::<u64>().ok()).filter(|n| *n < self.files);
        match (parent.0, number) {
            (1, Some(number)) => reply.entry(&KERNEL_TTL, &attr(2 * number + 2), Generation(0)),
            (folder, None) if folder > 1 && name == "value" => {
                reply.entry(&KERNEL_TTL, &attr(folder + 1), Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KERNEL_TTL, &attr(ino.0));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let start = usize::try_from(offset).unwrap().min(self.value.len());
        let end = (start + usize::try_from(size).unwrap()).min(self.value.len());
        reply.data(&self.value[start..end]);
    }
}
