//! Owns the comparison of what the documents say with what the program does: errors, names, modules, commands.
//! Does not know the configuration's keys (docs_config.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use secretfs::errno::TABLE;
use secretfs::tree::name::RESERVED;

fn document(path: &str) -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands below `## title`, to the next heading of that rank.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let heading = format!("\n## {title}\n");
    let (_, rest) = page.split_once(&heading).unwrap_or_else(|| panic!("no `## {title}`"));
    rest.split("\n## ").next().unwrap()
}

/// The cells of a table's rows, without its two lines of head.
fn rows(section: &str) -> Vec<Vec<&str>> {
    let lines = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines.skip(2).map(|line| line.split(" | ").map(str::trim).collect()).collect()
}

fn bare(cell: &str) -> &str {
    cell.trim_matches('`')
}

#[test]
fn the_table_of_errors_is_the_programs() {
    let page = document("docs/semantics.md");
    let documented: Vec<(&str, &str)> =
        rows(section(&page, "Errors")).iter().map(|cells| (bare(cells[0]), cells[1])).collect();
    let known: Vec<(&str, &str)> = TABLE.iter().map(|row| (row.name, row.when)).collect();
    for row in &known {
        assert!(documented.contains(row), "docs/semantics.md, `## Errors`: add | {} | {} |", row.0, row.1);
    }
    for row in &documented {
        assert!(
            known.contains(row),
            "docs/semantics.md, `## Errors`: not in src/errno.rs: {} | {}",
            row.0,
            row.1
        );
    }
    assert_eq!(documented, known, "docs/semantics.md, `## Errors`: another order than src/errno.rs");
}

#[test]
fn the_reserved_names_are_the_programs() {
    let page = document("docs/semantics.md");
    let documented: BTreeSet<&str> =
        rows(section(&page, "Reserved names")).iter().map(|cells| bare(cells[0])).collect();
    assert_eq!(documented, BTreeSet::from(RESERVED), "docs/semantics.md, `## Reserved names`");
}

/// The numbers of sysexits(3) in a text of Rust, comments aside.
fn exit_codes(source: &str) -> BTreeSet<u8> {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let words = code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    words.filter_map(|word| word.parse().ok()).filter(|code| (64..=78).contains(code)).collect()
}

#[test]
fn the_exit_codes_are_the_programs() {
    let page = document("docs/operations.md");
    let table = rows(section(&page, "Start and stop"));
    let cells = table.iter().flat_map(|cells| cells[0].split(", "));
    let documented: BTreeSet<u8> =
        cells.map(|code| code.parse().unwrap()).filter(|code| *code != 0).collect();
    assert_eq!(documented, exit_codes(&document("src/cli/failure.rs")), "docs/operations.md, exit codes");
}

#[test]
fn the_measures_of_the_sandbox_are_the_programs() {
    let held = || Ok(());
    let all = secretfs::daemon::sandbox::Entered {
        alone: held(),
        memory: held(),
        capabilities: held(),
        no_new_privileges: held(),
        files: held(),
        ports: held(),
        abstract_sockets: held(),
        socket_files: held(),
        calls: held(),
    };
    let measures = all.measures().map(|(name, _)| name);
    let page = document("docs/threat-model.md");
    let table = rows(section(&page, "The worker's sandbox"));
    let documented: Vec<&str> = table.iter().map(|cells| bare(cells[0])).collect();
    assert_eq!(documented, measures, "docs/threat-model.md, `## The worker's sandbox`");
}

#[test]
fn the_modules_are_listed_in_the_order_of_the_house() {
    let page = document("docs/architecture.md");
    let listed: Vec<&str> = section(&page, "The house")
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once('`'))
        .map(|(module, _)| module)
        .collect();
    let library = document("src/lib.rs");
    let modules: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(listed, modules, "docs/architecture.md, `## The house`");
}

/// The command lines of a page: its code spans, and the lines of its blocks up to where a comment begins.
fn command_lines(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut text = String::new();
    for (at, part) in page.split("```").enumerate() {
        if at % 2 == 1 {
            let joined = part.replace("\\\n", " ");
            let block = joined.lines().skip(1).map(|line| line.trim().trim_start_matches("$ "));
            lines.extend(block.map(|line| line.split(" #").next().unwrap_or_default().to_owned()));
        } else {
            text.push_str(part);
        }
    }
    let spans = text.split('`').enumerate().filter(|(at, _)| at % 2 == 1);
    lines.extend(spans.map(|(_, span)| span.split_whitespace().collect::<Vec<_>>().join(" ")));
    lines
}

