//! Owns what the mount shows: lookup, attributes, open, read, directories, as plain functions on plain structs.
//! Does not know FUSE, the network or any backend's protocol.
//!
//! Every function that may have to wait is async and is ready at once when the cache has the answer.

mod directory;
mod explain;
mod hand_over;
mod handles;
mod inherited;
mod on_demand;
mod pairs;
mod pin;
mod refs;
mod resolve;
mod touch;
mod watched;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::access::Permissions;
use crate::cache::{SecretCache, SecretRef, Snapshot};
use crate::errno::Failure;
use crate::leases::Leases;
use crate::render::{self, Meta, Standing, View};
use crate::secret::{Secret, SecretBytes};
use crate::tree::inode::{INodeNo, INodeTable, Node, Place};
use crate::tree::journal::Journal;
use crate::tree::{Hanging, TreeId, Trees};
pub use directory::{DirEntry, DirListing};
use handles::Handles;
pub use handles::{CarriedFiles, CarriedHandle, Epoch, Handle, HandleNo, Numbers};
use on_demand::OnDemand;
pub use pairs::PAIR_WINDOW;
use pairs::Pairs;
pub use refs::RefsAt;
use resolve::Part;
pub use touch::{Known, Touch};

/// What kind of thing an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
}

/// What stat(2) shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub ino: INodeNo,
    /// Directory or file.
    pub kind: Kind,
    /// Exact size in bytes; 0 for directories.
    pub size: u64,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When this version was created; when the mount began, where there is none.
    pub mtime: SystemTime,
    /// Whether the kernel may keep them for all who ask: not while two threads have two versions of the file open.
    pub lasting: bool,
}

/// The thread that makes a request (`pid` of fuse_in_header, linux/fuse.h): 0 when it cannot be seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller(pub u32);

/// An opened file.
#[derive(Debug)]
pub struct Opened {
    /// The handle for read and release.
    pub handle: HandleNo,
    /// The kernel may hold the attributes of another version: it must be told to forget them before this open returns.
    pub attributes_changed: bool,
    /// The kernel takes the file for empty, and this is its size: sendfile(2) and mmap(2) go by what the kernel knows.
    pub grown: Option<u64>,
}

/// The filesystem of one mount.
pub struct SecretFs {
    trees: Trees,
    cache: Arc<SecretCache>,
    on_demand: OnDemand,
    inodes: INodeTable,
    handles: Handles,
    pairs: Arc<Pairs>,
    max_value_size: usize,
    mounted: SystemTime,
}

impl SecretFs {
    /// The filesystem that shows `trees`; values above `max_value_size` bytes cannot be opened.
    pub fn new(trees: Trees, cache: Arc<SecretCache>, max_value_size: usize) -> Self {
        let inodes = INodeTable::new(root_of(&trees));
        let on_demand = OnDemand::new(Arc::new(Leases::plain(cache.clone())));
        Self {
            trees,
            pairs: Arc::new(Pairs::new(PAIR_WINDOW, cache.subscribe())),
            on_demand,
            cache,
            handles: Handles::of(Epoch::of(inodes.worker())),
            inodes,
            max_value_size,
            mounted: SystemTime::now(),
        }
    }

    /// The same filesystem with the secrets that are made on demand.
    #[must_use]
    pub fn with_leases(self, leases: Arc<Leases>) -> Self {
        Self { on_demand: self.on_demand.with_leases(leases), ..self }
    }

    /// The same filesystem, which knows what the kernel was told by former workers and tells the next one.
    #[must_use]
    pub fn with_journal(self, journal: Journal) -> Self {
        let mounted = journal.begun();
        let inodes = INodeTable::with_journal(root_of(&self.trees), journal);
        for (tree, on_demand) in inodes.trees() {
            self.trees.note_on_demand(tree, on_demand);
        }
        // An older version never changes.
        let current = inodes.opened_last().into_iter().filter(|(of, _)| of.version.is_none());
        self.cache.was_left_with(current);
        Self { handles: Handles::of(Epoch::of(inodes.worker())), inodes, mounted, ..self }
    }

    /// Whether there was a worker before this one.
    pub fn is_successor(&self) -> bool {
        self.inodes.worker() > 1
    }

    /// Finds `name` in the directory `parent` and counts the lookup (the kernel gives it back with [`Self::forget`]).
    pub async fn lookup(&self, parent: INodeNo, name: &OsStr) -> Result<Attributes, Failure> {
        let parent = self.node(parent)?;
        let place = self.resolve(&parent.place, name).await?;
        let (attributes, mark) = self.describe(&place, None).await?;
        let node = self.inodes.look_up(parent.ino, place);
        let lasting = node.tell(mark, attributes.size, self.cache.clock().now()) && attributes.lasting;
        Ok(Attributes { ino: node.ino, lasting, ..attributes })
    }

