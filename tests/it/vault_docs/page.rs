//! Owns docs/vault.md as data: its sections, the blocks in them, the commands of a block, the rights of a policy.
//! Does not know servers, and runs nothing.

/// What stands below one heading, of whatever rank, up to the next.
pub struct Section {
    pub title: String,
    pub text: String,
    pub blocks: Vec<Block>,
}

/// What stands between two fences.
pub struct Block {
    /// The first word of the fence: `hcl`, `toml`, `sh`, `console`, `nginx`, `sql`.
    pub language: String,
    /// What follows it there: the name of the policy's file, `common`, `untested`.
    pub note: String,
    pub text: String,
}

/// A command, and what it prints; `...` stands for anything.
pub struct Step {
    pub command: String,
    pub printed: String,
}

/// A policy without one of its rights.
pub struct Without {
    /// The policy's text.
    pub policy: String,
    /// Whose right it was: `sys/leases/revoke`.
    pub path: String,
    /// What the page says of that, behind `# else`.
    pub otherwise: String,
}

pub fn text() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/vault.md")).unwrap()
}

pub fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = vec![];
    let mut open: Option<Block> = None;
    for line in text().lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(""), Some(_)) => sections.last_mut().unwrap().blocks.extend(open.take()),
            (Some(fence), None) => {
                let (language, note) = fence.split_once(' ').unwrap_or((fence, ""));
                assert!(!language.is_empty(), "docs/vault.md: a block without a language");
                let (language, note) = (language.to_owned(), note.to_owned());
                open = Some(Block { language, note, text: String::new() });
            }
            (_, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) if line.starts_with('#') => {
                let title = line.trim_start_matches('#').trim().to_owned();
                sections.push(Section { title, text: String::new(), blocks: vec![] });
            }
            (None, None) => sections.last_mut().unwrap().text += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "docs/vault.md: a block without an end");
    sections
}

/// What stands in a `console` block. A backslash at its end carries a line on.
pub fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![];
    for line in block.replace("\\\n", " ").lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => {
                steps.push(Step { command: command.to_owned(), printed: String::new() });
            }
            (None, Some(step)) => step.printed += &format!("{line}\n"),
            (None, None) => panic!("docs/vault.md: a console block begins with `$ `: {line}"),
        }
    }
    steps
}

/// Whether `printed` is what the page says, but for white space at the end.
pub fn matches(expected: &str, printed: &str) -> bool {
    let (expected, mut rest) = (expected.trim_end(), printed.trim_end());
    if !expected.contains("...") {
        return expected == rest;
    }
    if rest.is_empty() {
        return false;
    }
    let parts: Vec<&str> = expected.split("...").collect();
    for (at, part) in parts.iter().enumerate() {
        let found = match at {
            0 => rest.starts_with(part).then_some(0),
            _ if at + 1 == parts.len() => rest.ends_with(part).then(|| rest.len() - part.len()),
            _ => rest.find(part),
        };
        let Some(found) = found else { return false };
        rest = &rest[found + part.len()..];
    }
    true
}

/// The policy without each of its rights, one at a time. One rule a line, each with what is so without it.
pub fn each_right_left_out(policy: &str) -> Vec<Without> {
    let lines: Vec<&str> = policy.lines().collect();
    let mut all = vec![];
    for (at, line) in lines.iter().enumerate() {
        let wrong =
            "docs/vault.md: a rule is `path \"...\" { capabilities = [...] }  # else ...`, on one line";
        let (rule, otherwise) = line.split_once("# else ").expect(wrong);
        let path = rule.split('"').nth(1).expect(wrong);
        let (head, rest) = rule.split_once('[').expect(wrong);
        let (rights, tail) = rest.split_once(']').expect(wrong);
        let rights: Vec<&str> = rights.split(", ").collect();
        for left_out in 0..rights.len() {
            let mut kept = rights.clone();
            kept.remove(left_out);
            let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            if kept.is_empty() {
                lines.remove(at);
            } else {
                lines[at] = format!("{head}[{}]{tail}", kept.join(", "));
            }
            let (path, otherwise) = (path.to_owned(), otherwise.to_owned());
            // Vault takes no empty policy.
            let policy = lines.join("\n") + "\npath \"none\" { capabilities = [\"deny\"] }\n";
            all.push(Without { policy, path, otherwise });
        }
    }
    all
}

#[test]
fn what_a_command_prints_is_compared_but_for_what_is_left_open() {
    for (expected, printed, same) in [
        ("a\nb\n", "a\nb", true),
        ("a", "b", false),
        ("", "", true),
        ("", "a", false),
        ("v-...-x\n", "v-1-x", true),
        ("v-...-x\n", "v-1-y", false),
        ("...\nb\n", "a\nb\n", true),
        ("...", "", false),
        ("a...b...c", "a1b2c", true),
        ("a...b...c", "a1c", false),
    ] {
        assert_eq!(matches(expected, printed), same, "{expected:?} {printed:?}");
    }
}

#[test]
fn each_right_of_a_policy_is_left_out_once() {
    let policy = "path \"a\" { capabilities = [\"read\", \"list\"] } # else x\npath \"b\" { capabilities = [\"update\"] } # else y\n";
    let all = each_right_left_out(policy);
    let paths: Vec<(&str, &str)> = all.iter().map(|one| (&*one.path, &*one.otherwise)).collect();
    assert_eq!(paths, [("a", "x"), ("a", "x"), ("b", "y")]);
    assert!(
        all[0].policy.starts_with("path \"a\" { capabilities = [\"list\"] }")
            && all[0].policy.contains("\"b\"")
    );
    assert!(!all[2].policy.contains("\"b\"") && all[2].policy.contains("\"read\", \"list\""));
}
