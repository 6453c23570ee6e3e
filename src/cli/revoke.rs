//! Owns `secretfs revoke`: whose leases are ended, in which portions, and a line for each.
//! Does not know how a lease is ended; the mount does it, so no line holds a value or the name of a lease.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::asking::{self, Asking};
use super::failure::Failure;
use super::in_mount::{InMount, seen};
use super::output;
use crate::control::protocol::{Command, Found, MAX_TARGETS, Outcome, Reply, Target};
use crate::printable::{printable, printable_path};

/// `secretfs revoke PATH...`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Secrets in mounts that are made on demand: their directories, or files in them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// All leases that are held below a directory
    #[arg(short, long)]
    recursive: bool,
}

/// Ends all leases that can be ended; the code is that of the first that could not.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let asking = Asking::new()?;
    let mut failures = vec![];
    let mut done = HashSet::new();
    for path in &arguments.paths {
        if let Err(failure) = revoke(&asking, path, arguments.recursive, &mut done, &mut failures) {
            failures.push(failure);
        }
    }
    Failure::all(failures)
}

/// `done`: by device, what other paths stood for as well.
fn revoke(
    asking: &Asking,
    path: &Path,
    recursive: bool,
    done: &mut HashSet<(String, u32, usize, Vec<String>)>,
    failures: &mut Vec<Failure>,
) -> Result<(), Failure> {
    let at = InMount::of(path)?;
    let named = printable_path(path);
    let missing = || asking::failed(&format!("{named}: ENOENT: there is no such file"), "ENOENT");
    // No name in a mount is anything but UTF-8.
    let names = at.path_in_mount().to_str().ok_or_else(missing)?.to_owned();
    let patience = asking.patience(&at, path)?;
    let found = match asking.ask_about(
        path,
        &at,
        &Command::FindLeases { path: names, recursive },
        patience,
    )? {
        Reply::Found(Found::Targets(targets)) => targets,
        Reply::Found(Found::Junction | Found::Folder) => {
            return Err(Failure::usage(format!(
                "{named} is a directory in which several leases may lie: name one, or use --recursive"
            )));
        }
        Reply::Found(Found::Kept) => {
            return Err(Failure::usage(format!(
                "{named} is not made on demand, so it has no lease: what the mount holds of it is wiped by `secretfs flush`"
            )));
        }
        _ => return Err(asking::foreign(&at)),
    };
    if found.is_empty() {
        return output::print(format!("{named}: {}\n", line(&Outcome::NoLease)).as_bytes());
    }
    let bare =
        |target: &Target| (at.mount.device.clone(), target.demand, target.backend, target.segments.clone());
    let targets: Vec<Target> = found.into_iter().filter(|target| done.insert(bare(target))).collect();
    for targets in targets.chunks(MAX_TARGETS) {
        let revoke = Command::Revoke { targets: targets.to_vec() };
        let Reply::Revoked(outcomes) = asking.ask_about(path, &at, &revoke, patience)? else {
            return Err(asking::foreign(&at));
        };
        for (target, outcome) in targets.iter().zip(&outcomes) {
            let shown = printable_path(&seen(&at.mount, &target.path));
            if let Outcome::Failed { errno, reason, .. } = outcome {
                let message = format!("{shown}: not revoked: {errno}: {}", printable(reason));
                failures.push(asking::failed(&message, errno));
            } else {
                output::print(format!("{shown}: {}\n", line(outcome)).as_bytes())?;
            }
        }
    }
    Ok(())
}

fn line(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Revoked(1) => "revoked, 1 lease".to_owned(),
        Outcome::Revoked(leases) => format!("revoked, {leases} leases"),
        Outcome::Forgotten { until: Some(end) } => format!(
            "forgotten here; it has no lease that could be ended, and is good until {}",
            printable(end)
        ),
        Outcome::Forgotten { until: None } => {
            "forgotten here; it has no lease that could be ended, and has no end".to_owned()
        }
        _ => "no lease".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_ended_and_what_lives_on() {
        assert_eq!(line(&Outcome::Revoked(1)), "revoked, 1 lease");
        assert_eq!(line(&Outcome::Revoked(2)), "revoked, 2 leases");
        assert_eq!(line(&Outcome::NoLease), "no lease");
        let until = Some("2026-01-02T03:04:05.000Z".to_owned());
        let told =
            "forgotten here; it has no lease that could be ended, and is good until 2026-01-02T03:04:05.000Z";
        assert_eq!(line(&Outcome::Forgotten { until }), told);
        assert!(line(&Outcome::Forgotten { until: None }).ends_with("and has no end"));
    }
}
