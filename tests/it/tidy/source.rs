//! Owns the reading of Rust: words and signs with their lines, what is test code, and every path that is written out.
//! Does not know any rule.

/// A word or a sign; comments and the insides of strings are none.
#[derive(Debug)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
    /// Whether it is compiled for tests only.
    pub test: bool,
}

/// A path as written: `use` trees are taken apart, so each has one end.
#[derive(Debug, PartialEq, Eq)]
pub struct Path<'a> {
    pub line: usize,
    pub segments: Vec<&'a str>,
    /// The modules within the file that it stands in.
    pub inside: Vec<&'a str>,
}

/// The tokens of a file.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let rest = &text[at..];
        let first = rest.chars().next().unwrap();
        let (length, is_token) = if let Some(length) = skipped(rest) {
            (length, false)
        } else if first == '_' || first.is_alphanumeric() {
            (rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len()), true)
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        if is_token {
            tokens.push(Token { text: &rest[..length], line, test: false });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    mark_tests(&mut tokens);
    tokens
}

/// How long the comment, string, character or lifetime is that `text` begins with.
fn skipped(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    let letters = text.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).unwrap_or(text.len());
    let (prefix, rest) = text.split_at(letters.min(2));
    if prefix.ends_with('r') {
        let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
        if rest[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &rest[hashes + 1..];
            let length = body.find(&end).map_or(body.len(), |at| at + end.len());
            return Some(prefix.len() + hashes + 1 + length);
        }
        return None;
    }
    if rest.starts_with('"') {
        return Some(prefix.len() + quoted(rest, '"'));
    }
    if rest.starts_with('\'') && prefix != "c" {
        let mut chars = rest[1..].chars();
        let (one, two) = (chars.next(), chars.next());
        let is_char = one == Some('\\') || two == Some('\'');
        return Some(prefix.len() + if is_char { quoted(rest, '\'') } else { 1 });
    }
    None
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text.as_bytes()[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text.as_bytes()[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// From each `#[cfg(test)]` to the end of what it stands before.
fn mark_tests(tokens: &mut [Token<'_>]) {
    let mut at = 0;
    while at < tokens.len() {
        let is_test = matches(tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]);
        if !is_test {
            at += 1;
            continue;
        }
        let mut end = at;
        while matches(tokens, end, &["#", "["]) {
            end = closing(tokens, end + 1) + 1;
        }
        while end < tokens.len() && !["{", ";"].contains(&tokens[end].text) {
            end = if ["(", "["].contains(&tokens[end].text) { closing(tokens, end) + 1 } else { end + 1 };
        }
        if end < tokens.len() && tokens[end].text == "{" {
            end = closing(tokens, end);
        }
        for token in tokens.iter_mut().take(end + 1).skip(at) {
            token.test = true;
        }
        at = end + 1;
    }
}

/// Where the bracket at `open` is closed.
pub fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// Whether these words and signs stand at `at`.
pub fn matches(tokens: &[Token<'_>], at: usize, texts: &[&str]) -> bool {
    texts
        .iter()
        .enumerate()
        .all(|(next, text)| tokens.get(at + next).is_some_and(|token| token.text == *text))
}

/// Every path of more than one segment, and everything that a `use` names.
pub fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Path<'a>> {
    let mut paths = Vec::new();
    let mut inside: Vec<(&str, usize)> = Vec::new();
    let (mut depth, mut at) = (0, 0);
    while at < tokens.len() {
        match tokens[at].text {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inside.retain(|(_, within)| *within <= depth);
            }
            "mod" if matches(tokens, at + 2, &["{"]) => inside.push((tokens[at + 1].text, depth + 1)),
            _ => {}
        }
        let before = |back: usize| at.checked_sub(back).map_or("", |at| tokens[at].text);
        // `::fuser` begins a path, `<T>::fuser` goes on with one.
        let goes_on = before(1) == "::" && (is_word(before(2)) || [">", "$"].contains(&before(2)));
        let after_path = goes_on || [".", "$"].contains(&before(1));
        let is_use = tokens[at].text == "use";
        if is_use || (!after_path && is_word(tokens[at].text) && matches(tokens, at + 1, &["::"])) {
            let mut found = Vec::new();
            let end = tree(tokens, if is_use { at + 1 } else { at }, &[], &mut found);
            let inside: Vec<_> = inside.iter().map(|(name, _)| *name).collect();
            paths.extend(found.into_iter().map(|(line, segments)| Path {
                line,
                segments,
                inside: inside.clone(),
            }));
            at = end.max(at + 1);
        } else {
            at += 1;
        }
    }
    paths
}

/// Takes apart what begins at `at`, below `prefix`; returns where it ends.
fn tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let mut segments = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => {}
            "{" => {
                let end = closing(tokens, at);
                at += 1;
                while at < end {
                    at = tree(tokens, at, &segments, found).max(at + 1);
                    while at < end && tokens[at].text != "," {
                        at += 1;
                    }
                    at += 1;
                }
                return end + 1;
            }
            "*" => segments.push("*"),
            word if is_word(word) => segments.push(word),
            _ => break,
        }
        at += 1;
        let goes_on = token.text == "::" || matches(tokens, at, &["::"]);
        if !goes_on {
            break;
        }
    }
    if segments.len() > prefix.len() {
        found.push((tokens[at - 1].line, segments));
    }
    at
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c == '_' || c.is_alphabetic())
}

#[test]
fn paths_are_found_wherever_they_are_written() {
    let text = r##"
use crate::{a::{self, b as c}, d::*};
/* crate::comment /* nested */ crate::too */
// crate::line
fn f<'a>(x: &'a str) -> crate::e::F { let s = "crate::string \" more"; let c = '"'; r#"crate::raw""#; x.age::<T>() }
mod inner { use super::super::g; #[derive(h::I)] struct J; }
macro_rules! m { () => { $crate::k::l() } }
use fuser;
"##;
    let tokens = tokens(text);
    let found: Vec<(usize, String, String)> =
        paths(&tokens).iter().map(|p| (p.line, p.segments.join("::"), p.inside.join("::"))).collect();
    let expected = [
        (2, "crate::a::self", ""),
        (2, "crate::a::b", ""),
        (2, "crate::d::*", ""),
        (5, "crate::e::F", ""),
        (6, "super::super::g", "inner"),
        (6, "h::I", "inner"),
        (8, "fuser", ""),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(line, path, inside)| (*line, (*path).to_owned(), (*inside).to_owned()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn test_code_is_what_follows_cfg_test() {
    let text = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod t { fn b() { c(); } }\nfn d() {}\n#[cfg(test)]\nmod e;\nfn f() {}";
    let tokens = tokens(text);
    let of = |name: &str| tokens.iter().find(|token| token.text == name).unwrap().test;
    assert_eq!(
        ["a", "allow", "b", "c", "d", "e", "f"].map(of),
        [false, true, true, true, false, true, false]
    );
}
