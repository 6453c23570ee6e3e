//! Owns what a process does first to keep its memory to itself.
//! Does not know what is in that memory.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core file, and no other process of the same user may read this one's memory (prctl(2), PR_SET_DUMPABLE).
/// Where the system refuses, a warning says so: the mount is still better than a file on disk.
pub fn harden() {
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!("core files stay enabled: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("memory stays readable to processes of the same user: {error}");
    }
}
