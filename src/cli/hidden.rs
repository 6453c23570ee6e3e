//! Owns the rule that a mount hides nothing that its own program needs: whether any of it lies below the mountpoint.
//! Does not know how any of it is used, nor what a backend needs (`daemon::needs`).
//!
//! The program would look for such a file in the mount, and the mount would ask the program: a circle that ends at a deadline,
//! at best. So every name on the way to a file counts, those of links too.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::daemon::Plan;
use crate::daemon::needs::{MOVE, NOTHING, Need, Variables, need, of_backend};
use crate::daemon::way::way;
use crate::hooks::{self, Action};
use crate::{control, mounts};

/// Refuses a plan whose mount would lie over something that it needs itself. `at` is the mountpoint, without links; `file` the
/// configuration that the plan is from.
pub(super) fn refuse(
    plan: &Plan,
    file: Option<&Path>,
    at: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(), Failure> {
    let mut needs = of_the_program(file);
    for (name, backend) in &plan.backends {
        needs.extend(of_backend(name, backend, &Variables(&variable)));
    }
    needs.extend(plan.hooks.iter().filter_map(of_hook));
    let mountpoint = Mountpoint::look(at)?;
    let hidden = needs.iter().find_map(|need| Some((need, mountpoint.met_on_the_way(&need.path)?)));
    let Some((Need { path, because, instead }, met)) = hidden else { return Ok(()) };
    let also = if met == at { String::new() } else { format!(" (seen also at {})", met.display()) };
    let (at, path) = (at.display(), path.display());
    Err(Failure::usage(format!(
        "the mount on {at}{also} would hide {path} from its own program, which needs it: {because}; mount somewhere else{instead}"
    )))
}

/// Whether `folder` is covered by what is mounted on `at`, which is not mounted yet.
pub(super) fn hides(at: &Path, folder: &Path) -> bool {
    Mountpoint::look(at).is_ok_and(|mountpoint| mountpoint.met_on_the_way(folder).is_some())
}

/// What every mount needs.
fn of_the_program(file: Option<&Path>) -> Vec<Need> {
    let of_file = file.map(|file| need(file, "the configuration (--config)", MOVE));
    let of_socket = control::folder().map(|folder| need(folder, "the folder of the control socket", NOTHING));
    let [out, err] = [(rustix::stdio::stdout(), 1, "output"), (rustix::stdio::stderr(), 2, "error")].map(
        |(descriptor, number, which)| {
            let log = log_file(descriptor, number)?;
            Some(need(
                log,
                &format!("standard {which}, where the log goes"),
                ", or redirect it to another file",
            ))
        },
    );
    let system = ["/proc/self/mountinfo", "/dev/fuse"].map(|file| need(file, "the system's own", NOTHING));
    of_file.into_iter().chain(of_socket).chain(out).chain(err).chain(system).collect()
}

/// The file that an output is redirected to; nothing for a terminal, a pipe, a socket or a device.
fn log_file(descriptor: BorrowedFd<'_>, number: u32) -> Option<PathBuf> {
    let found = rustix::fs::fstat(descriptor).ok()?;
    let is_file = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::RegularFile;
    is_file.then(|| std::fs::read_link(format!("/proc/self/fd/{number}")).ok()).flatten()
}

fn of_hook(hook: &hooks::Config) -> Option<Need> {
    let (path, key) = match &hook.action {
        Action::Exec { program, .. } => (program, "exec"),
        Action::Signal { pid_file, .. } => (pid_file, "pid_file"),
        Action::SignalUnit { .. } | Action::Reload { .. } => return None,
    };
    Some(need(path, &format!("`{key}` of a [[hook]]"), MOVE))
}

/// The folder that is to be covered, and how it is known again under another name.
struct Mountpoint {
    at: PathBuf,
    identity: (u64, u64),
    location: Option<mounts::Location>,
    table: mounts::Table,
}

impl Mountpoint {
    fn look(at: &Path) -> Result<Self, Failure> {
        let found = at.metadata().map_err(|error| Failure::cannot("mount on", at, &error))?;
        let table = mounts::Table::read()
            .map_err(|error| Failure::io(format!("cannot read the mount table: {error}")))?;
        let location = table.location(at);
        Ok(Self { at: at.to_owned(), identity: identity(&found), location, table })
    }

    /// The first folder on the way to `path` that will be covered, is another name of such a one, or shows a part of it by a
    /// bind mount (which, made anew, would show a part of the mount).
    fn met_on_the_way(&self, path: &Path) -> Option<PathBuf> {
        let is_met = |folder: &PathBuf| {
            let same = folder.symlink_metadata().is_ok_and(|found| identity(&found) == self.identity);
            let below = || Some(self.table.location(folder)?.is_in(self.location.as_ref()?));
            *folder == self.at || same || below().unwrap_or(false)
        };
        way(path).folders.into_iter().find(is_met)
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
