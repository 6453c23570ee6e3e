//! Owns what is told of leases over the control socket and done about them: which of them a path stands for, and their end.
//! Does not know who asks. It looks at what is held and at the names of the configuration, so it makes nothing.

use std::time::SystemTime;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::Control;
use super::protocol::{Found, MAX_PATH, Outcome, Refusal, RefusalKind, Reply, Target};
use super::status::spelled;
use super::targets::asked_for;
use crate::cache::SecretRef;
use crate::errno::Failure;
use crate::leases::LeaseState;
use crate::tree::{Shows, Tree, TreeId, name};

/// A list of leases ends when it would be longer than this, in bytes.
const MAX_LIST: usize = 16 << 20;
/// What is further away than this never comes, in seconds: a hundred years.
const NEVER: f64 = 100.0 * 365.0 * 86400.0;
/// Below this in a secret's directory lie files of its predecessor.
const PREVIOUS: &str = ".previous";

/// The leases that a mount holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseList {
    /// How many, by backend, of those that make secrets on demand.
    pub totals: Vec<LeaseTotal>,
    /// Each, by path, or as many as fit.
    pub leases: Vec<LeaseLine>,
    /// How many are held beside these.
    pub left_out: usize,
}

/// How many leases of one backend there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTotal {
    /// The name of the backend.
    pub backend: String,
    /// How many secrets are held. Predecessors are not counted.
    pub held: usize,
    /// As many may be (`max_leases`); one more cannot be opened.
    pub max_leases: usize,
    /// Leases that no file shows any more and that live: ended when the mount ends, or by themselves before that.
    pub set_aside: usize,
}

/// One secret that was made on demand. Never its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseLine {
    /// Where the mount shows it, from its root: once for each tree over it.
    pub paths: Vec<String>,
    /// The name of its backend.
    pub backend: String,
    /// Where in the backend.
    pub backend_path: String,
    /// The last segment of that.
    pub role: String,
    /// In which way it is asked for: 0 the plain one, others in the order of the configuration.
    pub demand: u32,
    /// When it was made.
    pub made: String,
    /// When it ends, unless it is renewed; `None`: never.
    pub ends: Option<String>,
    /// What is done next: `renew`, `replace`, `revoke` or `forget`, or what is being done: `being replaced` and the like.
    pub next: String,
    /// In how many seconds; `None`: never.
    pub next_in_seconds: Option<f64>,
    /// How many tries in a row have failed.
    pub failures: u32,
    /// Whether its predecessor is still good.
    pub previous: bool,
    /// Whether it is good. What is not is not served.
    pub good: bool,
    /// What the backend calls its lease, where that was asked for and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ShownId>,
}

/// What a backend calls a lease, to be shown to who asked for it and to nobody else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShownId(pub String);

impl std::fmt::Debug for ShownId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShownId(..)")
    }
}

/// All that is known of leases now.
pub(super) fn list(control: &Control, with_ids: bool) -> LeaseList {
    let totals = control.leases.counts().into_iter().map(|count| LeaseTotal {
        backend: backend_name(control, count.source.index()),
        held: count.held,
        max_leases: count.max_leases,
        set_aside: count.set_aside,
    });
    let states = control.leases.states();
    let mut room = MAX_LIST;
    let mut leases: Vec<LeaseLine> = Vec::new();
    for state in &states {
        let line = line(control, state, with_ids);
        // Names, times, and what JSON needs around them.
        let names = line.paths.iter().map(String::len).sum::<usize>() + 2 * line.backend_path.len();
        let size = names + line.id.as_ref().map_or(0, |id| id.0.len()) + 400;
        let Some(left) = room.checked_sub(size) else { break };
        room = left;
        leases.push(line);
    }
    let left_out = states.len() - leases.len();
    leases.sort_by(|a, b| (&a.paths, &a.backend_path).cmp(&(&b.paths, &b.backend_path)));
    LeaseList { totals: totals.collect(), leases, left_out }
}

fn line(control: &Control, state: &LeaseState, with_ids: bool) -> LeaseLine {
    let of = &state.of;
    let next_in = state.next_in.as_secs_f64();
    LeaseLine {
        paths: control.trees.paths_of(of).into_iter().map(|(_, names)| names.join("/")).collect(),
        backend: backend_name(control, of.source.index()),
        backend_path: of.path.to_string(),
        role: of.path.segments().last().unwrap_or_default().to_owned(),
        demand: of.demand.0,
        made: spelled(state.made),
        ends: state.ends.filter(|end| is_a_date(*end)).map(spelled),
        next: state.next.to_owned(),
        next_in_seconds: (next_in < NEVER).then_some(next_in),
        failures: state.failures,
        previous: state.has_previous,
        good: state.good,
        id: state.id.as_ref().filter(|_| with_ids).map(|id| ShownId(id.as_str().to_owned())),
    }
}