    /// Gives back `lookups` of an inode.
    pub fn forget(&self, ino: INodeNo, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// The attributes of an inode: of the open handle's own version when there is one, else of the newest.
    pub async fn attributes(&self, ino: INodeNo, handle: Option<HandleNo>) -> Result<Attributes, Failure> {
        self.attributes_for(ino, handle, Caller(0)).await
    }

    /// The same for a thread. The kernel names no handle at fstat(2), so a thread that has opened the file a moment ago, and
    /// has it open, is shown the version that it opened.
    pub async fn attributes_for(
        &self,
        ino: INodeNo,
        handle: Option<HandleNo>,
        caller: Caller,
    ) -> Result<Attributes, Failure> {
        let node = self.node(ino)?;
        let own = || {
            let shown = &node.file.as_ref()?.shown;
            shown.opened_by(caller.0, self.cache.clock().now()).map(HandleNo)
        };
        let handle = match handle.or_else(own) {
            Some(number) if self.is_inherited(number) => Some(self.inherit(ino, number).await?),
            Some(number) => self.handles.get(number).filter(|handle| handle.ino() == ino),
            None => None,
        };
        let (attributes, mark) = self.describe(&node.place, handle.as_deref()).await?;
        // What one thread opened is not kept for others, who may know of a newer version.
        let lasting = node.tell(mark, attributes.size, self.cache.clock().now())
            && attributes.lasting
            && handle.is_none();
        Ok(Attributes { ino, lasting, ..attributes })
    }

    /// Opens a file as [`Self::open`] does, when that needs no wait and no search.
    pub fn open_at_once(&self, ino: INodeNo, caller: Caller) -> Option<Result<Opened, Failure>> {
        let node = self.inodes.get(ino)?;
        let Place::Field { of, .. } = &node.place else { return None };
        let snapshot = self.cache.marked(of, &node.file.as_ref()?.bookmark)?;
        self.opened_at(&node, caller, snapshot)
    }

    /// Opens a file: the handle keeps the version that is current now, or the one that the thread is reading (see
    /// [`PAIR_WINDOW`]).
    pub async fn open(&self, ino: INodeNo, caller: Caller) -> Result<Opened, Failure> {
        loop {
            if let Some(opened) = self.open_once(ino, caller).await {
                return opened;
            }
            self.handles.going_on().await;
        }
    }

    /// The same; none while nothing is opened here.
    async fn open_once(&self, ino: INodeNo, caller: Caller) -> Option<Result<Opened, Failure>> {
        if let Some(opened) = self.open_at_once(ino, caller) {
            return Some(opened);
        }
        match self.newest_of(ino).await {
            Ok((node, newest)) => self.opened_at(&node, caller, newest),
            Err(failure) => Some(Err(failure)),
        }
    }

    /// What an open of a file finds: had from the backend, or made, where it is not held.
    async fn newest_of(&self, ino: INodeNo) -> Result<(Arc<Node>, Arc<Snapshot>), Failure> {
        let node = self.node(ino)?;
        let (Some((tree, of)), Some(file)) = (node.place.shown(), &node.file) else {
            return Err(Failure::IsADirectory);
        };
        let snapshot = if self.is_on_demand(tree).await? {
            self.take(&node.place, of).await?
        } else {
            self.cache.secret_marking(of, &file.bookmark).await?
        };
        Ok((node, snapshot))
    }

    /// None while nothing is opened here.
    fn opened_at(
        &self,
        node: &Node,
        caller: Caller,
        newest: Arc<Snapshot>,
    ) -> Option<Result<Opened, Failure>> {
        let now = self.cache.clock().now();
        let is_servable =
            |_: &Arc<Snapshot>| node.place.shown().is_none_or(|(tree, of)| self.is_servable(tree, of));
        let snapshot = self.pairs.older(node, caller, &newest, now).filter(is_servable).unwrap_or(newest);
        let handle = match self.content(node, snapshot) {
            Ok(handle) => handle,
            Err(failure) => return Some(Err(failure)),
        };
        let size = handle.bytes().len() as u64;
        let mark = mark(&handle.snapshot().secret, handle.bytes().len());
        let secret = &handle.snapshot().secret;
        let edition = self.inodes.edition(node, &secret.version, secret.created, size);
        let handle = self.handles.insert(edition, handle)?;
        let shown = node.file.as_ref().map(|file| &file.shown);
        let attributes_changed = shown.is_some_and(|shown| shown.open(caller.0, handle.0, mark, now));
        let grown = shown.is_some_and(|shown| shown.has_grown(size)).then_some(size);
        Some(Ok(Opened { handle, attributes_changed, grown }))
    }

    /// A file as it is in one version.
    fn content(&self, node: &Node, snapshot: Arc<Snapshot>) -> Result<Handle, Failure> {
        let handle = match &node.place {
            Place::Junction(_) | Place::Directory { .. } | Place::Versions { .. } => {
                return Err(Failure::IsADirectory);
            }
            Place::Field { field, .. } => {
                let at = snapshot.secret.fields.iter().position(|f| *f.name == **field);
                Handle::of_field(node.ino, snapshot, at.ok_or(Failure::NoEntry)?)
            }
            Place::View { tree, of, view } => {
                let bytes = self.render(*tree, of, *view, self.on_demand.made(&snapshot));
                Handle::of_view(node.ino, bytes, &snapshot)
            }
        };
        // A view may be as large as all its fields together; a single value has the configured bound.
        if matches!(node.place, Place::Field { .. }) && handle.bytes().len() > self.max_value_size {
            return Err(Failure::TooLarge { limit: self.max_value_size });
        }
        Ok(handle)
    }

    /// The open file behind a handle that was opened by this worker or [inherited](Self::inherit); its bytes never change.
    pub fn opened(&self, handle: HandleNo) -> Result<Arc<Handle>, Failure> {
        self.handles.get(handle).ok_or(Failure::BadHandle)
    }

    /// Closes a file; the bytes go with the last handle that has them. Returns what was closed.
    pub fn release(&self, handle: HandleNo) -> Option<Arc<Handle>> {
        self.handles.remove(handle).flatten()
    }

    /// The names of extended attributes: `user.secretfs.*` on everything that belongs to one secret.
    pub fn attribute_names(&self, ino: INodeNo) -> Result<Vec<&'static str>, Failure> {
        Ok(match &self.node(ino)?.place {
            Place::Field { tree, of, .. } | Place::View { tree, of, .. }
                if self.is_known_on_demand(*tree) =>
            {
                let held = self.held_now(*tree, of);
                let attributes = self.meta(*tree, of, held.as_deref()).attributes();
                attributes.into_iter().map(|(name, _)| name).collect()
            }
            Place::Field { .. } | Place::View { .. } => {
                vec!["backend", "path", "version", "fetched", "expires", "stale"]
            }
            Place::Junction(_) | Place::Directory { .. } | Place::Versions { .. } => vec![],
        })
    }

