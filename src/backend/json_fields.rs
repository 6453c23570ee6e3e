//! Owns how a JSON object becomes the fields of a secret: one per key, in the object's order, every value as it was spelled.
//! Does not know which backend the text came from, nor how a field is shown.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, MapAccess, Visitor};
use serde::{Deserializer, de};
use serde_json::value::RawValue;

use crate::secret::{Field, Form, SecretBytes};

/// The fields of `json` when it is a JSON object and nothing else, else `None`.
///
/// A string becomes its text; a number, boolean, null, object or array its compact JSON, spelled as the backend spelled it
/// (`1.10` stays `1.10`). An object without keys is a secret without fields. Of a key that occurs twice the last value
/// wins, in the place of the first. What is no Unicode (a lone `\ud800`) keeps its JSON spelling, in values and in names,
/// so that it costs nobody else.
pub(crate) fn fields_of_object(json: &str) -> Option<Vec<Field>> {
    // All of it is seen to be JSON first: names are then read by a laxer reader.
    let object: &RawValue = serde_json::from_str(json).ok()?;
    if !object.get().starts_with('{') {
        return None;
    }
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Fields).ok()
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Field>, A::Error> {
        let mut fields: Vec<Field> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some(Name(name)) = map.next_key()? {
            let field = field_of(name.clone(), map.next_value::<&RawValue>()?.get());
            match places.get(&name).and_then(|place| fields.get_mut(*place)) {
                Some(earlier) => *earlier = field,
                None => {
                    places.insert(name, fields.len());
                    fields.push(field);
                }
            }
        }
        Ok(fields)
    }
}

/// A key, whatever it holds.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_bytes(NameBytes)
    }
}

struct NameBytes;

impl Visitor<'_> for NameBytes {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Name, E> {
        Ok(Name(text_of(bytes)))
    }
}

/// `bytes` as text. serde_json hands out half of a surrogate pair as the three bytes that UTF-8 would have for it.
fn text_of(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    loop {
        let good = match std::str::from_utf8(bytes) {
            Ok(rest) => return text + rest,
            Err(error) => error.valid_up_to(),
        };
        let (good, bad) = bytes.split_at(good);
        text.push_str(std::str::from_utf8(good).unwrap_or_default());
        bytes = match bad {
            [0xed, high, low, rest @ ..] => {
                let half = 0xd000 | u32::from(high & 0x3f) << 6 | u32::from(low & 0x3f);
                text.push_str(&format!("\\u{half:04x}"));
                rest
            }
            [_, rest @ ..] => rest,
            [] => return text,
        };
    }
}

fn field_of(name: String, spelled: &str) -> Field {
    let text = spelled.starts_with('"').then(|| serde_json::from_str::<String>(spelled).ok()).flatten();
    match text {
        Some(text) => Field { name, value: SecretBytes::from(text), form: Form::Text },
        None => Field { name, value: compact(spelled), form: Form::Json },
    }
}

/// `json` without the white space between its tokens; `json` is known to be valid.
pub(crate) fn compact(json: &str) -> SecretBytes {
    let mut bytes = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if is_json_space(byte.into()) {
            continue;
        } else {
            in_string = byte == b'"';
        }
        bytes.push(byte);
    }
    SecretBytes::new(bytes)
}

/// White space as RFC 8259 has it, which is less than Unicode's.
fn is_json_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Serialize;
    use serde_json::Value;

    fn shown(json: &str) -> Option<Vec<(String, String, Form)>> {
        let fields = fields_of_object(json)?;
        let shown = |field: Field| {
            (field.name, String::from_utf8(field.value.expose().to_vec()).unwrap(), field.form)
        };
        Some(fields.into_iter().map(shown).collect())
    }

    fn one(json: &str) -> (String, String, Form) {
        let mut fields = shown(json).unwrap();
        assert_eq!(fields.len(), 1);
        fields.remove(0)
    }

    #[test]
    fn strings_are_their_text_and_the_rest_is_as_spelled() {
        let fields = shown(
            " {\"z\": \"a\\nb\\u00e9\", \"n\": 1.10, \"big\": 123456789012345678901234567890, \"t\": true, \"nil\": null, \"e\": 1e3, \"l\": [ ], \"\": \"\"}\n",
        );
        let expected = [
            ("z", "a\nbé", Form::Text),
            ("n", "1.10", Form::Json),
            ("big", "123456789012345678901234567890", Form::Json),
            ("t", "true", Form::Json),
            ("nil", "null", Form::Json),
            ("e", "1e3", Form::Json),
            ("l", "[]", Form::Json),
            ("", "", Form::Text),
        ];
        assert_eq!(
            fields.unwrap(),
            expected.map(|(name, text, form)| (name.to_owned(), text.to_owned(), form))
        );
    }

    #[test]
    fn white_space_goes_between_tokens_and_stays_in_strings() {
        let (_, text, form) = one("{\"a\": { \"k \\\" : x\" :\t[ 1 ,\r\n\"\\\\\" , \" \" ] } }");
        assert_eq!(text, "{\"k \\\" : x\":[1,\"\\\\\",\" \"]}");
        assert_eq!(form, Form::Json);
    }

    #[test]
    fn the_last_of_two_equal_keys_wins_in_the_place_of_the_first() {
        let fields = shown(r#"{"a":1,"b":2,"a":"3"}"#).unwrap();
        assert_eq!(fields, [("a".into(), "3".into(), Form::Text), ("b".into(), "2".into(), Form::Json)]);
    }

    #[test]
    fn what_is_no_object_has_no_fields_and_an_empty_object_has_none_of_them() {
        for text in [
            "",
            "plain",
            "12345",
            "[1]",
            "\"{}\"",
            "{",
            "{\"a\":1",
            "{\"a\":1} x",
            "{\"a\":1}{}",
            "{'a':1}",
            "{a:1}",
            "{\"a\nb\":1}",
            "{\"\\x\":1}",
            "{\"\\u12\":1}",
            "\u{feff}{}",
        ] {
            assert!(fields_of_object(text).is_none(), "{text:?}");
        }
        assert_eq!(shown("{ }").unwrap(), []);
    }

    #[test]
    fn a_string_that_is_no_unicode_keeps_its_spelling() {
        assert_eq!(one(r#"{"a":"\ud800"}"#), ("a".into(), r#""\ud800""#.into(), Form::Json));
        let fields = shown(r#"{"é\ud800x":1,"\udfff":2,"\ud83d\ude00":3,"good":4}"#).unwrap();
        let names: Vec<_> = fields.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, [r"é\ud800x", r"\udfff", "\u{1f600}", "good"]);
    }

    #[test]
    fn depth_does_not_overflow_the_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(one(&deep).1.len(), 200_000);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("JSON has no infinity", |number| number.is_finite())
                .prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ \t\"\\\\{}:,]*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn spaced(value: &Value, indent: &str) -> String {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn compaction_keeps_the_meaning(value in json(), indent in "[ \t\r\n]{0,4}") {
            let text = spaced(&value, &indent);
            let small = compact(&text);
            let small = small.expose_str().unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(small).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
            prop_assert_eq!(small, &serde_json::to_string(&value).unwrap());
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), braced in "\\{[\"a:, \\\\0-9{}]*\\}") {
            let _ = fields_of_object(&text);
            let _ = fields_of_object(&braced);
        }
    }
}
