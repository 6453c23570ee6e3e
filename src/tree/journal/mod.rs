//! Owns what a worker leaves to the next one about inodes: which number stands for what, and which versions were opened.
//! Does not know what the kernel asks or what a file holds.
//!
//! An entry is written before the kernel can know of what it says, and taken back after the kernel has forgotten it. So a
//! worker that is killed leaves a number too many at most, which does no harm, and never one too few.

mod wire;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use super::TreeId;
use super::edition::{Edition, LAST, MOST};
use super::inode::{INodeNo, Node, Place};
pub use crate::record::Refused;
use crate::record::{self, Opening, Record};
use wire::{Entry, WireEdition, WirePlace};

/// The journal of a mount, as one worker has it.
#[derive(Debug)]
pub struct Journal {
    record: Record<Entry>,
    key: [u8; 16],
    worker: u32,
    begun: SystemTime,
    next_edition: AtomicU32,
    inherited: Inherited,
}

/// What former workers have left.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) nodes: Vec<InheritedNode>,
    /// Of which trees it is known whether their secrets are made on demand.
    pub(super) trees: Vec<(TreeId, bool)>,
}

#[derive(Debug)]
pub(super) struct InheritedNode {
    pub(super) ino: INodeNo,
    pub(super) parent: INodeNo,
    pub(super) place: Place,
    pub(super) editions: Vec<Edition>,
}

impl Journal {
    /// Makes the two files of an empty journal, which the holder keeps.
    ///
    /// # Errors
    /// The kernel has no memory file to give.
    pub fn make() -> std::io::Result<[OwnedFd; 2]> {
        record::make("secretfs-inodes")
    }

    /// Takes over what the last worker has left, if that was one of this configuration and format. Else it begins anew, and the
    /// second of the two says why. That worker must be gone: what it recorded from then on would spoil the file that counts
    /// no more, and with it all that the worker after this one reads.
    pub fn open(files: [OwnedFd; 2], configuration: [u8; 32]) -> (Self, Result<(), Refused>) {
        let mut opening = Opening::read(files, configuration);
        let mut refusal = None;
        let left = Left::read(opening.take_entries()).unwrap_or_else(|why| {
            refusal = Some(why);
            Left::default()
        });
        if let Some(why) = refusal {
            opening = opening.refuse(why);
        }
        let begun = left.begun.unwrap_or_else(SystemTime::now);
        let (inherited, next_edition) = left.sorted();
        // A journal that begins anew begins anywhere, so that no handle of before means something in it.
        let next_edition = next_edition.unwrap_or_else(|| anywhere(opening.key()));
        let refused = opening.refused().cloned().map_or(Ok(()), Err);
        let (key, worker) = (opening.key(), opening.worker());
        let nodes = inherited.nodes.iter();
        let nodes = nodes.flat_map(|node| entries(node.ino, node.parent, &node.place, &node.editions));
        let trees = inherited.trees.iter().map(|(tree, on_demand)| of_tree(*tree, *on_demand));
        let first = [Entry::Begun(wire::nanos(begun)), Entry::NextEdition(next_edition)];
        let record = opening.begin(trees.chain(first).chain(nodes));
        let next_edition = AtomicU32::new(next_edition);
        (Self { record, key, worker, begun, next_edition, inherited }, refused)
    }

    /// The inodes that were inherited, by their number.
    pub fn inherited(&self) -> impl ExactSizeIterator<Item = INodeNo> + '_ {
        self.inherited.nodes.iter().map(|node| node.ino)
    }

    /// The how-manieth worker this is; 1 is the first.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// When the first worker opened it: for all of them the mount began then.
    pub fn begun(&self) -> SystemTime {
        self.begun
    }

    /// The key of the inode numbers.
    pub(super) fn key(&self) -> [u8; 16] {
        self.key
    }

    pub(super) fn take_inherited(&mut self) -> Inherited {
        std::mem::take(&mut self.inherited)
    }

    /// The kernel is about to be told of a node.
    pub(super) fn node(&self, node: &Node) {
        let place = WirePlace::of(&node.place);
        self.record.append(&Entry::Node { ino: node.ino.0, parent: node.parent.0, place });
    }

    /// The kernel has forgotten a node.
    pub(super) fn gone(&self, ino: INodeNo) {
        self.record.append(&Entry::Gone { ino: ino.0 });
    }

    /// Gives an edition its number and records it; false, when all numbers are used up or nothing can be recorded.
    pub(super) fn edition(&self, ino: INodeNo, edition: &mut Edition) -> bool {
        let next = |number: u32| (number <= LAST).then(|| number + 1);
        let Ok(number) = self.next_edition.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) else {
            return false;
        };
        edition.number = number;
        self.record.append(&Entry::Edition { ino: ino.0, edition: WireEdition::of(edition) })
    }

    /// Whether the secrets of a tree are made on demand.
    pub(super) fn tree(&self, tree: TreeId, on_demand: bool) {
        self.record.append(&of_tree(tree, on_demand));
    }

    /// Whether all that still holds is to be written anew.
    pub(super) fn has_grown(&self) -> bool {
        self.record.has_grown()
    }

    /// Writes all that still holds anew. Meanwhile nothing may be recorded.
    pub(super) fn compact<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        trees: impl Iterator<Item = (TreeId, bool)>,
    ) {
        let nodes = nodes.filter(|node| node.ino != INodeNo::ROOT).flat_map(|node| {
            let editions = node.file.as_ref().map(|file| file.editions.all()).unwrap_or_default();
            entries(node.ino, node.parent, &node.place, &editions)
        });
        let trees = trees.map(|(tree, on_demand)| of_tree(tree, on_demand));
        let begun = Entry::Begun(wire::nanos(self.begun));
        let next = Entry::NextEdition(self.next_edition.load(Ordering::Relaxed));
        self.record.compact(trees.chain([begun, next]).chain(nodes));
    }
}

