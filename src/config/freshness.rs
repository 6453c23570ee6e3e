//! Owns `[[freshness]]`: how old what matches a pattern may be.
//! Does not know what is in a backend.

use toml_edit::Document;

use super::keys::Table;
use super::reader::Section;
use super::shape::{At, tables};
use super::{Reading, units};
use crate::pattern::{Pattern, Set};
use crate::tree::promises::Promise;

/// Every table of the file that could be read, each with its place; what is wrong is noted.
pub(super) fn read<'a>(reading: &Reading<'a>, document: &'a Document<&str>) -> Vec<At<(Pattern, Promise)>> {
    let Some(found) = tables(reading.notes, document, "freshness") else { return Vec::new() };
    let at = found.at;
    let found: Vec<_> = found
        .value
        .into_iter()
        .filter_map(|(at, table)| {
            let section =
                Section::new(reading.notes, "[[freshness]]".into(), at, table).knows(Table::Freshness);
            one(&section)
        })
        .collect();
    let patterns: Vec<_> = found.iter().map(|found| found.value.0.clone()).collect();
    if let Err(bad) = Set::new(&patterns) {
        reading.notes.add(at, format!("`path` in all of [[freshness]]: {bad}"));
    }
    found
}

/// `ttl` and `max_stale` of a section.
pub(super) fn promise(section: &Section<'_>) -> Promise {
    Promise {
        ttl: section.parsed("ttl", units::duration).map(|found| found.value),
        max_stale: section.parsed("max_stale", units::duration_or_zero).map(|found| found.value),
    }
}

