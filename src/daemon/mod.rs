//! Owns the wiring: builds every part of a mount, spawns what runs in the background, and ends it all in order.
//! Does not know command lines or files of configuration; it is given a `Plan`.
//!
//! A mount is two processes: the holder, which has the kernel's descriptor and starts the other, and the worker, which serves.

mod channel;
mod check;
mod harden;
mod holder;
mod kept;
mod kernel_timeout;
pub(crate) mod needs;
mod plan;
mod restarts;
pub mod sandbox;
mod signals;
mod start;
mod systemd;
mod watchers;
mod worker;
pub(crate) mod way;

use std::io;

pub use check::{Check, check};
pub use harden::harden;
pub use holder::{WorkerCommand, hold};
pub use kept::Left;
pub use plan::{BackendPlan, Plan};
pub use start::{Called, Handed, NotCalled, called};
pub use worker::work;

use crate::pattern;

/// Why a mount could not be made or ended badly. One line; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A backend's settings cannot work.
    #[error("backend `{name}`: {problem}")]
    Backend {
        /// The backend's name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The mount itself.
    #[error("cannot mount on {at}: {problem}")]
    Mount {
        /// The mount point.
        at: String,
        /// What the system said, and what to do.
        problem: String,
    },
    /// The runtime or a signal handler.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The hooks cannot work.
    #[error("[[hook]]: {0}")]
    Hooks(pattern::Bad),
    /// The mount point could not be given back.
    #[error("cannot unmount {at}: {error}")]
    Unmount {
        /// The mount point.
        at: String,
        /// What umount(2) said.
        error: String,
    },
    /// The first worker did not come so far as to serve. It has said why itself, but for what nobody could say.
    #[error("the process that was to serve the mount ended before it did")]
    Worker {
        /// Its exit code.
        code: Option<u8>,
    },
    /// Somebody has ended the kernel's connection.
    #[error(
        "the mount on {at} is over: its connection was aborted, by somebody or by fs.fuse.max_request_timeout; mount it again"
    )]
    Aborted {
        /// The mount point.
        at: String,
    },
    /// Workers crash again and again.
    #[error("the mount on {at} is given up after {crashes} crashes: their reasons are in the log")]
    GivenUp {
        /// The mount point.
        at: String,
        /// How many since the mount was made.
        crashes: u64,
    },
}

fn mount_failure(at: &str, allow_other: bool, error: &io::Error) -> Failure {
    let text = error.to_string();
    let problem = if text.contains("user_allow_other") {
        "allow_other is for users only where /etc/fuse.conf has a line `user_allow_other`; add it, or leave allow_other out"
            .to_owned()
    } else if error.kind() == io::ErrorKind::NotFound {
        let device = std::path::Path::new("/dev/fuse").exists();
        let folder = std::path::Path::new(at).exists();
        match (device, folder) {
            (false, _) => {
                "/dev/fuse is missing: load the fuse module (`modprobe fuse`) or pass the device in"
                    .to_owned()
            }
            (_, false) => "there is no such directory: make it first".to_owned(),
            _ => "mounting as a user needs `fusermount3`: install the package fuse3".to_owned(),
        }
    } else if error.kind() == io::ErrorKind::PermissionDenied && !allow_other {
        format!("{}: check the permissions of the directory and of /dev/fuse", error.kind())
    } else {
        text.trim().replace('\n', "; ")
    };
    Failure::Mount { at: at.to_owned(), problem }
}