/// A number for the first edition that leaves half of all for those to come.
fn anywhere(key: [u8; 16]) -> u32 {
    let [a, b, c, ..] = key;
    (u32::from_le_bytes([a, b, c, 0]) & (LAST >> 1)).max(1)
}

fn of_tree(tree: TreeId, on_demand: bool) -> Entry {
    Entry::Tree { tree: wire::wire_tree(tree), on_demand }
}

fn entries(ino: INodeNo, parent: INodeNo, place: &Place, editions: &[Edition]) -> Vec<Entry> {
    let node = Entry::Node { ino: ino.0, parent: parent.0, place: WirePlace::of(place) };
    let edition = |edition| Entry::Edition { ino: ino.0, edition: WireEdition::of(edition) };
    [node].into_iter().chain(editions.iter().map(edition)).collect()
}

/// What holds after all entries.
#[derive(Debug, Default)]
struct Left {
    nodes: Vec<InheritedNode>,
    /// Where in `nodes` those are that hold still: small, for it grows while programs wait.
    at: HashMap<INodeNo, usize>,
    trees: HashMap<u32, bool>,
    begun: Option<SystemTime>,
    /// 0 where nobody has written one.
    next_edition: u32,
}

impl Left {
    fn read(entries: Vec<Entry>) -> Result<Self, &'static str> {
        let nodes = entries.iter().filter(|entry| matches!(entry, Entry::Node { .. })).count();
        let mut left = Self { nodes: Vec::with_capacity(nodes), ..Self::default() };
        let mut numbers = HashSet::new();
        for entry in entries {
            match entry {
                Entry::Node { ino, parent, place } => {
                    // 0 is no inode, and the root is never written.
                    if ino < 2 || parent == 0 {
                        return Err("an inode has a number that none has");
                    }
                    let (ino, parent) = (INodeNo(ino), INodeNo(parent));
                    let place = place.place().ok_or("an inode stands for nothing that there is")?;
                    if left.at.insert(ino, left.nodes.len()).is_some() {
                        return Err("an inode was made twice");
                    }
                    left.nodes.push(InheritedNode { ino, parent, place, editions: vec![] });
                }
                Entry::Gone { ino } => drop(left.at.remove(&INodeNo(ino))),
                Entry::Edition { ino, edition } => {
                    let edition = edition.parse().ok_or("an edition makes no sense")?;
                    if !numbers.insert(edition.number) {
                        return Err("an edition was made twice");
                    }
                    left.next_edition = left.next_edition.max(edition.number.saturating_add(1));
                    // Of a file that was forgotten while it was being opened nobody has a handle.
                    if let Some(node) = left.at.get(&INodeNo(ino)).and_then(|at| left.nodes.get_mut(*at)) {
                        if node.editions.len() >= MOST {
                            node.editions.remove(0);
                        }
                        node.editions.push(edition);
                    }
                }
                Entry::Begun(at) => {
                    left.begun = Some(wire::time(at).ok_or("the mount began at no time")?);
                }
                Entry::NextEdition(next) => left.next_edition = left.next_edition.max(next),
                Entry::Tree { tree, on_demand } => drop(left.trees.insert(tree, on_demand)),
            }
        }
        Ok(left)
    }

    fn sorted(self) -> (Inherited, Option<u32>) {
        let Self { mut nodes, at: living, .. } = self;
        let mut at = 0..;
        nodes.retain(|node| at.next() == living.get(&node.ino).copied());
        nodes.sort_by_key(|node| node.ino);
        let trees = self.trees.into_iter().filter_map(|(at, known)| Some((wire::tree(at)?, known)));
        let next = (self.next_edition > 0).then_some(self.next_edition);
        (Inherited { nodes, trees: trees.collect() }, next)
    }
}

#[cfg(test)]
mod tests;
