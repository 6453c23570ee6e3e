//! Owns the report of how a mount is: everything that `secretfs status` shows, and its JSON names.
//! Does not know how it is shown. Built from what is known already: it never waits, least of all for a backend.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Control;
use super::leases::{self, LeaseList};
use crate::cache::{Held, SourceState};
use crate::hooks::HookState;

/// A list of held secrets ends when it would be longer than this, in bytes.
const MAX_HELD: usize = 16 << 20;

/// How a mount is. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program that serves.
    pub program: String,
    /// The process that a user knows as the mount: whoever ends it ends the mount.
    pub pid: u32,
    /// The process that serves, as it sees itself.
    #[serde(default)]
    pub worker: u32,
    /// How many that served have crashed since the holder began.
    #[serde(default)]
    pub crashes: u64,
    /// When it was mounted.
    pub since: String,
    /// How long a program waits for a backend at most.
    pub deadline_seconds: f64,
    /// Every backend; `Target::backend` counts them.
    pub backends: Vec<BackendLine>,
    /// What is held.
    pub secrets: Totals,
    /// What is made on demand.
    #[serde(default)]
    pub leases: LeaseList,
    /// Whether inotify watchers are told of changes.
    pub watchers: Watchers,
    /// What the worker has given up for good, or should have.
    #[serde(default)]
    pub sandbox: Vec<Measure>,
    /// Every hook.
    pub hooks: Vec<HookLine>,
    /// What the worker has done since it began.
    pub counters: BTreeMap<String, u64>,
    /// Each held secret, when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldList>,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendLine {
    /// Its name in the configuration.
    pub name: String,
    /// `vault`, `aws` or `store`.
    pub kind: String,
    /// Whether it answered the last time it was asked; true before it was ever asked.
    pub answers: bool,
    /// Since when it does not, where that is known.
    pub silent_since: Option<String>,
    /// What went wrong the last time that something did.
    pub last_error: Option<String>,
    /// When it is asked again by itself, where it is left alone for now.
    pub asked_again_in_seconds: Option<f64>,
}

/// What is held of all backends together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Secrets.
    pub held: usize,
    /// Of these, used of late, so that they are refreshed ahead.
    pub in_use: usize,
    /// Of these, past their TTL.
    pub stale: usize,
    /// Bytes of all values and names.
    pub bytes: usize,
}

/// Whether inotify watchers are told of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchers {
    /// They are.
    pub told: bool,
    /// Why not, and what to do.
    pub why_not: Option<String>,
}

/// One measure of the worker's sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// As docs/threat-model.md calls it.
    pub name: String,
    /// It is in force.
    pub holds: bool,
    /// Why not.
    pub why_not: Option<String>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookLine {
    /// What the configuration calls it, or what it does.
    pub name: String,
    /// In a word or two: `idle`, `running`, `waiting`.
    pub state: String,
    /// How often it has run.
    pub runs: u64,
    /// How often that failed.
    pub failures: u64,
    /// When it ran the last time.
    pub last_run: Option<String>,
    /// Why the last run failed; `None` when it did not.
    pub last_error: Option<String>,
}

/// The secrets that are held, or as many as fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldList {
    /// By path.
    pub secrets: Vec<HeldLine>,
    /// How many are held beside these.
    pub left_out: usize,
}

/// One secret that is held. Never its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldLine {
    /// Where the mount shows it, from its root: once for each tree over it.
    pub paths: Vec<String>,
    /// The name of its backend.
    pub backend: String,
    /// Where in the backend.
    pub backend_path: String,
    /// The backend's version; empty where it has none.
    pub version: String,
    /// When the backend was asked.
    pub fetched: String,
    /// When it may no longer be served.
    pub expires: String,
    /// Past its TTL.
    pub stale: bool,
    /// Used of late, so that it is refreshed ahead.
    pub in_use: bool,
    /// Bytes of its values and names.
    pub bytes: usize,
}

/// A time as every answer spells it.
pub fn spelled(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// How the mount is now.
pub(super) fn of(control: &Control, with_secrets: bool, with_lease_ids: bool) -> Status {
    let held = control.cache.held();
    let totals = Totals {
        held: held.len(),
        in_use: held.iter().filter(|held| held.in_use).count(),
        stale: held.iter().filter(|held| held.stale).count(),
        bytes: held.iter().map(|held| held.bytes).sum(),
    };
    let sources = control.cache.source_states();
    let list = with_secrets.then(|| held_list(control, &sources, &held));
    let watchers = (control.watchers)();
    Status {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        pid: control.process,
        worker: std::process::id(),
        crashes: control.crashes,
        since: spelled(control.since),
        deadline_seconds: control.deadline.as_secs_f64(),
        backends: sources.iter().map(backend_line).collect(),
        secrets: totals,
        leases: leases::list(control, with_lease_ids),
        watchers: Watchers { told: watchers.is_ok(), why_not: watchers.err() },
        sandbox: control.sandbox.clone(),
        hooks: (control.hooks)(),
        counters: control
            .cache
            .counters()
            .all()
            .into_iter()
            .map(|(name, _, n)| (name.to_owned(), n))
            .collect(),
        held: list,
    }
}

impl From<HookState> for HookLine {
    fn from(state: HookState) -> Self {
        let now = match (state.running, state.waiting) {
            (true, _) => "running",
            (false, true) => "waiting",
            (false, false) => "idle",
        };
        Self {
            name: format!("{} for {}", state.what, state.patterns.join(", ")),
            state: now.to_owned(),
            runs: state.runs,
            failures: state.failures,
            last_run: state.last_run.map(spelled),
            last_error: state.last_outcome.filter(|_| state.last_failed),
        }
    }
}

fn backend_line(state: &SourceState) -> BackendLine {
    BackendLine {
        name: state.name.clone(),
        kind: state.kind.to_string(),
        answers: state.answers,
        silent_since: state.silent_since.map(spelled),
        last_error: state.last_error.as_ref().map(ToString::to_string),
        asked_again_in_seconds: state.asked_again_in.map(|wait| wait.as_secs_f64()),
    }
}

fn held_list(control: &Control, sources: &[SourceState], held: &[Held]) -> HeldList {
    let mut room = MAX_HELD;
    let mut secrets = Vec::new();
    for held in held {
        let paths = control.trees.paths_of(&held.of).into_iter().map(|(_, names)| names.join("/"));
        let line = HeldLine {
            paths: paths.collect(),
            backend: sources
                .get(held.of.source.index())
                .map_or_else(String::new, |source| source.name.clone()),
            backend_path: held.of.path.to_string(),
            version: held.version.to_string(),
            fetched: spelled(held.fetched),
            expires: spelled(held.expires),
            stale: held.stale,
            in_use: held.in_use,
            bytes: held.bytes,
        };
        // Names, times, and what JSON needs around them.
        let size = line.paths.iter().map(String::len).sum::<usize>() + line.backend_path.len() + 320;
        let Some(left) = room.checked_sub(size) else { break };
        room = left;
        secrets.push(line);
    }
    let left_out = held.len() - secrets.len();
    secrets.sort();
    HeldList { secrets, left_out }
}
