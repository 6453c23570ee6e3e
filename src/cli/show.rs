//! Owns what `store get` and `store ls` print.
//! Does not know files or keys.

use serde::Serialize;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::print;
use crate::backend::store::{BadPath, Document, Kept, SecretPath, Spelled};
use crate::path::BackendPath;
use crate::printable::printable;

/// How `get` shows a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Keys and values for people
    Table,
    /// All of it for programs
    Json,
}

/// The message for a path that is not there.
pub(super) fn no_secret(path: &SecretPath) -> Failure {
    Failure::no_input(format!("there is no secret {path}: `secretfs store ls` shows what there is"))
}

/// What `get --format json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    path: &'a str,
    version: u64,
    created: String,
    fields: Spelled<'a>,
}

/// Prints a secret, or one field of it byte for byte.
pub(super) fn get(
    document: &Document,
    path: &SecretPath,
    field: Option<&str>,
    format: Format,
) -> Result<(), Failure> {
    let kept = document.get(path.as_str()).ok_or_else(|| no_secret(path))?;
    if let Some(name) = field {
        let field = kept.fields.iter().find(|field| field.name == name);
        let none = || Failure::no_input(format!("the secret {path} has no field {}", name.escape_debug()));
        return print(field.ok_or_else(none)?.value.expose());
    }
    match format {
        Format::Table => print(table(kept).as_bytes()),
        Format::Json => {
            let created = humantime::format_rfc3339(kept.created).to_string();
            let fields = Spelled(&kept.fields);
            let shown = Shown { path: path.as_str(), version: kept.version, created, fields };
            let json = serde_json::to_vec_pretty(&shown).map(Zeroizing::new);
            let mut json = json.map_err(|_| Failure::data("a field cannot be written as JSON"))?;
            json.push(b'\n');
            print(&json)
        }
    }
}

fn table(kept: &Kept) -> Zeroizing<String> {
    let names: Vec<String> = kept.fields.iter().map(|field| printable(&field.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("Key".len());
    let mut table = Zeroizing::new(format!("{:width$}    Value\n{:width$}    -----\n", "Key", "---"));
    for (name, field) in names.iter().zip(&kept.fields) {
        let value = match field.value.expose_str() {
            Some(text) => printable(text),
            None => format!("({} bytes, not text: see them with --field)", field.value.len()),
        };
        let value = Zeroizing::new(value);
        table.push_str(&format!("{name:width$}    {}\n", *value));
    }
    table
}

/// Prints what is in a folder: secrets, and folders with a slash.
pub(super) fn list(document: &Document, prefix: &str) -> Result<(), Failure> {
    let folder = BackendPath::parse(prefix).map_err(|_| BadPath)?;
    let none =
        || Failure::no_input(format!("there is no folder {folder}: `secretfs store ls FILE` shows the top"));
    let listing = document.list(&folder).ok_or_else(none)?;
    let mut lines = String::new();
    for entry in listing.entries() {
        let name = printable(&entry.name);
        if entry.secret {
            lines.push_str(&format!("{name}\n"));
        }
        if entry.folder {
            lines.push_str(&format!("{name}/\n"));
        }
    }
    print(lines.as_bytes())
}
