//! Owns the meaning of a name in a directory: folder, secret, field or reserved name, and who decides.
//! Does not know attributes or handles.
//!
//! A listing is the authority where it can be had. Where the credentials may not list, a name is found by asking for
//! it, so that a known path still opens.

use std::ffi::OsStr;
use std::sync::Arc;

use super::SecretFs;
use super::on_demand::Known;
use crate::backend::{Error, Listing};
use crate::cache::SecretRef;
use crate::errno::Failure;
use crate::render::View;
use crate::secret::Version;
use crate::tree::inode::Place;
use crate::tree::name::{self, Decoded, RESERVED};
use crate::tree::{Hanging, Shows, TreeId};

/// Whether a directory has a part of some kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Yes,
    No,
    /// No listing says; ask.
    Unknown,
}

/// What a directory shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) secret: Part,
    pub(super) folder: Part,
}

const UNKNOWN: Parts = Parts { secret: Part::Unknown, folder: Part::Unknown };
/// A secret alone, as one version of a secret is (found by reading it, so it is there): nothing lies below it.
const A_SECRET: Parts = Parts { secret: Part::Yes, folder: Part::No };
const A_FOLDER: Parts = Parts { secret: Part::No, folder: Part::Yes };

impl SecretFs {
    /// The place that `name` in `parent` leads to.
    pub(super) async fn resolve(&self, parent: &Place, name: &OsStr) -> Result<Place, Failure> {
        // The kernel leaves the limit to us: FUSE names may have 1024 bytes (FUSE_NAME_MAX, fs/fuse/fuse_i.h).
        if name.len() > name::NAME_MAX {
            return Err(Failure::NameTooLong);
        }
        match parent {
            Place::Field { .. } | Place::View { .. } => Err(Failure::NotADirectory),
            Place::Junction(path) => self.resolve_in_junction(path, name),
            Place::Directory { tree, of } => {
                let found = self.resolve_in_tree(*tree, of, name).await;
                match found {
                    // What makes secrets on demand and was not declared is not there.
                    Err(Failure::Backend(Error::Refused(_)))
                        if self.undeclared_in(*tree, of, name).await.is_some() =>
                    {
                        Err(Failure::NoEntry)
                    }
                    found => found,
                }
            }
            Place::Versions { tree, of } => self.resolve_version(*tree, of, name).await,
        }
    }

    pub(super) fn resolve_in_junction(&self, path: &[String], name: &OsStr) -> Result<Place, Failure> {
        let name = name.to_str().ok_or(Failure::NoEntry)?;
        let path: Vec<_> = path.iter().cloned().chain([name.to_owned()]).collect();
        match self.trees.at(&path) {
            Some(Hanging::Tree(id)) => super::tree_root(&self.trees, id).ok_or(Failure::NoEntry),
            Some(Hanging::Junction) => Ok(Place::Junction(path)),
            None => Err(Failure::NoEntry),
        }
    }

    async fn resolve_in_tree(&self, tree: TreeId, of: &SecretRef, name: &OsStr) -> Result<Place, Failure> {
        let parts = self.parts(tree, of).await?;
        let found = self.resolve_in_parts(tree, of, parts, name).await;
        match &found {
            Err(failure) if failure.is_denial() => match self.parts_otherwise(tree, of, parts).await {
                Some(parts) => self.resolve_in_parts(tree, of, parts, name).await,
                None => found,
            },
            _ => found,
        }
    }

