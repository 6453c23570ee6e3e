//! Owns `secretfs flush`.
//! Does not know how values are wiped; the mount does it.

use std::path::PathBuf;

use super::asking::{self, Asking};
use super::failure::Failure;
use super::in_mount::InMount;
use super::output;
use crate::control::client::PATIENCE;
use crate::control::protocol::{Command, Reply};
use crate::printable::printable_path;

/// `secretfs flush MOUNTPOINT`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where it is mounted
    mountpoint: PathBuf,
}

/// Wipes all that a mount holds, and says how much that was.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let at = InMount::of(&arguments.mountpoint)?;
    let mountpoint = printable_path(&at.mount.at);
    if !at.below.as_os_str().is_empty() {
        return Err(Failure::usage(format!(
            "flush wipes all that a mount holds: name the mount, {mountpoint}"
        )));
    }
    let reply = Asking::new()?.ask(&at.mount, &Command::Flush, PATIENCE);
    match reply.map_err(|why| asking::failure(&arguments.mountpoint, &why))? {
        Reply::Flushed { secrets, bytes, leases } => {
            let secrets = if secrets == 1 { "1 secret".to_owned() } else { format!("{secrets} secrets") };
            let mut text = format!("{mountpoint}: {secrets} wiped, {bytes} bytes\n");
            if leases > 0 {
                let leases = if leases == 1 { "1 lease".to_owned() } else { format!("{leases} leases") };
                text.push_str(&format!(
                    "{mountpoint}: {leases} left as before; to end them: secretfs revoke --recursive {mountpoint}\n"
                ));
            }
            output::print(text.as_bytes())
        }
        _ => Err(asking::foreign(&at)),
    }
}
