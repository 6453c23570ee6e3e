//! Owns the form in which what hooks know goes to the next worker: which versions they have seen, and which changes wait for a run.
//! Does not know when a hook runs. Names and versions only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::SecretRef;
use crate::secret::Version;

/// What hooks know of one secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedSight {
    /// Of which.
    pub of: SecretRef,
    /// None where it was last known to be gone.
    pub version: Option<Version>,
    /// Whether they were told of it as a change.
    pub told: bool,
}

/// What one hook has not been told yet, and when it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedWait {
    /// Its place in the configuration.
    pub hook: u32,
    /// How long ago the first change came that no run knows yet.
    pub waits: Option<Duration>,
    /// How long ago its last run began.
    pub ran: Option<Duration>,
    /// What changed, as file names from the root of the mount.
    pub paths: Vec<String>,
    /// Whether there were more of them.
    pub truncated: bool,
}

/// What all hooks of a mount know.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CarriedHooks {
    /// Of each secret that hooks are about.
    pub seen: Vec<CarriedSight>,
    /// Of each hook that waits or has run.
    pub waiting: Vec<CarriedWait>,
}
