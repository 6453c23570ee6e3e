//! Owns the comparison of docs/configuration.md with the table of keys, both ways.
//! Does not know what a key does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use secretfs::config::{
    self,
    keys::{self, Absent, Key, Table},
};

/// The page, as rows below their headings: `## ...` and the cells of each `| ... |` line but the two of the head.
fn documented() -> Vec<(String, Vec<String>)> {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let mut heading = String::new();
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title.to_owned();
        } else if let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) {
            let cells: Vec<String> = cells.split(" | ").map(str::to_owned).collect();
            if cells[0] != "key" && cells[0] != "---" {
                rows.push((heading.clone(), cells));
            }
        }
    }
    rows
}

fn row(key: &Key) -> (String, Vec<String>) {
    let absent = match key.absent {
        Absent::Required => "**required**".to_owned(),
        Absent::Is(value) => format!("`{value}`"),
        Absent::Otherwise(words) => words.to_owned(),
    };
    let cells = vec![format!("`{}`", key.name), key.kind.word().to_owned(), absent, key.meaning.to_owned()];
    (key.table.heading().to_owned(), cells)
}

#[test]
fn the_page_and_the_program_have_the_same_keys() {
    let expected: Vec<_> = Table::ALL.into_iter().flat_map(keys::of).map(row).collect();
    assert_eq!(expected.len(), keys::ALL.len(), "Table::ALL misses a table");
    let documented = documented();
    for row in &expected {
        let line = row.1.join(" | ");
        assert!(documented.contains(row), "docs/configuration.md, below `## {}`: add | {line} |", row.0);
    }
    for row in &documented {
        assert!(
            expected.contains(row),
            "docs/configuration.md, below `## {}`: no such key: {}",
            row.0,
            row.1.join(" | ")
        );
    }
    assert_eq!(documented, expected, "docs/configuration.md: another order than src/config/keys.rs");
}

#[test]
fn the_examples_of_the_page_are_valid_together() {
    let page = include_str!("../../docs/configuration.md");
    let examples: Vec<_> =
        page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let example = examples.concat();
    let folder = tempfile::tempdir().unwrap();
    for file in ["token", "role-id", "secret-id", "secrets.age", "identity"] {
        std::fs::write(folder.path().join(file), "canary").unwrap();
    }
    // the examples' folder, program and user exist on a real machine; here they are others
    let example = example
        .replace("/etc/secretfs/", &format!("{}/", folder.path().display()))
        .replace("/usr/local/bin/restart-workers", "/bin/sh")
        .replace("\"app\"", "\"root\"");
    let loaded =
        config::parse(&example, &folder.path().join("config.toml")).unwrap_or_else(|bad| panic!("{bad}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!((loaded.settings.trees.len(), loaded.settings.secrets.len()), (4, 3));
    assert_eq!((loaded.settings.freshness.len(), loaded.settings.hooks.len()), (2, 3));
}
