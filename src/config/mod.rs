//! Owns the configuration file: TOML in, plain settings out, or every mistake with file, line and key.
//! Does not know backends, the mount or the command line beyond the values it hands them.

mod backends;
mod freshness;
mod hooks;
pub mod keys;
mod login;
mod mount;
mod notes;
mod on_demand;
mod places;
mod reader;
mod secrets;
mod shape;
mod trees;
pub mod units;

use std::fmt;
use std::path::{Path, PathBuf};

use toml_edit::Document;
use zeroize::Zeroizing;

pub use self::backends::BackendSettings;
use self::backends::FoundBackend;
pub use self::login::LoginSettings;
pub use self::mount::{
    DEFAULT_DEADLINE, DEFAULT_MAX_CACHE, DEFAULT_MAX_CRASHES, DEFAULT_MAX_IN_FLIGHT, DEFAULT_MAX_RATE,
    DEFAULT_MAX_STALE, DEFAULT_MAX_VALUE_SIZE, DEFAULT_MODE, DEFAULT_NEGATIVE_TTL, DEFAULT_PAIR_WINDOW,
    DEFAULT_TTL, DEFAULT_WATCHDOG, MountSettings,
};
use self::notes::Notes;
pub use self::notes::Problem;
pub use self::on_demand::OnDemandSettings;
use self::places::Places;
use self::reader::Section;
pub use self::secrets::SecretSettings;
use self::shape::{entries, hint, place, shown, start};
pub use self::trees::TreeSettings;
use crate::hooks::Config as HookSettings;
use crate::pattern::Pattern;
use crate::printable::printable_path;
use crate::tree::promises::Promise;
use crate::trusted_file::{self, Refusal};

/// A whole configuration. Every path in it is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `[mount]`.
    pub mount: MountSettings,
    /// `[backend.NAME]`, in the order of the file.
    pub backends: Vec<(String, BackendSettings)>,
    /// `[[tree]]`, in the order of the file. No tree or secret lies inside another, and each names one of `backends`.
    pub trees: Vec<TreeSettings>,
    /// `[[secret]]`, in the order of the file.
    pub secrets: Vec<SecretSettings>,
    /// `[[freshness]]`, in the order of the file.
    pub freshness: Vec<(Pattern, Promise)>,
    /// `[[hook]]`, in the order of the file.
    pub hooks: Vec<HookSettings>,
}

/// What was read, and what is odd about it but no mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What the file says.
    pub settings: Settings,
    /// In the order of the file.
    pub warnings: Vec<Problem>,
}

/// Everything that is wrong with a file, in the order of its lines; shown one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let line_break = if i > 0 { "\n" } else { "" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Reads the file at `path`. It may not be writable by others: whoever can write it decides where tokens are sent.
/// Files that it names must be there.
pub fn load(path: &Path) -> Result<Loaded, Invalid> {
    parse(&text_of(path)?, path)
}

/// The text of the file at `path`, which may not be writable by others.
pub fn text_of(path: &Path) -> Result<String, Invalid> {
    let bytes = read(path).map_err(|text| whole_file(path, None, text))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let before = bytes.iter().take(error.valid_up_to());
            let line = before.filter(|byte| **byte == b'\n').count() + 1;
            let text = "this is not UTF-8 text; save the file as UTF-8".to_owned();
            Err(whole_file(path, Some(line), text))
        }
    }
}

