//! Owns the queue of deadlines: which slot is to be emptied next.
//! Does not know what a slot holds.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};

use super::slot::Slot;
use crate::clock::Moment;

/// Slots by their deadline. A slot that was dropped before costs a dead entry until then.
#[derive(Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<Due>>,
}

struct Due {
    at: Moment,
    slot: Weak<Slot>,
}

impl Deadlines {
    /// Watches a slot; whether its deadline is now the earliest.
    pub(super) fn push(&mut self, slot: &Arc<Slot>) -> bool {
        let at = slot.deadline();
        let earliest = self.heap.peek().is_none_or(|Reverse(due)| at < due.at);
        self.heap.push(Reverse(Due { at, slot: Arc::downgrade(slot) }));
        earliest
    }

    /// Empties every slot whose deadline is `now` or earlier; the next deadline.
    pub(super) fn wipe_due(&mut self, now: Moment) -> Option<Moment> {
        while let Some(Reverse(due)) = self.heap.peek() {
            if due.at > now {
                return Some(due.at);
            }
            if let Some(Reverse(due)) = self.heap.pop()
                && let Some(slot) = due.slot.upgrade()
            {
                slot.wipe();
            }
        }
        None
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}
