//! Owns the requests that the touching thread itself causes: how they are told from everybody else's, and their answers.
//! Does not know when or why files are touched.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fuser::{FileHandle, Generation, INodeNo, ReplyAttr, ReplyEntry, ReplyOpen, Request};

use super::super::convert::{OPEN_FLAGS, attr};
use super::super::ours;
use crate::fs::{Known, SecretFs, Touch};
use crate::hands::TouchingThread;

/// The handle of every file that the thread opens: nothing is behind it, and no program is ever given it (handles of
/// programs name their worker, which is never 0).
const NOTHING: FileHandle = FileHandle(0);

/// Who the touching thread is and what it is about to do. What it causes is answered from here and from what is held: it must
/// never wait for a backend, and may do what nobody else may, open for writing and set times.
///
/// A request is the thread's own when it carries the thread's id. That is sound: the kernel writes the id of the calling
/// thread, as it is in the pid namespace that the mount was made in (fuse_get_req, fs/fuse/dev.c), which is the one of the
/// hands, who made it; there no other thread has this id while the thread lives, and a thread that cannot be seen from there has the
/// id 0. It lives as long as the hands, and its id is nobody's once they are gone. It runs nobody else's code, and makes its calls
/// itself, not through workers of the kernel.
///
/// It is one thread for all workers: what the kernel asked one that died, and asks again, is known by the next, who knows nothing
/// of what was being touched. The answer is EAGAIN where that would be needed, and the thread gives up what nobody waits for.
pub(in super::super) struct Own {
    /// None where nothing is touched.
    thread: Option<TouchingThread>,
    /// Guards what is being touched; held for a copy only.
    touch: Mutex<Option<Arc<Touch>>>,
}

impl Own {
    /// Of a thread of the hands.
    pub(in super::super) fn of(thread: Option<TouchingThread>) -> Self {
        Self { thread, touch: Mutex::default() }
    }

    /// What the thread is about to touch.
    pub(super) fn begin(&self, touch: Arc<Touch>) {
        *self.touch.lock().unwrap_or_else(|e| e.into_inner()) = Some(touch);
    }

    /// It touches nothing more.
    pub(super) fn end(&self) {
        *self.touch.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }

    /// Whether the touching thread caused this request.
    pub(in super::super) fn caused(&self, request: &Request) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.is(request.pid()))
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
            Some(Known { attributes, .. }) => {
                reply.attr(&Duration::ZERO, &attr(&attributes));
            }
            None => reply.error(fuser::Errno::EAGAIN),
        }
    }

    /// OPEN, for writing: nothing will be written.
    pub(in super::super) fn open(&self, reply: ReplyOpen) {
        reply.opened(NOTHING, OPEN_FLAGS);
    }
}
