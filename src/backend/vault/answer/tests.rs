//! Owns the tests of what answers mean: answers of Vault 1.21, with other values.
//! Does not know a server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};

use super::super::certificate::tests::{LEAF, ROOT};
use super::super::well_known::{self, Spot, UNKNOWN};
use super::*;
use crate::path::BackendPath;

const NOW: u64 = 1_795_576_333;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn body(lease: (&str, bool, i64), data: &Value) -> Vec<u8> {
    let (lease_id, renewable, lease_duration) = lease;
    json!({"request_id": "r", "lease_id": lease_id, "renewable": renewable, "lease_duration": lease_duration, "data": data,
        "wrap_info": null, "warnings": null, "auth": null, "mount_type": "m"})
    .to_string()
    .into_bytes()
}

fn made(kind: &str, rest: &str, body: &[u8]) -> Result<Issued, Error> {
    let folder = match well_known::engine(kind).map(|engine| engine.spot(&BackendPath::parse(rest).unwrap()))
    {
        Some(Spot::Secret(folder)) => folder,
        _ => &UNKNOWN,
    };
    let period_ends = Some(now() + Duration::from_secs(12));
    issued(body, folder, Asked { at: now(), sent: now(), period_ends }, ParentId(7))
}

fn leaseless(kind: &str, rest: &str, data: &Value) -> (u64, Succession) {
    let issued = made(kind, rest, &body(("", false, 0), data)).unwrap();
    assert_eq!((&issued.lease, issued.grant.renewable, issued.parent), (&None, false, None));
    (issued.grant.life.unwrap().as_secs(), issued.grant.succession)
}

#[test]
fn a_lease_lives_as_long_as_granted_and_dies_with_its_token() {
    let data = json!({"password": "canary-p", "username": "v-token"});
    let answer = body(("database/creds/ro/canary-id", true, 20), &data);
    let issued = made("database", "creds/ro", &answer).unwrap();
    let names: Vec<_> = issued.secret.fields.iter().map(|field| &*field.name).collect();
    assert_eq!(names, ["password", "username"]);
    assert_eq!(issued.lease, Some(LeaseId::new("database/creds/ro/canary-id".into())));
    let life = Some(Duration::from_secs(20));
    assert_eq!(issued.grant, Grant { life, renewable: true, succession: Succession::Ahead });
    assert_eq!(issued.parent, Some(ParentId(7)));
    assert!(!format!("{issued:?}").contains("canary"));
}

#[test]
fn a_lease_of_no_length_is_an_error_and_its_id_is_known() {
    let answer = body(("ssh/creds/otp/canary", false, 0), &json!({"key": "canary"}));
    assert!(matches!(made("ssh", "creds/otp", &answer), Err(Error::Malformed(_))));
    assert_eq!(lease(&answer), Some(LeaseId::new("ssh/creds/otp/canary".into())));
}

#[test]
fn what_has_no_lease_ends_when_its_answer_says() {
    let rotated = json!({"last_vault_rotation": "2026-11-25T03:10:14.525589298Z", "password": "canary", "rotation_period": 60,
        "ttl": 17, "username": "st"});
    assert_eq!(leaseless("database", "static-creds/st", &rotated), (17, Succession::AtEnd));
    let late = json!({"password": "canary", "ttl": 0, "username": "st"});
    assert_eq!(leaseless("database", "static-creds/st", &late), (1, Succession::AtEnd));
    let token = json!({"client_id": "c", "token": "canary", "ttl": 60});
    assert_eq!(leaseless("identity", "oidc/token/app", &token), (60, Succession::Ahead));
    assert_eq!(leaseless("totp", "code/k", &json!({"code": "canary"})), (12, Succession::AtEnd));
    let google = json!({"token": "canary", "expires_at_seconds": 1537400046, "token_ttl": 3599});
    assert_eq!(leaseless("gcp", "roleset/r/token", &google), (3599, Succession::Ahead));
    let end = humantime::format_rfc3339(now() + Duration::from_secs(90)).to_string();
    let key = json!({"access_key": "a", "expiration": end, "secret_key": "canary"});
    assert_eq!(leaseless("aws", "static-creds/r", &key), (90, Succession::AtEnd));
}

