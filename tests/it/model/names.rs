//! Owns the judgement of names: what a lookup, a listing and stat(2) may say of a directory and what is in it.
//! Does not know open files.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use secretfs::backend::Error;
use secretfs::errno::Failure;
use secretfs::fs::{Attributes, DirListing, Kind};
use secretfs::tree::inode::INodeNo;

use super::reference::Version;
use super::run::{Known, Place, Run, Shown, Verdict, ensure, shown};

/// The reserved names that are files.
const VIEWS: [&str; 3] = [".json", ".env", ".meta"];

impl Run {
    /// Looks a name up; where it was found, which of the known nodes it is now.
    pub(super) async fn look_up(&mut self, node: usize, name: &'static str) -> Result<Option<usize>, String> {
        let parent = self.known[node].place.clone();
        let found = self.fs.lookup(self.known[node].ino, OsStr::new(name)).await;
        let Place::Directory(path) = parent else {
            ensure(found.err() == Some(Failure::NotADirectory), "nothing lies below a file")?;
            return Ok(None);
        };
        match found {
            Ok(attributes) => {
                let place = self.judge_found(&path, name, &attributes)?;
                let told = (attributes.kind == Kind::File).then(|| shown(&attributes));
                self.count(place, attributes.ino, told).map(Some)
            }
            Err(failure) => {
                self.judge_failure(&failure, self.must_find(&path, name))?;
                if self.reference.is_calm() && !self.evicts {
                    let asked = self.questions();
                    let again = self.fs.lookup(self.known[node].ino, OsStr::new(name)).await;
                    let again = again.err().map(|failure| failure.errno());
                    ensure(again == Some(failure.errno()), "the same question has the same answer")?;
                    ensure(self.questions() == asked, "a storm of misses is not a storm of questions")?;
                }
                Ok(None)
            }
        }
    }

    /// The place that `name` stands for, when it may be found and looks as it may.
    fn judge_found(&self, path: &str, name: &'static str, found: &Attributes) -> Result<Place, String> {
        let reference = &self.reference;
        let below = join(path, name);
        if found.kind == Kind::Directory {
            let guessed = reference.may_refuse_listing() || reference.excuses(&Error::Forbidden);
            let there = reference.may_show_directory(&below) || (guessed && !name.starts_with(['.', '%']));
            ensure(there && found.size == 0, "a directory is found only where there is one")?;
            return Ok(Place::Directory(below));
        }
        let place = if VIEWS.contains(&name) {
            Place::View(path.to_owned(), name)
        } else {
            let shadowed = reference.is_listable() && reference.must_list_directory(&below);
            ensure(!shadowed, "a folder wins over a field")?;
            Place::Field(path.to_owned(), name)
        };
        ensure(self.may_show(&place, shown(found)), "stat shows a version within the TTL")?;
        Ok(place)
    }

    fn may_show(&self, place: &Place, seen: Shown) -> bool {
        let (Place::Field(path, name) | Place::View(path, name)) = place else { return false };
        let size = |version: &Version| match place {
            Place::Field(..) => version.field(name).map(<[u8]>::len),
            _ => version.view(name).map(|bytes| bytes.len()),
        };
        let fits = |version: &Version| {
            let same_size = *name == ".meta" || size(version) == usize::try_from(seen.0).ok();
            same_size && Duration::from_secs(version.number) == seen.1
        };
        self.reference.showable(path).iter().any(|version| fits(version))
    }

    fn must_find(&self, path: &str, name: &str) -> bool {
        let reference = &self.reference;
        let below = join(path, name);
        reference.is_calm()
            && if VIEWS.contains(&name) {
                reference.is_surely_there(path)
            } else {
                (reference.is_listable() && reference.must_find_directory(&below))
                    || reference.is_surely_there(&below)
                    || reference.surely_has_field(path, name)
            }
    }

    /// Counts a lookup. A place has one number for ever, and a number one place.
    fn count(&mut self, place: Place, ino: INodeNo, told: Option<Shown>) -> Result<usize, String> {
        let number = *self.numbers.entry(place.clone()).or_insert(ino);
        ensure(number == ino, "a place keeps its inode number")?;
        let other = self.numbers.iter().any(|(other, number)| *number == ino && *other != place);
        ensure(!other && ino != INodeNo::ROOT, "no two places share an inode number")?;
        if let Some(at) = self.known.iter().position(|known| known.ino == ino) {
            self.known[at].lookups += 1;
            self.known[at].told = told;
            return Ok(at);
        }
        self.known.push(Known { ino, place, lookups: 1, told });
        Ok(self.known.len() - 1)
    }