    async fn resolve_in_parts(
        &self,
        tree: TreeId,
        of: &SecretRef,
        parts: Parts,
        name: &OsStr,
    ) -> Result<Place, Failure> {
        if let Some(reserved) = name.to_str().filter(|name| RESERVED.contains(name)) {
            if parts.secret == Part::No {
                return Err(Failure::NoEntry);
            }
            if self.is_on_demand(tree).await? {
                return self.resolve_reserved_on_demand(tree, of, parts, reserved).await;
            }
            let of = of.clone();
            if reserved == name::VERSIONS && of.version.is_none() {
                // Where a listing shows the secret nothing is asked: of one whose current version is deleted the others
                // may still be there.
                if parts.secret == Part::Unknown {
                    self.cache.secret(&of).await?;
                }
                return Ok(Place::Versions { tree, of });
            }
            let view = View::named(reserved).ok_or(Failure::NoEntry)?;
            self.cache.secret(&of).await?;
            return Ok(Place::View { tree, of, view });
        }
        let decoded = name::decode(name).ok_or(Failure::NoEntry)?;
        let mut unlisted = false;
        if parts.folder != Part::No {
            match self.listed(of, name).await {
                Ok(Some(found)) => return Ok(Place::Directory { tree, of: self.child(of, &found)? }),
                Ok(None) | Err(Error::NotFound) => {}
                Err(Error::Forbidden) => unlisted = true,
                Err(error) => return Err(error.into()),
            }
        }
        let mut outcome = Failure::NoEntry;
        let mut readable = false;
        if parts.secret != Part::No {
            match self.known_secret(tree, of).await {
                Ok(Known::Held(snapshot)) => {
                    readable = true;
                    let names = snapshot.secret.fields.iter().map(|field| field.name.as_str());
                    if let Some(field) = name::find(name, names) {
                        return Ok(Place::Field { tree, of: of.clone(), field: field.into() });
                    }
                }
                Ok(Known::NotMade { fields }) => {
                    // That a backend knows its fields says that it is one; that the configuration names some does not.
                    let said = self.trees.get(tree).is_some_and(|tree| tree.fields.is_some());
                    readable = parts.secret == Part::Yes || (fields.is_some() && !said);
                    let names = fields.iter().flat_map(|names| names.iter().map(String::as_str));
                    if let Some(field) = name::find(name, names) {
                        return Ok(Place::Field { tree, of: of.clone(), field: field.into() });
                    }
                }
                Err(Error::NotFound) => {}
                Err(error @ Error::Forbidden) => outcome = error.into(),
                Err(error) => return Err(error.into()),
            }
        }
        match decoded {
            Decoded::Exact(child) if unlisted => {
                let child = self.child(of, &child)?;
                self.ask_for(tree, &child, readable).await?;
                Ok(Place::Directory { tree, of: child })
            }
            _ => Err(outcome),
        }
    }

    /// A reserved name of a secret that is made on demand.
    async fn resolve_reserved_on_demand(
        &self,
        tree: TreeId,
        of: &SecretRef,
        parts: Parts,
        reserved: &str,
    ) -> Result<Place, Failure> {
        if reserved == name::PREVIOUS {
            let of = self.predecessor(of).ok_or(Failure::NoEntry)?;
            return Ok(Place::Directory { tree, of });
        }
        // A lease is no version that could be asked for by name.
        let view = View::named(reserved).ok_or(Failure::NoEntry)?;
        let made = self.secret_if_made(tree, of).await?;
        if made.is_none() && parts.secret == Part::Unknown {
            self.field_names(tree, of).await?;
        }
        Ok(Place::View { tree, of: of.clone(), view })
    }

    /// What is made on demand and was not declared, of a directory and what `name` in it would lead to.
    pub(super) async fn undeclared_in(
        &self,
        tree: TreeId,
        of: &SecretRef,
        name: &OsStr,
    ) -> Option<SecretRef> {
        if self.is_undeclared(tree, of).await {
            return Some(of.clone());
        }
        let child = match name::decode(name) {
            Some(Decoded::Exact(name)) if of.version.is_none() => self.child(of, &name).ok()?,
            _ => return None,
        };
        self.is_undeclared(tree, &child).await.then_some(child)
    }

    /// A version is found by asking for it; the backend knows what is none.
    async fn resolve_version(&self, tree: TreeId, of: &SecretRef, name: &OsStr) -> Result<Place, Failure> {
        let version = match name::decode(name) {
            // Empty is the version of what has none.
            Some(Decoded::Exact(version)) if !version.is_empty() => Version::new(version),
            _ => return Err(Failure::NoEntry),
        };
        let of = SecretRef { version: Some(version), ..of.clone() };
        self.cache.secret(&of).await?;
        Ok(Place::Directory { tree, of })
    }

