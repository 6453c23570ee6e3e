//! Owns how the fields of a secret are spelled as JSON, in the store, in an editor, in an import alike.
//! Does not know paths, versions, files or encryption.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::backend::json_fields::compact;
use crate::secret::{Field, Form, SecretBytes};

/// Where text stopped being what it should be. Never the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {why}")]
pub struct BadJson {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in bytes; 0 at the end of the text.
    pub column: usize,
    /// What is wrong, in fixed words.
    pub why: &'static str,
}

impl BadJson {
    /// Keeps the position and the category; serde's own words may quote the input, so they stay behind.
    pub(super) fn new(error: &serde_json::Error, does_not_fit: &'static str) -> Self {
        let why = match error.classify() {
            serde_json::error::Category::Data => does_not_fit,
            serde_json::error::Category::Eof => "the JSON ends too early",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "this is not JSON",
        };
        Self { line: error.line(), column: error.column(), why }
    }
}

const NOT_FIELDS: &str =
    "expected an object of fields: names are not empty and stand once, `base64` is base64";
const NOT_SECRETS: &str =
    "expected {\"path\": {\"key\": \"value\"}}: every path and every key stands once, no key is empty";

/// Reads one secret: `{"key": VALUE}`. A string is text, `{"base64": "..."}` is bytes, `{"json": ANY}` is that JSON,
/// and any other JSON stands for itself with its numbers and the order of its keys as written.
pub fn parse(json: &[u8]) -> Result<Vec<Field>, BadJson> {
    serde_json::from_slice::<Fields>(json)
        .map(|fields| fields.0)
        .map_err(|error| BadJson::new(&error, NOT_FIELDS))
}

/// Reads many secrets: `{"path": {"key": VALUE}}`, in the order of the text.
pub fn parse_many(json: &[u8]) -> Result<Vec<(String, Vec<Field>)>, BadJson> {
    let many =
        serde_json::from_slice::<Pairs<Fields>>(json).map_err(|error| BadJson::new(&error, NOT_SECRETS))?;
    Ok(many.0.into_iter().map(|(path, fields)| (path, fields.0)).collect())
}

/// The fields as a person edits them; [`parse`] reads them back as they were.
pub fn pretty(fields: &[Field]) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let mut json = Zeroizing::new(serde_json::to_vec_pretty(&Spelled(fields))?);
    json.push(b'\n');
    Ok(json)
}

/// Fields that serialize in the one spelling.
pub struct Spelled<'a>(pub &'a [Field]);

impl Serialize for Spelled<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|field| (&field.name, Value(field))))
    }
}

struct Value<'a>(&'a Field);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = &self.0.value;
        match (self.0.form, bytes.expose_str()) {
            (Form::Text, Some(text)) => serializer.serialize_str(text),
            (Form::Json, Some(text)) => {
                let raw: &RawValue = serde_json::from_str(text)
                    .map_err(|_| serde::ser::Error::custom("a JSON field does not hold JSON"))?;
                if Wrapped::of(text).is_some() {
                    return one(serializer, "json", raw);
                }
                raw.serialize(serializer)
            }
            (_, None) => one(serializer, "base64", &*Zeroizing::new(BASE64_STANDARD.encode(bytes.expose()))),
        }
    }
}

fn one<S: Serializer, T: Serialize + ?Sized>(serializer: S, key: &str, value: &T) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(key, value)?;
    map.end()
}

/// The fields of one secret, read from the one spelling.
pub(super) struct Fields(pub(super) Vec<Field>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Pairs(pairs) = Pairs::<Meant>::deserialize(deserializer)?;
        Ok(Self(pairs.into_iter().map(|(name, Meant(value, form))| Field { name, value, form }).collect()))
    }
}

struct Meant(SecretBytes, Form);

impl<'de> Deserialize<'de> for Meant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text =
            Zeroizing::new(String::from(Box::<str>::from(Box::<RawValue>::deserialize(deserializer)?)));
        let (value, form) = interpret(&text).ok_or_else(|| de::Error::custom("`base64` is not base64"))?;
        Ok(Self(value, form))
    }
}

/// What one JSON value means; nothing when `base64` is not base64.
fn interpret(text: &str) -> Option<(SecretBytes, Form)> {
    if text.starts_with('"') {
        return Some((string(text)?.into(), Form::Text));
    }
    match Wrapped::of(text) {
        Some(Wrapped { base64: Some(raw), .. }) if raw.get().starts_with('"') => {
            let encoded = Zeroizing::new(string(raw.get())?);
            Some((SecretBytes::new(BASE64_STANDARD.decode(encoded.as_bytes()).ok()?), Form::Text))
        }
        Some(Wrapped { json: Some(raw), .. }) if raw.get().starts_with('"') => {
            Some((string(raw.get())?.into(), Form::Text))
        }
        Some(Wrapped { json: Some(raw), .. }) => Some((compact(raw.get()), Form::Json)),
        _ => Some((compact(text), Form::Json)),
    }
}

