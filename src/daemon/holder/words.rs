//! Owns what follows from the words of two workers of which one hands over to the other. They come in any order, which decides nothing.
//! Does not know the workers.

use super::super::channel::{Handed, Taken};

/// What both have said so far.
#[derive(Debug)]
pub(super) struct Words {
    /// The number of the new one: what is said of another is of an upgrade that was abandoned.
    successor: u64,
    handed: Option<Handed>,
    taken: Option<Taken>,
}

/// What follows from that.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not all is said.
    Wait,
    /// The old one may be killed, for it stands still. The new one has all, or nothing for this reason.
    Replace(Option<String>),
    /// The old one goes on, for this reason.
    Abandon(String),
}

impl Words {
    /// Nobody has spoken.
    pub(super) fn about(successor: u64) -> Self {
        Self { successor, handed: None, taken: None }
    }

    /// The old one has spoken of this successor.
    pub(super) fn handed(&mut self, successor: u64, handed: Handed) -> Verdict {
        if successor == self.successor {
            self.handed = Some(handed);
        }
        self.verdict()
    }

    /// The new one has spoken.
    pub(super) fn taken(&mut self, taken: Taken) -> Verdict {
        self.taken = Some(taken);
        self.verdict()
    }

    fn verdict(&self) -> Verdict {
        let cannot = |why: &str| Verdict::Abandon(format!("the old worker cannot hand over: {why}"));
        match (&self.handed, &self.taken) {
            // It goes on already, and may be in the middle of something: whatever the other says of it.
            (Some(Handed::Nothing(why)), _) => cannot(why),
            (Some(Handed::All), Some(Taken::All)) => Verdict::Replace(None),
            (Some(Handed::All | Handed::Broken(_)), Some(Taken::Refused(why))) => {
                Verdict::Replace(Some(why.clone()))
            }
            (Some(Handed::Broken(why)), Some(_)) => cannot(why),
            (Some(Handed::All), Some(Taken::Lost(why))) => {
                Verdict::Abandon(format!("the new worker has not got what was handed over: {why}"))
            }
            (None, _) | (_, None) => Verdict::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why() -> String {
        "because".to_owned()
    }

    /// The verdict, which is the same whoever speaks first.
    fn of(handed: &Handed, taken: &Taken) -> Verdict {
        let (mut one, mut other) = (Words::about(7), Words::about(7));
        let first = one.handed(7, handed.clone());
        assert_eq!(other.taken(taken.clone()), Verdict::Wait, "nobody is killed on the new one's word alone");
        let verdict = one.taken(taken.clone());
        assert_eq!(other.handed(7, handed.clone()), verdict);
        assert!(first == Verdict::Wait || first == verdict);
        verdict
    }

    #[test]
    fn an_old_worker_that_could_not_stand_still_goes_on_whatever_the_new_one_says_and_when() {
        let nothing = Handed::Nothing(why());
        for taken in [Taken::Lost(why()), Taken::Refused(why()), Taken::All] {
            assert!(matches!(of(&nothing, &taken), Verdict::Abandon(why) if why.contains("because")));
        }
    }

    #[test]
    fn what_is_refused_as_such_is_begun_without_also_where_it_was_refused_before_its_end() {
        for handed in [Handed::All, Handed::Broken("EPIPE".to_owned())] {
            assert_eq!(of(&handed, &Taken::Refused(why())), Verdict::Replace(Some(why())));
        }
    }

    #[test]
    fn what_is_lost_on_the_way_changes_nothing() {
        for handed in [Handed::All, Handed::Broken(why())] {
            assert!(matches!(of(&handed, &Taken::Lost(why())), Verdict::Abandon(_)));
        }
        assert!(matches!(of(&Handed::Broken(why()), &Taken::All), Verdict::Abandon(_)));
        assert_eq!(of(&Handed::All, &Taken::All), Verdict::Replace(None));
    }

    #[test]
    fn what_comes_late_of_an_upgrade_that_was_abandoned_decides_nothing_about_the_next() {
        let mut words = Words::about(8);
        assert_eq!(words.handed(7, Handed::Nothing(why())), Verdict::Wait);
        assert_eq!(words.handed(7, Handed::All), Verdict::Wait);
        assert_eq!(words.taken(Taken::All), Verdict::Wait);
        assert_eq!(words.handed(8, Handed::All), Verdict::Replace(None));
    }
}
