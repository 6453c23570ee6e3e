//! Owns `secretfs unmount`.
//! Does not know what is mounted.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::mounts;

/// `secretfs unmount MOUNTPOINT`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where it is mounted
    #[arg(required_unless_present = "config")]
    mountpoint: Option<PathBuf>,
    /// Where this file says it is mounted
    #[arg(short, long, value_name = "FILE", conflicts_with = "mountpoint")]
    config: Option<PathBuf>,
    /// Detach a mount that is in use: it disappears at once and ends with the last open file
    #[arg(short, long)]
    lazy: bool,
}

/// Unmounts, and only what is ours.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let named = match (&arguments.mountpoint, &arguments.config) {
        (Some(mountpoint), _) => mountpoint.clone(),
        (None, Some(file)) => super::mount::load(file)?.mount.mountpoint.ok_or_else(|| {
            Failure::usage(format!("{} sets no mountpoint: name it instead", file.display()))
        })?,
        (None, None) => return Err(Failure::usage("name the mountpoint")),
    };
    let at = resolved(&named)?;
    let table =
        mounts::ours().map_err(|error| Failure::io(format!("cannot read the mount table: {error}")))?;
    if !table.iter().any(|mount| mount.at == at) {
        return Err(Failure::no_input(format!("{} is not a mount of secretfs", named.display())));
    }
    mounts::unmount(&at, arguments.lazy).map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => in_use(&named),
        ErrorKind::NotFound => Failure::configuration(format!(
            "unmounting {} as a user needs `fusermount3`: install the package fuse3",
            named.display()
        )),
        _ => Failure::cannot("unmount", &named, &error),
    })
}

fn in_use(at: &Path) -> Failure {
    let at = at.display();
    Failure::io(format!(
        "{at} is in use: close what is open in it (`fuser -vm {at}`), or unmount with --lazy"
    ))
}

/// The path without links, resolved above the mount point only: the mount itself may not answer.
fn resolved(at: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(at).map_err(|error| Failure::cannot("find", at, &error))?;
    let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute);
    };
    let table = mounts::ours().unwrap_or_default();
    if table.iter().any(|mount| mount.at == absolute) {
        return Ok(absolute);
    }
    // A link to a mount point is followed as umount(8) does.
    if absolute.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        return absolute.canonicalize().map_err(|error| Failure::cannot("find", at, &error));
    }
    folder.canonicalize().map(|folder| folder.join(name)).map_err(|error| Failure::cannot("find", at, &error))
}
