//! Owns what secrets made on demand promise on a real mount.
//! Does not know how the book of leases decides; its own tests are beside it.

mod certificates;
mod database;
mod faults;
mod login;
mod looking;
mod many;
mod regressions;
mod renewals;

use std::fmt::Write as _;
use std::time::Duration;

pub(crate) use database::servers;

use crate::support::mount::{Mount, Plan};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// A mount of `server` by a configuration whose backend `v` is told `login`, and which goes on with `rest`.
pub fn mount_with(server: &Vault, login: &str, rest: &str) -> Plan {
    mount_at(&server.address, login, rest)
}

/// The same of whatever is at `address`.
fn mount_at(address: &str, login: &str, rest: &str) -> Plan {
    let plan = Mount::of("");
    let mut text = format!("[backend.v]\ntype = \"vault\"\naddress = \"{address}\"\n{login}\n");
    let _ = write!(text, "{rest}");
    let file = plan.folder().join("config.toml");
    std::fs::write(&file, text).unwrap();
    plan.arg("--config").arg(file).envs([("VAULT_TOKEN", ROOT_TOKEN)])
}

/// How long a drill runs: as CI has the time for, or as `SECRETFS_DRILL=full` asks for.
fn drill(ci: u64, full: u64) -> Duration {
    let is_full = std::env::var("SECRETFS_DRILL").is_ok_and(|drill| drill == "full");
    Duration::from_secs(if is_full { full } else { ci })
}
