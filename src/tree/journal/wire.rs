//! Owns how places and editions are written into the journal, and their way back through the checks that made them.
//! Does not know which of them still hold.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::cache::{DemandId, SecretRef, SourceId};
use crate::path::BackendPath;
use crate::record;
use crate::render::View;
use crate::secret::Version;
use crate::tree::TreeId;
use crate::tree::edition::Edition;
use crate::tree::inode::Place;

/// One entry of the journal. Names and ids, never a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// The kernel is about to be told of this inode.
    Node { ino: u64, parent: u64, place: WirePlace },
    /// The kernel has forgotten it.
    Gone { ino: u64 },
    /// A version of a file is about to be opened for the first time.
    Edition { ino: u64, edition: WireEdition },
    /// When the mount began, in nanoseconds from 1970 on.
    Begun(i128),
    /// The number of the next edition.
    NextEdition(u32),
    /// Whether the secrets of a tree are made on demand.
    Tree { tree: u32, on_demand: bool },
}

impl record::Entry for Entry {
    const OF: [u8; 8] = *b"inodes  ";
    const FORMAT: u32 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum WirePlace {
    Junction(Vec<String>),
    Directory(WireRef),
    Versions(WireRef),
    Field(WireRef, String),
    View(WireRef, String),
}

/// A tree and what of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireRef {
    tree: u32,
    source: u32,
    demand: u32,
    path: Vec<String>,
    version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireEdition {
    number: u32,
    version: String,
    /// Nanoseconds from 1970 on.
    created: Option<i128>,
    size: u64,
}

impl WirePlace {
    pub(super) fn of(place: &Place) -> Self {
        match place {
            Place::Junction(names) => Self::Junction(names.clone()),
            Place::Directory { tree, of } => Self::Directory(WireRef::of(*tree, of)),
            Place::Versions { tree, of } => Self::Versions(WireRef::of(*tree, of)),
            Place::Field { tree, of, field } => Self::Field(WireRef::of(*tree, of), field.to_string()),
            Place::View { tree, of, view } => Self::View(WireRef::of(*tree, of), view.name().to_owned()),
        }
    }

    /// The place; none where some part of it is nothing that we ever make.
    pub(super) fn place(self) -> Option<Place> {
        Some(match self {
            Self::Junction(names) => Place::Junction(names),
            Self::Directory(at) => at.parse().map(|(tree, of)| Place::Directory { tree, of })?,
            Self::Versions(at) => at.parse().map(|(tree, of)| Place::Versions { tree, of })?,
            Self::Field(at, field) => {
                let (tree, of) = at.parse()?;
                Place::Field { tree, of, field: field.into() }
            }
            Self::View(at, name) => {
                let (tree, of) = at.parse()?;
                Place::View { tree, of, view: View::named(&name)? }
            }
        })
    }
}

impl WireRef {
    fn of(tree: TreeId, of: &SecretRef) -> Self {
        Self {
            tree: wire_tree(tree),
            source: of.source.0,
            demand: of.demand.0,
            path: of.path.segments().map(str::to_owned).collect(),
            version: of.version.as_ref().map(|version| version.as_str().to_owned()),
        }
    }

    fn parse(self) -> Option<(TreeId, SecretRef)> {
        let tree = tree(self.tree)?;
        let path = BackendPath::from_segments(self.path).ok()?;
        let version = self.version.map(Version::new);
        let (source, demand) = (SourceId(self.source), DemandId(self.demand));
        Some((tree, SecretRef { source, demand, path, version }))
    }
}

/// No configuration has so many that this would not do.
pub(super) fn wire_tree(tree: TreeId) -> u32 {
    u32::try_from(tree.0).unwrap_or(u32::MAX)
}

pub(super) fn tree(wire: u32) -> Option<TreeId> {
    usize::try_from(wire).ok().filter(|_| wire != u32::MAX).map(TreeId)
}

impl WireEdition {
    pub(super) fn of(edition: &Edition) -> Self {
        Self {
            number: edition.number,
            version: edition.version.as_str().to_owned(),
            created: edition.created.map(nanos),
            size: edition.size,
        }
    }

    pub(super) fn parse(self) -> Option<Edition> {
        let created = match self.created {
            Some(nanos) => Some(time(nanos)?),
            None => None,
        };
        let (number, version) = (self.number, Version::new(self.version));
        (number > 0).then_some(Edition { number, version, created, size: self.size })
    }
}

pub(super) fn nanos(time: SystemTime) -> i128 {
    let wide = |span: Duration| i128::try_from(span.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => wide(after),
        Err(before) => wide(before.duration()).saturating_neg(),
    }
}

pub(super) fn time(nanos: i128) -> Option<SystemTime> {
    const SECOND: u128 = 1_000_000_000;
    let size = nanos.unsigned_abs();
    let span = Duration::new(u64::try_from(size / SECOND).ok()?, u32::try_from(size % SECOND).ok()?);
    if nanos < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(span)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_before_and_after_1970_come_back_exactly() {
        let epoch = SystemTime::UNIX_EPOCH;
        let span = Duration::new(1_700_000_000, 123_456_789);
        for at in [epoch, epoch + span, epoch - span, epoch - Duration::from_nanos(1)] {
            assert_eq!(time(nanos(at)), Some(at));
        }
        assert_eq!((time(i128::MAX), time(i128::MIN)), (None, None));
    }

    #[test]
    fn every_place_comes_back_and_what_no_check_lets_through_does_not() {
        let path = BackendPath::from_segments(vec!["".into(), "a".into(), "..".into(), "".into()]).unwrap();
        let of = SecretRef {
            source: SourceId(3),
            demand: DemandId(2),
            path,
            version: Some(Version::new("AWSPREVIOUS")),
        };
        let tree = TreeId(5);
        for place in [
            Place::Junction(vec!["apps".into(), "db".into()]),
            Place::Directory { tree, of: of.clone() },
            Place::Versions { tree, of: of.newest() },
            Place::Field { tree, of: of.clone(), field: "a/b\0ä".into() },
            Place::View { tree, of: of.clone(), view: View::DockerEnv },
        ] {
            assert_eq!(WirePlace::of(&place).place(), Some(place));
        }
        let good = WireRef::of(tree, &of);
        assert_eq!(WirePlace::View(good.clone(), ".other".into()).place(), None);
        assert_eq!(WirePlace::Directory(WireRef { path: vec!["a/b".into()], ..good.clone() }).place(), None);
        assert_eq!(WirePlace::Directory(WireRef { tree: u32::MAX, ..good }).place(), None);
    }
}
