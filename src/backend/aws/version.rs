//! Owns the names of a secret's versions: what is an id and what a stage, and which one is current.
//! Does not know requests.

use std::collections::HashMap;

use crate::secret::Version;

/// The stage of what is served: the label moves when a secret rotates.
pub(super) const CURRENT: &str = "AWSCURRENT";
/// Longest stage (API reference of Secrets Manager, `VersionStage`).
const LONGEST_STAGE: usize = 256;
/// Lengths of an id (API reference, `VersionId`). AWS makes UUIDs; whoever puts a value may have made one of his own.
const IDS: std::ops::RangeInclusive<usize> = 32..=64;

/// How a version is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted<'a> {
    /// By a staging label: `AWSCURRENT`, `AWSPREVIOUS`, `AWSPENDING`, or one of the user's own.
    Stage(&'a str),
    /// By its id.
    Id(&'a str),
}

impl<'a> Wanted<'a> {
    /// What `name` can mean, most likely first: a UUID is an id, all else a stage, and a long one perhaps an id that somebody
    /// chose. Nothing when it can be neither: it is not sent.
    pub(super) fn called(name: &'a str) -> Vec<Self> {
        if name.is_empty() || name.len() > LONGEST_STAGE || !name.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return vec![];
        }
        match (is_uuid(name), IDS.contains(&name.len())) {
            (true, _) => vec![Self::Id(name)],
            (false, true) => vec![Self::Stage(name), Self::Id(name)],
            (false, false) => vec![Self::Stage(name)],
        }
    }

    /// Whether an answer with this id and these stages is what was asked for. A service that names no stages is believed.
    pub(super) fn is_what(&self, id: Option<&str>, stages: &[String]) -> bool {
        match self {
            Self::Stage(wanted) => stages.is_empty() || stages.iter().any(|stage| stage == wanted),
            Self::Id(wanted) => id == Some(*wanted),
        }
    }
}

/// The version that has the stage `AWSCURRENT`; none when a value was only staged so far.
pub(super) fn current_of(stages: &HashMap<String, Vec<String>>) -> Option<Version> {
    let mut ids = stages.iter().filter(|(_, stages)| stages.iter().any(|stage| stage == CURRENT));
    ids.next().map(|(id, _)| Version::new(id.clone()))
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(name: &str) -> bool {
    let groups: Vec<&str> = name.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "f74e1af3-9b5c-4300-8a5b-850e466db36b";

    #[test]
    fn a_uuid_is_an_id_and_the_rest_are_stages() {
        assert_eq!(Wanted::called(UUID), [Wanted::Id(UUID)]);
        for stage in ["AWSPREVIOUS", "AWSPENDING", "release-7", "7", "f74e1af3", &"x".repeat(65)] {
            assert_eq!(Wanted::called(stage), [Wanted::Stage(stage)]);
        }
        for either in ["x".repeat(32), "x".repeat(64), UUID.replace('f', "g")] {
            assert_eq!(Wanted::called(&either), [Wanted::Stage(&either), Wanted::Id(&either)]);
        }
        for neither in ["", " ", "a b", "a\n", "é", &"x".repeat(257)] {
            assert_eq!(Wanted::called(neither), [], "{neither:?}");
        }
    }

    #[test]
    fn an_answer_must_be_what_was_asked_for() {
        let stages = ["AWSCURRENT".to_owned(), "mine".to_owned()];
        assert!(Wanted::Stage("mine").is_what(Some(UUID), &stages));
        assert!(Wanted::Stage("mine").is_what(None, &[]));
        assert!(!Wanted::Stage("AWSPREVIOUS").is_what(Some(UUID), &stages));
        assert!(Wanted::Id(UUID).is_what(Some(UUID), &stages));
        assert!(!Wanted::Id(UUID).is_what(Some("other"), &stages) && !Wanted::Id(UUID).is_what(None, &[]));
    }

    #[test]
    fn the_current_version_is_the_one_with_the_label() {
        let of = |pairs: &[(&str, &[&str])]| {
            let owned = |(id, stages): &(&str, &[&str])| {
                ((*id).to_owned(), stages.iter().map(|stage| (*stage).to_owned()).collect())
            };
            current_of(&pairs.iter().map(owned).collect())
        };
        assert_eq!(
            of(&[
                ("1", &[]),
                ("2", &["AWSPREVIOUS"]),
                ("3", &["mine", "AWSCURRENT"]),
                ("4", &["AWSPENDING"])
            ]),
            Some(Version::new("3"))
        );
        assert_eq!(of(&[("4", &["AWSPENDING"])]), None);
        assert_eq!(of(&[]), None);
    }
}
