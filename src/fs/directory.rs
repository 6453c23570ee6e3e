//! Owns the listing of a directory: taken whole when it is opened, so that reading it never waits and never changes.
//! Does not know how the kernel pages through it.

use std::collections::HashSet;
use std::sync::Arc;

use super::on_demand::Known;
use super::pairs::DirectoryHold;
use super::resolve::{Part, Parts};
use super::{Attributes, Caller, Kind, SecretFs};
use crate::backend::Error;
use crate::cache::SecretRef;
use crate::errno::Failure;
use crate::tree::inode::{INodeNo, Node, Place};
use crate::tree::{TreeId, name};

/// One name of a directory.
#[derive(Debug)]
pub struct DirEntry {
    /// The file name.
    pub name: String,
    /// Directory or file.
    pub kind: Kind,
    /// The inode number that a lookup will show.
    pub ino: INodeNo,
    attributes: Attributes,
    mark: u64,
    place: Place,
}

/// A directory as it was when it was opened.
#[derive(Debug)]
pub struct DirListing {
    /// The directory itself.
    pub ino: INodeNo,
    /// Its parent; its own number for the root.
    pub parent: INodeNo,
    /// Every name but `.` and `..`.
    pub entries: Vec<DirEntry>,
    /// Kept for what dropping it does.
    _hold: Option<DirectoryHold>,
}

impl SecretFs {
    /// Takes the listing of a directory.
    pub async fn list(&self, ino: INodeNo) -> Result<DirListing, Failure> {
        let node = self.node(ino)?;
        let places = match &node.place {
            Place::Field { .. } | Place::View { .. } => return Err(Failure::NotADirectory),
            Place::Junction(path) => self.list_junction(path)?,
            Place::Directory { tree, of } => self.list_tree(*tree, of).await?,
            // Found by name; a backend may keep thousands.
            Place::Versions { .. } => vec![],
        };
        let mut entries = Vec::with_capacity(places.len());
        for (name, place, known) in places {
            let (attributes, mark) = match known {
                Some(known) => known,
                None => self.describe(&place, None).await?,
            };
            let ino = self.inodes.number(&place);
            entries.push(DirEntry { name, kind: attributes.kind, ino, attributes, mark, place });
        }
        Ok(DirListing { ino, parent: node.parent, entries, _hold: None })
    }

    /// Takes the listing as [`Self::list`] does, for a thread that opens the directory: as long as the listing lives, what
    /// the thread opens in there is of one version.
    pub async fn open_directory(&self, ino: INodeNo, caller: Caller) -> Result<DirListing, Failure> {
        let hold = self.hold_directory(ino, caller)?;
        Ok(DirListing { _hold: hold, ..self.list(ino).await? })
    }

    /// Counts a lookup of an entry that a readdirplus reply carries, and returns its attributes.
    pub fn look_up_entry(&self, parent: INodeNo, entry: &DirEntry) -> Attributes {
        let node: Arc<Node> = self.inodes.look_up(parent, entry.place.clone());
        let lasting = node.tell(entry.mark, entry.attributes.size, self.cache.clock().now())
            && entry.attributes.lasting;
        Attributes { ino: node.ino, lasting, ..entry.attributes }
    }

    fn list_junction(&self, path: &[String]) -> Result<Vec<Named>, Failure> {
        let mut places = Vec::new();
        for name in self.trees.names_in(path) {
            let place = self.resolve_in_junction(path, name.as_ref())?;
            places.push((name, place, None));
        }
        Ok(places)
    }

    /// The folder part and the secret part of a directory. A part that is forbidden is left out when the other can be
    /// had; where a field and a folder share a name the folder wins.
    async fn list_tree(&self, tree: TreeId, of: &SecretRef) -> Result<Vec<Named>, Failure> {
        let parts = self.parts(tree, of).await?;
        let found = self.list_parts(tree, of, parts).await;
        let found = match &found {
            Err(failure) if failure.is_denial() => match self.parts_otherwise(tree, of, parts).await {
                Some(parts) => self.list_parts(tree, of, parts).await,
                None => found,
            },
            _ => found,
        };
        match &found {
            Err(Failure::Backend(Error::Refused(_))) if self.is_undeclared(tree, of).await => {
                Err(Failure::NoEntry)
            }
            _ => found,
        }
    }

    async fn list_parts(&self, tree: TreeId, of: &SecretRef, parts: Parts) -> Result<Vec<Named>, Failure> {
        let is_root = self.trees.get(tree).is_some_and(|tree| tree.root == *of);
        let folder = match parts.folder {
            Part::No => None,
            Part::Yes | Part::Unknown => Some(self.cache.listing(of).await),
        };
        let secret = match parts.secret {
            Part::No => None,
            // The root of a tree is a folder first: whether it is a secret too is asked only where nothing is in it.
            Part::Unknown
                if is_root && matches!(&folder, Some(Ok(listing)) if !listing.entries().is_empty()) =>
            {
                None
            }
            Part::Yes | Part::Unknown => Some(self.known_secret(tree, of).await),
        };
        let mut places: Vec<Named> = Vec::new();
        let mut found = false;
        let mut refused = None;
        match folder {
            Some(Ok(listing)) => {
                found = true;
                for entry in listing.entries() {
                    // A name that cannot be a segment was left out by the backend; should one slip through, the
                    // others are still shown.
                    if let Ok(of) = self.child(of, &entry.name) {
                        places.push((name::encode(&entry.name), Place::Directory { tree, of }, None));
                    }
                }
            }
            Some(Err(error)) => refused = Some(error),
            None => {}
        }
        match secret {
            Some(Ok(known)) => {
                found = true;
                let taken: HashSet<String> = places.iter().map(|(name, ..)| name.clone()).collect();
                let mut push = |field: &str, known: Option<(Attributes, u64)>| {
                    let name = name::encode(field);
                    if !taken.contains(&name) {
                        let place = Place::Field { tree, of: of.clone(), field: field.into() };
                        let known = known.unwrap_or_else(|| self.describe_not_made(&place, tree, of));
                        places.push((name, place, Some(known)));
                    }
                };
                match known {
                    Known::Held(snapshot) => {
                        for field in &snapshot.secret.fields {
                            let known = self.file_attributes(tree, &snapshot.secret, field.value.len());
                            push(&field.name, Some(known));
                        }
                    }
                    Known::NotMade { fields } => {
                        fields.iter().flat_map(|names| &**names).for_each(|name| push(name, None))
                    }
                }
            }
            Some(Err(error)) => refused = Some(worse(refused, error)),
            None => {}
        }
        match refused {
            // An outage is never shown as an empty or half directory.
            Some(error) if !error.is_answer() => Err(error.into()),
            Some(error) if !found => Err(error.into()),
            _ => Ok(places),
        }
    }
}

/// A file name, what it leads to, and its attributes where they are known already.
type Named = (String, Place, Option<(Attributes, u64)>);

/// The one of two errors to report: an outage before a refusal, a refusal before an absence.
pub(super) fn worse(first: Option<Error>, second: Error) -> Error {
    let rank = |error: &Error| match error {
        Error::NotFound => 0,
        error if error.is_answer() => 1,
        _ => 2,
    };
    match first {
        Some(first) if rank(&first) >= rank(&second) => first,
        _ => second,
    }
}
