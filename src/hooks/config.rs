//! Owns what a hook is told: which paths it is about, what it does, and how often and how long.
//! Does not know how any of it is done.

use std::time::Duration;

use crate::hands::{Action, Job};
use crate::pattern::Pattern;

/// A change waits this long for others that go into the same run, unless something else is said.
pub const DEFAULT_DEBOUNCE: Duration = Duration::from_secs(1);
/// From the beginning of one run to that of the next at least, unless something else is said.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// The longest that a run may take, unless something else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// It is about a secret that any of these covers.
    pub patterns: Vec<Pattern>,
    /// What it does.
    pub action: Action,
    /// How long a change waits for others that go into the same run. Zero: not at all.
    pub debounce: Duration,
    /// From the beginning of one run to that of the next at least. Zero: the next may begin at once.
    pub interval: Duration,
    /// The longest that a program may run.
    pub timeout: Duration,
    /// Whether what a program prints goes to the log.
    pub log_output: bool,
}

impl Config {
    /// What of it is done by the hands.
    pub fn job(&self) -> Job {
        Job {
            action: self.action.clone(),
            interval: self.interval,
            timeout: self.timeout,
            log_output: self.log_output,
        }
    }
}
