//! Owns the contract of `dyn Backend`: each promise is written once and kept by every backend there is.
//! Does not know how a backend works; what only one of them promises is tested beside it.

mod subjects;

/// Every promise for every backend, as a test of its own.
macro_rules! kept_by_all {
    ($($promise:ident)*) => {
        kept_by_all!(@ faulty $($promise)*);
        kept_by_all!(@ store $($promise)*);
        kept_by_all!(@ vault_kv1 $($promise)*);
        kept_by_all!(@ vault_kv2 $($promise)*);
        kept_by_all!(@ openbao $($promise)*);
        kept_by_all!(@ aws $($promise)*);
    };
    (@ $subject:ident $($promise:ident)*) => {
        mod $subject {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    super::promises::$promise(super::subjects::$subject).await;
                }
            )*
        }
    };
}

kept_by_all! {
    a_text_field_is_exactly_its_bytes
    json_keeps_its_spelling_and_fields_their_order
    what_is_missing_is_not_found
    folders_are_listed_sorted_and_merged
    an_empty_place_lists_nothing
    a_put_is_a_new_version_and_the_newest_is_read
    what_is_deleted_is_gone
    an_older_version_is_read_by_its_name_where_they_are_kept
    a_folder_tells_the_versions_that_a_read_gives
    whoever_waits_for_a_change_is_woken_by_each
    a_hostile_name_reaches_its_own_secret_or_none
    many_reads_at_once_are_all_right
    a_failure_shows_no_value
    a_call_that_is_dropped_half_way_does_no_harm
}

mod promises {
    mod versions;

    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use secretfs::backend::{Error, Listing};
    use secretfs::path::BackendPath;
    use secretfs::secret::{Form, Secret};
    use serde_json::{Value, json};

    use super::subjects::{Make, Place, Subject};
    pub(super) use versions::*;

    impl Subject {
        /// The path below this subject's root, segment by segment as it stands.
        fn at<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> BackendPath {
            segments.into_iter().fold(self.root.clone(), |path, segment| path.child(segment).unwrap())
        }

        fn path(&self, path: &str) -> BackendPath {
            if path.is_empty() { self.root.clone() } else { self.at(path.split('/')) }
        }

        async fn read(&self, path: &str) -> Result<Secret, Error> {
            self.backend.read(&self.path(path)).await
        }

        async fn list(&self, path: &str) -> Result<Listing, Error> {
            self.backend.list(&self.path(path)).await
        }

        fn put(&self, path: &str, fields: &Value) {
            assert!(self.hand.try_put(path, &fields.to_string()), "{path}");
        }
    }

