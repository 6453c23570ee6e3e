//! Owns what the kernel is told unasked: to forget attributes and pages that are out of date, and that a file has grown.
//! Does not know why.

use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

/// A request waits this long for the kernel to learn a size.
const PATIENCE: Duration = Duration::from_millis(250);
/// The smallest page that there is.
const PAGE: u64 = 4096;

/// Tells the kernel. Cheap to call from a request.
pub(super) struct Invalidate {
    notifier: Notifier,
    orders: Sender<Order>,
}

/// What may have to wait for a page of a file, and so for a request.
enum Order {
    DropPages(INodeNo),
    Grow(INodeNo, u64, SyncSender<()>),
}

impl Invalidate {
    /// Starts the thread that does what may have to wait. It ends when this value is dropped.
    pub(super) fn start(notifier: Notifier) -> std::io::Result<Self> {
        let (orders, due) = channel::<Order>();
        let own = notifier.clone();
        std::thread::Builder::new().name("invalidate".into()).spawn(move || {
            for order in due {
                // An error means that the kernel holds nothing of it, or that the mount is gone.
                match order {
                    Order::DropPages(ino) => drop(own.inval_inode(ino, 0, 0)),
                    Order::Grow(ino, size, done) => {
                        drop(own.store(ino, last_byte(size), &[0]));
                        let _ = done.try_send(());
                    }
                }
            }
        })?;
        Ok(Self { notifier, orders })
    }

    /// Attributes only, before the reply to an open, so that fstat(2) right after it is exact. A negative offset leaves
    /// the pages alone (fuse_reverse_inval_inode, fs/fuse/inode.c), so this takes no lock that a request may hold.
    pub(super) fn attributes(&self, ino: INodeNo) {
        let _ = self.notifier.inval_inode(ino, -1, 0);
    }

    /// Pages and attributes, later, from a thread of its own: dropping a page may wait for a read of it.
    pub(super) fn pages(&self, ino: INodeNo) {
        let _ = self.orders.send(Order::DropPages(ino));
    }

    /// That a file which it takes for empty has this size, before the reply to an open. sendfile(2), splice(2) and mmap(2) go by
    /// the size that the kernel knows and do not ask for it (`filemap_splice_read`, mm/filemap.c). To store a byte is the one way
    /// to tell it (`fuse_notify_store`, fs/fuse/dev.c). That takes the lock of a page, so it is not done by this thread, which
    /// may have to serve who holds it.
    pub(super) fn grow(&self, ino: INodeNo, size: u64) {
        let (done, told) = sync_channel(1);
        if self.orders.send(Order::Grow(ino, size, done)).is_ok() {
            let _ = told.recv_timeout(PATIENCE);
        }
    }
}

/// Where a byte is stored to tell the kernel a size. A byte that is the first of its page would be taken for all that is in the
/// page, which is then never read from us; so there the size is told one too large, and the first read of the page corrects it.
fn last_byte(size: u64) -> u64 {
    let last = size.saturating_sub(1);
    if last.is_multiple_of(PAGE) { size } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_is_stored_that_would_stand_for_a_page() {
        assert_eq!([1, 2, 4096, 4097, 4098].map(last_byte), [1, 1, 4095, 4097, 4097]);
        assert!((1..10_000).all(|size| !last_byte(size).is_multiple_of(PAGE)));
    }
}
