//! Owns what the Vault backend promises about secrets that are made on demand, against a real server.
//! Does not know who keeps them alive.

use std::process::Command;
use std::time::SystemTime;

use secretfs::backend::issuer::{Demand, Issued, Issuer, LeaseId, Method, Nature};
use secretfs::lease::Succession;

use super::*;

fn demand(parameters: Value) -> Demand {
    Demand { method: Method::Auto, parameters: parameters.as_object().cloned().unwrap_or_default() }
}

async fn made(vault: &Vault, at: &str, parameters: Value) -> Issued {
    vault.issue(&path(at), &demand(parameters)).await.unwrap()
}

async fn refusal(vault: &Vault, at: &str, parameters: Value) -> String {
    match vault.issue(&path(at), &demand(parameters)).await.unwrap_err() {
        Error::Refused(text) => text,
        other => panic!("{at}: {other}"),
    }
}

/// An SSH engine at `mount` with the role `otp`.
fn ssh(server: &Server, mount: &str) {
    server.must("POST", &format!("sys/mounts/{mount}"), json!({"type": "ssh"}));
    let role = json!({"key_type": "otp", "default_user": "u", "cidr_list": "127.0.0.0/8"});
    server.must("POST", &format!("{mount}/roles/otp"), role);
}

/// A PKI engine at `mount`: a root, an intermediate that signs, the roles `web` and `leased` of 60 seconds.
fn pki(server: &Server, mount: &str) {
    for (at, limit) in [(format!("{mount}/root"), "8760h"), (mount.to_owned() + "/ca", "4380h")] {
        server.must(
            "POST",
            &format!("sys/mounts/{at}"),
            json!({"type": "pki", "config": {"max_lease_ttl": limit}}),
        );
    }
    let root = json!({"common_name": "root", "ttl": "8760h", "key_type": "ec"});
    server.must("POST", &format!("{mount}/root/root/generate/internal"), root);
    let request = json!({"common_name": "intermediate", "key_type": "ec"});
    let request = server.must("POST", &format!("{mount}/ca/intermediate/generate/internal"), request);
    let request = json!({"csr": request["data"]["csr"], "ttl": "4000h"});
    let signed = server.must("POST", &format!("{mount}/root/root/sign-intermediate"), request);
    let chain = signed["data"]["ca_chain"].as_array().unwrap().iter().map(|pem| pem.as_str().unwrap());
    let chain = json!({"certificate": chain.collect::<Vec<_>>().join("\n")});
    server.must("POST", &format!("{mount}/ca/intermediate/set-signed"), chain);
    for (name, leased) in [("web", false), ("leased", true)] {
        let role = json!({"allow_any_name": true, "ttl": "60s", "key_type": "ec", "generate_lease": leased});
        server.must("POST", &format!("{mount}/ca/roles/{name}"), role);
    }
}

/// What `openssl ARGUMENTS...` says, which must succeed.
fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn life(issued: &Issued) -> u64 {
    issued.grant.life.unwrap().as_secs()
}

#[tokio::test]
async fn listing_an_engine_shows_its_roles_and_makes_nothing() {
    let Some(server) = available("vault", Server::start()) else { return };
    server.enable_audit();
    ssh(&server, "shells/ssh");
    pki(&server, "certs");
    server.must("POST", "sys/mounts/cipher", json!({"type": "transit"}));
    server.must("POST", "identity/oidc/key/named", json!({}));
    server.must("POST", "identity/oidc/role/app", json!({"key": "named"}));
    let before = server.audit_requests().len();
    let vault = client(&server);
    let folder = |name| (name, false, true);
    let secret = |name| (name, true, false);
    for (at, expected) in [
        ("shells/ssh", vec![folder("creds")]),
        ("shells/ssh/creds", vec![secret("otp")]),
        ("certs/ca", vec![folder("issue")]),
        ("certs/ca/issue", vec![secret("leased"), secret("web")]),
        ("certs/root/issue", vec![]),
        ("identity", vec![folder("oidc")]),
        ("identity/oidc", vec![folder("token")]),
        ("identity/oidc/token", vec![secret("app")]),
        ("cipher", vec![]),
    ] {
        assert_eq!(names(&vault.list(&path(at)).await.unwrap()), expected, "{at}");
        assert_eq!(vault.nature(&path(at)).await, Ok(Nature::OnDemand), "{at}");
    }
    for (at, some) in [
        ("shells/ssh/creds/otp", Some("key")),
        ("certs/ca/issue/web", Some("bundle.pem")),
        ("identity/oidc/token/app", Some("token")),
        ("cipher/any/thing", None),
    ] {
        let fields = vault.fields(&path(at)).await.unwrap();
        assert_eq!(fields.is_some(), some.is_some(), "{at}");
        assert!(some.is_none_or(|name| fields.unwrap().iter().any(|field| field == name)), "{at}");
        assert_eq!(vault.list(&path(at)).await.unwrap_err(), Error::NotFound, "{at}");
        assert!(matches!(vault.read(&path(at)).await, Err(Error::Refused(_))), "{at}");
    }
    for at in ["shells/ssh/creds", "shells/ssh", "certs/ca/issue", "secret/x"] {
        assert_eq!(vault.fields(&path(at)).await, Err(Error::NotFound), "{at}");
    }
    for at in ["secret", "secret/deep/er", "cubbyhole/x", "sys/mounts", ""] {
        assert_eq!(vault.nature(&path(at)).await, Ok(Nature::Stored), "{at}");
    }
    let requests = server.audit_requests().split_off(before);
    assert!(requests.iter().any(|(what, path)| what == "list" && path.starts_with("shells/ssh/roles")));
    for (what, path) in requests {
        assert!(what == "list" || path.starts_with("sys/internal/ui/mounts"), "{what} {path}");
    }
}

