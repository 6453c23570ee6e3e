//! Owns names: where each tree hangs in the mount, what an inode number stands for, how names are spelled.
//! Does not know values, what is held of them or the kernel's requests; it is pure.

pub mod edition;
pub mod inode;
pub mod journal;
pub mod name;
pub mod promises;
pub mod shown;

use std::ffi::OsStr;
use std::sync::{Arc, OnceLock};

use crate::access::Permissions;
use crate::cache::SecretRef;
use crate::freshness::Freshness;
use crate::lease::Terms;
use crate::path::BackendPath;
use name::Decoded;
use promises::Promises;

/// A part of the mount that shows one place of one backend.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Directory names from the root of the mount; empty when the tree is the whole mount.
    pub at: Vec<String>,
    /// The place in the backend.
    pub root: SecretRef,
    /// Owner and mode of everything in it.
    pub permissions: Permissions,
    /// What the root is.
    pub shows: Shows,
    /// The names of the fields of secrets that are made on demand, where the configuration says them.
    pub fields: Option<Arc<[String]>>,
    /// What the configuration says of leases in it.
    pub terms: Terms,
}

/// What a tree shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shows {
    /// All that lies at and below a place; the backend says whether it is kept there or made on demand.
    #[default]
    Place,
    /// One secret, which is made on demand.
    Secret,
}

impl Tree {
    /// All that lies at and below `root`, shown at `at`.
    pub fn of_place(at: Vec<String>, root: SecretRef, permissions: Permissions) -> Self {
        Self { at, root, permissions, shows: Shows::Place, fields: None, terms: Terms::default() }
    }
}

/// Which of the mount's trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeId(pub usize);

/// The trees of a mount, none of them inside another (configuration refuses that), what is promised of their ages, and, once that
/// is known, whether their secrets are made on demand.
#[derive(Debug, Clone)]
pub struct Trees(Vec<Tree>, Promises, Arc<[OnceLock<bool>]>);

/// What hangs at a path above or at the roots of trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hanging {
    /// The root of a tree.
    Tree(TreeId),
    /// A directory that only leads to trees.
    Junction,
}

impl Trees {
    /// All trees of a mount.
    pub fn new(trees: Vec<Tree>) -> Self {
        let on_demand = |tree: &Tree| match tree.shows {
            Shows::Secret => OnceLock::from(true),
            Shows::Place => OnceLock::new(),
        };
        let on_demand = trees.iter().map(on_demand).collect();
        Self(trees, Promises::default(), on_demand)
    }

    /// The same trees with other promises.
    #[must_use]
    pub fn with_promises(self, promises: Promises) -> Self {
        Self(self.0, promises, self.2)
    }

    /// Notes whether the secrets of a tree are made on demand, for all copies of these trees. What was noted first stands.
    pub fn note_on_demand(&self, id: TreeId, on_demand: bool) {
        if let Some(known) = self.2.get(id.0) {
            let _ = known.set(on_demand);
        }
    }

    /// Whether the secrets of a tree are made on demand; `None` where nobody has noted that yet.
    pub fn is_on_demand(&self, id: TreeId) -> Option<bool> {
        self.2.get(id.0)?.get().copied()
    }

    /// What is promised in this mount.
    pub fn promises(&self) -> &Promises {
        &self.1
    }

    /// How old the answers about a secret or folder may be, so that no place that shows it is older than it promises. Of
    /// an older version that is what its secret has. Costs one look at each tree.
    pub fn freshness_of(&self, of: &SecretRef) -> Freshness {
        let places = self.paths_of(&of.newest());
        let promised = places.into_iter().map(|(tree, path)| self.1.at(tree, &path.join("/")));
        promised.reduce(promises::stricter).unwrap_or_else(|| self.1.of_mount())
    }

    /// What is said of a lease: where several places show it, its successor comes as early and it is kept as long as any of
    /// them says.
    pub fn terms_of(&self, of: &SecretRef) -> Terms {
        let places = self.paths_of(&of.newest());
        let said = places.into_iter().filter_map(|(tree, _)| self.get(tree)).map(|tree| tree.terms);
        said.reduce(|one, other| Terms {
            overlap: one.overlap.into_iter().chain(other.overlap).max(),
            idle_revoke: one.idle_revoke.zip(other.idle_revoke).map(|(one, other)| one.max(other)),
        })
        .unwrap_or_default()
    }

    /// One tree; `None` for an id of another mount.
    pub fn get(&self, id: TreeId) -> Option<&Tree> {
        self.0.get(id.0)
    }

