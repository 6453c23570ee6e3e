//! Owns the plaintext of a store: the JSON document of docs/store.md, its paths and its versions.
//! Does not know encryption, files, locks or commands.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use zeroize::Zeroizing;

use super::fields::{BadJson, Fields, Pairs, Spelled};
use crate::backend::{Entry, Listing};
use crate::path::BackendPath;
use crate::secret::Field;

/// The value of the key `format`; another value is another format and refused.
pub const FORMAT: &str = "secretfs-store/1";

/// Where a secret lies in a store: segments separated by `/`, none of them empty, no NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretPath(String);

/// The text is no path of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a path is names separated by single slashes, like team/api-key, with no slash at either end and no NUL"
)]
pub struct BadPath;

impl SecretPath {
    /// Checks the text and keeps it.
    pub fn parse(text: &str) -> Result<Self, BadPath> {
        if text.contains('\0') || text.split('/').any(str::is_empty) {
            return Err(BadPath);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SecretPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// For messages: control characters are escaped.
impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// A secret as the store keeps it.
#[derive(Debug)]
pub struct Kept {
    /// Grows by one with every put; never used twice for one path, also not after a removal.
    pub version: u64,
    /// When this version was put.
    pub created: SystemTime,
    /// In the order they were given, names unique.
    pub fields: Vec<Field>,
}

/// All that a store holds, in clear. Its values erase themselves.
#[derive(Debug)]
pub struct Document {
    recipients: Vec<String>,
    /// The highest version of any secret that was removed: a path that comes back starts above it.
    removed_version: u64,
    secrets: BTreeMap<SecretPath, Kept>,
}

/// Why a plaintext is no document. Holds nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDocument {
    /// Made by another program or a later release.
    #[error("its `format` is not secretfs-store/1: a newer secretfs may read it")]
    Format,
    /// Not the documented shape.
    #[error("its JSON is not a store, at {0}")]
    Json(BadJson),
    /// A path or a date breaks the rules of the format.
    #[error("it holds a path or a date that the format does not allow")]
    Content,
}

impl Document {
    /// A store without secrets, readable by `recipients` (`age1...`); none when a passphrase is the key.
    pub fn new(recipients: Vec<String>) -> Self {
        Self { recipients, removed_version: 0, secrets: BTreeMap::new() }
    }

    /// Reads the documented format. Keys it does not know are refused, not dropped: rewriting would lose them.
    pub fn parse(json: &[u8]) -> Result<Self, BadDocument> {
        let bad = |error: &serde_json::Error| {
            BadDocument::Json(BadJson::new(error, "this key or value is not part of the format"))
        };
        let head: Head = serde_json::from_slice(json).map_err(|error| bad(&error))?;
        if head.format != FORMAT {
            return Err(BadDocument::Format);
        }
        let wire: Wire = serde_json::from_slice(json).map_err(|error| bad(&error))?;
        let mut secrets = BTreeMap::new();
        for (path, WireSecret { version, created, fields }) in wire.secrets.0 {
            let path = SecretPath::parse(&path).map_err(|BadPath| BadDocument::Content)?;
            let created = humantime::parse_rfc3339(&created).map_err(|_| BadDocument::Content)?;
            secrets.insert(path, Kept { version, created, fields: fields.0 });
        }
        Ok(Self { recipients: wire.recipients, removed_version: wire.removed_version, secrets })
    }

    /// The documented format, in one line, secrets sorted by path.
    pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        serde_json::to_vec(self).map(Zeroizing::new)
    }

    /// Who can read the file, as `age1...` public keys.
    pub fn recipients(&self) -> &[String] {
        &self.recipients
    }

    /// The secret at `path`.
    pub fn get(&self, path: &str) -> Option<&Kept> {
        self.secrets.get(path)
    }

    /// Replaces the whole secret at `path`; gives back the new version.
    pub fn put(&mut self, path: SecretPath, fields: Vec<Field>, now: SystemTime) -> u64 {
        let version =
            self.secrets.get(&path).map_or(self.removed_version, |kept| kept.version).saturating_add(1);
        // RFC 3339 has no time before 1970 here; a clock that stands there is wrong anyway.
        let created = now.max(SystemTime::UNIX_EPOCH);
        self.secrets.insert(path, Kept { version, created, fields });
        version
    }

    /// Removes the secret at `path`; says whether there was one.
    pub fn remove(&mut self, path: &SecretPath) -> bool {
        let Some(kept) = self.secrets.remove(path) else { return false };
        self.removed_version = self.removed_version.max(kept.version);
        true
    }

    /// What is in the folder at `path`; nothing when there is no such folder. The root is always there.
    pub fn list(&self, path: &BackendPath) -> Option<Listing> {
        let prefix = path.name_prefix();
        let from_prefix = self.secrets.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        let below = from_prefix.map_while(|(secret, _)| secret.0.strip_prefix(&prefix));
        let listing = Listing::new(below.map(Entry::on_the_way_to).collect());
        (path.is_root() || !listing.entries().is_empty()).then_some(listing)
    }
}

#[derive(serde::Deserialize)]
struct Head {
    format: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(rename = "format")]
    _format: String,
    #[serde(default)]
    recipients: Vec<String>,
    #[serde(default)]
    removed_version: u64,
    secrets: Pairs<WireSecret>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSecret {
    version: u64,
    created: String,
    fields: Fields,
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("format", FORMAT)?;
        map.serialize_entry("recipients", &self.recipients)?;
        map.serialize_entry("removed_version", &self.removed_version)?;
        map.serialize_entry("secrets", &Secrets(&self.secrets))?;
        map.end()
    }
}

