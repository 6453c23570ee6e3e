//! Owns asking mounts from a command: the runtime that needs, and what a failure to answer means for the exit code.
//! Does not know what is asked.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Runtime;

use super::failure::Failure;
use super::in_mount::InMount;
use crate::control::client::{self, Unanswered};
use crate::control::protocol::{Command, RefusalKind, Reply};
use crate::mounts::Mount;
use crate::printable::printable_path;

/// Asks. One for each command that does.
pub(super) struct Asking(Runtime);

impl Asking {
    pub(super) fn new() -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(Self).map_err(|error| Failure::io(format!("cannot start: {error}")))
    }

    pub(super) fn ask(
        &self,
        mount: &Mount,
        command: &Command,
        patience: Duration,
    ) -> Result<Reply, Unanswered> {
        self.0.block_on(client::ask(mount, command, patience))
    }

    /// Asks about `path`, which lies in that mount.
    pub(super) fn ask_about(
        &self,
        path: &Path,
        at: &InMount,
        command: &Command,
        patience: Duration,
    ) -> Result<Reply, Failure> {
        self.ask(&at.mount, command, patience).map_err(|why| failure(path, &why))
    }

    /// How long a mount may take for what needs a backend. Fails soon when nobody answers.
    pub(super) fn patience(&self, at: &InMount, path: &Path) -> Result<Duration, Failure> {
        let status = Command::Status { secrets: false, lease_ids: false };
        match self.ask_about(path, at, &status, client::PATIENCE)? {
            Reply::Status(status) => {
                let deadline = Duration::try_from_secs_f64(status.deadline_seconds);
                Ok(deadline.map_err(|_| foreign(at))?.saturating_add(client::PATIENCE))
            }
            _ => Err(foreign(at)),
        }
    }

    /// All of them at once, so that several that hang cost no more than one.
    pub(super) fn ask_all(&self, mounts: &[Mount], command: &Command) -> Vec<Result<Reply, Unanswered>> {
        let asked = mounts.iter().map(|mount| client::ask(mount, command, client::PATIENCE));
        self.0.block_on(join_all(asked))
    }
}

/// The failure of a command that was about `path`.
pub(super) fn failure(path: &Path, why: &Unanswered) -> Failure {
    let told = |text: String| format!("{}: {text}", printable_path(path));
    match why {
        Unanswered::NotAllowed { .. } => Failure::permission(told(why.to_string())),
        Unanswered::Refused(refusal) => match (refusal.kind, refusal.errno.as_deref()) {
            (RefusalKind::NotAllowed, _) => Failure::permission(told(why.to_string())),
            (_, Some(errno)) => failed(&told(format!("{errno}: {why}")), errno),
            _ => Failure::io(told(why.to_string())),
        },
        _ => Failure::io(told(why.to_string())),
    }
}

/// A failure with the code that fits what a program would see.
pub(super) fn failed(message: &str, errno: &str) -> Failure {
    match errno {
        "ENOENT" | "ENOTDIR" | "ENAMETOOLONG" => Failure::no_input(message),
        "EACCES" => Failure::permission(message),
        _ => Failure::io(message),
    }
}

/// What only another version of secretfs answers.
pub(super) fn foreign(at: &InMount) -> Failure {
    failure(&at.mount.at, &Unanswered::Foreign)
}
