//! Owns what a tree or a secret says of secrets that are made on demand: how they are asked for, their fields, their leases.
//! Does not know engines, and puts no parameter into a message: it may be a secret.

use serde_json::{Map, Value as Json};
use toml_edit::{Item, Value};

use super::reader::Section;
use super::shape::{At, entries, hint, list, place, shown, type_name};
use super::units;
use crate::backend::issuer::{Demand, Method};
use crate::lease::Terms;

/// The keys that are read here.
pub(super) const KEYS: [&str; 5] = ["method", "parameters", "fields", "overlap", "idle_revoke"];
const METHODS: [&str; 2] = ["read", "write"];

/// How secrets are made on demand; the default is the plain way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnDemandSettings {
    /// What is asked for, and with which method.
    pub demand: Demand,
    /// The names of the fields, each once, in the order of the file; `None`: what the engine is known to give.
    pub fields: Option<Vec<String>>,
    /// What holds for their leases.
    pub terms: Terms,
}

/// [`KEYS`] of a section; what is wrong is noted.
pub(super) fn settings(section: &Section<'_>) -> OnDemandSettings {
    let duration = |name| section.parsed(name, units::duration).map(|found| found.value);
    OnDemandSettings {
        demand: Demand { method: method(section), parameters: parameters(section) },
        fields: fields(section),
        terms: Terms { overlap: duration("overlap"), idle_revoke: duration("idle_revoke") },
    }
}

fn method(section: &Section<'_>) -> Method {
    let Some(At { at, value }) = section.filled("method") else { return Method::Auto };
    match value {
        "read" => Method::Read,
        "write" => Method::Write,
        unknown => {
            let hint = hint(unknown, &METHODS);
            section.refuse("method", at, format_args!("expected one of {}; {hint}", list(&METHODS)));
            Method::Auto
        }
    }
}

fn parameters(section: &Section<'_>) -> Map<String, Json> {
    let Some(table) = section.table("parameters") else { return Map::new() };
    let pairs = entries(table).filter_map(|(key, item)| match parameter(item) {
        Some(value) => Some((key.get().to_owned(), value)),
        None => {
            let (name, found) = (shown(key.get()), found(item));
            section.refuse(
                "parameters",
                place(key, item),
                format_args!(
                    "`{name}` is {found}; expected a string, an integer, a boolean or an array of strings"
                ),
            );
            None
        }
    });
    pairs.collect()
}

fn parameter(item: &Item) -> Option<Json> {
    match item.as_value()? {
        Value::String(text) => Some(Json::from(text.value().as_str())),
        Value::Integer(number) => Some(Json::from(*number.value())),
        Value::Boolean(switch) => Some(Json::from(*switch.value())),
        Value::Array(array) => array.iter().map(|value| value.as_str().map(Json::from)).collect(),
        _ => None,
    }
}

fn found(item: &Item) -> String {
    if item.is_array() { "an array of something else".to_owned() } else { type_name(item) }
}

fn fields(section: &Section<'_>) -> Option<Vec<String>> {
    let At { at, value } = section.texts("fields")?;
    let twice = value.iter().enumerate().any(|(i, name)| value.iter().take(i).any(|other| other == name));
    let bad = if value.is_empty() {
        "this is empty; name at least one field, or remove the key"
    } else if value.contains(&"") {
        "a field's name is not empty; remove the empty string"
    } else if twice {
        "a name is there twice; remove one of the two"
    } else {
        return Some(value.into_iter().map(str::to_owned).collect());
    };
    section.refuse("fields", at, bad);
    None
}
