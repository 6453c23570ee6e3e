//! Owns the conversation with the kernel: decode a request, answer it or hand it over, reply. Only user of fuser's types.
//! Does not know what the mount shows; it asks `fs`.
//!
//! A hit is answered on the thread that read the request. A miss takes its reply into a task with a deadline, so that a
//! slow backend never holds a thread that others need.

mod attach;
mod convert;
mod directories;
mod hand_over;
mod hold;
mod invalidate;
mod lives;
mod mount;
mod mount_point;
mod progress;
mod read_only;
mod refuse_all;
mod take_over;
mod touch;
mod unanswered;

use std::ffi::OsStr;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, FileHandle, Filesystem, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request, TimeOrNow,
};

use tokio::sync::watch;

use crate::errno::Failure;
use crate::fs::{Attributes, Caller, DirListing, Handle, HandleNo, Opened, SecretFs};
use crate::tree::inode;
use crate::tree::shown::KERNEL_TTL;
pub use attach::Unattached;
use convert::{attr, errno, file_type};
use directories::{Directories, Line, lines};
use hand_over::HandOver;
pub use hold::{Held, Offered, hold, place};
use invalidate::Invalidate;
pub use lives::lives;
pub use mount::{Mounted, Options, Prepared, Serving, SessionEnd, Unmounted, mount, prepare};
pub use mount_point::MountPoint;
pub use progress::{Done, Progress};
pub use refuse_all::refuse_all;
use touch::Own;
pub use touch::Teller;
use unanswered::Unanswered;

/// What listxattr(2) and getxattr(2) call ours.
const XATTR_PREFIX: &str = "user.secretfs.";

/// The adapter between fuser and [`SecretFs`]: a session is made with it before there is anything that could answer.
#[derive(Clone, Default)]
struct Adapter(Arc<OnceLock<Answering>>);

impl Deref for Adapter {
    type Target = Answering;

    /// No request is read before it is there.
    fn deref(&self) -> &Answering {
        self.0.wait()
    }
}

/// What answers.
struct Answering {
    fs: Arc<SecretFs>,
    hand_over: HandOver,
    unanswered: Unanswered,
    directories: Directories,
    invalidate: Arc<OnceLock<Invalidate>>,
    own: Arc<Own>,
    over: Arc<watch::Sender<bool>>,
    progress: Progress,
}

