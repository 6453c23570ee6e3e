//! Owns the proof that whatever answers in place of Secrets Manager, the error is the right one, in time, and says nothing
//! that came from there. Does not know moto.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use secretfs::backend::aws::{Aws, Config};
use secretfs::backend::{Backend, Error};
use secretfs::secret::Version;
use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::{aws_at, entries, path, sdk_at, text_of};

const DEADLINE: Duration = Duration::from_millis(1500);
/// Far beyond any deadline here: what takes longer hangs.
const HANGS: Duration = Duration::from_secs(30);

fn impatient(fake: &Fake) -> Aws {
    aws_at(&fake.endpoint(), DEADLINE, 1024 * 1024)
}

/// Reads and lists; both errors, which hold no canary and came in time.
async fn errors_of(aws: &Aws) -> (Error, Error) {
    let began = Instant::now();
    let read = aws.read(&path("prod/db")).await.expect_err("a fault");
    let list = aws.list(&path("prod")).await.expect_err("a fault");
    assert!(began.elapsed() < HANGS);
    for error in [&read, &list] {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{shown}");
    }
    (read, list)
}

#[tokio::test]
async fn a_refusal_is_forbidden() {
    for code in [
        "AccessDeniedException",
        "UnrecognizedClientException",
        "ExpiredTokenException",
        "InvalidSignatureException",
    ] {
        let fake = Fake::start(move |_, _| Reply::error(code));
        assert_eq!(errors_of(&impatient(&fake)).await, (Error::Forbidden, Error::Forbidden), "{code}");
    }
    let fake = Fake::start(|_, _| Reply::Answer(403, "<html>canary</html>".into()));
    assert_eq!(errors_of(&impatient(&fake)).await, (Error::Forbidden, Error::Forbidden));
}

#[tokio::test]
async fn throttling_and_broken_servers_are_their_status() {
    for status in [429, 500, 503] {
        let fake = Fake::start(move |_, _| Reply::Answer(status, "<html>canary</html>".into()));
        assert_eq!(errors_of(&impatient(&fake)).await, (Error::Status(status), Error::Status(status)));
    }
    let fake = Fake::start(|_, _| Reply::Answer(404, "canary".into()));
    assert_eq!(errors_of(&impatient(&fake)).await, (Error::Status(404), Error::Status(404)));
}

#[tokio::test]
async fn a_server_that_asks_to_be_left_alone_is_busy_and_is_not_asked_twice() {
    fn headed(status: u16, header: &str, code: &str) -> Reply {
        Reply::Headed(status, header.to_owned(), json!({ "__type": code, "message": "canary" }).to_string())
    }
    type Busy = (fn() -> Reply, u16, u64);
    let busy: [Busy; 6] = [
        (|| Reply::error("ThrottlingException"), 429, 1),
        (|| Reply::error("TooManyRequestsException"), 429, 1),
        (|| headed(400, "x-amz-retry-after: 7000", "ThrottlingException"), 429, 7),
        (|| headed(429, "Retry-After: 30", "Canary"), 429, 30),
        (|| headed(503, "Retry-After: 86400", "Canary"), 503, 600),
        // Which the SDK's debug build takes for a mistake of its own.
        (|| headed(503, "x-amz-retry-after: 7000", "Canary"), 503, 7),
    ];
    for (at, (reply, status, seconds)) in busy.into_iter().enumerate() {
        let fake = Fake::start(move |_, _| reply());
        let expected = Error::Busy { status, retry_after: Duration::from_secs(seconds) };
        assert_eq!(errors_of(&impatient(&fake)).await, (expected.clone(), expected), "{at}");
        assert_eq!(fake.operations(), ["GetSecretValue", "ListSecrets"], "{at}");
    }
}

