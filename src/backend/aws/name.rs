//! Owns the names of Secrets Manager: which are legal, which look like a piece of an ARN, and how slashes make folders.
//! Does not know requests.

use std::collections::BTreeMap;

use super::super::{Entry, Listing};

/// Longest name (API reference of Secrets Manager, CreateSecret).
const LONGEST: usize = 512;

/// Whether Secrets Manager could hold a secret of this name. Others are never sent: no request can be misread.
pub(super) fn is_legal(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte))
}

/// Whether the name ends as an ARN does, in a hyphen and six characters: Secrets Manager may then take it for another
/// secret's name with the suffix of its ARN.
pub(super) fn ends_like_an_arn(name: &str) -> bool {
    name.len() > 7
        && name.rsplit_once('-').is_some_and(|(_, suffix)| {
            suffix.len() == 6 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
}

/// What a secret called `name` is called in the folder of all names that begin with `prefix`, when it lies directly in it.
pub(super) fn directly_in<'a>(prefix: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(prefix).filter(|rest| !rest.contains('/') && is_legal(name))
}

/// A folder that is filled with names as they come.
pub(super) struct Folder {
    prefix: String,
    found: BTreeMap<String, Entry>,
}

impl Folder {
    /// The folder of all names that begin with `prefix`: empty for the root, else ending in `/`.
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, found: BTreeMap::new() }
    }

    /// Takes note of a secret's full name. What lies elsewhere, or could not be read because its name is illegal, is passed over.
    pub(super) fn add(&mut self, name: &str) {
        let Some(rest) = name.strip_prefix(&self.prefix).filter(|_| is_legal(name)) else { return };
        let entry = Entry::on_the_way_to(rest);
        match self.found.get_mut(&entry.name) {
            Some(found) => {
                found.secret |= entry.secret;
                found.folder |= entry.folder;
            }
            None => {
                self.found.insert(entry.name.clone(), entry);
            }
        }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// All that was found.
    pub(super) fn into_listing(self) -> Listing {
        Listing::new(self.found.into_values().collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::path::BackendPath;
    use proptest::prelude::*;

    fn listed(prefix: &str, names: &[&str]) -> Vec<(String, bool, bool)> {
        let mut folder = Folder::new(prefix.to_owned());
        names.iter().for_each(|name| folder.add(name));
        let listing = folder.into_listing();
        listing.entries().iter().map(|entry| (entry.name.clone(), entry.secret, entry.folder)).collect()
    }

    #[test]
    fn only_names_that_secrets_manager_allows_are_legal() {
        for name in ["a", "prod/db", "/x//y/", "..", "a+b=c.d@e_f-g", &"x".repeat(512)] {
            assert!(is_legal(name), "{name}");
        }
        for name in [
            "",
            "a b",
            "a%2f",
            "arn:aws:secretsmanager:eu-west-1:1:secret:x-abcdef",
            "é",
            "a\0",
            "a\n",
            &"x".repeat(513),
        ] {
            assert!(!is_legal(name), "{name:?}");
        }
    }

    #[test]
    fn a_hyphen_and_six_characters_look_like_an_arn() {
        for name in ["x-abcdef", "prod/db-A1b2C3", "db-master", "a-b-secret"] {
            assert!(ends_like_an_arn(name), "{name}");
        }
        for name in ["-abcdef", "abcdef", "x-abcde", "x-abcdefg", "x-abc/ef", "x-abc_ef", "x-abcdef/"] {
            assert!(!ends_like_an_arn(name), "{name}");
        }
    }

    #[test]
    fn slashes_make_folders() {
        let names = ["a", "a/b", "prod/db", "/x", "//y", "plain", "x/"];
        let expected = [
            ("", false, true),
            ("a", true, true),
            ("plain", true, false),
            ("prod", false, true),
            ("x", false, true),
        ];
        assert_eq!(
            listed("", &names),
            expected.map(|(name, secret, folder)| (name.to_owned(), secret, folder))
        );
        assert_eq!(listed("/", &names), [("".into(), false, true), ("x".into(), true, false)]);
        assert_eq!(listed("x/", &names), [("".into(), true, false)]);
    }

    #[test]
    fn what_lies_directly_in_a_folder_has_no_slash_left() {
        let below = |prefix| {
            ["a", "p/a", "p/b/c", "p/", "P/a", "pp/a", "p/a b"].map(|name| directly_in(prefix, name))
        };
        assert_eq!(below(""), [Some("a"), None, None, None, None, None, None]);
        assert_eq!(below("p/"), [None, Some("a"), None, Some(""), None, None, None]);
    }

    #[test]
    fn the_servers_filter_is_not_believed() {
        assert_eq!(
            listed("prod/", &["prod/a", "PROD/b", "production/c", "x/prod/d", "prod/e f"]),
            [("a".into(), true, false)]
        );
    }

    proptest! {
        #[test]
        fn every_name_is_reached_through_its_folders(name in "[a-z/]{1,12}") {
            let mut path = BackendPath::root();
            loop {
                let prefix = path.name_prefix();
                let entries = listed(&prefix, &[&name]);
                prop_assert_eq!(entries.len(), 1);
                path = path.child(&entries[0].0).unwrap();
                if entries[0].1 {
                    break;
                }
            }
            prop_assert_eq!(path.joined(), name);
        }
    }
}