fn backend_name(control: &Control, index: usize) -> String {
    let source = control.cache.source(crate::cache::SourceId::new(index));
    source.map_or_else(String::new, |source| source.name.clone())
}

/// Whether a calendar has it.
fn is_a_date(time: SystemTime) -> bool {
    time.duration_since(SystemTime::now()).map_or(true, |wait| wait.as_secs_f64() < NEVER)
}

/// What of a path a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The secret itself.
    Itself,
    /// And those directly below.
    Directly,
    /// And all below.
    All,
}

/// The leases that `path` stands for, to be ended. Of what is made on demand and not held it is the path itself.
pub(super) async fn find(control: &Control, path: &str, recursive: bool) -> Reply {
    let held = control.leases.revocable();
    let depth = if recursive { Depth::All } else { Depth::Itself };
    match find_now(control, path, depth, &held).await {
        Ok(found) => Reply::Found(found),
        Err(failure) => {
            let errno = Some(failure.errno().name().to_owned());
            Reply::Refused(Refusal { kind: RefusalKind::Path, message: failure.to_string(), errno })
        }
    }
}

async fn find_now(control: &Control, path: &str, depth: Depth, held: &[SecretRef]) -> Result<Found, Failure> {
    if path.len() > MAX_PATH {
        return Err(Failure::NameTooLong);
    }
    let names: Vec<String> = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if let Some((id, tree)) = tree_over(control, &names) {
        let found = in_tree(control, (id, tree), &names, depth, held)?;
        let nothing = matches!(&found, Found::Targets(targets) if targets.iter().all(|it| it.held.is_none()));
        return Ok(if nothing && !may_be_on_demand(control, tree).await { Found::Kept } else { found });
    }
    match control.trees.at(&names) {
        None => Err(Failure::NoEntry),
        Some(_) if depth != Depth::All => Ok(Found::Junction),
        Some(_) => {
            let below = trees(control).filter(|(_, tree)| tree.at.starts_with(&names));
            Ok(Found::Targets(below.flat_map(|(id, _)| below_root(control, id, &names, held)).collect()))
        }
    }
}

/// Which of `held` lie at and below `names` in a tree whose secrets are made on demand.
///
/// # Errors
/// There cannot be such a file.
pub(super) fn in_tree(
    control: &Control,
    (id, tree): (TreeId, &Tree),
    names: &[String],
    depth: Depth,
    held: &[SecretRef],
) -> Result<Found, Failure> {
    let (mut here, mut below, mut deeper) = (Vec::new(), Vec::new(), false);
    for (of, shown) in shown_in(control, id, held) {
        match (shown.strip_prefix(names), names.strip_prefix(shown.as_slice())) {
            (Some([]), _) => here.push(target(control, of, shown, true)),
            (Some([_]), _) if depth != Depth::Itself => below.push(target(control, of, shown, true)),
            (Some(_), _) if depth == Depth::All => below.push(target(control, of, shown, true)),
            (Some(_), _) => deeper = true,
            (_, Some(file)) if is_file_of(control, of, file) => here.push(target(control, of, shown, true)),
            (_, Some(_)) if tree.shows == Shows::Secret => return Err(Failure::NoEntry),
            _ => {}
        }
    }
    here.append(&mut below);
    if !here.is_empty() {
        return Ok(Found::Targets(here));
    }
    if deeper {
        return Ok(Found::Folder);
    }
    // Every file of it stands for the one secret.
    if tree.shows == Shows::Secret {
        return Ok(Found::Targets(vec![target(control, &tree.root, tree.at.clone(), false)]));
    }
    let of = control.trees.secret_at(names).ok_or(Failure::NoEntry)?;
    Ok(Found::Targets(vec![target(control, &of, names.to_vec(), false)]))
}

/// Those of `held` that a tree shows at or below `names`.
pub(super) fn below_root(control: &Control, id: TreeId, names: &[String], held: &[SecretRef]) -> Vec<Target> {
    let shown = shown_in(control, id, held).into_iter().filter(|(_, shown)| shown.starts_with(names));
    shown.map(|(of, shown)| target(control, of, shown, true)).collect()
}

