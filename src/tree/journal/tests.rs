//! Owns the tests of what a worker leaves to the next one: after every kill the same numbers stand for the same places.
//! Does not know files of the record, which `crate::record` tests, or a filesystem.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::super::inode::INodeTable;
use super::*;
use crate::cache::{SecretRef, SourceId};
use crate::path::BackendPath;
use crate::render::View;
use crate::secret::Version;

const CONFIGURATION: [u8; 32] = [3; 32];

fn again(files: &[OwnedFd; 2]) -> [OwnedFd; 2] {
    files.each_ref().map(|file| file.try_clone().unwrap())
}

fn root() -> Place {
    Place::Junction(vec![])
}

/// The next worker's table; the one before has been killed or goes on, it does not matter.
fn next(files: &[OwnedFd; 2]) -> INodeTable {
    let (journal, refused) = Journal::open(again(files), CONFIGURATION);
    assert_eq!(refused, Ok(()));
    INodeTable::with_journal(root(), journal)
}

fn of(path: usize) -> SecretRef {
    SecretRef::current(SourceId(1), BackendPath::parse(&format!("team/canary-{path}")).unwrap())
}

fn place(number: usize) -> Place {
    let (tree, of) = (TreeId(number % 2), of(number / 5));
    match number % 5 {
        0 => Place::Directory { tree, of },
        1 => Place::Field { tree, of, field: "user".into() },
        2 => Place::Field { tree, of, field: "password".into() },
        3 => Place::View { tree, of, view: View::Env },
        _ => Place::Directory { tree, of: SecretRef { version: Some(Version::new("3")), ..of } },
    }
}

fn created(version: u64) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(version))
}

#[test]
fn the_next_worker_knows_what_the_last_one_told_the_kernel() {
    let files = Journal::make().unwrap();
    let table = next(&files);
    let directory = table.look_up(INodeNo::ROOT, place(0)).ino;
    let field = table.look_up(directory, place(1)).ino;
    let gone = table.look_up(directory, place(2)).ino;
    table.forget(gone, 1);
    table.note_on_demand(TreeId(1), true);
    let worker = table.worker();
    let begun = Journal::open(again(&files), CONFIGURATION).0.begun();
    drop(table);

    let (journal, _) = Journal::open(again(&files), CONFIGURATION);
    assert_eq!((journal.inherited().len(), journal.worker(), journal.begun()), (2, worker + 2, begun));
    let table = INodeTable::with_journal(root(), journal);
    assert_eq!(table.trees(), [(TreeId(1), true)]);
    let node = table.get(field).unwrap();
    assert_eq!((&node.place, node.parent), (&place(1), directory));
    assert_eq!(table.files_in(directory).len(), 1);
    assert!(table.get(gone).is_none());
    assert_eq!(table.look_up(directory, place(2)).ino, gone, "the same place has the same number");
    assert_eq!(table.look_up(directory, place(1)).ino, field);
}

#[test]
fn what_was_inherited_is_dropped_only_when_the_kernel_gives_back_more_than_was_counted() {
    let files = Journal::make().unwrap();
    let ino = next(&files).look_up(INodeNo::ROOT, place(0)).ino;
    let table = next(&files);
    table.look_up(INodeNo::ROOT, place(0));
    table.look_up(INodeNo::ROOT, place(0));
    table.forget(ino, 1);
    assert!(table.get(ino).is_some());
    table.forget(ino, 1);
    assert!(table.get(ino).is_some(), "the kernel holds what the other worker gave");
    table.look_up(INodeNo::ROOT, place(0));
    table.forget(ino, 2);
    assert!(table.get(ino).is_none());
    assert!(next(&files).get(ino).is_none());
    table.forget(ino, 2);
}

#[test]
fn another_configuration_is_refused_and_its_numbers_are_others() {
    let files = Journal::make().unwrap();
    let ino = next(&files).look_up(INodeNo::ROOT, place(0)).ino;
    let (journal, refused) = Journal::open(again(&files), [4; 32]);
    assert_eq!((refused, journal.inherited().len()), (Err(Refused::Fingerprint), 0));
    let table = INodeTable::with_journal(root(), journal);
    assert!(table.get(ino).is_none());
    assert_ne!(table.look_up(INodeNo::ROOT, place(0)).ino, ino);
}

