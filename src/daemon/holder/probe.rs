//! Owns the question whether the mount answers: asked through the mount itself, as a program would.
//! Does not know what is done when it does not.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Asks again and again, on a thread of its own: who asks a mount that does not answer waits in the kernel, deaf to everything.
#[derive(Debug, Clone)]
pub(super) struct Probe(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Guards since when an answer is waited for; held for a look.
    waits_since: Mutex<Option<Instant>>,
}

impl Probe {
    /// Asks every `period`. `statfs(2)` is answered by the threads that answer everybody, and never waits for a backend. The mount is
    /// not in use in between: it is asked by its path.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start(at: PathBuf, period: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared { waits_since: Mutex::new(None) });
        let probe = Self(shared.clone());
        std::thread::Builder::new().name("probe".into()).spawn(move || {
            // Until nobody looks any more.
            while Arc::strong_count(&shared) > 1 {
                *shared.lock() = Some(Instant::now());
                // Whatever it says, it has answered.
                let _ = rustix::fs::statfs(&at);
                *shared.lock() = None;
                std::thread::sleep(period);
            }
        })?;
        Ok(probe)
    }

    /// Since when an answer is waited for; none while none is.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.waits_since.lock().unwrap_or_else(|e| e.into_inner())
    }
}