#[tokio::test]
async fn an_outage_costs_no_call_more_than_two_requests() {
    let replies: [fn() -> Reply; 4] = [
        || Reply::Answer(500, "canary".into()),
        || Reply::Answer(503, String::new()),
        || Reply::Close,
        || Reply::Cut(r#"{"Name": "prod/db", "SecretString": "canary canary canary"}"#.into()),
    ];
    for reply in replies {
        let fake = Fake::start(move |_, _| reply());
        let aws = impatient(&fake);
        errors_of(&aws).await;
        aws.versions(&path("prod")).await.unwrap_err();
        aws.read_version(&path("prod/db"), &Version::new("AWSPREVIOUS")).await.unwrap_err();
        assert!(fake.operations().len() <= 4 * 2, "{:?}", fake.operations());
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_malformed() {
    let replies: [fn() -> Reply; 5] = [
        || Reply::Answer(200, r#"{"Name": "prod/db", "SecretString": "canary"#.into()),
        || {
            Reply::Cut(
                r#"{"Name": "prod/db", "SecretString": "canary canary canary canary", "SecretList": []}"#
                    .into(),
            )
        },
        || Reply::Answer(200, "<html>canary</html>".into()),
        || Reply::Answer(200, r#"["canary"]"#.into()),
        || Reply::Answer(200, r#"{"Name": {"canary": 1}, "SecretString": 7, "SecretList": "canary"}"#.into()),
    ];
    for reply in replies {
        let fake = Fake::start(move |_, _| reply());
        let (read, list) = errors_of(&impatient(&fake)).await;
        assert!(matches!((&read, &list), (Error::Malformed(_), Error::Malformed(_))), "{read:?} {list:?}");
    }
    for body in [json!({ "SecretString": "canary" }), json!({ "Name": "prod/db" }), json!({})] {
        let fake = Fake::start(move |_, _| Reply::json(body.clone()));
        let read = impatient(&fake).read(&path("prod/db")).await;
        assert!(matches!(read, Err(Error::Malformed(_))), "{read:?}");
    }
}

#[tokio::test]
async fn fifty_megabytes_are_refused_before_they_are_read() {
    const FLOOD: u64 = 50 * 1024 * 1024;
    let fake = Fake::start(|_, _| Reply::Flood(FLOOD));
    let aws = aws_at(&fake.endpoint(), HANGS, 1024 * 1024);
    let too_large = Error::TooLarge { limit: 1024 * 1024 };
    assert_eq!(errors_of(&aws).await, (too_large.clone(), too_large));
    assert_eq!(
        fake.operations(),
        ["GetSecretValue", "ListSecrets"],
        "a body that is too large is not fetched again"
    );
    assert!(fake.sent() < FLOOD, "two requests, and less than one body went out: {}", fake.sent());
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_the_deadline() {
    let replies: [fn() -> Reply; 2] = [|| Reply::Silence, || Reply::Stall(r#"{"Name": "prod/db", "#.into())];
    for reply in replies {
        let fake = Fake::start(move |_, _| reply());
        assert_eq!(
            errors_of(&impatient(&fake)).await,
            (Error::TimedOut(DEADLINE), Error::TimedOut(DEADLINE))
        );
    }
}

#[tokio::test]
async fn no_connection_names_the_host_and_the_cause() {
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    let refused = Error::Unreachable(format!("{nobody}: connection refused"));
    assert_eq!(
        errors_of(&aws_at(&format!("http://{nobody}"), DEADLINE, 1024)).await,
        (refused.clone(), refused)
    );

    let fake = Fake::start(|_, _| Reply::Close);
    let (read, list) = errors_of(&impatient(&fake)).await;
    assert!(read.to_string().contains(&format!("{}: the connection was closed", fake.host())), "{read}");
    assert_eq!(read, list);

    // No TLS server; and what else a URL holds is not shown.
    let plain = aws_at(&format!("https://canary:canary@{}", fake.host()), DEADLINE, 1024);
    let (read, _) = errors_of(&plain).await;
    assert!(read.to_string().contains(&format!(" {}: ", fake.host())), "{read}");
}

#[tokio::test]
async fn an_endpoint_that_is_none_says_where_to_look() {
    for endpoint in ["nonsense", "http://", "ftp://127.0.0.1:9/"] {
        let (read, list) = errors_of(&aws_at(endpoint, DEADLINE, 1024)).await;
        assert!(
            matches!((&read, &list), (Error::Unreachable(_), Error::Unreachable(_))),
            "{endpoint}: {read:?} {list:?}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Fake::start(|_, _| Reply::json(json!({ "Name": "prod/db", "SecretString": "canary" })));
    let elsewhere = other.endpoint();
    let fake = Fake::start(move |_, _| Reply::Redirect(307, elsewhere.clone()));
    assert_eq!(errors_of(&impatient(&fake)).await, (Error::Status(307), Error::Status(307)));
    assert!(other.operations().is_empty());
}

#[tokio::test]
async fn one_hiccup_is_retried() {
    let asked = AtomicU64::new(0);
    let fake = Fake::start(move |_, _| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Answer(503, String::new()),
        _ => Reply::json(json!({ "Name": "a", "SecretString": "canary" })),
    });
    assert_eq!(text_of(&impatient(&fake).read(&path("a")).await.unwrap(), "value"), "canary");
    assert_eq!(fake.operations().len(), 2);
}

#[tokio::test]
async fn a_backend_that_failed_works_once_the_server_does() {
    let asked = AtomicU64::new(0);
    let fake = Fake::start(move |_, _| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Silence,
        _ => Reply::json(json!({ "Name": "a", "SecretString": "canary" })),
    });
    let aws = impatient(&fake);
    assert_eq!(aws.read(&path("a")).await.unwrap_err(), Error::TimedOut(DEADLINE));
    assert_eq!(text_of(&aws.read(&path("a")).await.unwrap(), "value"), "canary");
}

#[tokio::test]
async fn a_name_that_the_service_could_misread_is_never_sent() {
    let fake = Fake::start(|_, _| Reply::Close);
    let aws = impatient(&fake);
    let long = "x".repeat(513);
    for name in [
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a-abcdef",
        "a b",
        "a%2fb",
        "../é",
        "a\nb",
        "!a",
        &long,
    ] {
        assert_eq!(aws.read(&path(name)).await.unwrap_err(), Error::NotFound, "{name:?}");
        assert_eq!(aws.list(&path(name)).await.unwrap_err(), Error::NotFound, "{name:?}");
    }
    assert_eq!(aws.read(&path("")).await.unwrap_err(), Error::NotFound);
    assert!(fake.operations().is_empty());
}

/// A service that takes `x-abcdef` for the secret `x`, whose ARN ends so.
fn mistaken(exists: bool, listing_denied: bool, get_denied: bool) -> Fake {
    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x-abcdef-Zzzzzz";
    Fake::start(move |operation, request| match (operation, request["SecretId"].as_str()) {
        ("GetSecretValue", Some(ARN)) => {
            Reply::json(json!({ "Name": "x-abcdef", "SecretString": "canary right" }))
        }
        ("GetSecretValue", _) if get_denied => Reply::error("AccessDeniedException"),
        ("GetSecretValue", _) => Reply::json(json!({ "Name": "x", "SecretString": "canary wrong" })),
        _ if listing_denied => Reply::error("AccessDeniedException"),
        _ if request["NextToken"] == Value::Null => Reply::json(
            json!({ "SecretList": [{ "Name": "x-abcdefg", "ARN": "arn:wrong" }], "NextToken": "more" }),
        ),
        _ if exists => Reply::json(json!({ "SecretList": [{ "Name": "x-abcdef", "ARN": ARN }] })),
        _ => Reply::json(json!({ "SecretList": [] })),
    })
}

#[tokio::test]
async fn another_secret_is_never_served_under_a_name_that_ends_like_its_arn() {
    let fake = mistaken(true, false, false);
    assert_eq!(text_of(&impatient(&fake).read(&path("x-abcdef")).await.unwrap(), "value"), "canary right");
    assert_eq!(fake.operations(), ["GetSecretValue", "ListSecrets", "ListSecrets", "GetSecretValue"]);

    let fake = mistaken(true, false, true);
    assert_eq!(text_of(&impatient(&fake).read(&path("x-abcdef")).await.unwrap(), "value"), "canary right");

    let fake = mistaken(false, false, false);
    assert_eq!(impatient(&fake).read(&path("x-abcdef")).await.unwrap_err(), Error::NotFound);

    let fake = mistaken(true, true, false);
    assert_eq!(impatient(&fake).read(&path("x-abcdef")).await.unwrap_err(), Error::NotFound);

    let fake = mistaken(true, true, true);
    assert_eq!(impatient(&fake).read(&path("x-abcdef")).await.unwrap_err(), Error::Forbidden);
}

#[tokio::test]
async fn only_the_current_version_is_asked_for() {
    let fake = Fake::start(|_, _| Reply::json(json!({ "Name": "a", "SecretString": "canary" })));
    impatient(&fake).read(&path("a")).await.unwrap();
    assert_eq!(fake.requests(), [json!({ "SecretId": "a", "VersionStage": "AWSCURRENT" })]);
}

#[tokio::test]
async fn a_page_that_names_what_was_not_asked_for_hides_nothing() {
    let names =
        ["prod/good", "prod/a b", "prod/nul\0", "production/x", "other", "prod/\u{202e}", "prod/sub/x"];
    let list: Vec<Value> = names.iter().map(|name| json!({ "Name": name })).collect();
    let fake = Fake::start(move |_, _| Reply::json(json!({ "SecretList": list.clone() })));
    assert_eq!(entries(&impatient(&fake).list(&path("prod")).await.unwrap()), ["good", "sub/"]);
}

#[tokio::test]
async fn a_listing_without_an_end_ends_at_the_deadline() {
    let fake =
        Fake::start(|_, _| Reply::json(json!({ "SecretList": [{ "Name": "a" }], "NextToken": "more" })));
    let began = Instant::now();
    assert_eq!(impatient(&fake).list(&path("")).await.unwrap_err(), Error::TimedOut(DEADLINE));
    assert!(began.elapsed() < HANGS);
}

#[tokio::test]
async fn nothing_is_sent_before_the_first_call() {
    let fake = Fake::start(|_, _| Reply::Close);
    let _aws = Aws::from_sdk_config(sdk_at(&fake.endpoint()), Config::default());
    assert!(fake.operations().is_empty());
}
