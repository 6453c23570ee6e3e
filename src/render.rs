//! Owns the bytes of a file: how a field, a whole secret or what is known about it looks when it is read.
//! Does not know where the secret came from or who reads; it is pure.

pub mod env;

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::secret::{Form, Secret, SecretBytes};

/// A file of a secret's directory that is not a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// `.json`: the whole secret as one JSON object.
    Json,
    /// `.env`: the whole secret as `NAME=value` lines for a shell.
    Env,
    /// `.docker-env`: the same for `docker run --env-file`.
    DockerEnv,
    /// `.meta`: what is known about the secret, without a value.
    Meta,
}

impl View {
    /// The view of this reserved name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            ".json" => Some(Self::Json),
            ".env" => Some(Self::Env),
            ".docker-env" => Some(Self::DockerEnv),
            ".meta" => Some(Self::Meta),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => ".json",
            Self::Env => ".env",
            Self::DockerEnv => ".docker-env",
            Self::Meta => ".meta",
        }
    }
}

/// What `.meta` and the extended attributes tell. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The backend's name and kind, such as `prod (vault)`.
    pub backend: String,
    /// The path in the backend.
    pub path: String,
    /// The backend's version; empty where it has none.
    pub version: String,
    /// When we fetched it, or had it made or renewed; none where it has not been made yet.
    pub fetched: Option<SystemTime>,
    /// When it may no longer be served; none where it has not been made yet.
    pub expires: Option<SystemTime>,
    /// Whether it is past its TTL.
    pub stale: bool,
    /// Of a secret that is made on demand, how that stands.
    pub lease: Option<Standing>,
}

/// How it stands with a secret that is made on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has not been made: opening a file with a value in it does that.
    NoneYet,
    /// It was made and is good.
    Held,
    /// It was made, has been replaced since and is good still.
    Predecessor,
}

impl Standing {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoneYet => "none yet",
            Self::Held => "held",
            Self::Predecessor => "predecessor",
        }
    }
}

impl Meta {
    /// The attributes in `.meta` and, behind `user.secretfs.`, in listxattr(2): name and text. What there is none of is left
    /// out.
    pub fn attributes(&self) -> Vec<(&'static str, String)> {
        let attributes = [
            ("backend", Some(self.backend.clone())),
            ("path", Some(self.path.clone())),
            ("version", Some(self.version.clone())),
            ("fetched", self.fetched.map(time)),
            ("expires", self.expires.map(time)),
            ("stale", Some(self.stale.to_string())),
            ("lease", self.lease.map(|standing| standing.name().to_owned())),
        ];
        attributes.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
    }

    /// The bytes of `.meta`: one JSON object and a newline. As long as the version stays, so does its size.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Shape<'a> {
            backend: &'a str,
            path: &'a str,
            version: &'a str,
            fetched: Option<String>,
            expires: Option<String>,
            stale: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            lease: Option<&'static str>,
        }
        let shape = Shape {
            backend: &self.backend,
            path: &self.path,
            version: &self.version,
            fetched: self.fetched.map(time),
            expires: self.expires.map(time),
            stale: self.stale,
            lease: self.lease.map(Standing::name),
        };
        let mut json = serde_json::to_vec(&shape).unwrap_or_default();
        if self.stale {
            // As many bytes as with `false`: stat(2) before an open and fstat(2) long after it are exact.
            json.push(b' ');
        }
        json.push(b'\n');
        json
    }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// The whole secret as one compact JSON object and a newline, fields in the backend's order. Numbers, booleans, objects
/// and arrays stand as the backend spelled them; bytes that are no UTF-8 stand as `{"$base64":"..."}`.
pub fn json(secret: &Secret) -> SecretBytes {
    let mut out = Zeroizing::new(Vec::with_capacity(secret.weight() * 2 + 16));
    out.push(b'{');
    for (at, field) in secret.fields.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push_json_string(&mut out, &field.name);
        out.push(b':');
        match (field.form, field.value.expose_str()) {
            (Form::Json, _) => out.extend_from_slice(field.value.expose()),
            (Form::Text, Some(text)) => push_json_string(&mut out, text),
            (Form::Text, None) => {
                out.extend_from_slice(b"{\"$base64\":\"");
                let encoded = Zeroizing::new(STANDARD.encode(field.value.expose()));
                out.extend_from_slice(encoded.as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
    }
    out.extend_from_slice(b"}\n");
    SecretBytes::from(out)
}

fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::secret::{Field, Version};
    use proptest::prelude::*;

    fn secret(fields: &[(&str, &[u8], Form)]) -> Secret {
        let fields = fields.iter().map(|(name, value, form)| Field {
            name: (*name).into(),
            value: SecretBytes::new(value.to_vec()),
            form: *form,
        });
        Secret { fields: fields.collect(), version: Version::default(), created: None, expires: None }
    }

    #[test]
    fn json_keeps_numbers_as_spelled_and_shows_bytes_as_base64() {
        let secret = secret(&[
            ("b", b"say \"hi\"\n", Form::Text),
            ("a", b"1e400", Form::Json),
            ("raw", b"\xff\x00", Form::Text),
        ]);
        assert_eq!(
            json(&secret).expose_str(),
            Some("{\"b\":\"say \\\"hi\\\"\\n\",\"a\":1e400,\"raw\":{\"$base64\":\"/wA=\"}}\n")
        );
    }

    #[test]
    fn meta_is_json_without_a_value() {
        let meta = Meta {
            backend: "prod (vault)".into(),
            path: "secret/a".into(),
            version: "3".into(),
            fetched: Some(SystemTime::UNIX_EPOCH),
            expires: Some(SystemTime::UNIX_EPOCH),
            stale: false,
            lease: None,
        };
        let parsed: serde_json::Value = serde_json::from_slice(&meta.to_json()).unwrap();
        for (name, text) in meta.attributes() {
            let shown = parsed.get(name).unwrap();
            assert_eq!(shown.as_str().map_or_else(|| shown.to_string(), str::to_owned), text);
        }
        let stale = Meta { stale: true, ..meta.clone() };
        let parsed: serde_json::Value = serde_json::from_slice(&stale.to_json()).unwrap();
        assert_eq!(parsed["stale"], true);
        assert_eq!(stale.to_json().len(), meta.to_json().len());
    }

    #[test]
    fn meta_of_what_was_not_made_says_so_and_has_no_times() {
        let meta = Meta {
            backend: "prod (vault)".into(),
            path: "database/creds/app".into(),
            version: String::new(),
            fetched: None,
            expires: None,
            stale: false,
            lease: Some(Standing::NoneYet),
        };
        let parsed: serde_json::Value = serde_json::from_slice(&meta.to_json()).unwrap();
        assert!(parsed["fetched"].is_null() && parsed["expires"].is_null());
        assert_eq!((&parsed["version"], &parsed["lease"]), (&"".into(), &"none yet".into()));
        let names: Vec<_> = meta.attributes().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["backend", "path", "version", "stale", "lease"]);
    }

    proptest! {
        #[test]
        fn json_reads_back_as_what_it_shows(name in any::<String>(), value in any::<String>()) {
            let secret = secret(&[(&name, value.as_bytes(), Form::Text)]);
            let parsed: serde_json::Value = serde_json::from_slice(json(&secret).expose()).unwrap();
            prop_assert_eq!(parsed.get(&name).and_then(|v| v.as_str()), Some(value.as_str()));
        }
    }
}
