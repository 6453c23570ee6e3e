//! Owns the laws of the reader for any text: it never fails badly, and no message holds a value.
//! Does not know what a good file becomes (tests.rs).

use proptest::prelude::*;

use super::*;

/// A value in any of TOML's forms, right or wrong, with the canary in it.
fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "\"CANARY\"",
        "'CANARY'",
        "CANARY",
        "\"\"\"a\nCANARY\"\"\"",
        "'''CANARY\n'''",
        "[\"CANARY\", 1]",
        "{ type = \"CANARY\" }",
        "\"/CANARY\"",
        "\"../CANARY\"",
        "\"https://CANARY\"",
        "\"https://u:CANARY@h\"",
        "\"CANARY\nx\"",
        "\"\\u00e4CANARY\\n\"",
        "\"CANARY",
        "1CANARY",
        "1979-05-27CANARY",
        "true CANARY",
        "\"5CANARY\"",
        "\"1CANARYMiB\"",
        "\"\\qCANARY\"",
        "0xCANARY",
    ])
    .prop_map(|form| form.replace("CANARY", "canary7f3a"))
}

/// A line of a file, made of what files are made of.
fn line() -> impl Strategy<Value = String> {
    let keys: Vec<&str> = keys::ALL.iter().map(|key| key.name).chain(["adress", "ttll", "x"]).collect();
    let tables = vec![
        "[mount]",
        "[backend.a]",
        "[backend.b]",
        "[[tree]]",
        "[[secret]]",
        "[tree.parameters]",
        "[secret.parameters]",
        "[secret.parameters.x]",
        "[[freshness]]",
        "[[hook]]",
        "[tree]",
        "[hook]",
        "[other]",
        "[backend]",
        "",
    ];
    let kinds = vec![
        "type = \"vault\"",
        "type = \"aws\"",
        "type = \"store\"",
        "backend = \"a\"",
        "path = \"/\"",
        "auth = \"approle\"",
    ];
    prop_oneof![
        2 => prop::sample::select(tables).prop_map(str::to_owned),
        2 => prop::sample::select(kinds).prop_map(str::to_owned),
        3 => (prop::sample::select(keys), value()).prop_map(|(key, value)| format!("{key} = {value}")),
    ]
}

proptest! {
    #[test]
    fn no_message_holds_a_value(lines in prop::collection::vec(line(), 0..12), cut in any::<prop::sample::Index>(), cuts in any::<bool>()) {
        let mut text = lines.join("\n");
        if cuts && !text.is_empty() {
            // a missing quote or bracket makes other text of the same bytes
            let mut at = cut.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.remove(at);
        }
        let told = match parse(&text, Path::new("config.toml")) {
            Ok(loaded) => format!("{:?}", loaded.warnings),
            Err(invalid) => format!("{invalid} {invalid:?}"),
        };
        prop_assert!(!told.contains("canary"), "{}\n{}", told, text);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, &bytes).unwrap();
        let _ = load(&path);
    }

    #[test]
    fn no_text_is_too_strange(text in "([\\[\\]{}=\"'.,#\n \\\\a-zA-Z0-9_-]|mount|backend|tree|secret|hook|path|type){0,60}") {
        let _ = parse(&text, Path::new("config.toml"));
    }
}
