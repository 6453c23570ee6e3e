//! Owns waiting until the store's file may have changed, for whoever would rather be woken than ask.
//! Does not know what is in the file, nor who waits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::watch::{LOOK, Left, Watch, events, forget, watch};

/// After an event that changed nothing of ours. In a folder where others write all the time this bounds what we do.
const PAUSE: Duration = Duration::from_millis(20);

/// What was told of one file's changes so far.
pub(super) struct Wait {
    /// The generation at the end of the last wait, at first that of the beginning: what changes between two waits ends the
    /// second one at once.
    told: AtomicU64,
    /// Events of our own: those of [`Watch`] are taken away by every open that sees one. None where there are none.
    events: Option<Arc<OwnedFd>>,
    /// The same, with a reactor to wake us, if there is one. Made at the first wait, since that is in a runtime.
    waking: OnceLock<Option<AsyncFd<Arc<OwnedFd>>>>,
}

impl Wait {
    pub(super) fn new(watch: &Watch) -> Self {
        let told = AtomicU64::new(watch.generation());
        Self { told, events: events().map(Arc::new), waking: OnceLock::new() }
    }

    /// Where events come from.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// Ready when the generation is another than at the end of the last wait: moments after a change that inotify tells of,
    /// else within a second or so. What [`Watch::generation`] gives then is as new. May be dropped and called again.
    pub(super) async fn changed(&self, of: &Watch) {
        let told = self.told.load(Ordering::SeqCst);
        let events = self.waking.get_or_init(|| self.events.clone().and_then(woken_by));
        let mut woken = false;
        loop {
            // Watched first and looked at then: what changes in between is an event. Anew every time: a folder may have come,
            // and a link may lead elsewhere.
            if let Some(events) = events {
                watch(events.get_ref(), of.file());
            }
            let generation = of.look_now();
            if generation != told {
                self.told.store(generation, Ordering::SeqCst);
                return;
            }
            if woken {
                tokio::time::sleep(PAUSE).await;
                woken = false;
                continue;
            }
            woken = tokio::select! {
                () = event(events.as_ref()) => true,
                () = tokio::time::sleep(LOOK) => false,
            };
        }
    }
}

/// Its new name is `unsafe`, because of types that could name another descriptor every time; an `OwnedFd` cannot.
#[allow(deprecated)]
fn woken_by(events: Arc<OwnedFd>) -> Option<AsyncFd<Arc<OwnedFd>>> {
    AsyncFd::new(events).ok()
}

/// Waits for an event and takes it away, with others that are there.
async fn event(events: Option<&AsyncFd<Arc<OwnedFd>>>) {
    let Some(events) = events else { return std::future::pending().await };
    match events.readable().await {
        Ok(mut ready) => {
            if forget(events.get_ref()) != Left::Some {
                // What comes after the last look at the queue makes it ready anew: tokio tells the two apart.
                ready.clear_ready();
            }
        }
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
