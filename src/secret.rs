//! Owns the bytes of a secret: what holds them, what may look at them, and their erasure.
//! Does not know where a secret came from, who reads it or how it is shown.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Bytes that must never be printed, copied by accident or left behind.
///
/// There is one door, [`SecretBytes::expose`]. There is no `Clone`, no `Display`, no `Serialize`;
/// `Debug` shows the length only; dropping erases.
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// Takes ownership of `bytes`. Capacity beyond the length is erased by the global allocator.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        let boxed = if bytes.len() == bytes.capacity() {
            bytes.into_boxed_slice()
        } else {
            // `into_boxed_slice` may reallocate; copying ourselves leaves nothing unwiped.
            let exact: Box<[u8]> = bytes.as_slice().into();
            bytes.zeroize();
            exact
        };
        Self(boxed)
    }

    /// The one door: whoever calls this is responsible for where the bytes go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// As text, when it is UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Number of bytes; a length is not treated as secret (`stat` shows it).
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretBytes {
    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        Self::new(std::mem::take(&mut *bytes))
    }
}

impl From<String> for SecretBytes {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[redacted {} bytes]", self.0.len())
    }
}

/// Overwrites the part of this thread's stack that calls made before this one have used and left. Parsers that look at
/// many bytes at once spill them there; nothing frees a stack, so the allocator cannot erase it.
#[inline(never)]
pub fn erase_stack_below() {
    /// More than decrypting or parsing goes down, with and without optimisation (tests/it/hygiene.rs passes in both); a
    /// small part of a thread's stack (2 MiB).
    const DEPTH: usize = if cfg!(debug_assertions) { 256 << 10 } else { 64 << 10 };
    let mut stack = [0_u8; DEPTH];
    // A local that somebody might look at is really written.
    std::hint::black_box(&mut stack);
}

/// What a backend calls one version of a secret: a KV v2 number, an AWS VersionId, a store's counter.
/// Empty where the backend has none (KV v1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Version(Arc<str>);

impl Version {
    /// A version as the backend spells it.
    pub fn new(spelling: impl Into<Arc<str>>) -> Self {
        Self(spelling.into())
    }

    /// The backend's spelling; empty where it has none.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Version {
    fn from(spelling: String) -> Self {
        Self::new(spelling)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.as_str().to_owned()
    }
}

impl Default for Version {
    fn default() -> Self {
        Self(Arc::from(""))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the bytes of a field stand in `.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A string or bytes: quoted in `.json`.
    Text,
    /// Compact JSON text of a number, boolean, null, object or array: stands in `.json` as it is.
    Json,
}

/// One named value of a secret.
#[derive(Debug)]
pub struct Field {
    /// The backend's name for it, any Unicode string.
    pub name: String,
    /// The exact bytes of the file.
    pub value: SecretBytes,
    /// Whether the bytes are text or JSON.
    pub form: Form,
}

/// A whole secret at one version, immutable. Shared as `Arc<Secret>`: erased when the last holder lets go.
#[derive(Debug)]
pub struct Secret {
    /// Fields in the backend's order; names are unique.
    pub fields: Vec<Field>,
    /// The backend's version.
    pub version: Version,
    /// When this version was created; `None` where the backend does not say (KV v1).
    pub created: Option<SystemTime>,
    /// When this version stops being served, if the backend set an end (KV v2 `deletion_time`).
    pub expires: Option<SystemTime>,
}

impl Secret {
    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Whether another reading of the same secret gave the same: version, times and every byte. A time of creation that
    /// only one of them has counts for nothing: a backend without versions has none.
    pub fn is_same_as(&self, other: &Secret) -> bool {
        let same = |(a, b): (&Field, &Field)| {
            a.name == b.name && a.form == b.form && a.value.expose() == b.value.expose()
        };
        self.version == other.version
            && self.expires == other.expires
            && (self.created == other.created || other.created.is_none())
            && self.fields.len() == other.fields.len()
            && self.fields.iter().zip(&other.fields).all(same)
    }

    /// Bytes held by values and names: the cache's weight.
    pub fn weight(&self) -> usize {
        self.fields.iter().map(|field| field.name.len() + field.value.len() + 64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_length_and_nothing_else() {
        let field =
            Field { name: "k".into(), value: SecretBytes::from("hunter2".to_owned()), form: Form::Text };
        let shown = format!("{field:?}");
        assert!(!shown.contains("hunter2"));
        assert!(shown.contains("[redacted 7 bytes]"));
    }

    #[test]
    fn spare_capacity_does_not_change_the_bytes() {
        let mut bytes = Vec::with_capacity(100);
        bytes.extend_from_slice(b"abc");
        assert_eq!(SecretBytes::new(bytes).expose(), b"abc");
    }
}
