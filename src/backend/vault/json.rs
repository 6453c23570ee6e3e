//! Owns turning JSON that holds a secret into fields, with the backend's own spelling kept.
//! Does not know where the JSON came from.

use std::collections::HashMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::backend::Error;
use crate::secret::{Field, Form, SecretBytes};

/// The fields of a JSON object in their order. A string becomes its text, anything else its compact JSON;
/// of two fields with one name the last counts, as for every other JSON reader.
pub(super) fn fields(object: &RawValue) -> Result<Vec<Field>, Error> {
    // serde's error text may quote the input: it is dropped here.
    serde_json::Deserializer::from_str(object.get())
        .deserialize_map(Fields)
        .map_err(|_| Error::Malformed("the secret's data is not a JSON object"))
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Vec<Field> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some((name, raw)) = map.next_entry::<String, &RawValue>()? {
            let (value, form) = value(raw).ok_or_else(|| A::Error::custom("a string that is no Unicode"))?;
            let field = Field { name: name.clone(), value, form };
            let place = *places.entry(name).or_insert(fields.len());
            match fields.get_mut(place) {
                Some(earlier) => *earlier = field,
                None => fields.push(field),
            }
        }
        Ok(fields)
    }
}

fn value(raw: &RawValue) -> Option<(SecretBytes, Form)> {
    let text = raw.get();
    if text.starts_with('"') {
        return serde_json::from_str::<String>(text).ok().map(|text| (SecretBytes::from(text), Form::Text));
    }
    Some((SecretBytes::new(compact(text)), Form::Json))
}

/// Valid JSON without the white space between its tokens; strings and numbers stay as they are spelled.
fn compact(json: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        bytes.push(byte);
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(json: &str) -> Result<Vec<(String, String, Form)>, Error> {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        let fields = fields(&raw)?;
        Ok(fields.into_iter().map(|f| (f.name, f.value.expose_str().unwrap().to_owned(), f.form)).collect())
    }

    #[test]
    fn every_type_of_value_keeps_its_spelling() {
        let json = r#" { "z": "t\u00e9x\tt", "a" : 1.50 , "big": 123456789012345678901234567890, "e": 1e3,
            "o": { "b" : [ 1 , 2 ], "a": "x y" }, "t": true, "n": null, "l": [ ], "": "" } "#;
        let expected = [
            ("z", "téx\tt", Form::Text),
            ("a", "1.50", Form::Json),
            ("big", "123456789012345678901234567890", Form::Json),
            ("e", "1e3", Form::Json),
            ("o", r#"{"b":[1,2],"a":"x y"}"#, Form::Json),
            ("t", "true", Form::Json),
            ("n", "null", Form::Json),
            ("l", "[]", Form::Json),
            ("", "", Form::Text),
        ];
        let expected: Vec<_> = expected.map(|(n, v, f)| (n.to_owned(), v.to_owned(), f)).into();
        assert_eq!(parsed(json).unwrap(), expected);
    }

    #[test]
    fn of_two_fields_with_one_name_the_last_counts() {
        let found = parsed(r#"{"a":"1","b":"2","a":"3"}"#).unwrap();
        assert_eq!(found, [("a".into(), "3".into(), Form::Text), ("b".into(), "2".into(), Form::Text)]);
    }

    #[test]
    fn what_is_no_object_is_malformed_and_not_quoted() {
        for json in [r#""canary""#, "[\"canary\"]", "7", "true", r#"{"a":"\ud800 canary"}"#] {
            let error = parsed(json).unwrap_err();
            assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"), "{json}");
        }
    }

    #[test]
    fn deep_nesting_is_a_value_like_any_other() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(parsed(&format!("{{\"d\": {deep} }}")).unwrap()[0].1, deep);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn compacting_pretty_json_gives_what_serde_writes_compactly(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(&pretty), serde_json::to_vec(&value).unwrap());
        }
    }
}