impl Filesystem for Adapter {
    read_only::refuse_changes!();

    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        hold::want(config);
        Ok(())
    }

    fn destroy(&mut self) {
        // A session may end before it has served anything.
        if let Some(answering) = self.0.get() {
            answering.over.send_replace(true);
        }
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _at_work = self.progress.begin();
        if self.own.caused(request) {
            return self.own.look_up(&self.fs, parent, name, reply);
        }
        let name: Arc<OsStr> = name.into();
        let (parent, of) = (ours(parent), name.clone());
        let (fs, unanswered, earlier) = (self.fs.clone(), self.unanswered.clone(), self.unanswered.clone());
        let found = async move { earlier.or(parent, &of, fs.lookup(parent, &of)).await };
        self.hand_over.answer(request, found, move |found| match found {
            Ok(attributes) => reply.entry(&kept(&attributes), &attr(&attributes), Generation(0)),
            Err(failure) => {
                // Before the reply: with it the next of those who wait is on its way.
                if failure.is_silence() {
                    unanswered.note(parent, &name);
                }
                reply.error(errno(&failure));
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        let _at_work = self.progress.begin();
        self.fs.forget(ours(ino), lookups);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let _at_work = self.progress.begin();
        if self.own.caused(request) {
            return self.own.attributes(&self.fs, ino, reply);
        }
        let (fs, caller) = (self.fs.clone(), Caller(request.pid()));
        let handle = handle.map(|handle| HandleNo(handle.0));
        let attributes = async move { fs.attributes_for(ours(ino), handle, caller).await };
        self.hand_over.answer(request, attributes, |attributes| match attributes {
            Ok(attributes) => reply.attr(&kept(&attributes), &attr(&attributes)),
            Err(failure) => reply.error(errno(&failure)),
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if self.own.caused(request) {
            return self.own.attributes(&self.fs, ino, reply);
        }
        reply.error(errno(&Failure::ReadOnly));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _at_work = self.progress.begin();
        if self.own.caused(request) {
            return self.own.open(reply);
        }
        if convert::wants_to_write(flags) {
            return reply.error(errno(&Failure::ReadOnly));
        }
        let caller = Caller(request.pid());
        if let Some(opened) = self.fs.open_at_once(ours(ino), caller) {
            return reply_opened(&self.invalidate, ino, opened, reply);
        }
        let (fs, invalidate) = (self.fs.clone(), self.invalidate.clone());
        let opened = async move { fs.open(ours(ino), caller).await };
        self.hand_over.answer(request, opened, move |opened| reply_opened(&invalidate, ino, opened, reply));
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _at_work = self.progress.begin();
        let (ino, handle) = (ours(ino), HandleNo(handle.0));
        let answer = move |file: Result<Arc<Handle>, Failure>| match file {
            Ok(file) => {
                // Direct reads carry their owner (fuse_direct_io, fs/fuse/file.c); reads into the page cache do not.
                if lock_owner.is_none() {
                    file.note_paged();
                }
                reply.data(file.read(offset, usize::try_from(size).unwrap_or(usize::MAX)));
            }
            Err(failure) => reply.error(errno(&failure)),
        };
        match self.fs.opened_at_once(ino, handle) {
            Some(file) => answer(file),
            None => {
                let fs = self.fs.clone();
                let file = async move { fs.inherit(ino, handle).await };
                self.hand_over.answer(request, file, answer);
            }
        }
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _at_work = self.progress.begin();
        let handle = HandleNo(handle.0);
        let (fs, invalidate) = (self.fs.clone(), self.invalidate.clone());
        let answer = move |closed: Option<Arc<Handle>>| {
            reply.ok();
            // What a former worker has put into the page cache is known to nobody.
            if (closed.is_some_and(|file| file.was_paged()) || fs.is_inherited(handle))
                && let Some(invalidate) = invalidate.get()
            {
                invalidate.pages(ino);
            }
        };
        match self.fs.release_at_once(handle) {
            Some(closed) => answer(closed),
            // The next worker closes it, or we do when there is none.
            None => {
                let fs = self.fs.clone();
                self.hand_over.finish(async move { answer(fs.release_in_time(handle).await) });
            }
        }
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _at_work = self.progress.begin();
        let (fs, directories) = (self.fs.clone(), self.directories.clone());
        let caller = Caller(request.pid());
        let listing = async move { fs.open_directory(ours(ino), caller).await };
        self.hand_over.answer(request, listing, move |listing| match listing {
            Ok(listing) => reply.opened(directories.insert(listing), fuser::FopenFlags::empty()),
            Err(failure) => reply.error(errno(&failure)),
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _at_work = self.progress.begin();
        self.with_listing(request, ino, handle, offset, move |_, listing| {
            let listing = match listing {
                Ok(listing) => listing,
                Err(failure) => return reply.error(errno(&failure)),
            };
            for (at, line) in lines(&listing).enumerate().skip(convert::index(offset)) {
                let next = convert::offset(at + 1);
                let full = match line {
                    Line::Dots(name, ino) => reply.add(theirs(ino), next, fuser::FileType::Directory, name),
                    Line::Entry(entry) => {
                        reply.add(theirs(entry.ino), next, file_type(entry.kind), &entry.name)
                    }
                };
                if full {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _at_work = self.progress.begin();
        self.with_listing(request, ino, handle, offset, move |fs, listing| {
            let listing = match listing {
                Ok(listing) => listing,
                Err(failure) => return reply.error(errno(&failure)),
            };
            for (at, line) in lines(&listing).enumerate().skip(convert::index(offset)) {
                let next = convert::offset(at + 1);
                let full = match line {
                    // The kernel counts no lookup for these two (fuse_direntplus_link, fs/fuse/readdir.c).
                    Line::Dots(name, ino) => {
                        let attributes = convert::bare_directory(ino);
                        reply.add(theirs(ino), next, name, &Duration::ZERO, &attributes, Generation(0))
                    }
                    Line::Entry(entry) => {
                        let attributes = fs.look_up_entry(ours(ino), entry);
                        let number = theirs(attributes.ino);
                        let (kept, attr) = (kept(&attributes), attr(&attributes));
                        let full = reply.add(number, next, &entry.name, &kept, &attr, Generation(0));
                        if full {
                            // It did not fit, so the kernel never hears of it.
                            fs.forget(attributes.ino, 1);
                        }
                        full
                    }
                };
                if full {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _at_work = self.progress.begin();
        self.directories.remove(handle);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _at_work = self.progress.begin();
        // Never asks a backend, so that `df` cannot hang. Nothing is free: nothing can be written.
        let (inodes, _) = self.fs.in_use();
        reply.statfs(0, 0, 0, inodes as u64, 0, 4096, 255, 4096);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks modes itself (default_permissions) and asks only in odd cases.
        if mask.contains(AccessFlags::W_OK) { reply.error(errno(&Failure::ReadOnly)) } else { reply.ok() }
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _at_work = self.progress.begin();
        // `ls -l` asks for security labels and ACLs of everything: answered without a thought.
        let Some(name) = name.as_bytes().strip_prefix(XATTR_PREFIX.as_bytes()) else {
            return reply.error(errno(&Failure::NoAttribute));
        };
        let (fs, name) = (self.fs.clone(), OsStr::from_bytes(name).to_owned());
        let text = async move { fs.attribute(ours(ino), &name).await };
        self.hand_over.answer(request, text, move |text| match text {
            Ok(text) => sized(reply, size, text.as_bytes()),
            Err(failure) => reply.error(errno(&failure)),
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _at_work = self.progress.begin();
        match self.fs.attribute_names(ours(ino)) {
            Ok(names) => {
                let list: String = names.iter().map(|name| format!("{XATTR_PREFIX}{name}\0")).collect();
                sized(reply, size, list.as_bytes());
            }
            Err(failure) => reply.error(errno(&failure)),
        }
    }
}

impl Answering {
    /// The listing of an open directory for who reads it from `offset` on; listed anew, where another worker opened it.
    fn with_listing(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        answer: impl FnOnce(&SecretFs, Result<Arc<DirListing>, Failure>) + Send + 'static,
    ) {
        if let Some(listing) = self.directories.get(handle) {
            return answer(&self.fs, listing);
        }
        let (fs, directories) = (self.fs.clone(), self.directories.clone());
        let listing = async move {
            let listing = fs.list(ours(ino)).await?;
            directories.keep(handle, listing, offset)
        };
        let fs = self.fs.clone();
        self.hand_over.answer(request, listing, move |listing| answer(&fs, listing));
    }
}

fn reply_opened(
    invalidate: &OnceLock<Invalidate>,
    ino: INodeNo,
    opened: Result<Opened, Failure>,
    reply: ReplyOpen,
) {
    match opened {
        Ok(opened) => {
            if opened.attributes_changed
                && let Some(invalidate) = invalidate.get()
            {
                invalidate.attributes(ino);
            }
            if let Some(size) = opened.grown
                && let Some(invalidate) = invalidate.get()
            {
                invalidate.grow(ino, size);
            }
            reply.opened(FileHandle(opened.handle.0), convert::OPEN_FLAGS);
        }
        Err(failure) => reply.error(errno(&failure)),
    }
}

/// How long the kernel may use these.
fn kept(attributes: &Attributes) -> Duration {
    if attributes.lasting { KERNEL_TTL } else { Duration::ZERO }
}

/// getxattr(2): a size of 0 asks how much room is needed.
fn sized(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    let needed = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(needed);
    } else if needed > size {
        reply.error(errno(&Failure::SmallBuffer));
    } else {
        reply.data(bytes);
    }
}

fn ours(ino: INodeNo) -> inode::INodeNo {
    inode::INodeNo(ino.0)
}

fn theirs(ino: inode::INodeNo) -> INodeNo {
    INodeNo(ino.0)
}
