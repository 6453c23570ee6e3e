//! Owns what the AWS backend promises about versions: others than the current one by id or stage, and those of a folder at once.
//! Does not know who asks, or how often.

use secretfs::backend::Versions;
use secretfs::secret::Version;
use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::*;

const UUID: &str = "f74e1af3-9b5c-4300-8a5b-850e466db36b";

fn at(fake: &Fake) -> Aws {
    aws_at(&fake.endpoint(), PATIENT, 1 << 20)
}

async fn told(aws: &Aws, folder: &str) -> Versions {
    aws.versions(&path(folder)).await.unwrap().expect("AWS tells")
}

#[tokio::test]
async fn a_version_is_read_by_its_id_or_by_any_stage() {
    let Some(moto) = Moto::shared() else { return };
    let aws = patient(moto);
    moto.create("which/a", Content::Text("canary one"));
    let first = aws.read(&path("which/a")).await.unwrap().version;
    let second = moto.put("which/a", Content::Text("canary two"));
    let third = moto.put("which/a", Content::Text("canary three"));
    let pending = moto.put_staged("which/a", Content::Text("canary pending"), "AWSPENDING");
    let mine = moto.put_staged("which/a", Content::Text("canary mine"), "my-stage_with.a/longer:name@32+");
    for (name, text, id) in [
        (first.as_str(), "canary one", first.as_str()),
        (&second, "canary two", &second),
        (&third, "canary three", &third),
        ("AWSPREVIOUS", "canary two", &second),
        ("AWSCURRENT", "canary three", &third),
        ("AWSPENDING", "canary pending", &pending),
        (&pending, "canary pending", &pending),
        ("my-stage_with.a/longer:name@32+", "canary mine", &mine),
    ] {
        let secret = aws.read_version(&path("which/a"), &Version::new(name)).await.unwrap();
        assert_eq!((text_of(&secret, "value").as_str(), secret.version.as_str()), (text, id), "{name}");
    }
    assert_eq!(text_of(&aws.read(&path("which/a")).await.unwrap(), "value"), "canary three");
    for none in [UUID, "NOSUCHSTAGE", "1", "awsprevious", &"x".repeat(40), ""] {
        let answer = aws.read_version(&path("which/a"), &Version::new(none)).await;
        assert_eq!(answer.unwrap_err(), Error::NotFound, "{none:?}");
    }
    let answer = aws.read_version(&path("which/none"), &Version::new("AWSPREVIOUS")).await;
    assert_eq!(answer.unwrap_err(), Error::NotFound);
}

#[tokio::test]
async fn a_version_of_a_name_that_ends_like_an_arn_is_that_secrets() {
    let Some(moto) = Moto::shared() else { return };
    let aws = patient(moto);
    let arn = moto.create("whicharn/x", Content::Text("canary x"));
    let name = format!("whicharn/x-{}", &arn[arn.len() - 6..]);
    let stage = Version::new("AWSPREVIOUS");
    assert_eq!(aws.read_version(&path(&name), &stage).await.unwrap_err(), Error::NotFound);
    moto.create(&name, Content::Text("canary old"));
    assert_eq!(aws.read_version(&path(&name), &stage).await.unwrap_err(), Error::NotFound);
    moto.put(&name, Content::Text("canary new"));
    assert_eq!(text_of(&aws.read_version(&path(&name), &stage).await.unwrap(), "value"), "canary old");
}

#[tokio::test]
async fn what_is_asked_for_is_decided_by_the_shape_of_the_name() {
    let fake = Fake::start(|_, request| match &request["VersionId"] {
        Value::Null => Reply::error("ResourceNotFoundException"),
        id => Reply::json(json!({ "Name": "a", "SecretString": "canary", "VersionId": id })),
    });
    let aws = at(&fake);
    let long = "terraform-2026112420412489708998600000001";
    for name in [UUID, long] {
        aws.read_version(&path("a"), &Version::new(name)).await.unwrap();
    }
    for name in ["AWSPREVIOUS", "two words", "\u{e9}", &"x".repeat(300)] {
        let answer = aws.read_version(&path("a"), &Version::new(name)).await;
        assert_eq!(answer.unwrap_err(), Error::NotFound, "{name}");
    }
    assert_eq!(
        fake.requests(),
        [
            json!({ "SecretId": "a", "VersionId": UUID }),
            json!({ "SecretId": "a", "VersionStage": long }),
            json!({ "SecretId": "a", "VersionId": long }),
            json!({ "SecretId": "a", "VersionStage": "AWSPREVIOUS" }),
        ]
    );
}

