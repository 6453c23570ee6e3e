//! Owns what the Vault backend makes of answers about secrets made on demand that a healthy server seldom gives.
//! Does not know who asks.

use std::sync::{Arc, Mutex};

use secretfs::backend::issuer::{Demand, Issuer, LeaseId};

use super::*;
use crate::support::fake::{Fake, Reply, Request};
use crate::support::fake_vault::{self, asked, error};

const LEASE: &str = "database/creds/ro/canary-id";

/// A server with an engine of type `kind` at `it/`, and everything else as `answer` says by the last two segments.
fn server(
    kind: &'static str,
    answer: impl Fn(&str, &Request) -> Reply + Send + Sync + 'static,
) -> (Fake, Vault) {
    let fake = Fake::start(move |request| {
        let (path, _) = asked(request);
        match &*path {
            [sys, internal, ..] if sys == "sys" && internal == "internal" => {
                fake_vault::data(&json!({"path": "it/", "type": kind}))
            }
            // After a 403 it is asked whether the token lives.
            [.., token, look] if token == "token" && look == "lookup-self" => {
                fake_vault::data(&json!({"ttl": 0, "renewable": false, "num_uses": 0, "explicit_max_ttl": 0}))
            }
            [.., folder, name] => answer(&format!("{folder}/{name}"), request),
            _ => error(404),
        }
    });
    let vault = build(config(&fake.endpoint(), ROOT_TOKEN)).unwrap();
    (fake, vault)
}

fn lease() -> LeaseId {
    LeaseId::new(LEASE.to_owned())
}

fn state(ttl: i64, renewable: bool) -> Reply {
    fake_vault::data(&json!({"id": LEASE, "ttl": ttl, "renewable": renewable, "expire_time": "canary"}))
}

#[tokio::test]
async fn a_token_is_revoked_by_its_name_where_the_policy_allows_it() {
    for (status, expected) in [(204, Ok(())), (400, Err(Error::NotFound)), (403, Err(Error::Forbidden))] {
        let (_fake, vault) = server("database", move |at, request| match at {
            "token/revoke-accessor" => {
                assert!(String::from_utf8_lossy(&request.body).contains("canary-name"));
                error(status)
            }
            _ => error(404),
        });
        assert_eq!(vault.revoke_token("canary-name").await, expected, "{status}");
    }
}

#[tokio::test]
async fn a_lease_that_may_still_be_good_is_not_thrown_away_and_one_that_is_not_is() {
    type Lookup = fn() -> Reply;
    let cannot = Error::Refused("the lease cannot be renewed".to_owned());
    let cases: [(Lookup, Error); 8] = [
        (|| state(19, true), Error::Status(400)),
        (|| error(403), Error::Status(400)),
        (|| state(19, false), cannot),
        (|| state(0, true), Error::NotFound),
        (|| state(-1, false), Error::NotFound),
        (|| error(400), Error::NotFound),
        (|| error(404), Error::NotFound),
        (|| error(503), Error::Status(503)),
    ];
    for (lookup, expected) in cases {
        let (fake, vault) = server("database", move |at, _| match at {
            "leases/renew" => error(400),
            "leases/lookup" => lookup(),
            _ => error(500),
        });
        assert_eq!(vault.renew(&lease()).await.unwrap_err(), expected);
        for request in fake.requests().into_iter().filter(|request| !request.target.contains("lookup-self")) {
            assert_eq!(request.method, "POST");
            assert!(!request.target.contains("canary"), "the id is in the body");
            assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap()["lease_id"], LEASE);
        }
    }
}

#[tokio::test]
async fn other_answers_about_a_lease_are_passed_on_and_their_text_is_not() {
    for (status, expected) in [
        (403, Error::Forbidden),
        (404, Error::NotFound),
        (429, Error::Status(429)),
        (500, Error::Status(500)),
        (503, Error::Status(503)),
    ] {
        let (_fake, vault) = server("database", move |_, _| error(status));
        assert_eq!(vault.renew(&lease()).await.unwrap_err(), expected);
        assert_eq!(vault.revoke(&lease()).await.unwrap_err(), expected);
    }
    let (_fake, vault) = server("database", |_, _| error(400));
    assert!(
        matches!(vault.revoke(&lease()).await, Err(Error::Refused(text)) if text.contains("cannot revoke"))
    );
    for body in
        ["", "canary", "{\"lease_id\": \"canary\", \"lease_dura", "{\"lease_duration\": \"canary\"}", "{}"]
    {
        let (_fake, vault) = server("database", move |_, _| Reply::Answer(200, body.to_owned()));
        let error = vault.renew(&lease()).await.unwrap_err();
        assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn what_was_made_and_cannot_be_used_is_given_back() {
    let given_back: Arc<Mutex<Vec<Value>>> = Arc::default();
    for (duration, data) in [(20, json!(null)), (20, json!("canary")), (0, json!({"password": "canary"}))] {
        let seen = Arc::clone(&given_back);
        let (_fake, vault) = server("database", move |at, request| match at {
            "creds/ro" => Reply::json(json!({
                "lease_id": LEASE, "lease_duration": duration, "renewable": true, "data": data, "auth": null,
            })),
            "leases/revoke" => {
                seen.lock().unwrap().push(serde_json::from_slice(&request.body).unwrap());
                Reply::Answer(204, String::new())
            }
            _ => error(500),
        });
        let error = vault.issue(&path("it/creds/ro"), &Demand::default()).await.unwrap_err();
        assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"), "{error}");
    }
    let expected = json!({"lease_id": LEASE, "sync": true});
    assert_eq!(*given_back.lock().unwrap(), [expected.clone(), expected.clone(), expected]);
}

#[tokio::test]
async fn a_secret_that_is_not_made_says_why_in_words_of_our_own() {
    for (status, expected) in [(403, Error::Forbidden), (404, Error::NotFound), (500, Error::Status(500))] {
        let (_fake, vault) = server("database", move |_, _| error(status));
        let answer = vault.issue(&path("it/creds/ro"), &Demand::default()).await;
        assert_eq!(answer.unwrap_err(), expected);
    }
    for (status, word) in [(400, "`parameters`"), (405, "`method`")] {
        let (_fake, vault) = server("database", move |_, _| error(status));
        match vault.issue(&path("it/creds/ro"), &Demand::default()).await.unwrap_err() {
            Error::Refused(text) => assert!(text.contains(word) && !text.contains("canary"), "{text}"),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn the_period_of_a_code_is_asked_once_and_taken_for_the_usual_one_where_it_is_secret() {
    for (key, longest) in [(200, 3600), (403, 30), (404, 30)] {
        let (fake, vault) = server("totp", move |at, _| match at {
            "keys/k" if key == 200 => fake_vault::data(&json!({"period": 3600, "issuer": "canary"})),
            "keys/k" => error(key),
            "code/k" => fake_vault::data(&json!({"code": "canary"})),
            _ => error(500),
        });
        for _ in 0..2 {
            let issued = vault.issue(&path("it/code/k"), &Demand::default()).await.unwrap();
            let left = issued.grant.life.unwrap();
            assert!(left <= Duration::from_secs(longest) && issued.lease.is_none(), "{left:?}");
        }
        let asked = fake.requests().iter().filter(|request| request.target.ends_with("/keys/k")).count();
        assert_eq!(asked, 1);
    }
    let (_fake, vault) = server("totp", |at, _| if at == "keys/k" { error(503) } else { error(500) });
    let answer = vault.issue(&path("it/code/k"), &Demand::default()).await;
    assert_eq!(answer.unwrap_err(), Error::Status(503), "no code is asked for whose end is not known");
}
