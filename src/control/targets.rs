//! Owns what `refresh` and `flush` do to a mount: which secrets and listings a path stands for, asking for them, wiping.
//! Does not know who asks. It reads through no mount: a path is resolved as the kernel's lookups are, but here.

use std::collections::HashSet;
use std::ffi::OsString;

use futures_util::future::join_all;

use super::Control;
use super::leases::{self, Depth};
use super::protocol::{Found, MAX_PATH, Outcome, Refusal, RefusalKind, Reply, Target};
use crate::cache::{DemandId, Held, SecretRef, SourceId};
use crate::errno::Failure;
use crate::fs::RefsAt;
use crate::path::BackendPath;
use crate::secret::Version;

/// What `path` stands for: the secret of a file; the secret, the listing and the secrets directly below of a directory;
/// with `recursive` all that is held below, and the listings on the way there. Within the mount's deadline.
pub(super) async fn find(control: &Control, path: &str, recursive: bool) -> Reply {
    let found = tokio::time::timeout(control.deadline, find_now(control, path, recursive)).await;
    match found.unwrap_or(Err(Failure::DeadlinePassed)) {
        Ok(found) => Reply::Found(found),
        Err(failure) => {
            let errno = Some(failure.errno().name().to_owned());
            Reply::Refused(Refusal { kind: RefusalKind::Path, message: failure.to_string(), errno })
        }
    }
}

async fn find_now(control: &Control, path: &str, recursive: bool) -> Result<Found, Failure> {
    if path.len() > MAX_PATH {
        return Err(Failure::NameTooLong);
    }
    let texts: Vec<String> = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if let Some((id, tree)) = leases::tree_over(control, &texts)
        && leases::is_on_demand(control, tree).await == Some(true)
    {
        let depth = if recursive { Depth::All } else { Depth::Directly };
        return leases::in_tree(control, (id, tree), &texts, depth, &leased(control));
    }
    let names: Vec<OsString> = texts.iter().map(OsString::from).collect();
    let at = match control.fs.refs_at(&names).await {
        Err(denied) if denied.is_denial() => {
            look_again(control, &names).await;
            control.fs.refs_at(&names).await?
        }
        found => found?,
    };
    let held = control.cache.held();
    let mut targets = Targets { control, held: &held, asked: &names, found: vec![] };
    match at {
        RefsAt::File(of) => targets.add(of, false, false),
        RefsAt::Directory { of, secret, folder } => {
            targets.add(of.clone(), true, folder != Some(true));
            if secret != Some(false) {
                targets.add(of.clone(), false, secret.is_none());
            }
            targets.add_held(&of, recursive);
        }
        RefsAt::Junction(_) if recursive => {
            let leased = leased(control);
            for (id, tree) in leases::trees(control).filter(|(_, tree)| tree.at.starts_with(&texts)) {
                if leases::is_on_demand(control, tree).await == Some(true) {
                    targets.found.extend(leases::below_root(control, id, &texts, &leased));
                } else {
                    targets.add(tree.root.clone(), true, false);
                    targets.add_held(&tree.root, true);
                }
            }
        }
        // The cache has nothing to do with it.
        RefsAt::OnDemand(_) => return Err(Failure::NotSupported),
        RefsAt::Junction(_) => return Ok(Found::Junction),
    }
    Ok(Found::Targets(targets.once()))
}

/// What is made on demand and held.
fn leased(control: &Control) -> Vec<SecretRef> {
    control.leases.states().into_iter().map(|state| state.of).collect()
}

/// Before a name is denied: what is held of the directory that it should be in may be older than the name.
async fn look_again(control: &Control, names: &[OsString]) {
    let Some((_, above)) = names.split_last() else { return };
    if let Ok(RefsAt::Directory { of, secret, folder }) = control.fs.refs_at(above).await {
        if secret != Some(false) {
            let _ = control.cache.refresh(&of).await;
        }
        if folder != Some(false) {
            let _ = control.cache.refresh_listing(&of).await;
        }
    }
}

struct Targets<'a> {
    control: &'a Control,
    held: &'a [Held],
    /// What was asked about: of several places that show a secret the one in line with it is told.
    asked: &'a [OsString],
    found: Vec<Target>,
}