    /// The backend's name behind the file name `name` in the listing of `of`. An absence is asked again when the
    /// listing is not recent.
    async fn listed(&self, of: &SecretRef, name: &OsStr) -> Result<Option<String>, Error> {
        let listing = self.cache.listing(of).await?;
        let find = |listing: &Listing| match name::decode(name)? {
            Decoded::Exact(exact) => listing.get(&exact).map(|entry| entry.name.clone()),
            Decoded::Shortened => {
                let names = listing.entries().iter().map(|entry| entry.name.as_str());
                name::find(name, names).map(str::to_owned)
            }
        };
        if let Some(found) = find(&listing) {
            return Ok(Some(found));
        }
        match self.cache.recent_listing(of).await {
            Ok(recent) => Ok(find(&recent)),
            // Without an answer the older listing stands.
            Err(error) if !error.is_answer() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether something that no listing shows is there at all. Below a folder that may not be listed, a name that
    /// the backend neither gives nor denies is let through as a directory: what lies deeper may be allowed. Below a
    /// readable secret only readable secrets are found, so that a program that looks for a file that is not there is
    /// told so.
    async fn ask_for(&self, tree: TreeId, of: &SecretRef, strict: bool) -> Result<(), Failure> {
        // Nothing lies below a secret that is made on demand.
        if strict && self.is_on_demand(tree).await? {
            return Err(Failure::NoEntry);
        }
        let read = match self.known_secret(tree, of).await {
            Ok(_) => return Ok(()),
            Err(error @ (Error::NotFound | Error::Forbidden)) => error,
            Err(error) => return Err(error.into()),
        };
        if strict {
            return Err(Failure::NoEntry);
        }
        match self.cache.listing(of).await {
            Ok(_) | Err(Error::Forbidden) => Ok(()),
            Err(Error::NotFound) => Err(read.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the listing above says of a directory; unknown at the root of a tree and where listing is forbidden.
    pub(super) async fn parts(&self, tree: TreeId, of: &SecretRef) -> Result<Parts, Failure> {
        if of.version.is_some() {
            return Ok(A_SECRET);
        }
        match self.above(tree, of) {
            Some((above, name)) => Ok(parts_in(self.cache.listing(&above).await, &name)?),
            None if self.is_on_demand(tree).await? => self.parts_of_root(tree, of).await,
            None => Ok(UNKNOWN),
        }
    }

    /// What the root of a tree is whose secrets are made on demand: the one secret, or a folder of them.
    async fn parts_of_root(&self, tree: TreeId, of: &SecretRef) -> Result<Parts, Failure> {
        if self.trees.get(tree).is_some_and(|tree| tree.shows == Shows::Secret) {
            return Ok(A_SECRET);
        }
        match self.cache.listing(of).await {
            Ok(listing) if !listing.entries().is_empty() => Ok(A_FOLDER),
            // Nothing in it, or not to be listed: it may be a secret itself, if the backend has one there.
            Ok(_) | Err(Error::NotFound) => match self.field_names(tree, of).await {
                Ok(_) => Ok(A_SECRET),
                Err(Error::NotFound) => Ok(A_FOLDER),
                Err(error) => Err(error.into()),
            },
            Err(Error::Forbidden) => Ok(UNKNOWN),
            Err(error) => Err(error.into()),
        }
    }

    /// What a recent listing says, where `parts` denies something and the recent one says otherwise: before a name is
    /// denied. Without an answer the older listing stands.
    pub(super) async fn parts_otherwise(&self, tree: TreeId, of: &SecretRef, parts: Parts) -> Option<Parts> {
        if parts.secret != Part::No && parts.folder != Part::No {
            return None;
        }
        let (above, name) = self.above(tree, of)?;
        let recent = parts_in(self.cache.recent_listing(&above).await, &name).ok()?;
        (recent != parts).then_some(recent)
    }

    /// The directory above, and the name in it; none at the root of a tree and of a version.
    pub(super) fn above(&self, tree: TreeId, of: &SecretRef) -> Option<(SecretRef, Box<str>)> {
        let is_root = of.version.is_some() || self.trees.get(tree).is_none_or(|tree| tree.root == *of);
        let (path, name) = of.path.split_last().filter(|_| !is_root)?;
        Some((of.at(path), name))
    }

    pub(super) fn child(&self, of: &SecretRef, name: &str) -> Result<SecretRef, Failure> {
        let path = of.path.child(name).map_err(|_| Failure::NoEntry)?;
        Ok(of.at(path))
    }
}

fn parts_in(listing: Result<Arc<Listing>, Error>, name: &str) -> Result<Parts, Error> {
    let known = |yes| if yes { Part::Yes } else { Part::No };
    match listing {
        Ok(listing) => Ok(match listing.get(name) {
            Some(entry) => Parts { secret: known(entry.secret), folder: known(entry.folder) },
            // The kernel came here by a name, so it was there a moment ago: ask rather than say no.
            None => UNKNOWN,
        }),
        Err(Error::Forbidden) => Ok(UNKNOWN),
        Err(error) => Err(error),
    }
}