    /// What hangs at `path` (names from the root of the mount); `None` below a tree or beside all.
    pub fn at(&self, path: &[String]) -> Option<Hanging> {
        if let Some(id) = self.0.iter().position(|tree| tree.at == path) {
            return Some(Hanging::Tree(TreeId(id)));
        }
        self.0.iter().any(|tree| tree.at.starts_with(path)).then_some(Hanging::Junction)
    }

    /// Every path in the mount, as file names from its root, at which a secret or folder is shown: one for each tree over
    /// it. Of an older version that is the directory below `.versions`. A tree of kept secrets does not show what another one has
    /// as made on demand.
    pub fn paths_of(&self, of: &SecretRef) -> Vec<(TreeId, Vec<String>)> {
        let shown = self.0.iter().enumerate();
        let shown = shown.filter(|(_, tree)| (tree.root.source, tree.root.demand) == (of.source, of.demand));
        let paths = shown.filter_map(|(id, tree)| {
            let below = of.path.strip_prefix(&tree.root.path)?;
            // One secret has nothing below it.
            if tree.shows == Shows::Secret && !below.is_root() {
                return None;
            }
            let names = tree.at.iter().cloned().chain(below.segments().map(name::encode));
            let version = of.version.iter().map(|version| name::encode(version.as_str()));
            let version = version.flat_map(|version| [name::VERSIONS.to_owned(), version]);
            Some((TreeId(id), names.chain(version).collect()))
        });
        let mut paths: Vec<(TreeId, Vec<String>)> = paths.collect();
        if paths.iter().any(|(tree, _)| self.is_on_demand(*tree) == Some(true)) {
            paths.retain(|(tree, _)| self.is_on_demand(*tree) != Some(false));
        }
        paths
    }

    /// The secret or folder that a path (file names from the root of the mount) leads to, without asking whether it is
    /// there; `None` above and beside all trees, and where a name does not say what it stands for.
    pub fn secret_at(&self, path: &[String]) -> Option<SecretRef> {
        let tree = self.0.iter().find(|tree| path.starts_with(&tree.at))?;
        let below = path.get(tree.at.len()..)?.iter();
        let path =
            below.map(|name| name::decode(OsStr::new(name))).try_fold(tree.root.path.clone(), child)?;
        Some(tree.root.at(path))
    }