impl Targets<'_> {
    fn add(&mut self, of: SecretRef, listing: bool, maybe: bool) {
        let held = self.held.iter().find(|held| !listing && held.of == of);
        let held = held.map(|held| held.version.to_string());
        self.push(of, listing, maybe, held);
    }

    /// The secrets that are held at or directly below a folder, or all below it with the folders between.
    fn add_held(&mut self, folder: &SecretRef, recursive: bool) {
        let mut between = HashSet::new();
        for held in self.held.iter().filter(|held| held.of.source == folder.source) {
            let Some(below) = held.of.path.strip_prefix(&folder.path) else { continue };
            let depth = below.segments().count();
            if depth > 1 && !recursive {
                continue;
            }
            self.push(held.of.clone(), false, false, Some(held.version.to_string()));
            let mut way = held.of.path.split_last();
            for _ in 1..depth {
                let Some((above, _)) = way else { break };
                way = above.split_last();
                if !between.insert(above.clone()) {
                    break;
                }
                // Where credentials may not list, its secrets are still refreshed.
                self.push(folder.at(above), true, true, None);
            }
        }
    }

    fn push(&mut self, of: SecretRef, listing: bool, maybe: bool, held: Option<String>) {
        let paths = self.control.trees.paths_of(&of);
        let asked = paths.iter().find(|(_, names)| in_line(names, self.asked)).or(paths.first());
        let path = asked.map(|(_, names)| names.join("/")).unwrap_or_default();
        self.found.push(Target {
            backend: of.source.index(),
            demand: of.demand.0,
            segments: of.path.segments().map(str::to_owned).collect(),
            version: of.version.map(|version| version.to_string()),
            listing,
            path,
            held,
            maybe,
        });
    }

    /// Each once, the surest first, in the order of paths.
    fn once(self) -> Vec<Target> {
        let mut found = self.found;
        found.sort_by(|a, b| {
            let key = |target: &Target| (target.path.clone(), !target.listing, target.maybe);
            key(a).cmp(&key(b))
        });
        let mut seen = HashSet::new();
        found.retain(|target| {
            let Target { backend, demand, segments, version, listing, .. } = target;
            seen.insert((*backend, *demand, segments.clone(), version.clone(), *listing))
        });
        found
    }
}

/// Whether one of the two lies at or below the other.
fn in_line(names: &[String], asked: &[OsString]) -> bool {
    names.iter().zip(asked).all(|(name, asked)| name.as_str() == asked)
}

/// Asks for all of these now, each within the mount's deadline.
///
/// When this returns, the next open of a refreshed secret sees the version that is told. The cache has published the
/// change by then, so that the kernel being told to forget attributes, watchers and hooks are on their way; the kernel may
/// show the old size and time for the second that it keeps attributes for at most.
pub(super) async fn refresh(control: &Control, targets: Vec<Target>) -> Vec<Outcome> {
    let refresh_one = async |target: Target| {
        let refreshed = tokio::time::timeout(control.deadline, refresh_now(control, target));
        refreshed
            .await
            .unwrap_or(Err(Failure::DeadlinePassed))
            .unwrap_or_else(|failure| Outcome::failed(&failure))
    };
    join_all(targets.into_iter().map(refresh_one)).await
}

async fn refresh_now(control: &Control, target: Target) -> Result<Outcome, Failure> {
    let listing = target.listing;
    let of = asked_for(control, target)?;
    if listing {
        return Ok(Outcome::Names(control.cache.refresh_listing(&of).await?.entries().len()));
    }
    if leases::is_made_on_demand(control, &of).await {
        return leases::replace(control, &of).await;
    }
    Ok(Outcome::Version(control.cache.refresh(&of).await?.secret.version.to_string()))
}

/// What a target names. Who may use the socket may still not ask the backend for what the mount does not show.
///
/// # Errors
/// The mount does not show it.
pub(super) fn asked_for(control: &Control, target: Target) -> Result<SecretRef, Failure> {
    let of = SecretRef {
        source: SourceId::new(target.backend),
        demand: DemandId(target.demand),
        path: BackendPath::from_segments(target.segments).map_err(|_| Failure::NoEntry)?,
        version: target.version.map(Version::new),
    };
    if control.trees.paths_of(&of).is_empty() { Err(Failure::NoEntry) } else { Ok(of) }
}

/// Wipes every value that is held. Open files keep theirs; so does what is made on demand: wiped it would still live, and
/// be of use to nobody.
pub(super) fn flush(control: &Control) -> Reply {
    let held = control.cache.held();
    control.fs.flush();
    let leases = control.leases.counts().iter().map(|count| count.held).sum();
    Reply::Flushed { secrets: held.len(), bytes: held.iter().map(|held| held.bytes).sum(), leases }
}
