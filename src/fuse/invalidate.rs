//! Owns what the kernel is told to forget: attributes of an older version, pages that mmap or sendfile left.
//! Does not know why.

use std::sync::mpsc::{Sender, channel};

use fuser::{INodeNo, Notifier};

/// Tells the kernel to forget. Cheap to call from a request.
pub(super) struct Invalidate {
    notifier: Notifier,
    pages: Sender<INodeNo>,
}

impl Invalidate {
    /// Starts the thread that drops pages. It ends when this value is dropped.
    pub(super) fn start(notifier: Notifier) -> std::io::Result<Self> {
        let (pages, due) = channel::<INodeNo>();
        let own = notifier.clone();
        std::thread::Builder::new().name("invalidate".into()).spawn(move || {
            for ino in due {
                // An error means that the kernel holds nothing of it, or that the mount is gone.
                let _ = own.inval_inode(ino, 0, 0);
            }
        })?;
        Ok(Self { notifier, pages })
    }

    /// Attributes only, before the reply to an open, so that fstat(2) right after it is exact. A negative offset leaves
    /// the pages alone (fuse_reverse_inval_inode, fs/fuse/inode.c), so this takes no lock that a request may hold.
    pub(super) fn attributes(&self, ino: INodeNo) {
        let _ = self.notifier.inval_inode(ino, -1, 0);
    }

    /// Pages and attributes, later, from a thread of its own: dropping a page may wait for a read of it.
    pub(super) fn pages(&self, ino: INodeNo) {
        let _ = self.pages.send(ino);
    }
}
