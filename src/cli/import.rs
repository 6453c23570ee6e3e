//! Owns the reading of what `store import` takes: JSON of many secrets, or a .env file.
//! Does not know the store it goes into.

use std::path::Path;

use super::failure::Failure;
use super::{dotenv, key_values};
use crate::backend::store::{SecretPath, parse_secrets};
use crate::secret::{Field, SecretBytes};

/// What a put or an import brings.
pub(super) type Secrets = Vec<(SecretPath, Vec<Field>)>;

/// Reads SOURCE: JSON with its own paths, or a .env file whose keys become one secret.
pub(super) fn read(source: &Path, path: Option<&str>) -> Result<Secrets, Failure> {
    let standard_input = source.as_os_str() == "-";
    let (bytes, name) = if standard_input {
        (key_values::read_standard_input()?, "standard input".into())
    } else {
        (key_values::read_file(source)?, source.to_string_lossy())
    };
    if bytes.expose().trim_ascii_start().starts_with(b"{") {
        if path.is_some() {
            return Err(Failure::usage("--path is for .env files: JSON holds its own paths"));
        }
        return import_json(&bytes, &name);
    }
    let path = match path {
        Some(path) => SecretPath::parse(path)?,
        None => stem(source)
            .filter(|_| !standard_input)
            .ok_or_else(|| Failure::usage("where do the keys go? name the secret with --path PATH"))?,
    };
    let text =
        bytes.expose_str().ok_or_else(|| Failure::data(format!("{name} is neither JSON nor UTF-8 text")))?;
    let fields = dotenv::parse(text).map_err(|bad| Failure::data(format!("{name}: {bad}")))?;
    if fields.is_empty() {
        return Err(Failure::data(format!("{name} holds no KEY=VALUE")));
    }
    Ok(vec![(path, fields)])
}

fn import_json(json: &SecretBytes, name: &str) -> Result<Secrets, Failure> {
    let secrets = parse_secrets(json.expose()).map_err(|bad| Failure::data(format!("{name}: {bad}")))?;
    let checked = secrets.into_iter().map(|(path, fields)| {
        let shown = path.escape_debug();
        let checked =
            SecretPath::parse(&path).map_err(|bad| Failure::data(format!("{name}: \"{shown}\": {bad}")))?;
        if fields.is_empty() {
            return Err(Failure::data(format!("{name}: {checked} has no field")));
        }
        Ok((checked, fields))
    });
    checked.collect()
}

/// `prod.env` and `.env.prod` are `prod`; `.env` says nothing.
fn stem(source: &Path) -> Option<SecretPath> {
    let name = source.file_name()?.to_str()?;
    let stem = name.strip_prefix(".env.").or_else(|| name.strip_suffix(".env")).unwrap_or(name);
    SecretPath::parse(stem).ok()
}
