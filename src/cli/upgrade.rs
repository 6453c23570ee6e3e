//! Owns `secretfs upgrade`.
//! Does not know how one program takes over from another; the mount sees to that.

use std::path::PathBuf;
use std::time::Duration;

use super::asking::{self, Asking};
use super::failure::Failure;
use super::in_mount::InMount;
use super::mount;
use super::output;
use crate::control::protocol::{Command, Reply};
use crate::printable::printable_path;

/// Longer than the mount gives the new program until it takes over, and then until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// `secretfs upgrade MOUNTPOINT`, `secretfs upgrade --config FILE`.
#[derive(clap::Args)]
#[command(override_usage = "secretfs upgrade MOUNTPOINT\n       secretfs upgrade --config FILE")]
pub(super) struct Arguments {
    /// Where it is mounted
    #[arg(required_unless_present = "config", conflicts_with = "config")]
    mountpoint: Option<PathBuf>,
    /// The mount that this configuration makes
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Has the program exchanged, and returns when the new one serves.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mountpoint = match (&arguments.mountpoint, &arguments.config) {
        (Some(mountpoint), _) => mountpoint.clone(),
        (None, Some(file)) => mount::load(file)?.mount.mountpoint.ok_or_else(|| {
            Failure::usage(format!("{} names no mountpoint: name it yourself", file.display()))
        })?,
        (None, None) => return Err(Failure::usage("name the mountpoint")),
    };
    let at = InMount::of(&mountpoint)?;
    let shown = printable_path(&at.mount.at);
    if !at.below.as_os_str().is_empty() {
        return Err(Failure::usage(format!("a whole mount is upgraded: name the mount, {shown}")));
    }
    let reply = Asking::new()?.ask(&at.mount, &Command::Upgrade, PATIENCE);
    match reply.map_err(|why| asking::failure(&mountpoint, &why))? {
        Reply::Upgraded => output::print(format!("{shown}: upgraded\n").as_bytes()),
        _ => Err(asking::foreign(&at)),
    }
}
