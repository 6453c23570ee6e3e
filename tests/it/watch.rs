//! Owns the promises to programs that watch files of a mount with inotify: what they are told, when, and at whose cost.

mod containers;
mod events;
mod programs;
mod rotations;
mod unmount;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The events of a change of one file, as those who watch `at` get them.
fn written(at: &str) -> [String; 3] {
    ["MODIFY", "ATTRIB", "CLOSE_WRITE"].map(|event| format!("{at} {event}"))
}

/// Whether the program can tell of changes here: it needs the right to mount.
fn can_tell() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".into()) }
}

/// Somebody who reads a file again and again. Until the program finds changes by itself, somebody must ask: to be taken out then.
struct Poller {
    over: Arc<AtomicBool>,
}

impl Poller {
    fn of(file: &Path) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (file, end): (PathBuf, _) = (file.to_owned(), over.clone());
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let _ = std::fs::read(&file);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { over }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