#[test]
fn what_the_server_is_about_to_change_is_known_and_its_life_counts_from_when_it_was_sent_for() {
    let Some(Spot::Secret(folder)) = well_known::engine("database")
        .map(|engine| engine.spot(&BackendPath::parse("static-creds/st").unwrap()))
    else {
        panic!("a folder of the database engine")
    };
    for (ttl, at_its_end) in [(0, true), (1, false), (60, false)] {
        let data = json!({"password": "canary", "ttl": ttl, "username": "st"});
        let sent = now() + Duration::from_secs(3);
        let asked = Asked { at: now(), sent, period_ends: None };
        let issued = issued(&body(("", false, 0), &data), folder, asked, ParentId(7)).unwrap();
        assert_eq!(is_at_its_end(&issued, folder), at_its_end, "{ttl}");
        assert_eq!(issued.grant.life, Some(Duration::from_secs(3 + ttl.max(1))));
    }
    let token =
        made("identity", "oidc/token/app", &body(("", false, 0), &json!({"token": "canary", "ttl": 0})));
    assert!(!is_at_its_end(&token.unwrap(), &UNKNOWN));
}

#[test]
fn an_answer_that_tells_no_end_is_not_kept_for_ever() {
    for (kind, rest, data) in [
        ("something-new", "creds/x", json!({"k": "canary"})),
        ("database", "creds/x", json!({})),
        ("database", "static-creds/x", json!({"password": "canary", "ttl": "canary"})),
        ("identity", "oidc/token/x", json!({"token": "canary", "ttl": -1})),
        ("pki", "issue/x", json!({"certificate": "canary", "expiration": "canary"})),
        ("aws", "static-creds/x", json!({"secret_key": "canary", "expiration": null})),
    ] {
        assert_eq!(leaseless(kind, rest, &data), (60, Succession::AtEnd), "{kind} {rest}");
    }
}

#[test]
fn a_certificate_lives_to_its_expiration_but_never_longer_than_it_was_made_for() {
    let of = |expiration: u64| json!({"certificate": LEAF, "expiration": expiration, "issuing_ca": ROOT});
    assert_eq!(leaseless("pki", "issue/web", &of(NOW + 55)), (55, Succession::Ahead));
    // LEAF was made for 60 seconds and dated back by 30: our clock is an hour slow.
    assert_eq!(leaseless("pki", "issue/web", &of(NOW + 3660)), (90, Succession::Ahead));
    let fast = made("pki", "issue/web", &body(("", false, 0), &of(NOW - 1))).unwrap_err();
    assert!(matches!(&fast, Error::Refused(text) if text.contains("clock")), "{fast}");
    let leased =
        made("pki", "issue/leased", &body(("pki/issue/leased/x", false, 59), &of(NOW + 59))).unwrap();
    assert_eq!(leased.grant.life, Some(Duration::from_secs(59)));
    assert!(leased.secret.field("fullchain.pem").is_some());
}

#[test]
fn an_answer_without_a_secret_says_what_it_is() {
    for (part, text) in [
        (json!({"wrap_info": {"token": "canary"}, "data": null}), "wrapped"),
        (json!({"auth": {"client_token": "canary"}, "data": null}), "login"),
        (json!({"data": null}), "nothing"),
        (json!({}), "nothing"),
    ] {
        let error = made("database", "creds/ro", part.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(text) && !error.contains("canary"), "{error}");
    }
}

#[test]
fn a_broken_answer_never_shows_its_text() {
    let whole = body(("database/creds/ro/canary", true, 20), &json!({"password": "canary"}));
    for end in 0..whole.len() {
        let error = made("database", "creds/ro", &whole[..end]).unwrap_err();
        assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"));
    }
    for data in [json!("canary"), json!(["canary"]), json!(7)] {
        let error = made("database", "creds/ro", &body(("", false, 0), &data)).unwrap_err();
        assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"), "{error}");
    }
}

#[test]
fn a_renewal_grants_what_is_left() {
    let grant = renewed(&body(("database/creds/ro/x", true, 14), &Value::Null)).unwrap();
    let life = Some(Duration::from_secs(14));
    assert_eq!(grant, Grant { life, renewable: true, succession: Succession::Ahead });
    assert_eq!(renewed(&body(("x", true, -1), &Value::Null)).unwrap().life, Some(Duration::ZERO));
    assert!(renewed(&body(("", true, 14), &Value::Null)).is_err());
}
