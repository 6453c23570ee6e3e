//! Owns the end of a mount: asked for, or come about by itself.
//! Does not know what a worker has to give back.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::super::channel::ToWorker;
use super::super::{Failure, kept, systemd};
use super::{Flow, Holder};
use crate::fuse;

/// How long the last worker may take: 2 s for hooks, 45 s for leases, 10 s for tokens, a second for files that are open, and some.
const PATIENCE: Duration = Duration::from_secs(65);

/// How long a worker may take with hooks before it lets go of the mount, as long as it lives at all.
const PATIENCE_WITH_HOOKS: Duration = Duration::from_secs(2);

/// An end that has begun.
pub(super) struct Ending {
    until: Instant,
    /// The mount is out of the tree, or somebody else has seen to that.
    pub(super) detached: Option<Result<(), String>>,
    /// All is given back.
    ended: Option<InUse>,
    /// The worker has been told.
    told: bool,
    /// Looks since then at which the mount was still in the tree.
    looks: u32,
    /// Workers that died over it.
    died: u32,
}

struct InUse(bool);

impl Holder {
    /// Begins the end, once.
    pub(super) fn end(&mut self, why: &str) -> Flow {
        if self.ending.is_none() {
            tracing::info!(mountpoint = %self.kept.place.at.display(), "unmounting: {why}");
            systemd::stopping();
            self.begin_ending();
            self.abandon_upgrade("the mount is ending");
            self.go_on_ending();
        }
        Flow::GoOn
    }

    /// Has all that follows know that it ends.
    pub(super) fn begin_ending(&mut self) {
        self.ending = Some(Ending {
            until: Instant::now() + PATIENCE,
            detached: None,
            ended: None,
            told: false,
            looks: 0,
            died: 0,
        });
    }

    /// Tells the worker, as soon as there is one that serves.
    pub(super) fn go_on_ending(&mut self) {
        let Some(ending) = &mut self.ending else { return };
        if let Some(worker) = self.serving.as_ref().filter(|worker| worker.serving.is_some() && !ending.told)
        {
            worker.tell(&ToWorker::End, &[]);
            (ending.told, ending.looks) = (true, 0);
        }
    }

    /// Whether the worker should have let go of the mount by now: one that is stopped, say. It keeps programs waiting, and keeps the next
    /// one from giving back what both have had.
    pub(super) fn is_held_on_to(&mut self) -> bool {
        let look = self.look_every();
        let Some(ending) = self.ending.as_mut().filter(|ending| ending.told && ending.detached.is_none())
        else {
            return false;
        };
        // By looks and not by the clock: where we ourselves did not get to look, its word waits for us.
        ending.looks = ending.looks.saturating_add(1);
        let is_late = look.saturating_mul(ending.looks) > self.watchdog + PATIENCE_WITH_HOOKS;
        if is_late {
            ending.looks = 0;
        }
        is_late
    }

    /// The kernel has ended the mount, and the worker gives back what it has by itself. Nothing of it is in the tree, unless somebody has
    /// ended the connection only.
    pub(super) fn note_over(&mut self) {
        let place = self.kept.place.clone();
        let is_aborted = self.lives() && place.is_in_tree().unwrap_or(false);
        if self.ending.is_none() {
            let why = if is_aborted { "its connection was aborted" } else { "unmounted by somebody else" };
            tracing::info!(mountpoint = %place.at.display(), "unmounting: {why}");
            systemd::stopping();
            self.begin_ending();
            self.abandon_upgrade("the mount is ending");
            self.is_aborted = is_aborted;
        }
        let detached = self.take_out();
        if let Some(ending) = &mut self.ending {
            ending.told = true;
            ending.detached = Some(detached);
        }
    }

    /// The worker has let go of the mount.
    pub(super) fn detach(&mut self) {
        let result = self.take_out();
        if let Some(worker) = &self.serving {
            worker.tell(&ToWorker::Detached(result.clone()), &[]);
        }
        if let Some(ending) = &mut self.ending {
            ending.detached = Some(result);
        }
    }

    pub(super) fn note_ended(&mut self, in_use: bool) {
        if let Some(ending) = &mut self.ending {
            ending.ended = Some(InUse(in_use));
        }
    }

    /// What the end of the worker means where the mount is ending; nothing where it is not.
    pub(super) fn is_ended(&mut self) -> Option<Flow> {
        let ending = self.ending.as_mut()?;
        let detached = ending.detached.clone();
        if let Some(InUse(in_use)) = ending.ended {
            if in_use {
                tracing::warn!(
                    mountpoint = %self.kept.place.at.display(),
                    "was in use: detached; files still open in it give errors from now on"
                );
            }
            return Some(Flow::Over(self.unmounted(detached)));
        }
        // It died over it: the next one gives back what is left, and after that nobody does.
        ending.died += 1;
        ending.told = false;
        if ending.died > 1 {
            tracing::error!("workers die at the end of the mount: what they had is not given back");
            return Some(Flow::Over(self.unmounted(detached)));
        }
        Some(if self.is_given_up { self.give_back() } else { self.restart() })
    }

    /// The end takes too long.
    pub(super) fn look_after_end(&mut self) -> Flow {
        let Some(ending) = self.ending.as_ref().filter(|ending| ending.until < Instant::now()) else {
            return Flow::GoOn;
        };
        tracing::error!("the end of the mount takes too long: what is left is not given back");
        let detached = ending.detached.clone();
        Flow::Over(self.unmounted(detached))
    }

    /// Out of the tree, if it is in there.
    fn take_out(&self) -> Result<(), String> {
        if self.lives() { self.kept.place.detach().map_err(|error| error.to_string()) } else { Ok(()) }
    }

    /// The number of a device that is gone is given to the next mount, which may be one of somebody who mounts anew in this place: what
    /// is said of the place is said of this mount only while that lives.
    fn lives(&self) -> bool {
        fuse::lives(self.kept.requests.as_fd())
    }

    pub(super) fn forget(&self) {
        if self.outlives_us {
            kept::forget();
        }
    }

    /// The same, but what former mounts had is left to the next one.
    pub(super) fn forget_mount(&self) {
        if self.outlives_us {
            kept::forget_mount();
        }
    }

    /// What came of it. Whatever that is, nobody goes on with this mount.
    pub(super) fn unmounted(&self, detached: Option<Result<(), String>>) -> Result<(), Failure> {
        self.forget();
        let result = detached.unwrap_or_else(|| self.take_out());
        let at = self.kept.place.at.display().to_string();
        match result {
            _ if self.is_given_up => Err(Failure::GivenUp { at, crashes: self.restarts.total() }),
            Err(error) => Err(Failure::Unmount { at, error }),
            Ok(()) if self.is_aborted => Err(Failure::Aborted { at }),
            Ok(()) => Ok(()),
        }
    }
}