#[tokio::test]
async fn what_may_not_be_listed_is_forbidden_and_can_be_made_all_the_same() {
    let Some(server) = available("vault", Server::shared()) else { return };
    ssh(server, "narrow-ssh");
    let token = server.policy_token("path \"narrow-ssh/creds/otp\" { capabilities = [\"update\"] }");
    let vault = client_with(server, &token);
    assert_eq!(vault.nature(&path("narrow-ssh/creds/otp")).await, Ok(Nature::OnDemand));
    assert_eq!(names(&vault.list(&path("narrow-ssh")).await.unwrap()), [("creds", false, true)]);
    assert_eq!(vault.list(&path("narrow-ssh/creds")).await, Err(Error::Forbidden));
    let issued = made(&vault, "narrow-ssh/creds/otp", json!({"ip": "127.0.0.1"})).await;
    assert_eq!(vault.revoke(&issued.lease.unwrap()).await, Err(Error::Forbidden));
    let other = vault.issue(&path("narrow-ssh/creds/other"), &demand(json!({"ip": "127.0.0.1"}))).await;
    assert_eq!(other.unwrap_err(), Error::Forbidden);
}

#[tokio::test]
async fn a_one_time_password_comes_with_its_lease_and_is_given_back() {
    let Some(server) = available("vault", Server::shared()) else { return };
    ssh(server, "otp-ssh");
    server.must("POST", "sys/mounts/otp-ssh/tune", json!({"default_lease_ttl": "300s"}));
    let policy = "path \"otp-ssh/creds/otp\" { capabilities = [\"update\"] }
        path \"sys/leases/revoke\" { capabilities = [\"update\"] }";
    let vault = client_with(server, &server.policy_token(policy));
    let issued = made(&vault, "otp-ssh/creds/otp", json!({"ip": "127.0.0.1"})).await;
    assert_eq!((text(&issued.secret, "username"), text(&issued.secret, "port")), ("u", "22"));
    let (grant, lease) = (issued.grant, issued.lease.clone().unwrap());
    assert_eq!((life(&issued), grant.renewable, grant.succession), (300, false, Succession::Ahead));
    assert!(issued.parent.is_some());
    let key = text(&issued.secret, "key").to_owned();
    assert!(!format!("{issued:?}").contains(&key) && !format!("{issued:?}").contains(lease.as_str()));
    let verifies = || server.api("POST", "otp-ssh/verify", json!({ "otp": key })).0;

    let refused = vault.renew(&lease).await.unwrap_err();
    assert_eq!(refused, Error::Refused("the lease cannot be renewed".to_owned()));
    assert_eq!(vault.revoke(&lease).await, Ok(()));
    assert_ne!(verifies(), 200, "a password that was given back is none");
    assert_eq!(vault.renew(&lease).await, Err(Error::NotFound));
    assert_eq!(vault.revoke(&lease).await, Ok(()), "it has ended already");
    let never = LeaseId::new("otp-ssh/creds/otp/never".to_owned());
    assert_eq!((vault.renew(&never).await, vault.revoke(&never).await), (Err(Error::NotFound), Ok(())));
}