    pub(super) async fn forget(&mut self, node: usize, lookups: u64) -> Verdict {
        let known = &mut self.known[node];
        if known.ino == INodeNo::ROOT {
            self.fs.forget(INodeNo::ROOT, lookups);
            return Ok(());
        }
        let lookups = lookups.min(known.lookups);
        known.lookups -= lookups;
        let ino = known.ino;
        self.fs.forget(ino, lookups);
        if known.lookups == 0 {
            self.known.swap_remove(node);
            let found = self.fs.attributes(ino, None).await;
            ensure(found == Err(Failure::BadHandle), "a forgotten inode is not guessed")?;
        }
        Ok(())
    }

    pub(super) async fn attributes(&mut self, node: usize) -> Verdict {
        let found = self.fs.attributes(self.known[node].ino, None).await;
        let place = self.known[node].place.clone();
        match (found, &place) {
            (Ok(found), Place::Directory(_)) => {
                ensure(found.kind == Kind::Directory, "a directory stays one")
            }
            (Err(failure), Place::Directory(_)) => Err(format!("stat of a known directory: {failure}")),
            (Ok(found), _) => {
                ensure(found.ino == self.known[node].ino && found.kind == Kind::File, "a file stays one")?;
                self.known[node].told = Some(shown(&found));
                ensure(self.may_show(&place, shown(&found)), "stat shows a version within the TTL")
            }
            (Err(failure), _) => self.judge_failure(&failure, self.must_open(node)),
        }
    }

    pub(super) async fn list(&mut self, node: usize, plus: bool) -> Verdict {
        let listing = self.fs.list(self.known[node].ino).await;
        let Place::Directory(path) = self.known[node].place.clone() else {
            return ensure(listing.err() == Some(Failure::NotADirectory), "a file has no names in it");
        };
        let reference = &self.reference;
        let surely_secret = reference.is_calm() && reference.is_surely_there(&path);
        let listing = match listing {
            Ok(listing) => listing,
            Err(Failure::Backend(Error::Forbidden)) if reference.may_refuse_listing() => {
                return ensure(!surely_secret, "the fields of a known secret are listed");
            }
            Err(failure) => {
                let folder = reference.must_find_folder(&path);
                return self.judge_failure(&failure, surely_secret || (reference.is_listable() && folder));
            }
        };
        self.judge_listing(&path, &listing)?;
        if plus {
            let ino = self.known[node].ino;
            for entry in &listing.entries {
                let attributes = self.fs.look_up_entry(ino, entry);
                ensure(attributes.ino == entry.ino, "readdir and readdirplus say the same number")?;
                let (place, told) = if entry.kind == Kind::Directory {
                    (Place::Directory(join(&path, &entry.name)), None)
                } else {
                    let place = Place::Field(path.clone(), self.field(&entry.name)?);
                    ensure(
                        self.may_show(&place, shown(&attributes)),
                        "readdirplus shows a version within the TTL",
                    )?;
                    (place, Some(shown(&attributes)))
                };
                self.count(place, attributes.ino, told)?;
            }
        }
        Ok(())
    }

    fn field(&self, name: &str) -> Result<&'static str, String> {
        super::run::FIELDS.into_iter().find(|field| *field == name).ok_or(format!("{name} was never put"))
    }

    fn judge_listing(&self, path: &str, listing: &DirListing) -> Verdict {
        let reference = &self.reference;
        let names: BTreeSet<&str> = listing.entries.iter().map(|entry| entry.name.as_str()).collect();
        ensure(names.len() == listing.entries.len(), "each name is listed once")?;
        let of_kind = |kind| listing.entries.iter().filter(move |entry| entry.kind == kind);
        let folders: BTreeSet<&str> = of_kind(Kind::Directory).map(|entry| entry.name.as_str()).collect();
        let fields: BTreeSet<&str> = of_kind(Kind::File).map(|entry| entry.name.as_str()).collect();
        for name in &folders {
            ensure(reference.may_show_directory(&join(path, name)), "a listed folder is there")?;
        }
        for name in ["a", "b"] {
            let must = reference.refuses_nothing() && reference.must_list_directory(&join(path, name));
            ensure(!must || folders.contains(name), "what was there all through the TTL is listed")?;
        }
        // All fields of one version, but those that a folder hides; or none, where there may be no secret.
        let fits = |version: &Version| {
            let has = version.fields.iter().map(|(name, _)| name.as_str());
            has.filter(|name| !folders.contains(name)).collect::<BTreeSet<_>>() == fields
        };
        let honest = reference.is_calm() || reference.refuses_nothing();
        let must = honest && reference.must_list_secret(path);
        let fits = reference.showable(path).iter().any(|version| fits(version));
        ensure(fits || (fields.is_empty() && !must), "the fields listed are those of one version")
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}