#[test]
fn entries_that_contradict_each_other_are_refused() {
    let node = |ino, parent| Entry::Node { ino, parent, place: WirePlace::of(&place(1)) };
    let edition = Edition { number: 4, version: Version::new("1"), created: None, size: 1 };
    let opened = Entry::Edition { ino: 7, edition: WireEdition::of(&edition) };
    let zero = Entry::Edition { ino: 7, edition: WireEdition::of(&Edition { number: 0, ..edition.clone() }) };
    for (wrong, why) in [
        (vec![node(7, 1), node(7, 1)], "an inode was made twice"),
        (vec![node(1, 1)], "an inode has a number that none has"),
        (vec![node(7, 0)], "an inode has a number that none has"),
        (vec![node(7, 1), opened.clone(), opened.clone()], "an edition was made twice"),
        (vec![node(7, 1), zero], "an edition makes no sense"),
    ] {
        assert_eq!(Left::read(wrong.clone()).map(drop), Err(why));
        let files = Journal::make().unwrap();
        drop(Opening::<Entry>::read(again(&files), CONFIGURATION).begin(wrong));
        let (journal, refused) = Journal::open(files, CONFIGURATION);
        assert_eq!((refused, journal.inherited().len()), (Err(Refused::Entry(why)), 0));
    }
    let fine = vec![opened, node(7, 1), Entry::Gone { ino: 7 }, node(7, 1), Entry::Gone { ino: 8 }];
    assert_eq!(Left::read(fine).unwrap().next_edition, 5);
}

#[test]
fn an_edition_is_recorded_once_and_its_number_is_never_used_again() {
    let files = Journal::make().unwrap();
    let table = next(&files);
    let node = table.look_up(INodeNo::ROOT, place(1));
    let open = |table: &INodeTable, version: &str, size| {
        let node = table.get(node.ino).unwrap();
        table.edition(&node, &Version::new(version), created(1), size)
    };
    let first = open(&table, "1", 5);
    assert_ne!(first, 0);
    assert_eq!(open(&table, "1", 5), first);
    assert_eq!(open(&table, "", 5), 0, "nothing can be asked for by no version");
    let others = [open(&table, "2", 5), open(&table, "1", 6)];
    let meta = table.look_up(INodeNo::ROOT, Place::View { tree: TreeId(0), of: of(0), view: View::Meta });
    assert_eq!(table.edition(&meta, &Version::new("1"), created(1), 5), 0);

    let table = next(&files);
    assert_eq!(open(&table, "1", 5), first);
    let edition = table.get(node.ino).unwrap().file.as_ref().unwrap().editions.get(first).unwrap();
    assert!(edition.is_of(&Version::new("1"), created(1), 5));
    table.forget(node.ino, 9);
    let table = next(&next_twice(&files));
    let node = table.look_up(INodeNo::ROOT, place(1));
    let fresh = table.edition(&node, &Version::new("1"), created(1), 5);
    assert!(fresh > others[1].max(first), "{fresh} {others:?}");
}

/// Two more workers that do nothing, so that all files have been written anew.
fn next_twice(files: &[OwnedFd; 2]) -> [OwnedFd; 2] {
    drop(next(files));
    drop(next(files));
    again(files)
}

#[test]
fn a_file_remembers_its_last_editions_only() {
    let files = Journal::make().unwrap();
    let table = next(&files);
    let node = table.look_up(INodeNo::ROOT, place(1));
    let numbers: Vec<u32> =
        (0..40).map(|at| table.edition(&node, &Version::new(at.to_string()), None, at)).collect();
    for table in [table, next(&files), next(&files)] {
        let node = table.get(node.ino).unwrap();
        let editions = &node.file.as_ref().unwrap().editions;
        let known: Vec<u32> = numbers.iter().copied().filter(|at| editions.get(*at).is_some()).collect();
        assert_eq!(known, numbers[numbers.len() - MOST..]);
    }
}

#[test]
fn it_stays_small_however_much_comes_and_goes() {
    let files = Journal::make().unwrap();
    let table = next(&files);
    let kept = table.look_up(INodeNo::ROOT, place(1));
    for round in 0..20_000_usize {
        let node = table.look_up(INodeNo::ROOT, place(5 + round));
        if round % 4 == 0 {
            table.edition(&kept, &Version::new(round.to_string()), created(1), 5);
        }
        table.forget(node.ino, 1);
    }
    let size = |file: &OwnedFd| rustix::fs::fstat(file).unwrap().st_size;
    let sizes: Vec<i64> = files.iter().map(size).collect();
    assert!(sizes.iter().all(|size| *size < 1_200_000), "{sizes:?}");
    let (journal, refused) = Journal::open(files, CONFIGURATION);
    assert_eq!((refused, journal.inherited().len()), (Ok(()), 1));
}

/// An entry as bytes that somebody has changed: whole frames with a right checksum, so that only the journal can refuse it.
struct Raw(Vec<u8>);

impl serde::Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

impl<'de> serde::Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("it is only written"))
    }
}

impl record::Entry for Raw {
    const OF: [u8; 8] = Entry::OF;
    const FORMAT: u32 = Entry::FORMAT;
}

