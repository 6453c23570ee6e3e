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
    /// What was mounted with this file, else where it says that it is mounted
    #[arg(short, long, value_name = "FILE", conflicts_with = "mountpoint")]
    config: Option<PathBuf>,
    /// Detach a mount that is in use: it disappears at once and ends with the last open file
    #[arg(short, long)]
    lazy: bool,
    /// Where nothing is mounted there is nothing to do, and no reason to look into FILE: what secretfs-clean@.service asks for
    #[arg(long, hide = true, requires = "config")]
    left_behind: bool,
}

/// Unmounts, and only what is ours.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let named = match (&arguments.mountpoint, &arguments.config) {
        (None, Some(file)) if arguments.left_behind => in_table(file)?,
        (Some(mountpoint), _) => vec![mountpoint.clone()],
        (None, Some(file)) => mounted_with(file)?,
        (None, None) => return Err(Failure::usage("name the mountpoint")),
    };
    let failed = named.iter().filter_map(|named| unmount(named, arguments.lazy).err());
    Failure::all(failed.collect())
}

/// Where `secretfs mount --config FILE` has mounted, by the mount table: the file may have changed since, or have mistakes.
fn in_table(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let source = mounts::source_option(&file.display().to_string());
    let mut found = table()?;
    found.retain(|mount| Some(mount.source.as_str()) == source.strip_prefix(mounts::SOURCE_PREFIX));
    Ok(found.into_iter().map(|mount| mount.at).collect())
}

/// The same; where nothing is, what the file says.
fn mounted_with(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let found = in_table(file)?;
    if !found.is_empty() {
        return Ok(found);
    }
    let said = super::mount::load(file)?.mount.mountpoint;
    let said = said
        .ok_or_else(|| Failure::usage(format!("{} sets no mountpoint: name it instead", file.display())))?;
    Ok(vec![said])
}

fn table() -> Result<Vec<mounts::Mount>, Failure> {
    mounts::ours().map_err(|error| Failure::io(format!("cannot read the mount table: {error}")))
}

fn unmount(named: &Path, lazy: bool) -> Result<(), Failure> {
    let at = resolved(named)?;
    if !table()?.iter().any(|mount| mount.at == at) {
        return Err(Failure::no_input(format!("{} is not a mount of secretfs", named.display())));
    }
    mounts::unmount(&at, lazy).map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => in_use(named),
        ErrorKind::NotFound => Failure::configuration(format!(
            "unmounting {} as a user needs `fusermount3`: install the package fuse3",
            named.display()
        )),
        _ => Failure::cannot("unmount", named, &error),
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
