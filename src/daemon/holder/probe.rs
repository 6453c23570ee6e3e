//! Owns the question whether the mount answers: asked through the mount itself, as a program would.
//! Does not know what is done when it does not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Asks again and again, on a thread of its own: who asks a mount that does not answer waits in the kernel, deaf to everything.
#[derive(Debug)]
pub(super) struct Probe {
    shared: Arc<Shared>,
    /// The question that was waited for at the last look, and at how many looks before.
    seen: Option<(Instant, u32)>,
}

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
        let probe = Self { shared: shared.clone(), seen: None };
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

    /// At how many looks in a row, this one included, one and the same answer was waited for.
    pub(super) fn waits_for_looks(&mut self) -> u32 {
        let since = *self.shared.lock();
        self.seen = since.map(|since| match self.seen {
            Some((before, looks)) if before == since => (since, looks.saturating_add(1)),
            _ => (since, 1),
        });
        self.seen.map_or(0, |(_, looks)| looks)
    }
}

/// Whether what is mounted there has nobody behind it, who could answer. No answer within a second is one: somebody thinks about it.
pub(super) fn is_dead(at: &Path) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    let at = at.to_owned();
    let asks = std::thread::Builder::new().name("probe".into()).spawn(move || {
        let _ = tell.send(rustix::fs::statfs(&at).err());
    });
    let said = asks.is_ok().then(|| told.recv_timeout(Duration::from_secs(1)));
    matches!(said, Some(Ok(Some(rustix::io::Errno::NOTCONN))))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.waits_since.lock().unwrap_or_else(|e| e.into_inner())
    }
}