/// One of each kind.
fn samples() -> Vec<Entry> {
    let edition = Edition { number: 4, version: Version::new("1"), created: created(1), size: 1 };
    let node = |ino, at| Entry::Node { ino, parent: 1, place: WirePlace::of(&place(at)) };
    vec![
        Entry::Tree { tree: 0, on_demand: true },
        Entry::Begun(1_700_000_000_000_000_000),
        Entry::NextEdition(3),
        node(7, 0),
        node(8, 1),
        node(9, 3),
        Entry::Edition { ino: 8, edition: WireEdition::of(&edition) },
        Entry::Gone { ino: 9 },
        Entry::Node { ino: 10, parent: 7, place: WirePlace::Junction(vec!["canary".into()]) },
    ]
}

#[derive(Debug, Clone)]
enum Op {
    LookUp(usize),
    Forget { place: usize, all: bool },
    Open { place: usize, version: u64 },
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..30_usize).prop_map(Op::LookUp),
        3 => (0..30_usize, any::<bool>()).prop_map(|(place, all)| Op::Forget { place, all }),
        4 => (0..30_usize, 1..4_u64).prop_map(|(place, version)| Op::Open { place, version }),
        1 => Just(Op::Kill),
    ]
}

proptest! {
    #[test]
    fn no_entry_makes_the_next_worker_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut raws: Vec<Vec<u8>> =
            samples().iter().map(|entry| postcard::to_stdvec(entry).unwrap()).collect();
        for (which, at, byte) in &edits {
            let raw = &mut raws[which.index(9)];
            let at = at.index(raw.len());
            raw[at] = *byte;
        }
        if edits.len() % 2 == 1 {
            let raw = &mut raws[cut.index(9)];
            raw.truncate(cut.index(raw.len()));
        }
        let files = Journal::make().unwrap();
        drop(Opening::<Raw>::read(again(&files), CONFIGURATION).begin(raws.into_iter().map(Raw)));
        let (journal, refused) = Journal::open(again(&files), CONFIGURATION);
        prop_assert_eq!(journal.inherited().len() > 0 && refused.is_err(), false);
        if edits.is_empty() {
            prop_assert_eq!((journal.inherited().len(), refused), (3, Ok(())));
        }
        let table = INodeTable::with_journal(root(), journal);
        let ino = table.look_up(INodeNo::ROOT, place(11)).ino;
        let table = next(&files);
        prop_assert_eq!(table.get(ino).map(|node| node.place.clone()), Some(place(11)));
    }

    #[test]
    fn whatever_the_kernel_holds_every_worker_knows(ops in prop::collection::vec(op(), 1..120)) {
        let files = Journal::make().unwrap();
        let mut table = next(&files);
        // What the kernel holds: its number and lookups, and by edition what was opened.
        let mut held: BTreeMap<usize, (INodeNo, u64)> = BTreeMap::new();
        let mut editions: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
        for op in ops {
            match op {
                Op::LookUp(at) => {
                    let ino = table.look_up(INodeNo::ROOT, place(at)).ino;
                    let (known, lookups) = held.entry(at).or_insert((ino, 0));
                    prop_assert_eq!(*known, ino);
                    *lookups += 1;
                }
                Op::Forget { place, all } => {
                    // The kernel gives back all it has; one alone is given back by us, for a reply it did not get.
                    let Some((ino, lookups)) = held.get_mut(&place) else { continue };
                    if all || *lookups == 1 {
                        table.forget(*ino, *lookups);
                        held.remove(&place);
                        editions.retain(|_, (of, _)| *of != place);
                    } else {
                        table.look_up(INodeNo::ROOT, self::place(place));
                        table.forget(*ino, 1);
                    }
                }
                Op::Open { place, version } => {
                    let Some((ino, _)) = held.get(&place) else { continue };
                    let node = table.get(*ino).unwrap();
                    let number = table.edition(&node, &Version::new(version.to_string()), created(version), 5);
                    prop_assert_eq!(number == 0, node.file.is_none());
                    if number != 0 {
                        let known = *editions.entry(number).or_insert((place, version));
                        prop_assert_eq!(known, (place, version));
                    }
                }
                Op::Kill => table = next(&files),
            }
            for (at, (ino, _)) in &held {
                let node = table.get(*ino);
                prop_assert_eq!(node.as_ref().map(|node| &node.place), Some(&place(*at)));
            }
            for (number, (at, version)) in &editions {
                let node = table.get(held[at].0).unwrap();
                let edition = node.file.as_ref().unwrap().editions.get(*number).unwrap();
                prop_assert!(edition.is_of(&Version::new(version.to_string()), created(*version), 5));
            }
        }
    }
}