    /// The text of an extended attribute, `name` without its `user.secretfs.` prefix.
    pub async fn attribute(&self, ino: INodeNo, name: &OsStr) -> Result<String, Failure> {
        let node = self.node(ino)?;
        if name == "explain" {
            return Ok(self.explain_itself(&node.place).await);
        }
        if let Some(child) = name.as_bytes().strip_prefix(b"explain.") {
            return Ok(self.explain(&node.place, OsStr::from_bytes(child)).await);
        }
        let (Place::Field { tree, of, .. } | Place::View { tree, of, .. } | Place::Directory { tree, of }) =
            &node.place
        else {
            return Err(Failure::NoAttribute);
        };
        let snapshot = self.secret_if_made(*tree, of).await?;
        // Of a folder of such secrets nothing is known.
        if snapshot.is_none() && !node.place.is_file() && self.parts(*tree, of).await?.secret == Part::No {
            return Err(Failure::NoAttribute);
        }
        let attributes = self.meta(*tree, of, snapshot.as_deref()).attributes();
        let found = attributes.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, text)| text).ok_or(Failure::NoAttribute)
    }

    /// How many inodes the kernel holds and how many handles are open: for `statfs` and tests.
    pub fn in_use(&self) -> (usize, usize) {
        (self.inodes.len(), self.handles.len())
    }

    fn node(&self, ino: INodeNo) -> Result<Arc<Node>, Failure> {
        self.inodes.get(ino).ok_or(Failure::BadHandle)
    }

    fn permissions(&self, tree: TreeId) -> Permissions {
        let nobody = Permissions { uid: 0, gid: 0, file_mode: 0 };
        self.trees.get(tree).map_or(nobody, |tree| tree.permissions)
    }

    /// Attributes (without the number) and the mark of what they show.
    async fn describe(&self, place: &Place, handle: Option<&Handle>) -> Result<(Attributes, u64), Failure> {
        let (Place::Field { tree, of, .. } | Place::View { tree, of, .. }) = place else {
            let mut attributes = self.describe_directory(place);
            if let Place::Directory { tree, of } = place
                && of.version.is_some()
                && let Some(snapshot) = self.secret_if_made(*tree, of).await?
            {
                attributes.mtime = snapshot.secret.created.unwrap_or(self.mounted);
                // A predecessor is gone from one moment to the next.
                attributes.lasting = !self.is_known_on_demand(*tree);
            }
            return Ok((attributes, 0));
        };
        if let Some(handle) = handle {
            let secret = &handle.snapshot().secret;
            return Ok(self.file_attributes(*tree, secret, handle.bytes().len()));
        }
        match self.secret_if_made(*tree, of).await? {
            Some(snapshot) => self.describe_file(place, &snapshot),
            None => Ok(self.describe_not_made(place, *tree, of)),
        }
    }

    /// A file of a secret that has not been made: as large as what can be told without it. The kernel keeps nothing of that, so
    /// that stat(2) is exact from the moment on that there is one.
    fn describe_not_made(&self, place: &Place, tree: TreeId, of: &SecretRef) -> (Attributes, u64) {
        let size = match place {
            Place::View { view: View::Meta, .. } => self.render(tree, of, View::Meta, None).len(),
            _ => 0,
        };
        let (attributes, mark) = self.file_attributes(tree, &self.on_demand.nothing().secret, size);
        (Attributes { lasting: false, ..attributes }, mark)
    }

    fn describe_directory(&self, place: &Place) -> Attributes {
        let (uid, gid, mode) = match place {
            Place::Junction(path) => {
                let (uid, gid) = self.trees.junction_owner(path);
                (uid, gid, 0o555)
            }
            Place::Directory { tree, .. }
            | Place::Versions { tree, .. }
            | Place::Field { tree, .. }
            | Place::View { tree, .. } => {
                let permissions = self.permissions(*tree);
                (permissions.uid, permissions.gid, permissions.dir_mode())
            }
        };
        let (ino, kind) = (INodeNo::ROOT, Kind::Directory);
        Attributes { ino, kind, size: 0, mode, uid, gid, mtime: self.mounted, lasting: true }
    }

    fn describe_file(&self, place: &Place, snapshot: &Snapshot) -> Result<(Attributes, u64), Failure> {
        let (tree, size) = match place {
            Place::Field { tree, field, .. } => {
                (*tree, snapshot.secret.field(field).ok_or(Failure::NoEntry)?.value.len())
            }
            Place::View { tree, of, view } => (*tree, self.render(*tree, of, *view, Some(snapshot)).len()),
            Place::Junction(_) | Place::Directory { .. } | Place::Versions { .. } => {
                return Err(Failure::IsADirectory);
            }
        };
        Ok(self.file_attributes(tree, &snapshot.secret, size))
    }

    fn file_attributes(&self, tree: TreeId, secret: &Secret, size: usize) -> (Attributes, u64) {
        let permissions = self.permissions(tree);
        let attributes = Attributes {
            ino: INodeNo::ROOT,
            kind: Kind::File,
            size: size as u64,
            mode: permissions.file_mode,
            uid: permissions.uid,
            gid: permissions.gid,
            mtime: secret.created.unwrap_or(self.mounted),
            lasting: true,
        };
        (attributes, mark(secret, size))
    }

    /// A view; of a secret that has not been made only what is known of it has bytes.
    fn render(&self, tree: TreeId, of: &SecretRef, view: View, snapshot: Option<&Snapshot>) -> SecretBytes {
        let secret = snapshot.map_or(&self.on_demand.nothing().secret, |snapshot| &snapshot.secret);
        match view {
            View::Json => render::json(secret),
            View::Env => render::env::shell(secret),
            View::DockerEnv => render::env::docker(secret),
            View::Meta => SecretBytes::new(self.meta(tree, of, snapshot).to_json()),
        }
    }

    fn meta(&self, tree: TreeId, of: &SecretRef, snapshot: Option<&Snapshot>) -> Meta {
        let standing = || match (snapshot, &of.version) {
            (None, _) => Standing::NoneYet,
            (Some(_), None) => Standing::Held,
            (Some(_), Some(_)) => Standing::Predecessor,
        };
        Meta {
            backend: self.backend_name(of),
            path: of.path.to_string(),
            version: snapshot.map(|snapshot| snapshot.secret.version.to_string()).unwrap_or_default(),
            fetched: snapshot.map(|snapshot| snapshot.fetched),
            expires: snapshot.map(|snapshot| snapshot.expires),
            stale: snapshot.is_some_and(|snapshot| self.cache.is_stale(snapshot)),
            lease: self.is_known_on_demand(tree).then(standing),
        }
    }

    fn backend_name(&self, of: &SecretRef) -> String {
        let source = self.cache.source(of.source);
        source.map_or_else(String::new, |source| format!("{} ({})", source.name, source.backend.kind()))
    }
}

/// What distinguishes two versions of a file as stat(2) shows them.
fn mark(secret: &Secret, size: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&secret.version, secret.created, size).hash(&mut hasher);
    hasher.finish()
}

fn root_of(trees: &Trees) -> Place {
    let root = match trees.at(&[]) {
        Some(Hanging::Tree(id)) => tree_root(trees, id),
        _ => None,
    };
    root.unwrap_or(Place::Junction(vec![]))
}

fn tree_root(trees: &Trees, id: TreeId) -> Option<Place> {
    trees.get(id).map(|tree| Place::Directory { tree: id, of: tree.root.clone() })
}
