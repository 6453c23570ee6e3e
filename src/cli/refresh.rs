//! Owns `secretfs refresh`: what is asked for, in which portions, and a line for each.
//! Does not know how a secret is refreshed; the mount does it, so no line holds a value.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::asking::{self, Asking};
use super::failure::Failure;
use super::in_mount::{InMount, seen};
use super::output;
use crate::control::protocol::{Command, Found, MAX_TARGETS, Outcome, Reply, Target};
use crate::mounts::Mount;
use crate::printable::{printable, printable_path};

/// `secretfs refresh PATH...`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Files and directories in mounts
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// All that is held below a directory, not only directly in it
    #[arg(short, long)]
    recursive: bool,
}

/// Refreshes all that can be; the code is that of the first that could not.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut refreshing = Refreshing { asking: Asking::new()?, done: HashSet::new(), failures: vec![] };
    for path in &arguments.paths {
        if let Err(failure) = refreshing.path(path, arguments.recursive) {
            refreshing.failures.push(failure);
        }
    }
    Failure::all(refreshing.failures)
}

struct Refreshing {
    asking: Asking,
    /// By device: a secret that several paths stand for is asked for once.
    done: HashSet<(String, Target)>,
    failures: Vec<Failure>,
}

impl Refreshing {
    fn path(&mut self, path: &Path, recursive: bool) -> Result<(), Failure> {
        let at = InMount::of(path)?;
        let missing =
            || asking::failed(&format!("{}: ENOENT: there is no such file", printable_path(path)), "ENOENT");
        // No name in a mount is anything but UTF-8.
        let names = at.path_in_mount().to_str().ok_or_else(missing)?.to_owned();
        // Told first, and soon, when nobody answers; from then on a backend may take its time.
        let patience = self.asking.patience(&at, path)?;
        let find = Command::Find { path: names, recursive };
        let found = match self.asking.ask_about(path, &at, &find, patience)? {
            Reply::Found(Found::Targets(targets)) => targets,
            Reply::Found(Found::Junction) => {
                return Err(Failure::usage(format!(
                    "{} only leads to what the configuration mounts below it: name that, or use --recursive",
                    printable_path(path)
                )));
            }
            Reply::Found(Found::Folder) => {
                return Err(Failure::usage(format!(
                    "{} is a directory, and what is held of it lies further below: name that, or use --recursive",
                    printable_path(path)
                )));
            }
            _ => return Err(asking::foreign(&at)),
        };
        let new = |target: &&Target| self.done.insert((at.mount.device.clone(), bare(target)));
        let targets: Vec<Target> = found.iter().filter(new).cloned().collect();
        // What another path stood for as well has been told there.
        let mut anything = targets.len() < found.len();
        for targets in targets.chunks(MAX_TARGETS) {
            let refresh = Command::Refresh { targets: targets.to_vec() };
            let Reply::Refreshed(outcomes) = self.asking.ask_about(path, &at, &refresh, patience)? else {
                return Err(asking::foreign(&at));
            };
            for (target, outcome) in targets.iter().zip(&outcomes) {
                anything |= self.tell(&at.mount, target, outcome)?;
            }
        }
        if anything { Ok(()) } else { Err(missing()) }
    }

    /// Says how it ended; whether there was anything to say.
    fn tell(&mut self, mount: &Mount, target: &Target, outcome: &Outcome) -> Result<bool, Failure> {
        let path = printable_path(&seen(mount, &target.path));
        let line = match outcome {
            Outcome::Failed { denied: true, .. } if target.maybe => return Ok(false),
            Outcome::Failed { errno, reason, .. } => {
                let message = format!("{path}: not refreshed: {errno}: {}", printable(reason));
                self.failures.push(asking::failed(&message, errno));
                return Ok(true);
            }
            Outcome::Names(1) => "listing, 1 name".to_owned(),
            Outcome::Names(names) => format!("listing, {names} names"),
            Outcome::Version(version) => versions(target.held.as_deref(), version),
            Outcome::Lease(version) => format!("a new lease, version {}", printable(version)),
            Outcome::NotHeld => "not held; open it".to_owned(),
            Outcome::Revoked(_) | Outcome::NoLease | Outcome::Forgotten { .. } => return Ok(false),
        };
        output::print(format!("{path}: {line}\n").as_bytes())?;
        Ok(true)
    }
}

/// What makes it the same as another, however it was found.
fn bare(target: &Target) -> Target {
    Target { path: String::new(), held: None, maybe: false, ..target.clone() }
}

fn versions(before: Option<&str>, after: &str) -> String {
    let now = printable(after);
    match before {
        _ if after.is_empty() => "refreshed; its backend has no versions".to_owned(),
        None => format!("version {now}, not held before"),
        Some(before) if before == after => format!("unchanged, version {now}"),
        Some(before) => format!("version {} -> {now}", printable(before)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_changed() {
        assert_eq!(versions(Some("3"), "4"), "version 3 -> 4");
        assert_eq!(versions(Some("4"), "4"), "unchanged, version 4");
        assert_eq!(versions(None, "4"), "version 4, not held before");
        assert_eq!(versions(Some(""), ""), "refreshed; its backend has no versions");
    }
}
