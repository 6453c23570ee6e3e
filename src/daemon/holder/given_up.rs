//! Owns the end of a mount that no worker can serve: whoever waits is told, and what the workers had is given back.
//! Does not know what that is: one more worker reads it in the ledger, and serves nobody.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use super::super::systemd;
use super::{Flow, Holder, Task};
use crate::fuse::{self, MountPoint};

/// Requests are refused until none has come for so long, and at most for the second: whoever waits is told, and nobody waits anew for a
/// mount that is out of the tree.
const QUIET: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(5);
/// With these codes a worker ends by itself where the next one would too: wrong use, bad data, what is missing or forbidden, a mistake in
/// the configuration (`RestartPreventExitStatus=` of the unit).
const HOPELESS: [u8; 5] = [64, 65, 66, 77, 78];

impl Holder {
    /// No worker can serve the mount: whoever waits is told EIO, and it is taken out of the tree.
    pub(super) fn give_up(&mut self) -> Flow {
        let at = self.kept.place.at.display().to_string();
        tracing::error!(mountpoint = %at, crashes = self.restarts.total(), "workers crash too often: the mount is given up");
        systemd::stopping();
        self.is_given_up = true;
        self.abandon_upgrade("the mount is given up");
        self.kill_all();
        let detached = self.kept.place.detach_in_use();
        if let Err(error) = fuse::refuse_all(self.kept.requests.as_fd(), QUIET, MOST) {
            tracing::warn!("requests cannot be refused: {error}");
        }
        if let Err(error) = &detached {
            tracing::error!("the mount is not taken out of the tree: {error}");
        }
        let detached = detached.map_err(|error| error.to_string());
        self.let_go();
        if self.ending.is_some() {
            // It was on its way to its end, and nobody can be started to give anything back.
            return Flow::Over(self.unmounted(Some(detached)));
        }
        self.begin_ending();
        if let Some(ending) = &mut self.ending {
            ending.detached = Some(detached);
        }
        self.give_back()
    }

    /// Starts one that gives back what the others had. It serves nobody, so what has killed them does not reach it.
    pub(super) fn give_back(&mut self) -> Flow {
        match self.start_worker(&self.command.clone(), Task::GiveBack) {
            Ok(worker) => {
                tracing::info!(pid = worker.pid, "what was had for the mount is given back");
                self.serving = Some(worker);
                Flow::GoOn
            }
            Err(error) => {
                tracing::error!("a worker cannot be started, and what was had is not given back: {error}");
                Flow::Over(self.unmounted(self.ending.as_ref().and_then(|ending| ending.detached.clone())))
            }
        }
    }

    /// Closes the kernel's descriptor: files that are open in the mount give errors from now on, for nobody would answer.
    fn let_go(&mut self) {
        self.forget();
        // Without this, which fails only where no descriptor is to be had, they would wait until all is given back.
        if let Ok(null) = File::open("/dev/null") {
            self.kept.requests = null.into();
        }
    }
}

/// The exit code of the first worker of a mount that an earlier process had, where it says that no other worker could serve it either.
pub(super) fn hopeless(code: i32) -> Option<u8> {
    let hopeless = u8::try_from(code).ok().filter(|code| HOPELESS.contains(code));
    if hopeless.is_some() {
        tracing::error!(
            "as it is configured by now the mount cannot be served, and ends; leases that were made for it live to their ends"
        );
    }
    hopeless
}

/// Takes a mount out of the tree that nobody is going to serve: whoever came upon it would have errors until somebody unmounts it.
pub(super) fn take_away(place: &MountPoint) {
    if let Err(error) = place.detach_in_use() {
        tracing::error!(mountpoint = %place.at.display(), "the mount is not taken out of the tree: {error}");
    }
}
