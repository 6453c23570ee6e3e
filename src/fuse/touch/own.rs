//! Owns the requests that the touching thread itself causes: how they are told from everybody else's, and their answers.
//! Does not know when or why files are touched.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fuser::{FileHandle, Generation, INodeNo, ReplyAttr, ReplyEntry, ReplyOpen, Request};

use super::super::convert::{OPEN_FLAGS, attr};
use super::super::ours;
use crate::fs::{Known, SecretFs, Touch};

/// The handle of every file that the thread opens: nothing is behind it, and no program is ever given it (handles of
/// programs name their worker, which is never 0).
const NOTHING: FileHandle = FileHandle(0);

/// Who the touching thread is and what it is about to do. What it causes is answered from here and from what is held: it must
/// never wait for a backend, and may do what nobody else may, open for writing and set times.
///
/// A request is the thread's own when it carries the thread's id. That is sound: the kernel writes the id of the calling
/// thread, as it is in the pid namespace that the mount was made in, which is ours (fuse_get_req, fs/fuse/dev.c); there no
/// other thread has this id while the thread lives, and a thread that cannot be seen from there has the id 0. The thread takes
/// its id back before it ends. It runs nobody else's code, and makes its calls itself, not through workers of the kernel.
#[derive(Default)]
pub(in super::super) struct Own {
    /// 0 while there is no such thread.
    thread: AtomicU32,
    /// Guards what is being touched; held for a copy only.
    touch: Mutex<Option<Arc<Touch>>>,
}

impl Own {
    /// From now on requests of the calling thread are its own; until the value is dropped.
    pub(super) fn register(&self) -> Registered<'_> {
        let thread = rustix::thread::gettid().as_raw_pid();
        self.thread.store(u32::try_from(thread).unwrap_or(0), Ordering::Relaxed);
        Registered(self)
    }

    /// What the thread is about to touch.
    pub(super) fn begin(&self, touch: Arc<Touch>) {
        *self.touch.lock().unwrap_or_else(|e| e.into_inner()) = Some(touch);
    }

    /// Whether the touching thread caused this request.
    pub(in super::super) fn caused(&self, request: &Request) -> bool {
        let thread = self.thread.load(Ordering::Relaxed);
        thread != 0 && thread == request.pid()
    }

    /// LOOKUP: names on the way to what is touched. The kernel is to ask anew for everybody else: a thread that reads an
    /// older version for the sake of a pair must not be shown the newest.
    pub(in super::super) fn look_up(&self, fs: &SecretFs, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let touch = self.touch.lock().unwrap_or_else(|e| e.into_inner()).clone();
        match touch.and_then(|touch| fs.look_up_step(&touch, ours(parent), name)) {
            Some(Known { attributes, .. }) => {
                reply.entry(&Duration::ZERO, &attr(&attributes), Generation(0));
            }
            None => reply.error(fuser::Errno::EAGAIN),
        }
    }

    /// GETATTR, and SETATTR, which sets nothing: the attributes as they are.
    pub(in super::super) fn attributes(&self, fs: &SecretFs, ino: INodeNo, reply: ReplyAttr) {
        match fs.known(ours(ino)) {
            Ok(Known { attributes, .. }) => {
                reply.attr(&Duration::ZERO, &attr(&attributes));
            }
            Err(_) => reply.error(fuser::Errno::EAGAIN),
        }
    }

    /// OPEN, for writing: nothing will be written.
    pub(in super::super) fn open(&self, reply: ReplyOpen) {
        reply.opened(NOTHING, OPEN_FLAGS);
    }
}

/// The thread, while it touches.
pub(super) struct Registered<'a>(&'a Own);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.thread.store(0, Ordering::Relaxed);
        *self.0.touch.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }
}
