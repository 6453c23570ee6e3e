//! Owns what a process does first to keep its memory to itself.
//! Does not know what is in that memory.

use std::io::Write;
use std::panic::PanicHookInfo;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core file, and no other process of the same user may read this one's memory (prctl(2), PR_SET_DUMPABLE).
/// Where the system refuses, a warning says so: the mount is still better than a file on disk.
/// From then on a panic says where it happened, but nothing that it was looking at.
pub fn harden() {
    std::panic::set_hook(Box::new(say_where));
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!("core files stay enabled: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("memory stays readable to processes of the same user: {error}");
    }
}

/// A text that was put together may hold a secret (`str` quotes what it could not cut, `unwrap` shows the error), so only
/// a text that stands in a program as it is gets shown.
fn say_where(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let text = panic.payload().downcast_ref::<&'static str>().unwrap_or(&"[its text may hold a secret]");
    // Not through the log, which may be what panicked.
    let mut out = std::io::stderr();
    let _ = match panic.location() {
        Some(at) => writeln!(out, "secretfs: thread `{thread}` panicked at {at}: {text}"),
        None => writeln!(out, "secretfs: thread `{thread}` panicked: {text}"),
    };
}