/// Where one tree shows what of these.
fn shown_in<'a>(control: &Control, id: TreeId, held: &'a [SecretRef]) -> Vec<(&'a SecretRef, Vec<String>)> {
    let shown = held.iter().filter_map(|of| {
        let places = control.trees.paths_of(of);
        places.into_iter().find(|(tree, _)| *tree == id).map(|(_, names)| (of, names))
    });
    shown.collect()
}

/// The tree that a path lies in.
pub(super) fn tree_over<'a>(control: &'a Control, names: &[String]) -> Option<(TreeId, &'a Tree)> {
    trees(control).find(|(_, tree)| names.starts_with(&tree.at))
}

/// All trees of the mount.
pub(super) fn trees(control: &Control) -> impl Iterator<Item = (TreeId, &Tree)> {
    (0..).map(TreeId).map_while(|id| Some((id, control.trees.get(id)?)))
}

/// Whether what a tree shows is made on demand. Asks the backend once, within the mount's deadline; `None`: it does not say.
pub(super) async fn is_on_demand(control: &Control, tree: &Tree) -> Option<bool> {
    if tree.shows == Shows::Secret {
        return Some(true);
    }
    let asked = tokio::time::timeout(control.deadline, control.leases.is_on_demand(&tree.root));
    asked.await.ok()?.ok()
}

/// Where nobody says, nothing is denied: that nothing is held is true in any case.
async fn may_be_on_demand(control: &Control, tree: &Tree) -> bool {
    is_on_demand(control, tree).await.unwrap_or(true)
}

/// Whether any tree that shows a secret makes it on demand.
pub(super) async fn is_made_on_demand(control: &Control, of: &SecretRef) -> bool {
    for (id, _) in control.trees.paths_of(of) {
        let Some(tree) = control.trees.get(id) else { continue };
        if is_on_demand(control, tree).await == Some(true) {
            return true;
        }
    }
    false
}

/// Whether `names` lead to a file in the directory of a secret that is held.
fn is_file_of(control: &Control, of: &SecretRef, names: &[String]) -> bool {
    let is_file = |file: &String| {
        let held = [control.leases.current(of), control.leases.previous(of)];
        // Which files it had is not known any more.
        if held.iter().all(Option::is_none) {
            return true;
        }
        let mut fields = held.iter().flatten().flat_map(|held| &held.secret.fields);
        name::RESERVED.contains(&file.as_str()) || fields.any(|field| name::encode(&field.name) == *file)
    };
    match names {
        [file] => is_file(file),
        [previous, file] => previous == PREVIOUS && is_file(file),
        _ => false,
    }
}

fn target(control: &Control, of: &SecretRef, shown: Vec<String>, is_held: bool) -> Target {
    let version = control.leases.current(of).map(|held| held.secret.version.to_string());
    Target {
        backend: of.source.index(),
        demand: of.demand.0,
        segments: of.path.segments().map(str::to_owned).collect(),
        version: None,
        listing: false,
        path: shown.join("/"),
        held: version.or(is_held.then(String::new)),
        maybe: false,
    }
}

/// Ends these now, each within the mount's deadline.
pub(super) async fn revoke(control: &Control, targets: Vec<Target>) -> Vec<Outcome> {
    let states = control.leases.states();
    let revoke_one = async |target: Target| {
        let revoked = revoke_now(control, &states, target).await;
        revoked.unwrap_or_else(|failure| Outcome::failed(&failure))
    };
    join_all(targets.into_iter().map(revoke_one)).await
}

async fn revoke_now(control: &Control, states: &[LeaseState], target: Target) -> Result<Outcome, Failure> {
    let of = asked_for(control, target)?;
    let state = states.iter().find(|state| state.of == of);
    let revoked = tokio::time::timeout(control.deadline, control.leases.revoke(&of)).await;
    Ok(match revoked.map_err(|_| Failure::DeadlinePassed)?? {
        None => Outcome::NoLease,
        Some(revoked) if !revoked.only_forgotten => Outcome::Revoked(revoked.leases),
        // Ended before it was asked for.
        Some(_) if state.is_none_or(|state| !state.good) => Outcome::NoLease,
        Some(_) => Outcome::Forgotten {
            until: state.and_then(|state| state.ends).filter(|end| is_a_date(*end)).map(spelled),
        },
    })
}

/// The successor of a secret that is made on demand and held.
///
/// # Errors
/// What an open would fail with.
pub(super) async fn replace(control: &Control, of: &SecretRef) -> Result<Outcome, Failure> {
    if !control.leases.states().iter().any(|state| state.of == *of) {
        return Ok(Outcome::NotHeld);
    }
    Ok(Outcome::Lease(control.leases.replace(of).await?.secret.version.to_string()))
}

#[cfg(test)]
mod tests;