    fn text<'a>(secret: &'a Secret, field: &str) -> &'a str {
        secret.field(field).unwrap_or_else(|| panic!("no field {field}")).value.expose_str().unwrap()
    }

    /// `name` for a secret, `name/` for a folder, `name name/` for both.
    fn entries(listing: &Listing) -> Vec<String> {
        let shown = |e: &secretfs::backend::Entry| match (e.secret, e.folder) {
            (true, true) => format!("{0} {0}/", e.name),
            (true, false) => e.name.clone(),
            (false, true) => format!("{}/", e.name),
            (false, false) => panic!("{} is nothing", e.name),
        };
        listing.entries().iter().map(shown).collect()
    }

    pub(super) async fn a_text_field_is_exactly_its_bytes(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        // AWS holds 64 KiB, with the JSON around a value.
        let large = "canary \u{1F511}".repeat((64 << 10) / 11 - 40);
        let small = [
            ("plain", "canary"),
            ("empty", ""),
            ("newline", "canary\n"),
            ("unicode", "canary größe \u{1F511} e\u{301} \u{feff}"),
            ("controls", "canary \0\u{1}\u{7f}\t\r\n\u{2028}"),
            ("quotes", "canary \"'\\ <&> {\"a\": 1} %41 $HOME"),
            ("number", "12345"),
            ("größe \u{1F511}", "canary of an odd name"),
            ("a/b", "canary with a slash"),
            (" ", "canary of a space"),
        ];
        for (path, fields) in [("small", small.as_slice()), ("large", &[("value", large.as_str())])] {
            let object: BTreeMap<&str, &str> = fields.iter().copied().collect();
            subject.put(path, &json!(object));
            let secret = subject.read(path).await.unwrap();
            assert_eq!(secret.fields.len(), fields.len());
            for (name, expected) in fields {
                assert!(text(&secret, name) == *expected, "{name}");
                assert_eq!(secret.field(name).unwrap().form, Form::Text, "{name}");
            }
        }
        if subject.differs.tells_time {
            let created = subject.read("small").await.unwrap().created.unwrap();
            let now = SystemTime::now();
            let apart = now.duration_since(created).unwrap_or_else(|ahead| ahead.duration());
            assert!(apart < Duration::from_secs(60), "{apart:?}");
        }
    }

    pub(super) async fn json_keeps_its_spelling_and_fields_their_order(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        let fields = [
            ("zeta", "\"canary\"", "canary", Form::Text),
            ("number", "5432", "5432", Form::Json),
            ("float", "-1.5", "-1.5", Form::Json),
            ("yes", "true", "true", Form::Json),
            ("nothing", "null", "null", Form::Json),
            ("list", "[ 1, \"a b\", null ]", "[1,\"a b\",null]", Form::Json),
            ("object", "{ \"a \": { \"b\": [] } }", "{\"a \":{\"b\":[]}}", Form::Json),
            ("alpha", "\"\"", "", Form::Text),
        ];
        let fields = fields.into_iter().filter(|field| subject.differs.keeps_json || field.3 == Form::Text);
        let mut fields: Vec<_> = fields.collect();
        let members: Vec<_> = fields.iter().map(|(name, json, ..)| format!("\"{name}\" : {json}")).collect();
        assert!(subject.hand.try_put("all", &format!("{{ {} }}", members.join(" , "))));
        let secret = subject.read("all").await.unwrap();
        if !subject.differs.keeps_order {
            fields.sort_by_key(|field| field.0);
        }
        let found = secret.fields.iter().map(|f| (f.name.as_str(), f.value.expose_str().unwrap(), f.form));
        let expected = fields.iter().map(|(name, _, text, form)| (*name, *text, *form));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    pub(super) async fn what_is_missing_is_not_found(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        subject.put("dir/a", &json!({"k": "canary"}));
        for path in ["none", "none/none", "dir/none", "dir", "dir/a/k", "di", "dir/A"] {
            assert_eq!(subject.read(path).await.unwrap_err(), Error::NotFound, "{path}");
        }
        for path in ["none", "none/none", "dir/none", "dir/a", "di", "dirr"] {
            assert_eq!(subject.list(path).await.unwrap_err(), Error::NotFound, "{path}");
        }
        assert_eq!(subject.backend.read(&BackendPath::root()).await.unwrap_err(), Error::NotFound);
    }

    pub(super) async fn folders_are_listed_sorted_and_merged(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        let paths =
            ["top", "a", "a/z", "a/b", "a/b/c", "a/b/c/d", "a/B", "a/b-1", "a/10", "a/9", "other/x", "ab"];
        for path in paths {
            subject.put(path, &json!({"k": format!("canary of {path}")}));
        }
        for (folder, expected) in [
            ("", ["a a/", "ab", "other/", "top"].as_slice()),
            ("a", &["10", "9", "B", "b b/", "b-1", "z"]),
            ("a/b", &["c c/"]),
            ("a/b/c", &["d"]),
            ("other", &["x"]),
        ] {
            assert_eq!(entries(&subject.list(folder).await.unwrap()), expected, "{folder}");
        }
        for path in paths {
            assert_eq!(text(&subject.read(path).await.unwrap(), "k"), format!("canary of {path}"));
        }
    }

    pub(super) async fn an_empty_place_lists_nothing(make: Make) {
        let Some(subject) = make(Place::Own) else { return };
        assert_eq!(subject.list("").await.unwrap(), Listing::default());
        subject.put("a/b", &json!({"k": "canary"}));
        assert_eq!(entries(&subject.list("").await.unwrap()), ["a/"]);
        subject.hand.delete("a/b");
        assert_eq!(subject.list("").await.unwrap(), Listing::default());
        assert_eq!(subject.list("a").await.unwrap_err(), Error::NotFound);
    }

    pub(super) async fn a_put_is_a_new_version_and_the_newest_is_read(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        let mut versions = Vec::new();
        let mut generations = vec![subject.backend.generation()];
        for turn in 1..=3 {
            // Each has a field that the one before had not, and the other way round: nothing is merged.
            subject.put("a", &json!({"k": format!("canary {turn}"), format!("only{turn}"): "canary"}));
            let secret = subject.read("a").await.unwrap();
            assert_eq!(text(&secret, "k"), format!("canary {turn}"));
            assert_eq!(secret.fields.len(), 2);
            assert_eq!(secret.version.as_str().is_empty(), !subject.differs.has_versions);
            versions.push(secret.version);
            generations.push(subject.backend.generation());
        }
        versions.dedup();
        assert_eq!(versions.len(), if subject.differs.has_versions { 3 } else { 1 });
        generations.dedup();
        assert!([1, 4].contains(&generations.len()), "a generation counts every change or none");
        assert_eq!(subject.read("a").await.unwrap().version, versions[versions.len() - 1]);
    }

    pub(super) async fn what_is_deleted_is_gone(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        for path in ["dir/a", "dir/b", "dir/a/deeper"] {
            subject.put(path, &json!({"k": "canary"}));
        }
        subject.hand.delete("dir/a");
        assert_eq!(subject.read("dir/a").await.unwrap_err(), Error::NotFound);
        assert_eq!(entries(&subject.list("dir").await.unwrap()), ["a/", "b"]);
        subject.hand.delete("dir/a/deeper");
        assert_eq!(entries(&subject.list("dir").await.unwrap()), ["b"]);
        assert_eq!(subject.list("dir/a").await.unwrap_err(), Error::NotFound);
        subject.put("dir/a", &json!({"k": "canary again"}));
        assert_eq!(text(&subject.read("dir/a").await.unwrap(), "k"), "canary again");
    }

    pub(super) async fn a_hostile_name_reaches_its_own_secret_or_none(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        for path in ["victim", "dir/victim", "dir/dir/victim"] {
            subject.put(path, &json!({"k": "canary of the victim"}));
        }
        let names = hostile();
        for name in &names {
            let h = name.as_str();
            for path in [
                subject.at(["dir", h]),
                subject.at(["dir", h, "victim"]),
                subject.at(["dir", h, "dir", "victim"]),
                subject.at(["dir", h, h, "victim"]),
                subject.at([h, "victim"]),
                subject.at(["dir", "victim", h]),
            ] {
                assert_eq!(subject.backend.read(&path).await.unwrap_err(), Error::NotFound, "{path}");
                assert_eq!(subject.backend.list(&path).await.unwrap_err(), Error::NotFound, "{path}");
            }
        }
        let mut taken = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            let own = format!("canary of name {at}");
            if subject.hand.try_put(&format!("dir/{name}"), &json!({ "k": own }).to_string()) {
                taken.insert(name.as_str(), own);
            }
        }
        for name in &names {
            match subject.backend.read(&subject.at(["dir", name.as_str()])).await {
                Ok(secret) => {
                    assert_eq!(Some(text(&secret, "k")), taken.get(name.as_str()).map(|own| &**own))
                }
                Err(Error::NotFound) => {
                    assert!(
                        !subject.differs.takes_odd_names || !taken.contains_key(name.as_str()),
                        "{name:?}"
                    );
                }
                Err(error) => panic!("{name:?}: {error}"),
            }
        }
        for path in ["victim", "dir/victim", "dir/dir/victim"] {
            assert_eq!(text(&subject.read(path).await.unwrap(), "k"), "canary of the victim");
        }
        // No name hides the others, and what is listed is what is there.
        let listing = subject.list("dir").await.unwrap();
        assert!(listing.entries().is_sorted_by(|a, b| a.name < b.name));
        assert!(listing.get("victim").unwrap().secret && listing.get("dir").unwrap().folder);
        for entry in listing.entries().iter().filter(|entry| !["victim", "dir"].contains(&&*entry.name)) {
            assert!(taken.contains_key(&*entry.name), "{:?} was never put", entry.name);
        }
        let legal = ["data", "metadata", "config", "VICTIM", "null"];
        assert!(legal.iter().all(|name| listing.get(name).is_some()), "{:?}", entries(&listing));
    }

    /// Names that a path, a URL, a query or a terminal could take for something else.
    fn hostile() -> Vec<String> {
        let mut names: Vec<String> = [
            ".",
            "..",
            "...",
            "%2e",
            "%2e%2e",
            "%2E%2e",
            "%252e%252e",
            "..%2f",
            "%2f",
            "%2fvictim",
            "..%2fvictim",
            "a%2fb",
            "%00",
            "victim%00",
            "\u{1}",
            "bell\u{7}",
            "new\nline",
            "tab\t",
            "\r\n",
            "\u{1b}[2J",
            "\u{7f}",
            "\u{85}",
            "\u{200b}",
            "\u{202e}txt",
            "\u{feff}",
            "?list=true",
            "?version=1",
            "victim?x",
            "#",
            "victim#x",
            ";",
            "victim;x",
            "&",
            "=",
            "\\",
            "\\..\\victim",
            "..\\victim",
            " ",
            " victim",
            "victim ",
            "victim.",
            "VICTIM",
            "victim%20",
            "data",
            "metadata",
            "config",
            "~",
            "*",
            "+",
            "{}",
            "null",
            "'",
            "\"",
            "|",
            "$(id)",
            "größe",
            "gro\u{308}ße",
            "\u{1F511}",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:victim",
        ]
        .map(str::to_owned)
        .into();
        names.extend(["x".repeat(255), "y".repeat(256), "z".repeat(3000), "é".repeat(200), "%2e".repeat(80)]);
        names
    }

    pub(super) async fn many_reads_at_once_are_all_right(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        for number in 0..5 {
            subject.put(&format!("s{number}"), &json!({"k": format!("canary {number}")}));
        }
        let reads = (0..20).map(|at| {
            let (backend, path) = (subject.backend.clone(), subject.path(&format!("s{}", at % 5)));
            tokio::spawn(async move { backend.read(&path).await })
        });
        for (at, read) in reads.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(text(&read.await.unwrap().unwrap(), "k"), format!("canary {}", at % 5));
        }
    }

    pub(super) async fn a_failure_shows_no_value(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        subject.put("a", &json!({"k": "canary"}));
        let secret = subject.read("a").await.unwrap();
        assert!(!format!("{secret:?}").contains("canary"));
        let (file, folder) = (subject.path("a"), subject.path("dir"));
        for (at, failing) in subject.hand.failing().into_iter().enumerate() {
            // More than once: another answer may come, and the first failure may be remembered.
            for _ in 0..3 {
                for error in
                    [failing.read(&file).await.unwrap_err(), failing.list(&folder).await.unwrap_err()]
                {
                    assert_ne!(error, Error::NotFound, "failing backend {at}");
                    let shown = format!("{error} {error:?} {error:#?}");
                    assert!(!shown.contains("canary"), "failing backend {at}");
                }
                let older = failing.read_version(&file, &secret.version).await.unwrap_err();
                let versions = failing.versions(&folder).await;
                assert!(
                    !format!("{older} {older:?} {versions:?}").contains("canary"),
                    "failing backend {at}"
                );
            }
        }
    }

    pub(super) async fn a_call_that_is_dropped_half_way_does_no_harm(make: Make) {
        let Some(subject) = make(Place::Shared) else { return };
        subject.put("dir/a", &json!({"k": "canary"}));
        let (file, folder) = (subject.path("dir/a"), subject.path("dir"));
        for turn in 0..20 {
            let patience = Duration::from_micros(turn * 150);
            let _ = tokio::time::timeout(patience, subject.backend.read(&file)).await;
            let _ = tokio::time::timeout(patience, subject.backend.list(&folder)).await;
            let _ = tokio::time::timeout(patience, subject.backend.versions(&folder)).await;
            let _ = tokio::time::timeout(patience, subject.backend.changed()).await;
            let given_up = tokio::spawn({
                let (backend, file) = (subject.backend.clone(), file.clone());
                async move { backend.read(&file).await.is_ok() }
            });
            tokio::task::yield_now().await;
            given_up.abort();
        }
        assert_eq!(text(&subject.read("dir/a").await.unwrap(), "k"), "canary");
        assert_eq!(entries(&subject.list("dir").await.unwrap()), ["a"]);
    }
}
