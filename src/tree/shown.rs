//! Owns what the kernel was told of a file, and who opened it of late as which version.
//! Does not know attributes or versions: it is given a mark for them.
//!
//! The kernel keeps one set of attributes for a file and does not say through which open file it asks (`fuse_getattr`,
//! fs/fuse/dir.c). Two threads may have two versions open. So each is answered by what it opened itself, and meanwhile the
//! kernel may keep nothing.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Moment;

/// How long the kernel may use a name and attributes without asking again. Short enough that a poller sees a change at
/// once for practical purposes; opens are always checked, whatever this is.
pub const KERNEL_TTL: Duration = Duration::from_secs(1);

/// As long as the kernel's copy may be another than the one told last, since two answers may have passed each other on
/// their way.
const UNSETTLED: Duration = Duration::from_secs(2);
/// Openers remembered for one file. With more at once, who was pushed out is answered as if it had opened nothing.
const MOST: usize = 64;
/// Stands for every thread that cannot be seen from here (`pid` of fuse_in_header, linux/fuse.h).
const UNSEEN: u32 = 0;

/// One file as the kernel and its threads know it.
#[derive(Debug, Default)]
pub struct Shown {
    /// Guards all of it; held for a short search only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: Option<u64>,
    told_size: u64,
    /// A former worker has told the kernel something, and this one nothing yet.
    inherited: bool,
    unsettled_until: Option<Moment>,
    opens: Vec<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    caller: u32,
    handle: u64,
    mark: u64,
    until: Moment,
}

impl Shown {
    /// Of a file of which a former worker has told the kernel something, nobody knows what. `opened`: the largest size that somebody
    /// may have it open with, if anybody may.
    pub(super) fn inherited(opened: Option<u64>) -> Self {
        let told_size = opened.unwrap_or_default();
        Self { state: Mutex::new(State { told_size, inherited: true, ..State::default() }) }
    }

    /// Notes that the kernel is told attributes with this mark and size; whether it may keep them.
    pub fn tell(&self, mark: u64, size: u64, now: Moment) -> bool {
        let mut state = self.state();
        if state.told.is_some_and(|told| told != mark) {
            state.unsettled_until = Some(now.plus(UNSETTLED));
        }
        state.told = Some(mark);
        state.told_size = size;
        state.inherited = false;
        state.opens.iter().all(|open| open.mark == mark || open.until <= now)
    }

    /// A size that the kernel can be told again without cutting what programs have mapped: the one that it was told last, 0 before it
    /// was told any. None where nobody knows.
    pub fn told_size(&self) -> Option<u64> {
        let state = self.state();
        (!state.inherited || state.told_size > 0).then_some(state.told_size)
    }

    /// Whether the kernel takes the file for empty, which has `size` bytes: whoever is told so tells the kernel.
    pub fn has_grown(&self, size: u64) -> bool {
        let mut state = self.state();
        let grown = size > 0 && state.told.is_some() && state.told_size == 0;
        if grown {
            state.told_size = size;
        }
        grown
    }

    /// Notes that a thread opened the file as what has this mark; whether the kernel must forget what it was told, before
    /// the thread may go on.
    pub fn open(&self, caller: u32, handle: u64, mark: u64, now: Moment) -> bool {
        let mut state = self.state();
        state.opens.retain(|open| open.until > now && (open.caller != caller || caller == UNSEEN));
        if state.opens.len() >= MOST {
            state.opens.remove(0);
        }
        // Remembered for as long as the kernel knows the file, and most have one reader.
        state.opens.reserve_exact(1);
        state.opens.push(Open { caller, handle, mark, until: now.plus(KERNEL_TTL) });
        let unsettled = state.unsettled_until.is_some_and(|until| now < until);
        state.inherited || state.told.is_some_and(|told| told != mark || unsettled)
    }

