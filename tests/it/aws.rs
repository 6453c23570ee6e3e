//! Owns the proof that the AWS backend reads and lists what a real implementation of the API (moto) holds.
//! Does not know the filesystem. Each test keeps to secrets under a prefix of its own: they share one server.

#![allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod environment;
pub(crate) mod fake;
mod faults;
mod versions;

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use secretfs::backend::aws::{Aws, Config};
use secretfs::backend::{Backend, Error, Kind, Listing};
use secretfs::path::BackendPath;
use secretfs::secret::{Form, Secret};

use crate::support::moto::{Content, Moto, REGION};

/// Only a hang takes this long.
const PATIENT: Duration = Duration::from_secs(60);

/// An SDK configuration that looks at nothing in the environment.
fn sdk_at(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("test", "test-canary", None, None, "the test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .build()
}

pub(crate) fn aws_at(endpoint: &str, deadline: Duration, max_body: usize) -> Aws {
    Aws::from_sdk_config(sdk_at(endpoint), Config { deadline, max_body, ..Config::default() })
}

fn patient(moto: &Moto) -> Aws {
    aws_at(&moto.endpoint(), PATIENT, 4 * 1024 * 1024)
}

/// The path of a name, segment by segment: `x/` is two of them, `""` the root.
fn path(name: &str) -> BackendPath {
    match name {
        "" => BackendPath::root(),
        _ => name.split('/').fold(BackendPath::root(), |path, segment| path.child(segment).unwrap()),
    }
}

fn text_of(secret: &Secret, field: &str) -> String {
    secret.field(field).unwrap_or_else(|| panic!("no field {field}")).value.expose_str().unwrap().to_owned()
}

/// `name` for a secret, `name/` for a folder, both for both.
fn entries(listing: &Listing) -> Vec<String> {
    let shown = |entry: &secretfs::backend::Entry| {
        let secret = entry.secret.then(|| entry.name.clone());
        secret.into_iter().chain(entry.folder.then(|| format!("{}/", entry.name)))
    };
    listing.entries().iter().flat_map(shown).collect()
}

#[tokio::test]
async fn a_json_object_has_a_field_for_each_key() {
    let Some(moto) = Moto::shared() else { return };
    let json =
        "{\"password\": \"s3cr\\u00e9t canary\", \"port\": 5432.0, \"tags\": [ 1, \"a b\" ], \"tls\": true}";
    moto.create("json/db", Content::Text(json));
    let aws = patient(moto);
    assert_eq!(aws.kind(), Kind::Aws);
    let secret = aws.read(&path("json/db")).await.unwrap();
    let fields: Vec<_> = secret.fields.iter().map(|field| (field.name.as_str(), field.form)).collect();
    assert_eq!(
        fields,
        [("password", Form::Text), ("port", Form::Json), ("tags", Form::Json), ("tls", Form::Json)]
    );
    assert_eq!(text_of(&secret, "password"), "s3crét canary");
    assert_eq!(text_of(&secret, "port"), "5432.0");
    assert_eq!(text_of(&secret, "tags"), "[1,\"a b\"]");
    assert_eq!(text_of(&secret, "tls"), "true");
    assert_eq!(secret.expires, None);
    let age = SystemTime::now().duration_since(secret.created.unwrap()).unwrap_or_default();
    assert!(age < Duration::from_secs(3600), "{age:?}");

    moto.create("json/empty", Content::Text("{}"));
    assert!(aws.read(&path("json/empty")).await.unwrap().fields.is_empty());
}

#[tokio::test]
async fn any_other_string_is_the_field_value_byte_for_byte() {
    let Some(moto) = Moto::shared() else { return };
    let aws = patient(moto);
    for (name, text) in [
        ("plain", "canary 12345\n"),
        ("array", "[1, 2, \"canary\"]"),
        ("number", "12345"),
        ("almost", "{canary}"),
    ] {
        let name = format!("plain/{name}");
        moto.create(&name, Content::Text(text));
        let secret = aws.read(&path(&name)).await.unwrap();
        assert_eq!(secret.fields.len(), 1);
        assert_eq!((text_of(&secret, "value").as_str(), secret.fields[0].form), (text, Form::Text));
    }
}

#[tokio::test]
async fn binary_of_64_kib_is_the_field_value_byte_for_byte() {
    let Some(moto) = Moto::shared() else { return };
    let mut bytes: Vec<u8> = (0..65_536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    bytes[..10].copy_from_slice(b"canary\0\0\xff\n");
    moto.create("binary/blob", Content::Binary(&bytes));
    let secret = patient(moto).read(&path("binary/blob")).await.unwrap();
    assert_eq!(secret.fields.len(), 1);
    assert!(secret.field("value").unwrap().value.expose() == bytes);
}

#[tokio::test]
async fn slashes_are_folders_wherever_they_stand() {
    // A server of one's own: these are looked at from the root.
    let Some(moto) = Moto::start() else { return };
    for name in ["a", "a/b", "a/c/d", "/x", "//y", "t/", "plain"] {
        moto.create(name, Content::Text(&format!("canary {name}")));
    }
    let aws = patient(&moto);
    assert_eq!(entries(&aws.list(&path("")).await.unwrap()), ["/", "a", "a/", "plain", "t/"]);
    assert_eq!(entries(&aws.list(&path("a")).await.unwrap()), ["b", "c/"]);
    assert_eq!(entries(&aws.list(&path("a/c")).await.unwrap()), ["d"]);
    assert_eq!(aws.list(&path("a/b")).await.unwrap_err(), Error::NotFound);
    assert_eq!(aws.list(&path("plain")).await.unwrap_err(), Error::NotFound);
    assert_eq!(aws.list(&path("A")).await.unwrap_err(), Error::NotFound);

    let mut folders = vec![path("")];
    let mut read = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in aws.list(&folder).await.unwrap().entries() {
            let child = folder.child(&entry.name).unwrap();
            if entry.secret {
                read.push(text_of(&aws.read(&child).await.unwrap(), "value"));
            }
            if entry.folder {
                folders.push(child);
            }
        }
    }
    read.sort();
    assert_eq!(
        read,
        ["canary //y", "canary /x", "canary a", "canary a/b", "canary a/c/d", "canary plain", "canary t/"]
    );
}

#[tokio::test]
async fn an_account_without_secrets_has_an_empty_root() {
    let Some(moto) = Moto::start() else { return };
    assert!(patient(&moto).list(&path("")).await.unwrap().entries().is_empty());
}

#[tokio::test]
async fn twelve_hundred_secrets_are_all_listed() {
    let Some(moto) = Moto::shared() else { return };
    let expected: Vec<String> = (0..1200).map(|i| format!("s{i:04}")).collect();
    for name in &expected {
        moto.create(&format!("many/{name}"), Content::Text("canary"));
    }
    let aws = patient(moto);
    assert_eq!(entries(&aws.list(&path("many")).await.unwrap()), expected);
    assert!(aws.list(&path("")).await.unwrap().get("many").unwrap().folder);
}

#[tokio::test]
async fn a_name_that_ends_like_an_arn_is_itself() {
    let Some(moto) = Moto::shared() else { return };
    let aws = patient(moto);
    let arn = moto.create("arn/x", Content::Text("canary x"));
    let suffix = &arn[arn.len() - 6..];
    let name = format!("arn/x-{suffix}");
    assert_eq!(aws.read(&path(&name)).await.unwrap_err(), Error::NotFound);
    moto.create(&name, Content::Text("canary longer"));
    assert_eq!(text_of(&aws.read(&path(&name)).await.unwrap(), "value"), "canary longer");
    assert_eq!(text_of(&aws.read(&path("arn/x")).await.unwrap(), "value"), "canary x");
    assert_eq!(aws.read(&path(&arn)).await.unwrap_err(), Error::NotFound);
}

#[tokio::test]
async fn only_the_current_version_is_served() {
    let Some(moto) = Moto::shared() else { return };
    let aws = patient(moto);
    moto.create("versions/a", Content::Text("canary one"));
    let first = aws.read(&path("versions/a")).await.unwrap();
    let second = moto.put("versions/a", Content::Text("canary two"));
    moto.put_staged("versions/a", Content::Text("canary pending"), "AWSPENDING");
    let secret = aws.read(&path("versions/a")).await.unwrap();
    assert_eq!(text_of(&secret, "value"), "canary two");
    assert_eq!(secret.version.as_str(), second);
    assert_ne!(secret.version, first.version);
}

#[tokio::test]
async fn a_deleted_secret_is_not_there() {
    let Some(moto) = Moto::shared() else { return };
    let aws = patient(moto);
    for name in ["deleted/later", "deleted/now", "deleted/scheduled-abcdef", "deleted/kept"] {
        moto.create(name, Content::Text("canary"));
    }
    moto.schedule_deletion("deleted/later");
    moto.schedule_deletion("deleted/scheduled-abcdef");
    moto.delete("deleted/now");
    assert_eq!(entries(&aws.list(&path("deleted")).await.unwrap()), ["kept"]);
    for name in ["deleted/later", "deleted/now", "deleted/scheduled-abcdef", "deleted/never"] {
        assert_eq!(aws.read(&path(name)).await.unwrap_err(), Error::NotFound, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_stops_is_unreachable() {
    let Some(moto) = Moto::start() else { return };
    moto.create("a", Content::Text("canary"));
    let aws = patient(&moto);
    aws.read(&path("a")).await.unwrap();
    moto.stop();
    let error = aws.read(&path("a")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}
