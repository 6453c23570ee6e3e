//! Owns the description of a mount that is to be made: plain data, checked by whoever made it.
//! Does not know where it came from.

use std::path::PathBuf;
use std::time::Duration;

use crate::backend::issuer::Demand;
use crate::backend::{aws, store, vault};
use crate::cache::Limits;
use crate::tree::Tree;
use crate::tree::promises::Promises;
use crate::{fuse, hooks, leases};

/// Everything about one mount.
pub struct Plan {
    /// What /proc/self/mountinfo will show ([`crate::mounts::source_option`]).
    pub source: String,
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// Whether users other than the one who mounts may look at all.
    pub allow_other: bool,
    /// Every request is answered within this.
    pub deadline: Duration,
    /// What the cache may hold, and for how long.
    pub limits: Limits,
    /// How long a thread that has opened one field of a secret gets the others from the same version; zero: not at all.
    pub pair_window: Duration,
    /// Larger values cannot be opened; in bytes.
    pub max_value_size: usize,
    /// Backends by name; a tree's `SourceId` is an index into this.
    pub backends: Vec<(String, BackendPlan)>,
    /// Where each place of each backend is shown.
    pub trees: Vec<Tree>,
    /// How old what they show may be.
    pub promises: Promises,
    /// The ways in which secrets are made on demand that are not plain; a tree's `DemandId` is an index into this, counted
    /// from 1.
    pub demands: Vec<Demand>,
    /// What holds for the leases of each backend, in the order of `backends`.
    pub lease_limits: Vec<leases::Limits>,
    /// Who is told of changes.
    pub hooks: Vec<hooks::Config>,
    /// As many crashes within a minute are survived.
    pub max_crashes: u32,
    /// A worker that does not answer for so long is replaced.
    pub watchdog: Duration,
}

impl Plan {
    /// How the kernel is told to mount.
    pub(super) fn fuse_options(&self) -> fuse::Options {
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
        fuse::Options {
            source: self.source.clone(),
            allow_other: self.allow_other,
            deadline: self.deadline,
            threads: cores.clamp(2, 8),
        }
    }
}

/// One backend.
pub enum BackendPlan {
    /// Vault or OpenBao.
    Vault(vault::Config),
    /// AWS Secrets Manager.
    Aws(aws::Config),
    /// The embedded store.
    Store(store::Config),
}