/// The arguments of every call of `program` in these lines, also behind `sudo` and variables.
fn calls(lines: &[String], program: &str) -> Vec<Vec<String>> {
    let simple = lines.iter().flat_map(|line| line.split(['|', ';', '&']));
    let mut calls = Vec::new();
    for command in simple {
        let mut words = command.split_whitespace().skip_while(|word| {
            let is_variable = word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty()
                    && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
            });
            *word == "sudo" || is_variable
        });
        let is_it =
            words.next().is_some_and(|word| word == program || word.ends_with(&format!("/{program}")));
        if is_it {
            calls.push(words.map(|word| word.trim_matches(['\'', '"', ',', '.']).to_owned()).collect());
        }
    }
    calls
}

#[test]
fn every_make_target_that_the_documents_name_exists() {
    let makefile = document("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.', ' ']))
        .filter_map(|line| line.split_once(':').filter(|(_, rest)| !rest.starts_with('=')))
        .flat_map(|(names, _)| names.split_whitespace())
        .collect();
    assert!(targets.contains("demo") && targets.contains("test"), "{targets:?}");
    let mut named = 0;
    for page in ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/operations.md"] {
        for call in calls(&command_lines(&document(page)), "make") {
            for target in call.iter().filter(|word| !word.contains(['=', '-'])) {
                assert!(
                    targets.contains(target.as_str()),
                    "{page}: `make {target}`: there is no such target"
                );
                named += 1;
            }
        }
    }
    assert!(named >= 2, "the README names no `make demo`?");
}

/// What a (sub)command offers: its subcommands and its options, as `--help` has them.
struct Help {
    commands: BTreeSet<String>,
    options: BTreeSet<String>,
}

fn help(command: &[String]) -> Help {
    let output = Command::new(env!("CARGO_BIN_EXE_secretfs")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "secretfs {} --help", command.join(" "));
    let text = String::from_utf8(output.stdout).unwrap();
    let after = |heading: &str| {
        let part = text.split_once(heading).map_or("", |(_, rest)| rest);
        part.lines().skip(1).take_while(|line| line.starts_with(' ') || line.is_empty()).collect::<Vec<_>>()
    };
    let commands = after("\nCommands:").into_iter().filter_map(|line| line.split_whitespace().next());
    let options = after("\nOptions:").into_iter().flat_map(|line| line.split([' ', ',', '=', '[']));
    Help {
        commands: commands.map(str::to_owned).collect(),
        options: options.filter(|word| word.starts_with('-')).map(str::to_owned).collect(),
    }
}

#[test]
fn every_command_and_option_that_the_documents_name_exists() {
    let mut known: BTreeMap<Vec<String>, Help> = BTreeMap::new();
    let mut named = BTreeSet::new();
    for page in [
        "README.md",
        "docs/semantics.md",
        "docs/configuration.md",
        "docs/store.md",
        "docs/operations.md",
        "docs/vault.md",
        "docs/threat-model.md",
    ] {
        for call in calls(&command_lines(&document(page)), "secretfs") {
            let mut command: Vec<String> = Vec::new();
            for word in &call {
                let help = known.entry(command.clone()).or_insert_with(|| help(&command));
                let option = word.split('=').next().unwrap();
                if option.len() > 1 && option.starts_with('-') {
                    assert!(
                        help.options.contains(option),
                        "{page}: `secretfs {}`: `secretfs {} --help` has no {option}",
                        call.join(" "),
                        command.join(" ")
                    );
                } else if help.commands.contains(word) {
                    command.push(word.clone());
                } else {
                    // What can only be a command, for there are more below; `...` stands for any.
                    let is_word = help.commands.is_empty() || word == "...";
                    assert!(is_word, "{page}: `secretfs {}`: there is no command {word}", call.join(" "));
                }
            }
            named.insert(command.join(" "));
        }
    }
    for command in [
        "mount",
        "unmount",
        "upgrade",
        "store init",
        "store put",
        "explain",
        "status",
        "refresh",
        "revoke",
        "flush",
    ] {
        assert!(named.contains(command), "no document shows `secretfs {command}`: {named:?}");
    }
}

#[test]
fn calls_are_found_in_spans_and_blocks() {
    let page = "Say `make test` or\n`secretfs\nmount x`, not secretfs y.\n```console\n$ sudo A_1=2 ./t/secretfs store put \\\n  f a=b | make demo # make never\nsecretfs\n```\n`a secretfs b`";
    let lines = command_lines(page);
    assert_eq!(calls(&lines, "make"), [["demo"], ["test"]]);
    let expected: [&[&str]; 3] = [&["store", "put", "f", "a=b"], &[], &["mount", "x"]];
    assert_eq!(calls(&lines, "secretfs"), expected);
}

#[test]
fn a_table_is_read_without_its_head() {
    let page =
        "# t\n\n## Errors\n\n| errno | when |\n| --- | --- |\n| ENOENT | a; b |\n\n## Next\n\n| x | y |\n";
    assert_eq!(rows(section(page, "Errors")), [["ENOENT", "a; b"]]);
}