struct Secrets<'a>(&'a BTreeMap<SecretPath, Kept>);

impl Serialize for Secrets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(path, kept)| (path.as_str(), kept)))
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("secret", 3)?;
        map.serialize_field("version", &self.version)?;
        map.serialize_field("created", &humantime::format_rfc3339(self.created).to_string())?;
        map.serialize_field("fields", &Spelled(&self.fields))?;
        map.end()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::secret::{Form, SecretBytes};
    use proptest::prelude::*;
    use std::time::Duration;

    fn text(name: &str, value: &[u8]) -> Field {
        Field { name: name.into(), value: SecretBytes::new(value.to_vec()), form: Form::Text }
    }

    fn path(text: &str) -> SecretPath {
        SecretPath::parse(text).unwrap()
    }

    #[test]
    fn a_version_is_never_used_twice() {
        let mut document = Document::new(vec![]);
        let now = SystemTime::now();
        assert_eq!(document.put(path("a"), vec![], now), 1);
        assert_eq!(document.put(path("a"), vec![], now), 2);
        assert_eq!(document.put(path("b"), vec![], now), 1);
        assert!(document.remove(&path("a")));
        assert!(!document.remove(&path("a")));
        let mut document = Document::parse(&document.to_json().unwrap()).unwrap();
        assert_eq!(document.put(path("a"), vec![], now), 3);
        assert_eq!(document.put(path("b"), vec![], now), 2);
    }

    #[test]
    fn the_documented_example_is_read() {
        let json = br#"{"format":"secretfs-store/1","recipients":["age1x"],"secrets":{"team/api-key":
            {"version":3,"created":"2026-11-24T20:26:39Z","fields":{"value":"12345","blob":{"base64":"AP8="},"n":1.0}}}}"#;
        let document = Document::parse(json).unwrap();
        let kept = document.get("team/api-key").unwrap();
        assert_eq!((kept.version, kept.fields.len()), (3, 3));
        assert_eq!(document.recipients(), ["age1x"]);
    }

    #[test]
    fn what_is_not_the_format_is_refused_without_quoting_it() {
        assert_eq!(
            Document::parse(br#"{"format":"secretfs-store/2","x":1}"#).unwrap_err(),
            BadDocument::Format
        );
        for json in [
            r#"{"format":"secretfs-store/1","secrets":{},"canary":1}"#,
            r#"{"format":"secretfs-store/1","secrets":{"a":{"version":1,"created":"canary","fields":{}}}}"#,
            r#"{"format":"secretfs-store/1","secrets":{"/canary":{"version":1,"created":"2026-11-24T20:26:39Z","fields":{}}}}"#,
            r#"{"format":"secretfs-store/1","secrets":{"a":{"version":"canary"}}}"#,
            r#"canary"#,
        ] {
            let error = Document::parse(json.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
    }

    #[test]
    fn folders_are_what_paths_share() {
        let mut document = Document::new(vec![]);
        for name in ["a", "a/b", "a/c/d", "a.b", "z"] {
            document.put(path(name), vec![], SystemTime::now());
        }
        let list = |at: &str| document.list(&BackendPath::parse(at).unwrap());
        let root = list("").unwrap();
        assert_eq!(root.get("a"), Some(&Entry { name: "a".into(), secret: true, folder: true }));
        assert_eq!(root.entries().len(), 3);
        assert_eq!(list("a").unwrap().entries().len(), 2);
        assert_eq!(list("z"), None);
        assert!(Document::new(vec![]).list(&BackendPath::root()).unwrap().entries().is_empty());
    }

    #[test]
    fn paths_have_no_empty_names() {
        for bad in ["", "/", "/a", "a/", "a//b", "a\0b"] {
            assert_eq!(SecretPath::parse(bad), Err(BadPath), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_document_reads_back_as_it_was(
            secrets in proptest::collection::btree_map(
                "[a-zé \"\\\\.]{1,4}(/[a-z\n]{1,3}){0,2}",
                (any::<u32>(), 0u64..200_000_000_000, proptest::collection::vec(any::<u8>(), 0..30)),
                0..8,
            ),
            removed_version in any::<u64>(),
        ) {
            let secrets = secrets.into_iter().map(|(name, (version, seconds, value))| {
                let created = SystemTime::UNIX_EPOCH + Duration::new(seconds, version);
                (path(&name), Kept { version: version.into(), created, fields: vec![text("f", &value)] })
            });
            let document = Document { recipients: vec!["age1".into()], removed_version, secrets: secrets.collect() };
            let again = Document::parse(&document.to_json().unwrap()).unwrap();
            prop_assert_eq!(again.removed_version, removed_version);
            prop_assert_eq!(again.secrets.len(), document.secrets.len());
            for ((path, kept), (old_path, old)) in again.secrets.iter().zip(&document.secrets) {
                prop_assert_eq!(path, old_path);
                prop_assert_eq!((kept.version, kept.created), (old.version, old.created));
                prop_assert_eq!(kept.fields[0].value.expose(), old.fields[0].value.expose());
            }
        }
    }
}
