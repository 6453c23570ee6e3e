//! Owns the drills of survival: a worker is killed, exchanged or stopped, and those who use the mount do not notice.
//! Does not know how one worker takes over from another.
//!
//! `SECRETFS_DRILL=full` runs them at the size that the documentation quotes, and holds the pauses to their limits; without it they
//! are smaller, and a pause is told and not judged.

mod builds;
mod crash_loop;
mod credentials;
mod crowd;
mod ends;
mod grove;
mod kept;
mod kills;
mod locked_in;
mod looking;
mod no_upgrade;
mod open_files;
mod stopped;
mod typed;
mod upgrades;
mod users;

use std::sync::{Mutex, MutexGuard};

/// Held by each test that measures: what it measures is not another one.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Whether all of it is asked for.
fn is_full() -> bool {
    std::env::var("SECRETFS_DRILL").is_ok_and(|drill| drill == "full")
}

/// How many: as CI has the time for, or as the issue asks for.
fn drill(ci: usize, full: usize) -> usize {
    if is_full() { full } else { ci }
}