#[tokio::test]
async fn a_lease_dies_with_its_token() {
    let Some(server) = available("vault", Server::shared()) else { return };
    ssh(server, "orphan-ssh");
    let token = server.policy_token("path \"orphan-ssh/creds/otp\" { capabilities = [\"update\"] }");
    let lease =
        made(&client_with(server, &token), "orphan-ssh/creds/otp", json!({"ip": "127.0.0.1"})).await.lease;
    server.must("POST", "auth/token/revoke", json!({ "token": token }));
    let (vault, lease) = (client(server), lease.unwrap());
    let hang = Instant::now() + Duration::from_secs(30);
    while vault.renew(&lease).await != Err(Error::NotFound) {
        assert!(Instant::now() < hang, "it lives on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let revoked = client_with(server, &token);
    assert_eq!(revoked.renew(&lease).await, Err(Error::Forbidden));
}

#[tokio::test]
async fn certificate_key_and_chain_are_of_one_answer_and_as_servers_want_them() {
    let Some(server) = available("vault", Server::shared()) else { return };
    pki(server, "web-pki");
    let policy = "path \"web-pki/ca/issue/web\" { capabilities = [\"update\"] }";
    let vault = client_with(server, &server.policy_token(policy));
    let at = SystemTime::now();
    let issued = made(&vault, "web-pki/ca/issue/web", json!({"common_name": "a.example"})).await;
    assert!(issued.lease.is_none() && issued.parent.is_none(), "it outlives its token");
    assert!((50..=61).contains(&life(&issued)), "{}", life(&issued));
    let field = |name: &str| text(&issued.secret, name);
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(field("expiration").parse().unwrap());
    assert!(at + issued.grant.life.unwrap() <= end + Duration::from_millis(100));
    let names: Vec<&str> = issued.secret.fields.iter().map(|field| &*field.name).collect();
    for known in vault.fields(&path("web-pki/ca/issue/web")).await.unwrap().unwrap() {
        assert!(names.contains(&&*known), "{known}");
    }

    assert_eq!(field("fullchain.pem"), format!("{}\n{}\n", field("certificate"), field("issuing_ca")));
    assert_eq!(field("bundle.pem"), format!("{}\n{}", field("private_key"), field("fullchain.pem")));
    assert_eq!(field("ca_chain").matches("-----BEGIN CERTIFICATE-----").count(), 2, "intermediate and root");
    let folder = tempfile::tempdir().unwrap();
    for name in ["certificate", "private_key", "fullchain.pem", "bundle.pem", "ca_chain"] {
        std::fs::write(folder.path().join(name), field(name)).unwrap();
    }
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let key = openssl(&["pkey", "-pubout", "-in", &file("private_key")]);
    assert_eq!(openssl(&["x509", "-noout", "-pubkey", "-in", &file("certificate")]), key);
    assert_eq!(openssl(&["x509", "-noout", "-pubkey", "-in", &file("bundle.pem")]), key);
    assert_eq!(openssl(&["pkey", "-pubout", "-in", &file("bundle.pem")]), key);
    let chain = ["verify", "-CAfile", &file("ca_chain"), "-untrusted", &file("fullchain.pem")];
    openssl(&[&chain[..], &[&file("certificate")]].concat());

    for (role, parameters) in [("web", json!({})), ("none", json!({"common_name": "a.example"}))] {
        let text = refusal(&client(server), &format!("web-pki/ca/issue/{role}"), parameters).await;
        assert!(text.contains("HTTP status 400") && text.contains("`parameters`"), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_with_a_lease_is_given_back() {
    let Some(server) = available("vault", Server::shared()) else { return };
    pki(server, "leased-pki");
    let vault = client(server);
    let issued = made(&vault, "leased-pki/ca/issue/leased", json!({"common_name": "a.example"})).await;
    let lease = issued.lease.clone().unwrap();
    assert!((50..=60).contains(&life(&issued)) && !issued.grant.renewable && issued.parent.is_some());
    assert!(issued.secret.field("bundle.pem").is_some());
    assert!(matches!(vault.renew(&lease).await, Err(Error::Refused(_))));
    assert_eq!(vault.revoke(&lease).await, Ok(()));
    let serial = text(&issued.secret, "serial_number");
    let answer = server.must("GET", &format!("leased-pki/ca/cert/{serial}"), Value::Null);
    assert_ne!(answer["data"]["revocation_time"], json!(0));
}

#[tokio::test]
async fn an_identity_token_lives_for_its_ttl() {
    let Some(server) = available("vault", Server::shared()) else { return };
    server.must("POST", "identity/oidc/key/issuing", json!({"allowed_client_ids": "*"}));
    server.must("POST", "identity/oidc/role/issuing", json!({"key": "issuing", "ttl": "60s"}));
    let policy = "path \"identity/oidc/token/issuing\" { capabilities = [\"read\"] }";
    server.must("PUT", "sys/policies/acl/issuing-identity", json!({ "policy": policy }));
    server.must("POST", "sys/auth/issuing", json!({"type": "userpass"}));
    let user = json!({"password": "canary-pass", "policies": "issuing-identity"});
    server.must("POST", "auth/issuing/users/u", user);
    let login = server.must("POST", "auth/issuing/login/u", json!({"password": "canary-pass"}));
    let vault = client_with(server, login["auth"]["client_token"].as_str().unwrap());
    let issued = made(&vault, "identity/oidc/token/issuing", json!({})).await;
    assert_eq!(text(&issued.secret, "token").matches('.').count(), 2, "a JWT");
    assert_eq!((life(&issued), issued.grant.succession), (60, Succession::Ahead));
    assert!(issued.lease.is_none() && issued.parent.is_none());
    // A token without an entity, such as root's.
    let text = refusal(&client(server), "identity/oidc/token/issuing", json!({})).await;
    assert!(text.contains("HTTP status 400"), "{text}");
}

#[tokio::test]
async fn the_wrong_method_and_the_wrong_place_are_refused_with_what_to_do() {
    let Some(server) = available("vault", Server::shared()) else { return };
    ssh(server, "wrong-ssh");
    let vault = client(server);
    let read = Demand { method: Method::Read, ..Demand::default() };
    let error = vault.issue(&path("wrong-ssh/creds/otp"), &read).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(text) if text.contains("405") && text.contains("`method`")));
    let about = || server.audit_requests().iter().filter(|(_, path)| path.starts_with("wrong-ssh/")).count();
    let before = about();
    let read = Demand { method: Method::Read, ..demand(json!({"ip": "127.0.0.1"})) };
    let error = vault.issue(&path("wrong-ssh/creds/otp"), &read).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(text) if text.contains("`parameters`")));
    let refused = refusal(&vault, "wrong-ssh/config/ca", json!({"generate_signing_key": true})).await;
    assert!(refused.contains("`method`"), "{refused}");
    for none in ["wrong-ssh", "wrong-ssh/creds", "secret/x", "sys/mounts"] {
        let error = vault.issue(&path(none), &demand(json!({"ip": "127.0.0.1"}))).await.unwrap_err();
        assert_eq!(error, Error::NotFound, "{none}");
    }
    assert_eq!(about(), before, "nothing was sent");
    // An engine that is not known, and a place that is said to make secrets.
    server.must("POST", "sys/mounts/wrong-transit", json!({"type": "transit"}));
    server.must("POST", "wrong-transit/keys/k", json!({}));
    let issued = made(&vault, "wrong-transit/datakey/wrapped/k", json!({"bits": 256})).await;
    assert!(text(&issued.secret, "ciphertext").starts_with("vault:v1:"));
    assert_eq!((life(&issued), issued.grant.succession), (60, Succession::AtEnd));
}

#[tokio::test]
async fn making_a_secret_is_not_given_up_at_the_deadline() {
    let Some(server) = available("vault", Server::start()) else { return };
    ssh(&server, "slow");
    let limits = |timeout| Config {
        deadline: Duration::from_secs(1),
        client_timeout: Duration::from_secs(timeout),
        ..config(&server.address, ROOT_TOKEN)
    };
    let (patient, hasty) = (build(limits(60)).unwrap(), build(limits(1)).unwrap());
    for vault in [&patient, &hasty] {
        vault.nature(&path("slow/creds/otp")).await.unwrap();
    }
    server.pause();
    let asked = demand(json!({"ip": "127.0.0.1"}));
    let at = path("slow/creds/otp");
    let waking = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.resume();
    };
    let (made, given_up, ()) = tokio::join!(patient.issue(&at, &asked), hasty.issue(&at, &asked), waking);
    assert!(made.unwrap().lease.is_some());
    assert_eq!(given_up.unwrap_err(), Error::TimedOut(Duration::from_secs(1)));
}