fn string(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// `{"base64": ...}` or `{"json": ...}`, with nothing beside it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    base64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    json: Option<&'a RawValue>,
}

impl<'a> Wrapped<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let wrapped = serde_json::from_str::<Self>(text).ok()?;
        (text.starts_with('{') && wrapped.base64.is_some() != wrapped.json.is_some()).then_some(wrapped)
    }
}

/// `null` is a value here, not an absence.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A JSON object in its own order, with every key once and none empty.
pub(super) struct Pairs<V>(pub(super) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
    type Value = Pairs<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
        let (mut pairs, mut seen) = (Vec::new(), HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            if key.is_empty() || !seen.insert(key.clone()) {
                return Err(de::Error::custom("a key is empty or stands twice"));
            }
            pairs.push((key, map.next_value()?));
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> Vec<(String, Vec<u8>, Form)> {
        let fields = parse(json.as_bytes()).unwrap();
        fields.into_iter().map(|field| (field.name, field.value.expose().to_vec(), field.form)).collect()
    }

    fn value(json: &str) -> (Vec<u8>, Form) {
        let (_, bytes, form) = read(&format!("{{\"k\":{json}}}")).remove(0);
        (bytes, form)
    }

    #[test]
    fn every_form_has_one_meaning() {
        assert_eq!(value("\"a\\nb\""), (b"a\nb".to_vec(), Form::Text));
        assert_eq!(value("{\"base64\":\"AP8=\"}"), (vec![0, 0xff], Form::Text));
        assert_eq!(value("1.50e3"), (b"1.50e3".to_vec(), Form::Json));
        assert_eq!(value("null"), (b"null".to_vec(), Form::Json));
        assert_eq!(value("[1, \"a \\\" b\", {}]"), (b"[1,\"a \\\" b\",{}]".to_vec(), Form::Json));
        assert_eq!(value("{\"z\": 1, \"a\": 2}"), (b"{\"z\":1,\"a\":2}".to_vec(), Form::Json));
        assert_eq!(value("{\"json\": {\"base64\": \"x\"}}"), (b"{\"base64\":\"x\"}".to_vec(), Form::Json));
        assert_eq!(value("{\"json\": null}"), (b"null".to_vec(), Form::Json));
        assert_eq!(value("{\"json\": \"text\"}"), (b"text".to_vec(), Form::Text));
        assert_eq!(value("{\"base64\": \"AA==\", \"x\": 1}").1, Form::Json);
    }

    #[test]
    fn what_is_wrong_is_placed_and_never_quoted() {
        for json in [
            "{\"a\":\"canary\",\"a\":\"canary\"}",
            "{\"\":\"canary\"}",
            "{\"a\":{\"base64\":\"canary!\"}}",
            "[\"canary\"]",
            "{\n\"a\": canary}",
            "{\"a\":\"canary",
        ] {
            let error = parse(json.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
            assert!(error.line > 0);
        }
        assert_eq!(parse(b"{\n \"a\": x}").unwrap_err().line, 2);
    }

    fn json_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            "[a-z\"\\\\ \n]{0,6}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(serde_json::Value::from),
                proptest::collection::hash_map("json|base64|[a-z]{1,3}", inner, 0..3)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn any_field() -> impl Strategy<Value = (Vec<u8>, Form)> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| (bytes, Form::Text)),
            any::<String>().prop_map(|text| (text.into_bytes(), Form::Text)),
            json_value()
                .prop_filter("a string is text", |json| !json.is_string())
                .prop_map(|json| (json.to_string().into_bytes(), Form::Json)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_it_was(
            fields in proptest::collection::btree_map("\\PC{1,8}", any_field(), 0..6),
        ) {
            let kept: Vec<Field> = fields.iter().map(|(name, (bytes, form))| Field {
                name: name.clone(), value: SecretBytes::new(bytes.clone()), form: *form,
            }).collect();
            for json in [pretty(&kept).unwrap().to_vec(), serde_json::to_vec(&Spelled(&kept)).unwrap()] {
                let again = parse(&json).unwrap();
                let again: Vec<_> = again.into_iter().map(|f| (f.name, (f.value.expose().to_vec(), f.form))).collect();
                prop_assert_eq!(&again, &fields.clone().into_iter().collect::<Vec<_>>());
            }
        }
    }
}