/// Reads `text` as if it stood in the file at `path`, which only gives messages their name and relative paths their folder.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, Invalid> {
    let (notes, warnings) = (Notes::new(text), Notes::new(text));
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = start(error.span());
            // the parser's message is made of its own words; its Display would quote the line
            let text = format!("this is not TOML: {}", error.message().replace('\n', " "));
            let (line, column) = (Some(notes.line(at)), Some(notes.column(at)));
            return Err(Invalid {
                problems: vec![Problem { file: printable_path(path), line, column, text }],
            });
        }
    };
    // a relative --config and a later change of folder must not move what it names
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let read = Reading { notes: &notes, folder };

    let known = ["mount", "backend", "tree", "secret", "freshness", "hook"];
    for (key, item) in entries(document.as_table()).filter(|(key, _)| !known.contains(&key.get())) {
        let what = if item.is_table_like() || item.is_array_of_tables() { "table" } else { "key" };
        let text = format!("unknown {what} `{}` in the file; {}", shown(key.get()), hint(key.get(), &known));
        notes.add(place(key, item), text);
    }
    let mount = read.mount(&document);
    let backends = read.backends(&document);
    let places = places::read(&read, &document, &mount, &backends);
    let freshness = freshness::read(&read, &document);
    let hooks = hooks::read(&read, &document);
    let of_freshness = freshness.iter().map(|found| ("[[freshness]]", found.at, &found.value.0));
    let of_hooks = hooks
        .iter()
        .flat_map(|found| found.value.patterns.iter().map(|pattern| ("[[hook]]", found.at, pattern)));
    for (label, at, _) in of_freshness.chain(of_hooks).filter(|(_, _, pattern)| !may_match(pattern, &places))
    {
        let text = format!(
            "no [[tree]] or [[secret]] is where the `path` of this {label} leads; it is about nothing"
        );
        warnings.add(at, text);
    }
    for backend in backends.iter().filter(|backend| !places.backends().any(|name| name == backend.name)) {
        let label = shown(&backend.name);
        let text =
            format!("no [[tree]] or [[secret]] uses [backend.{label}]; add one, or remove the backend");
        warnings.add(backend.at, text);
    }
    if !notes.is_empty() {
        return Err(Invalid { problems: notes.into_problems(&printable_path(path)) });
    }
    let backends = backends.into_iter().filter_map(|found| Some((found.name, found.settings?))).collect();
    let Places { trees, secrets } = places;
    let freshness = freshness.into_iter().map(|found| found.value).collect();
    let hooks = hooks.into_iter().map(|found| found.value).collect();
    let settings = Settings { mount, backends, trees, secrets, freshness, hooks };
    Ok(Loaded { settings, warnings: warnings.into_problems(&printable_path(path)) })
}

/// Whether anything in the mount could be what a pattern is about.
fn may_match(pattern: &Pattern, places: &Places) -> bool {
    let leading = pattern.leading();
    let leads_on = pattern.path().is_none();
    let mut paths = places.paths();
    paths.any(|path| leading.starts_with(path) || (leads_on && path.starts_with(&leading)))
}

/// Turns the tables of one file into settings.
struct Reading<'a> {
    notes: &'a Notes<'a>,
    folder: &'a Path,
}

impl<'a> Reading<'a> {
    /// A file that must be there; `hint` says how to make it.
    fn file(&self, section: &Section<'a>, name: &str, hint: &str) -> Option<PathBuf> {
        self.guarded(section, name, hint, trusted_file::exists)
    }

    /// A file that must be there and that others cannot write.
    fn credential_file(&self, section: &Section<'a>, name: &str) -> Option<PathBuf> {
        self.guarded(section, name, "", trusted_file::check)
    }

    fn guarded(
        &self,
        section: &Section<'a>,
        name: &str,
        hint: &str,
        check: fn(&Path) -> Result<(), Refusal>,
    ) -> Option<PathBuf> {
        let (at, path) = self.path(section, name)?;
        match check(&path) {
            Ok(()) => return Some(path),
            Err(Refusal::Missing) => {
                section.refuse(
                    name,
                    at,
                    format!("there is no such file (relative paths start at this file's folder){hint}"),
                );
            }
            Err(bad) => section.refuse(name, at, bad),
        }
        None
    }

    fn path(&self, section: &Section<'a>, name: &str) -> Option<(usize, PathBuf)> {
        let found = section.filled(name)?;
        if found.value.starts_with('~') {
            section.refuse(name, found.at, "`~` is not replaced here; write the whole path");
            return None;
        }
        Some((found.at, self.folder.join(found.value)))
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let named = printable_path(path);
    let content = trusted_file::read(path).map_err(|refusal| match refusal {
        Refusal::Missing | Refusal::Folder | Refusal::NotAFile => {
            format!("{refusal}; give the path of a configuration file")
        }
        Refusal::Writable => {
            format!("users other than its owner can write the file; run `chmod go-w {named}`")
        }
        Refusal::Foreign(us) => format!("the file belongs to another user; run `chown {us} {named}`"),
        Refusal::TooLarge => "the file is larger than 1 MiB, so it is no configuration; give another".into(),
        Refusal::Unreadable(_) => refusal.to_string(),
    })?;
    Ok(content.bytes)
}

fn whole_file(path: &Path, line: Option<usize>, text: String) -> Invalid {
    Invalid { problems: vec![Problem { file: printable_path(path), line, column: None, text }] }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod tests;