    /// The names in the junction at `path`, sorted, each once.
    pub fn names_in(&self, path: &[String]) -> Vec<String> {
        let below = self.0.iter().filter(|tree| tree.at.starts_with(path));
        let mut names: Vec<_> = below.filter_map(|tree| tree.at.get(path.len()).cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Owner and mode of a junction: of the first tree it leads to, searchable for everybody (what lies in the trees
    /// has modes of its own).
    pub fn junction_owner(&self, path: &[String]) -> (u32, u32) {
        let first = self.0.iter().find(|tree| tree.at.starts_with(path));
        first.map_or((0, 0), |tree| (tree.permissions.uid, tree.permissions.gid))
    }
}

fn child(above: BackendPath, name: Option<Decoded>) -> Option<BackendPath> {
    match name? {
        Decoded::Exact(name) => above.child(&name).ok(),
        Decoded::Shortened => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::time::Duration;

    use super::*;
    use crate::cache::SourceId;
    use crate::pattern::Pattern;
    use crate::secret::Version;

    fn trees(paths: &[&[&str]]) -> Trees {
        let tree = |path: &&[&str]| {
            Tree::of_place(
                path.iter().map(|s| (*s).to_owned()).collect(),
                SecretRef::current(SourceId(0), BackendPath::root()),
                Permissions { uid: 1, gid: 2, file_mode: 0o400 },
            )
        };
        Trees::new(paths.iter().map(tree).collect())
    }

    #[test]
    fn a_single_tree_can_be_the_whole_mount() {
        assert_eq!(trees(&[&[]]).at(&[]), Some(Hanging::Tree(TreeId(0))));
    }

    #[test]
    fn a_secret_is_shown_wherever_a_tree_is_over_it() {
        let mut trees = trees(&[&["all"], &["team"]]);
        trees.0[1].root.path = BackendPath::parse("team").unwrap();
        let of = |path: &str| SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap());
        let paths = |of: &SecretRef| -> Vec<String> {
            trees.paths_of(of).into_iter().map(|(_, names)| names.join("/")).collect()
        };
        assert_eq!(paths(&of("team/a%2F")), ["all/team/a%252F", "team/a%252F"]);
        assert_eq!(paths(&of("b")), ["all/b"]);
        let old = SecretRef { version: Some(Version::new("3")), ..of("b") };
        assert_eq!(paths(&old), ["all/b/.versions/3"]);
        let odd = SecretRef { version: Some(Version::new("a/..")), ..of("b") };
        assert_eq!(paths(&odd), ["all/b/.versions/a%2F.."]);
        assert!(paths(&SecretRef { source: SourceId(1), ..of("b") }).is_empty());
    }

    #[test]
    fn what_is_made_on_demand_is_not_shown_by_a_tree_of_kept_secrets_nor_bound_by_its_terms() {
        let mut trees = trees(&[&["all"], &["db"], &["roles"]]);
        let path = |path: &str| BackendPath::parse(path).unwrap();
        let idle_revoke = Some(Duration::from_secs(60));
        trees.0[1] = Tree {
            shows: Shows::Secret,
            terms: Terms { idle_revoke, ..Terms::default() },
            ..trees.0[1].clone()
        };
        trees.0[1].root.path = path("database/creds/app");
        trees.0[2].root.path = path("database/creds");
        trees.0[2].terms.idle_revoke = idle_revoke;
        let trees = Trees::new(trees.0);
        let copy = trees.clone();
        let app = SecretRef::current(SourceId(0), path("database/creds/app"));
        let shown = |of: &SecretRef| -> Vec<String> {
            copy.paths_of(of).into_iter().map(|(_, names)| names.join("/")).collect()
        };
        assert_eq!(copy.terms_of(&app).idle_revoke, None, "nothing is known of the first");
        trees.note_on_demand(TreeId(0), false);
        trees.note_on_demand(TreeId(2), true);
        assert_eq!(shown(&app), ["db", "roles/app"]);
        assert_eq!(copy.terms_of(&app).idle_revoke, idle_revoke);
        assert_eq!(shown(&app.at(path("kv/a"))), ["all/kv/a"]);
        assert_eq!(
            shown(&app.at(path("database/creds/app/x"))),
            ["roles/app/x"],
            "nothing lies below a secret"
        );
    }

    #[test]
    fn a_path_leads_back_to_its_secret() {
        let mut trees = trees(&[&["all"], &["team"]]);
        trees.0[1].root.path = BackendPath::parse("secret/team").unwrap();
        let at = |path: &str| trees.secret_at(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
        let of = |path: &str| Some(SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap()));
        assert_eq!(at("team/a"), of("secret/team/a"));
        assert_eq!(at("all/a%252F"), of("a%2F"));
        assert_eq!(at("team"), of("secret/team"));
        assert_eq!(at("other/a"), None);
        assert_eq!(at("team/%61"), None);
        assert_eq!(trees.secret_at(&[]), None);
    }

    #[test]
    fn a_secret_that_is_shown_twice_keeps_both_promises() {
        let promise = |ttl, max_stale| promises::Promise {
            ttl: Some(Duration::from_secs(ttl)),
            max_stale: Some(Duration::from_secs(max_stale)),
        };
        let mut trees = trees(&[&["all"], &["team"]]);
        trees.0[1].root.path = BackendPath::parse("team").unwrap();
        let trees = trees.with_promises(
            Promises::new(
                Freshness::default(),
                vec![promise(10, 600), promise(20, 500)],
                vec![(Pattern::parse("/team/x").unwrap(), promise(5, 900))],
            )
            .unwrap(),
        );
        let of = |path: &str| SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap());
        let ages = |of: &SecretRef| {
            let freshness = trees.freshness_of(of);
            (freshness.ttl.as_secs(), freshness.max_stale.as_secs())
        };
        assert_eq!(ages(&of("a")), (10, 600));
        assert_eq!(ages(&of("team/a")), (10, 500));
        assert_eq!(ages(&of("team/x")), (5, 600));
        assert_eq!(ages(&SecretRef { version: Some(Version::new("3")), ..of("team/x") }), (5, 600));
        assert_eq!(ages(&SecretRef { source: SourceId(9), ..of("a") }), (60, 3600));
    }

    #[test]
    fn junctions_lead_to_trees_and_nowhere_else() {
        let trees = trees(&[&["apps", "db"], &["apps", "api"], &["local"]]);
        assert_eq!(trees.at(&[]), Some(Hanging::Junction));
        assert_eq!(trees.names_in(&[]), ["apps", "local"]);
        assert_eq!(trees.names_in(&["apps".into()]), ["api", "db"]);
        assert_eq!(trees.at(&["apps".into(), "db".into()]), Some(Hanging::Tree(TreeId(0))));
        assert_eq!(trees.at(&["other".into()]), None);
        assert_eq!(trees.junction_owner(&["apps".into()]), (1, 2));
    }
}