fn one(section: &Section<'_>) -> Option<At<(Pattern, Promise)>> {
    section.refuse_unknown();
    section.require("path");
    if !section.has("ttl") && !section.has("max_stale") {
        section.note("this says nothing; add `ttl`, `max_stale` or both");
    }
    let path = section.parsed("path", Pattern::parse);
    let promise = promise(section);
    path.map(|At { at, value }| At { at, value: (value, promise) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::parse;
    use crate::config::tests::{SMALLEST, errors};

    /// What is wrong with the lines after [`SMALLEST`], which is five lines long.
    fn errors_after(more: &str) -> String {
        errors(&format!("{SMALLEST}{more}"))
    }

    #[test]
    fn patterns_have_ages() {
        let text = format!(
            "{SMALLEST}ttl = \"5s\"\n[mount]\nmax_stale = 0\n[[freshness]]\npath = \"/a/*\"\nttl = \"1m\"\n\
             [[freshness]]\npath = \"b/**\"\nmax_stale = \"0\"\n"
        );
        let settings = parse(&text, Path::new("c")).unwrap().settings;
        let seconds = Duration::from_secs;
        assert_eq!(settings.mount.max_stale, Duration::ZERO);
        assert_eq!(settings.trees[0].promise, Promise { ttl: Some(seconds(5)), max_stale: None });
        let pattern = |text| Pattern::parse(text).unwrap();
        assert_eq!(
            settings.freshness,
            [
                (pattern("/a/*"), Promise { ttl: Some(seconds(60)), max_stale: None }),
                (pattern("/b/**"), Promise { ttl: None, max_stale: Some(Duration::ZERO) }),
            ]
        );
    }

    #[test]
    fn mistakes_have_line_key_and_what_to_do() {
        let duration = "expected a duration such as \"60s\" or \"1h 30m\"";
        let or_zero = format!("{duration}, at most 365 days, or 0");
        let path = "`path` in [[freshness]]";
        for (more, expected) in [
            ("[mount]\nmax_stale = \"canary\"", format!("7: `max_stale` in [mount]: {or_zero}")),
            ("[mount]\nmax_stale = \"60\"", format!("7: `max_stale` in [mount]: {or_zero}")),
            ("[mount]\nmax_stale = 60", format!("7: `max_stale` in [mount]: {or_zero}")),
            ("[mount]\nmax_stale = -1", format!("7: `max_stale` in [mount]: {or_zero}")),
            ("[mount]\nmax_stale = true", format!("7: `max_stale` in [mount]: {or_zero}, found a boolean")),
            ("[mount]\npair_window = \"366 days\"", format!("7: `pair_window` in [mount]: {or_zero}")),
            (
                "[mount]\nnegative_ttl = 0",
                format!("7: `negative_ttl` in [mount]: {duration}, found an integer"),
            ),
            (
                "[mount]\nnegative_ttl = \"0s\"",
                "7: `negative_ttl` in [mount]: expected a duration longer than zero and at most 365 days"
                    .into(),
            ),
            (
                "[mount]\nmax_rate = 0",
                "7: `max_rate` in [mount]: expected a whole number from 1 to 65536".into(),
            ),
            (
                "[mount]\nmax_stail = 0",
                "7: unknown key `max_stail` in [mount]; did you mean `max_stale`?".into(),
            ),
            ("ttl = 5", format!("6: `ttl` in [[tree]]: {duration}, found an integer")),
            ("max_stale = \"canary\"", format!("6: `max_stale` in [[tree]]: {or_zero}")),
            ("[[freshness]]\nttl = \"1s\"", "6: missing key `path` in [[freshness]]; add it".into()),
            (
                "[[freshness]]\npath = \"/a\"",
                "6: [[freshness]]: this says nothing; add `ttl`, `max_stale` or both".into(),
            ),
            (
                "[[freshness]]\npath = \"/a\"\nttll = \"1s\"\nmax_stale = 0",
                "8: unknown key `ttll` in [[freshness]]; did you mean `ttl`?".into(),
            ),
            (
                "[[freshness]]\npath = \"/a/{canary,b/c}\"\nttl = \"1s\"",
                format!(
                    "7: {path}: `[` and `{{` need their other half in the same segment; write `\\[` for the sign itself"
                ),
            ),
            (
                "[[freshness]]\npath = \"/canary**\"\nttl = \"1s\"",
                format!("7: {path}: `**` stands for whole segments: write \"/a/**\" or \"/a/**/b\""),
            ),
            (
                "[[freshness]]\npath = \"/canary/\"\nttl = \"1s\"",
                format!(
                    "7: {path}: expected a pattern such as \"/team/*/db\" or \"/prod/**\", \
                     without empty, `.` or `..` segments"
                ),
            ),
            (
                "[[freshness]]\npath = [\"/a\"]\nttl = \"1s\"",
                format!(
                    "7: {path}: expected a pattern such as \"/team/*/db\" or \"/prod/**\", found an array"
                ),
            ),
            (
                "[freshness]\npath = \"/a\"",
                "6: `freshness`: expected [[freshness]] (two brackets on each side), found a table".into(),
            ),
            (
                "[[freshnes]]\nx = 1",
                "6: unknown table `freshnes` in the file; did you mean `freshness`?".into(),
            ),
        ] {
            assert_eq!(errors_after(more), format!("config.toml:{expected}"));
        }
    }

    #[test]
    fn a_pattern_that_leads_to_no_tree_is_told() {
        let warnings = |path: &str| {
            let text = format!(
                "[backend.b]\ntype = \"vault\"\n[[tree]]\npath = \"/a/b\"\nbackend = \"b\"\n\
                 [[freshness]]\npath = \"{path}\"\nttl = \"1s\"\n"
            );
            parse(&text, Path::new("c")).unwrap().warnings
        };
        for good in ["/a/b", "/a/b/c", "/a/*", "/**", "/*/b/c", "/a/b/**"] {
            assert_eq!(warnings(good), [], "{good}");
        }
        for bad in ["/a", "/a/c", "/b/**", "/A/*"] {
            let told = warnings(bad);
            assert_eq!(told.len(), 1, "{bad}");
            assert_eq!(
                told[0].to_string(),
                "c:7: no [[tree]] or [[secret]] is where the `path` of this [[freshness]] leads; it is about nothing"
            );
        }
    }
}