#[tokio::test]
async fn another_version_than_was_asked_for_is_no_answer() {
    let answer = json!({ "Name": "a", "SecretString": "canary", "VersionId": "other", "VersionStages": ["AWSCURRENT"] });
    let fake = Fake::start(move |_, _| Reply::json(answer.clone()));
    for name in [UUID, "AWSPREVIOUS"] {
        let error = at(&fake).read_version(&path("a"), &Version::new(name)).await.unwrap_err();
        assert!(matches!(error, Error::Malformed(_)), "{error:?}");
    }
    assert_eq!(text_of(&at(&fake).read(&path("a")).await.unwrap(), "value"), "canary");
}

#[tokio::test]
async fn a_folder_tells_the_current_versions_of_what_lies_directly_in_it() {
    // A server of one's own: moto cannot list while it creates, and others create by the thousand.
    let Some(moto) = Moto::start() else { return };
    let aws = patient(&moto);
    for name in
        ["tells/a", "tells/b", "tells/b/deeper", "tells/sub/c", "tellsx/d", "tells/going", "tells/gone"]
    {
        moto.create(name, Content::Text("canary"));
    }
    moto.schedule_deletion("tells/going");
    moto.delete("tells/gone");
    moto.put_staged("tells/a", Content::Text("canary pending"), "AWSPENDING");
    let versions = told(&aws, "tells").await;
    assert_eq!(versions.current.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(versions.requests, 1);
    for (name, version) in &versions.current {
        let secret = aws.read(&path("tells").child(name).unwrap()).await.unwrap();
        assert_eq!(Some(&secret.version), version.as_ref(), "{name}");
    }
    let moved = moto.put("tells/b", Content::Text("canary again"));
    let again = told(&aws, "tells").await;
    assert_eq!(again.current["b"], Some(Version::new(moved)));
    assert_eq!(again.current["a"], versions.current["a"]);
    assert!(told(&aws, "tells/none").await.current.is_empty());

    for number in 0..450 {
        moto.create(&format!("many/s{number:03}"), Content::Text("canary"));
    }
    let versions = told(&aws, "many").await;
    assert_eq!((versions.current.len(), versions.requests), (450, 5), "a question for each hundred");
}

fn entry(name: &str, stages: Value) -> Value {
    json!({ "Name": name, "SecretVersionsToStages": stages })
}

#[tokio::test]
async fn a_secret_without_a_current_version_has_none_and_one_without_versions_is_left_out() {
    let list = json!([
        entry("p/current", json!({ UUID: ["AWSCURRENT"], "older": ["AWSPREVIOUS"], "oldest": [] })),
        entry("p/pending", json!({ UUID: ["AWSPENDING"] })),
        entry("p/a b", json!({ UUID: ["AWSCURRENT"] })),
        { "Name": "p/empty" },
        { "SecretVersionsToStages": { UUID: ["AWSCURRENT"] } },
    ]);
    let fake = Fake::start(move |_, _| Reply::json(json!({ "SecretList": list })));
    let versions = told(&at(&fake), "p").await;
    let expected = [("current".to_owned(), Some(Version::new(UUID))), ("pending".to_owned(), None)];
    assert_eq!(versions.current.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_folder_that_would_cost_more_than_it_holds_is_not_asked_for_again() {
    // One secret in the folder, and no end of them below it.
    let deep = Fake::start(|_, _| {
        let below = (0..99).map(|number| entry(&format!("p/deep/{number}"), json!({})));
        let list: Vec<Value> = below.chain([entry("p/one", json!({ UUID: ["AWSCURRENT"] }))]).collect();
        Reply::json(json!({ "SecretList": list, "NextToken": "more" }))
    });
    let aws = at(&deep);
    for _ in 0..3 {
        assert_eq!(aws.versions(&path("p")).await.unwrap(), None);
    }
    assert_eq!(deep.operations().len(), 10);

    let denied = Fake::start(|_, _| Reply::error("AccessDeniedException"));
    let aws = at(&denied);
    for _ in 0..3 {
        assert_eq!(aws.versions(&path("p")).await.unwrap(), None);
    }
    assert_eq!(denied.operations().len(), 1);
    assert_eq!(aws.versions(&path("not a name")).await.unwrap(), None);
    assert_eq!(denied.operations().len(), 1);
}
