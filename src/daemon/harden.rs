//! Owns what a process does first to keep its memory to itself.
//! Does not know what is in that memory.

use std::io::Write;
use std::panic::PanicHookInfo;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// With what a Rust program ends whose first thread panics.
pub(super) const PANICKED: i32 = 101;

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

/// From then on a panic in any thread is the end of this process, as a crash. Before anything is dropped: the question that the thread was
/// at would be answered with an error, and so the next worker is asked it again; and a thread or a loop that is missed by nobody would
/// leave secrets in place, or leases without a renewal.
pub(super) fn end_at_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::exit(PANICKED);
    }));
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    /// Set in the process that shall panic.
    const CHILD: &str = "SECRETFS_TEST_PANIC_OF_A_WORKER";

    /// What a question does that is dropped: somebody is told that there is no answer.
    struct Question;

    impl Drop for Question {
        fn drop(&mut self) {
            let _ = writeln!(std::io::stderr(), "answered with an error");
        }
    }

    /// In a child of the test below: a thread panics that nobody waits for. Elsewhere: nothing.
    #[test]
    fn child() {
        let Ok(value) = std::env::var(CHILD) else { return };
        harden();
        end_at_panic();
        let thread = std::thread::spawn(move || {
            let _question = Question;
            panic!("{value}");
        });
        // It never ends, the process does.
        let _ = thread.join();
        let _ = writeln!(std::io::stderr(), "goes on");
    }

    #[test]
    fn a_panic_in_any_thread_ends_a_worker_before_anybody_is_told_an_error() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon::harden::tests::child", "--nocapture"])
            .env(CHILD, "canary")
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(PANICKED), "{shown}");
        assert!(shown.contains("panicked at src/daemon/harden.rs:"), "{shown}");
        for never in ["answered with an error", "goes on", "canary"] {
            assert!(!shown.contains(never), "{shown}");
        }
    }
}