    /// The handle that a thread has opened last, if that was so short a while ago that it may still ask for its attributes.
    pub fn opened_by(&self, caller: u32, now: Moment) -> Option<u64> {
        let state = self.state();
        let is_own = |open: &&Open| open.caller == caller && caller != UNSEEN && open.until > now;
        let own = state.opens.iter().find(is_own);
        own.map(|open| open.handle)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn at(millis: u64) -> Moment {
        Clock::manual().now().plus(Duration::from_millis(millis))
    }

    #[test]
    fn an_open_of_another_version_than_was_told_must_be_told() {
        let shown = Shown::default();
        assert!(!shown.open(1, 10, 5, at(0)), "nothing was told yet");
        assert!(shown.tell(5, 0, at(0)));
        assert!(!shown.open(1, 11, 5, at(0)));
        assert!(shown.open(1, 12, 6, at(0)));
    }

    #[test]
    fn what_a_former_worker_has_told_is_known_to_nobody_until_the_kernel_is_told_anew() {
        let shown = Shown::inherited(None);
        assert_eq!(shown.told_size(), None, "any size could cut what is mapped");
        assert!(!shown.has_grown(7), "nor is it known to be empty");
        assert!(shown.open(1, 10, 5, at(0)) && shown.open(1, 11, 5, at(0)));
        shown.tell(5, 7, at(0));
        assert_eq!(shown.told_size(), Some(7));
        assert!(!shown.open(1, 12, 5, at(0)));
        let opened = Shown::inherited(Some(9));
        assert_eq!(opened.told_size(), Some(9));
        opened.tell(5, 0, at(0));
        assert_eq!((opened.told_size(), opened.has_grown(7)), (Some(0), true));
    }

    #[test]
    fn one_open_is_told_that_a_file_has_grown_from_nothing() {
        let shown = Shown::default();
        assert!(!shown.has_grown(7), "the kernel was told nothing");
        shown.tell(5, 0, at(0));
        assert!(!shown.has_grown(0));
        assert!(shown.has_grown(7) && !shown.has_grown(7));
        shown.tell(6, 3, at(0));
        assert!(!shown.has_grown(7));
    }

    #[test]
    fn after_a_change_every_open_is_told_until_no_older_answer_can_be_on_its_way() {
        let shown = Shown::default();
        shown.tell(5, 0, at(0));
        shown.tell(6, 0, at(0));
        assert!(shown.open(1, 10, 6, at(1999)));
        assert!(!shown.open(1, 11, 6, at(2000)));
    }

    #[test]
    fn while_two_versions_are_open_nothing_may_be_kept() {
        let shown = Shown::default();
        shown.open(1, 10, 5, at(0));
        assert!(shown.tell(5, 0, at(0)));
        assert!(!shown.tell(6, 0, at(999)));
        assert!(shown.tell(6, 0, at(1000)), "its time is over");
        shown.open(1, 11, 5, at(1000));
        shown.open(1, 12, 6, at(1000));
        assert!(shown.tell(6, 0, at(1001)), "it has opened the other since");
    }

    #[test]
    fn a_thread_is_answered_by_what_it_opened_last_and_not_for_long() {
        let shown = Shown::default();
        shown.open(1, 10, 5, at(0));
        shown.open(2, 11, 6, at(500));
        shown.open(1, 12, 6, at(500));
        assert_eq!(shown.opened_by(1, at(1499)), Some(12));
        assert_eq!(shown.opened_by(2, at(1499)), Some(11));
        assert_eq!(shown.opened_by(3, at(500)), None);
        assert_eq!(shown.opened_by(1, at(1500)), None);
    }

    #[test]
    fn threads_that_cannot_be_seen_are_not_taken_for_one() {
        let shown = Shown::default();
        shown.open(UNSEEN, 10, 5, at(0));
        shown.open(UNSEEN, 11, 6, at(0));
        assert_eq!(shown.opened_by(UNSEEN, at(0)), None);
        assert!(!shown.tell(6, 0, at(0)), "the first may still ask");
    }

    #[test]
    fn a_crowd_is_forgotten_in_its_order() {
        let shown = Shown::default();
        for caller in 1..=1000 {
            shown.open(caller, u64::from(caller), 5, at(0));
        }
        assert_eq!(shown.opened_by(1000, at(1)), Some(1000));
        assert_eq!(shown.opened_by(1, at(1)), None);
        assert_eq!(shown.state().opens.len(), MOST);
    }
}
