//! Owns reading and listing key/value engines, version 1 and 2.
//! Does not know how engines are found or how a call is made.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::api::{Api, Call, data};
use super::engines::{Engine, Kind};
use crate::backend::json_fields::fields_of_object;
use crate::backend::{Entry, Error, Listing};
use crate::path::BackendPath;
use crate::secret::{Field, Secret, Version};

/// The secret at `rest` below the engine's mount: its current version, or the one of this number.
pub(super) async fn read(
    api: &Api,
    engine: &Engine,
    rest: &BackendPath,
    number: Option<u32>,
) -> Result<Secret, Error> {
    let middle = match (&engine.kind, number) {
        (Kind::Kv1, None) => None,
        // Version 1 keeps the newest value only.
        (Kind::Kv1, Some(_)) => return Err(Error::NotFound),
        (Kind::Kv2, _) => Some("data"),
        (Kind::Other(_), _) => return Err(engine.refusal()),
    };
    if rest.is_root() {
        return Err(Error::NotFound);
    }
    let segments = engine.mount.segments().chain(middle).chain(rest.segments());
    let call = match number {
        None => Call::read(segments)?,
        Some(number) => Call::read_version(segments, number)?,
    };
    let body = api.call(&call).await.map_err(|error| cannot_exist(error, rest))?;
    if engine.kind == Kind::Kv1 {
        return unversioned(&body);
    }
    let secret = versioned(&body, SystemTime::now())?;
    match number {
        Some(number) if secret.version != Version::new(number.to_string()) => {
            Err(Error::Malformed("it is another version than was asked for"))
        }
        _ => Ok(secret),
    }
}

/// The number that `version` spells: plain decimal digits from 1, as Vault prints them. Everything else (0 is Vault's word
/// for the current version, and what Go parses besides) names no version.
pub(super) fn number(version: &Version) -> Option<u32> {
    let text = version.as_str();
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

/// The folder at `rest` below the engine's mount. An engine without secrets is an empty folder; Vault answers 404 for
/// that as for a folder that does not exist, so below the mount that is [`Error::NotFound`].
pub(super) async fn list(api: &Api, engine: &Engine, rest: &BackendPath) -> Result<Listing, Error> {
    let middle = match &engine.kind {
        Kind::Kv1 => None,
        Kind::Kv2 => Some("metadata"),
        Kind::Other(_) => return Err(engine.refusal()),
    };
    let call = Call::list(engine.mount.segments().chain(middle).chain(rest.segments()))?;
    let body = api.call(&call).await.map_err(|error| cannot_exist(error, rest))?;
    listing(&body)
}

/// Vault answers 400 for names it does not take: characters that do not print, and in version 1 also `..` anywhere.
pub(super) fn cannot_exist(error: Error, path: &BackendPath) -> Error {
    let unprintable = |c: char| !c.is_ascii() && (c.is_whitespace() || c.escape_debug().len() > 1);
    let refused = |segment: &str| segment.contains("..") || segment.contains(unprintable);
    if error == Error::Status(400) && path.segments().any(refused) { Error::NotFound } else { error }
}

#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
    created_time: Option<String>,
    deletion_time: Option<String>,
    #[serde(default)]
    destroyed: bool,
}

fn versioned(body: &[u8], now: SystemTime) -> Result<Secret, Error> {
    let Some(Versioned { data: Some(object), metadata }) = data::<Versioned<'_>>(body)? else {
        return Err(Error::NotFound);
    };
    if metadata.destroyed {
        return Err(Error::NotFound);
    }
    let time = |text: &Option<String>| text.as_deref().and_then(parse_time);
    Ok(Secret {
        fields: fields(object)?,
        version: Version::new(metadata.version.to_string()),
        created: time(&metadata.created_time),
        // A time in the past comes with a 404 from Vault; when only our clock says past, Vault's word counts.
        expires: time(&metadata.deletion_time).filter(|end| *end > now),
    })
}

fn unversioned(body: &[u8]) -> Result<Secret, Error> {
    let object = data::<&RawValue>(body)?.ok_or(Error::NotFound)?;
    Ok(Secret { fields: fields(object)?, version: Version::default(), created: None, expires: None })
}

fn fields(object: &RawValue) -> Result<Vec<Field>, Error> {
    fields_of_object(object.get()).ok_or(Error::Malformed("the secret's data is not a JSON object"))
}

#[derive(Deserialize)]
struct Keys<'a> {
    #[serde(borrow)]
    keys: Option<Vec<&'a RawValue>>,
}

/// Keeps every name that can be a segment, however odd; one that cannot never costs the others.
pub(super) fn listing(body: &[u8]) -> Result<Listing, Error> {
    let keys = data::<Keys<'_>>(body)?.and_then(|keys| keys.keys).unwrap_or_default();
    let found = keys.len();
    let entries: Vec<Entry> = keys.into_iter().filter_map(entry).collect();
    if entries.len() < found {
        tracing::warn!(
            skipped = found - entries.len(),
            "names in a listing were left out: no path can lead to them"
        );
    }
    Ok(Listing::new(entries))
}

fn entry(key: &RawValue) -> Option<Entry> {
    let key: String = serde_json::from_str(key.get()).ok()?;
    entry_of(&key)
}

/// A key as Vault lists it: a secret, or with a slash at its end a folder. `None` when it cannot be a segment of a path.
pub(super) fn entry_of(key: &str) -> Option<Entry> {
    let (name, folder) = match key.strip_suffix('/') {
        Some(name) => (name, true),
        None => (key, false),
    };
    let possible = !name.is_empty() && !name.contains(['/', '\0']);
    possible.then(|| Entry { name: name.to_owned(), secret: !folder, folder })
}

