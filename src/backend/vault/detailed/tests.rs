//! Owns the tests of what is learned about an engine, and of how a page is read; whole conversations are in tests/it.
//! Does not know a server.

#![allow(clippy::unwrap_used)]

use super::*;

fn path(text: &str) -> BackendPath {
    BackendPath::parse(text).unwrap()
}

fn engine(accessor: &str) -> Arc<Engine> {
    let facts =
        format!(r#"{{"type":"kv","path":"secret/","options":{{"version":"2"}},"accessor":"{accessor}"}}"#);
    Arc::new(Engine::of_facts(&facts))
}

fn detailed() -> (Detailed, Clock) {
    let clock = Clock::manual();
    (Detailed::new(clock.clone()), clock)
}

#[test]
fn a_server_that_cannot_is_left_alone_for_ten_minutes_or_until_the_engine_is_another() {
    let (detailed, clock) = detailed();
    let asks = |engine: &Arc<Engine>| detailed.page_to_ask_for(engine, &path("a")).is_some();
    let old = engine("kv_1");
    assert!(asks(&old));
    detailed.is_unable(&old);
    assert!(!asks(&old));
    clock.advance(UNABLE - Duration::from_secs(1));
    assert!(!asks(&old));
    clock.advance(Duration::from_secs(1));
    assert!(asks(&old));
    detailed.is_unable(&old);
    assert!(asks(&engine("kv_2")), "mounted anew");
}

#[test]
fn one_contradiction_of_a_server_that_has_answered_is_taken_for_a_write_in_between() {
    let (detailed, _) = detailed();
    let engine = engine("kv_1");
    let asks = || detailed.page_to_ask_for(&engine, &path("a")).is_some();
    detailed.learn(&engine, |learned| learned.answers = true);
    detailed.contradicts_itself(&engine);
    assert!(asks());
    detailed.contradicts_itself(&engine);
    assert!(!asks());
}

#[test]
fn a_refusal_is_remembered_for_its_folder_and_slows_the_questions_about_others() {
    let (detailed, clock) = detailed();
    let engine = engine("kv_1");
    let asks = |folder: &str| detailed.page_to_ask_for(&engine, &path(folder)).is_some();
    detailed.was_refused(&engine, &path("a"));
    assert!(!asks("a") && !asks("b"), "nothing was ever allowed");
    clock.advance(SPACING);
    assert!(!asks("a") && asks("b"));
    detailed.learn(&engine, |learned| learned.answers = true);
    detailed.was_refused(&engine, &path("c"));
    assert!(!asks("c") && asks("b"), "something is allowed");
    clock.advance(REFUSED);
    assert!(asks("a") && asks("c"));
}

#[test]
fn a_thousand_refused_folders_cost_no_more_questions_than_the_spacing_allows() {
    let (detailed, clock) = detailed();
    let engine = engine("kv_1");
    let mut asked = 0;
    for second in 0..3600 {
        for folder in 0..1000 {
            let folder = path(&format!("f{}", (folder + second) % 1000));
            if detailed.page_to_ask_for(&engine, &folder).is_some() {
                asked += 1;
                detailed.was_refused(&engine, &folder);
            }
        }
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(asked, 360);
}

#[test]
fn more_refusals_than_are_kept_quieten_the_engine() {
    let (detailed, clock) = detailed();
    let engine = engine("kv_1");
    detailed.learn(&engine, |learned| learned.answers = true);
    for folder in 0..=REFUSALS_KEPT {
        detailed.was_refused(&engine, &path(&format!("f{folder}")));
    }
    assert!(detailed.page_to_ask_for(&engine, &path("other")).is_none());
    clock.advance(REFUSED);
    detailed.was_refused(&engine, &path("f0"));
    assert_eq!(detailed.learn(&engine, |learned| learned.refused.len()), 1, "what has passed is forgotten");
    assert!(detailed.page_to_ask_for(&engine, &path("other")).is_some());
}

fn page(data: &str) -> Result<(Vec<String>, Versions), Error> {
    let body =
        format!(r#"{{"request_id":"","lease_id":"","renewable":false,"lease_duration":0,"data":{data}}}"#);
    let now = humantime::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
    let mut found = Versions::default();
    current_versions(body.as_bytes(), now, &mut found).map(|keys| (keys, found))
}

#[test]
fn a_page_tells_versions_deletions_and_nothing_of_folders() {
    let (keys, found) = page(
        r#"{"keys":["both","both/","destroyed","deleted","fresh","gone","late","none","sub/","trimmed","later"],
        "key_info":{
            "both":{"current_version":2,"versions":{"2":{"deletion_time":"","destroyed":false}}},"both/":{},"sub/":{},
            "destroyed":{"current_version":1,"versions":{"1":{"deletion_time":"","destroyed":true}}},
            "deleted":{"current_version":3,"versions":{"2":{"deletion_time":""},"3":{"deletion_time":"2025-12-31T23:59:59.9Z"}}},
            "later":{"current_version":3,"versions":{"3":{"deletion_time":"2026-01-01T00:00:01Z","destroyed":false}}},
            "fresh":{"current_version":12,"created_time":"2025-01-01T00:00:00Z","custom_metadata":{"a":"b"},
                "versions":{"11":{"destroyed":true},"12":{"deletion_time":"","destroyed":false}}},
            "none":{"current_version":0,"versions":{}},
            "gone":{},"late":null,
            "trimmed":{"current_version":9,"versions":null}}}"#,
    )
    .unwrap();
    assert_eq!(keys.len(), 11);
    assert_eq!(keys.last().unwrap(), "later");
    let told: Vec<_> =
        found.current.iter().map(|(name, v)| (name.as_str(), v.as_ref().map(Version::as_str))).collect();
    assert_eq!(
        told,
        [
            ("both", Some("2")),
            ("deleted", None),
            ("destroyed", None),
            ("fresh", Some("12")),
            ("later", Some("3")),
            ("none", None),
            ("trimmed", Some("9")),
        ]
    );
}

#[test]
fn an_empty_page_is_none_and_half_a_page_is_malformed() {
    for empty in ["null", "{}", r#"{"keys":null,"key_info":null}"#, r#"{"keys":[]}"#] {
        assert_eq!(page(empty).unwrap(), (vec![], Versions::default()), "{empty}");
    }
    assert_eq!(page(r#"{"keys":["sub/"]}"#).unwrap().0, ["sub/"]);
    for bad in [
        "7",
        r#""canary""#,
        r#"{"keys":"canary"}"#,
        r#"{"keys":[7]}"#,
        r#"{"keys":["a"]}"#,
        r#"{"keys":["a"],"key_info":{}}"#,
        r#"{"keys":["a"],"key_info":["canary"]}"#,
        r#"{"keys":["a"],"key_info":{"a":{"current_version":"canary"}}}"#,
        r#"{"keys":["a"],"key_info":{"a":{"current_version":-1}}}"#,
        r#"{"keys":["a"],"key_info":{"a":{"current_version":1,"versions":{"1":"canary"}}}}"#,
    ] {
        let error = page(bad).unwrap_err();
        assert!(
            matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"),
            "{bad}: {error}"
        );
    }
}