/// RFC 3339 with any number of fractional digits, in UTC or with an offset; empty or unknown is `None`.
pub(super) fn parse_time(text: &str) -> Option<SystemTime> {
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Some(time);
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let shift = Duration::from_secs(hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60);
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match sign {
        "+" => time.checked_sub(shift),
        "-" => time.checked_add(shift),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn envelope(data: &str) -> Vec<u8> {
        format!(
            r#"{{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":{data},
            "wrap_info":null,"warnings":null,"auth":null,"mount_type":"kv"}}"#
        )
        .into_bytes()
    }

    fn v2(metadata: &str) -> Result<Secret, Error> {
        let now = humantime::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        versioned(&envelope(&format!(r#"{{"data":{{"k":"canary"}},"metadata":{metadata}}}"#)), now)
    }

    #[test]
    fn a_version_carries_its_number_and_times() {
        let secret =
            v2(r#"{"created_time":"2025-11-24T20:41:24.897089986Z","deletion_time":"2026-01-02T00:00:00.5Z",
            "destroyed":false,"version":7,"custom_metadata":null}"#)
            .unwrap();
        assert_eq!(secret.version.as_str(), "7");
        let created = secret.created.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(created.subsec_nanos(), 897_089_986);
        assert!(secret.expires.is_some(), "a future deletion_time is an end, not a deletion");
        assert_eq!(secret.field("k").unwrap().value.expose(), b"canary");
    }

    #[test]
    fn deleted_destroyed_and_empty_answers_are_not_found() {
        assert_eq!(v2(r#"{"version":1,"destroyed":true}"#).unwrap_err(), Error::NotFound);
        let deleted = envelope(r#"{"data":null,"metadata":{"version":1,"destroyed":false}}"#);
        assert_eq!(versioned(&deleted, SystemTime::UNIX_EPOCH).unwrap_err(), Error::NotFound);
        assert_eq!(unversioned(&envelope("null")).unwrap_err(), Error::NotFound);
    }

    #[test]
    fn a_version_is_named_by_plain_digits_only() {
        let number = |text: &str| number(&Version::new(text));
        assert_eq!((number("1"), number("42"), number("4294967295")), (Some(1), Some(42), Some(u32::MAX)));
        for none in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "4294967296",
            "latest",
            "٣",
            "1&list=true",
        ] {
            assert_eq!(number(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_deletion_time_that_only_our_clock_has_passed_is_no_end() {
        for time in ["2020-01-01T00:00:00Z", ""] {
            let secret = v2(&format!(r#"{{"version":1,"deletion_time":"{time}"}}"#)).unwrap();
            assert_eq!(secret.expires, None);
        }
    }

    #[test]
    fn half_an_answer_is_malformed() {
        let whole = envelope(r#"{"data":{"k":"canary"},"metadata":{"version":1}}"#);
        for end in [0, 1, 40, whole.len() - 1] {
            assert!(
                matches!(versioned(&whole[..end], SystemTime::UNIX_EPOCH), Err(Error::Malformed(_))),
                "{end}"
            );
        }
        for data in ["7", r#""canary""#, r#"{"data":"canary","metadata":{"version":1}}"#, r#"{"data":{}}"#] {
            let error = versioned(&envelope(data), SystemTime::UNIX_EPOCH).unwrap_err();
            assert!(matches!(error, Error::Malformed(_)), "{data}: {error}");
        }
    }

    #[test]
    fn odd_names_never_cost_the_others() {
        let listing = listing(&envelope(
            r#"{"keys":["good","both","both/","","/","a//","x/y","nul\u0000","tab\t","..",".","\ud800",7,null,"sub/"]}"#,
        ))
        .unwrap();
        let names: Vec<_> = listing.entries().iter().map(|e| (e.name.as_str(), e.secret, e.folder)).collect();
        let secret = |name| (name, true, false);
        assert_eq!(
            names,
            [
                secret("."),
                secret(".."),
                ("both", true, true),
                secret("good"),
                ("sub", false, true),
                secret("tab\t")
            ]
        );
    }

    #[test]
    fn times_come_with_nanoseconds_and_offsets() {
        let utc = parse_time("2026-11-24T20:41:24.5Z").unwrap();
        assert_eq!(parse_time("2026-11-24T22:11:24.5+01:30"), Some(utc));
        assert_eq!(parse_time("2026-11-24T15:41:24.500000000-05:00"), Some(utc));
        for wrong in ["", "x", "2026-11-24", "2026-11-24T20:41:24", "2026-11-24T20:41:24+aa:bb", "é:é:éé"]
        {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_400_for_a_name_that_vault_does_not_take_is_not_found() {
        let path = |text: &str| BackendPath::parse(text).unwrap();
        for impossible in ["a/b..c", "a\u{a0}b", "\u{200b}", "\u{feff}x", "a\u{e000}"] {
            assert_eq!(
                cannot_exist(Error::Status(400), &path(impossible)),
                Error::NotFound,
                "{impossible:?}"
            );
        }
        for possible in ["a/b", "größe", "日本", "a.b", "a'b\"c\\"] {
            assert_eq!(cannot_exist(Error::Status(400), &path(possible)), Error::Status(400), "{possible}");
        }
        assert_eq!(cannot_exist(Error::Status(503), &path("a..b")), Error::Status(503));
    }
}
