//! Owns the promises about what a backend opens.
//! Does not know what it is opened for.

use std::time::Duration;

use super::*;
use crate::backend::vault::{Config, SecretId};
use crate::backend::{aws, store};

fn variables(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    let pairs: Vec<(String, OsString)> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    move |name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

/// What a backend needs beside what all on a network need, as `path: setting`.
fn needed(backend: &BackendPlan, pairs: &[(&str, &str)]) -> Vec<String> {
    let variables = variables(pairs);
    let needs = of_backend("b", backend, &Variables(&variables)).into_iter();
    let named = needs.filter(|need| !need.path.starts_with("/etc"));
    named.map(|need| format!("{}: {}", need.path.display(), need.because)).collect()
}

fn vault(token: TokenSource) -> BackendPlan {
    BackendPlan::Vault(Config { token, ..Config::default() })
}

#[test]
fn the_files_of_a_vault_backend_are_needed() {
    let approle = |role_id, secret_id: Option<&str>| {
        let secret_id = secret_id.map(|file| SecretId { file: file.into(), wrapped: false });
        vault(TokenSource::AppRole(AppRole { mount: "approle".to_owned(), role_id, secret_id }))
    };
    let token = "/t: `token_file` of backend `b` (without it, ~/.vault-token)";
    assert_eq!(needed(&vault(TokenSource::File("/t".into())), &[]), [token]);
    let (role, secret) = ("/r: `role_id_file` of backend `b`", "/s: `secret_id_file` of backend `b`");
    assert_eq!(needed(&approle(RoleId::File("/r".into()), Some("/s")), &[]), [role, secret]);
    assert_eq!(needed(&approle(RoleId::Literal("r".to_owned()), None), &[]), [""; 0]);
    let with_ca = BackendPlan::Vault(Config { ca_cert: Some("/ca".into()), ..Config::default() });
    let trust = [("SSL_CERT_FILE", "/ssl"), ("SSL_CERT_DIR", "/one:/two")];
    assert_eq!(needed(&with_ca, &trust), ["/ca: `ca_cert` of backend `b` (or VAULT_CACERT)"]);
    let named = ["/ssl: SSL_CERT_FILE", "/one: SSL_CERT_DIR", "/two: SSL_CERT_DIR"];
    assert_eq!(needed(&vault(TokenSource::Absent), &trust), named);
}

#[test]
fn the_files_of_the_aws_chain_are_needed() {
    let aws = BackendPlan::Aws(aws::Config {
        region: None,
        profile: None,
        endpoint_url: None,
        deadline: Duration::from_secs(5),
        max_body: 1,
    });
    assert_eq!(
        needed(&aws, &[("HOME", "/h")]),
        [
            "/h/.aws/config: HOME, for the settings of AWS",
            "/h/.aws/credentials: HOME, for the settings of AWS",
            "/h/.aws/sso/cache: HOME, for the session of AWS SSO"
        ]
    );
    let all = [
        ("AWS_CONFIG_FILE", "~/c"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/k"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/w"),
        ("AWS_CA_BUNDLE", "/ca"),
        ("HOME", "/h"),
    ];
    let named = needed(&aws, &all);
    for says in ["/h/c: AWS_CONFIG_FILE", "/w: AWS_WEB_IDENTITY_TOKEN_FILE", "/ca: AWS_CA_BUNDLE"] {
        assert!(named.iter().any(|need| need == says), "{says}: {named:?}");
    }
    assert!(needed(&aws, &[]).is_empty());
}

#[test]
fn the_files_of_a_store_are_needed() {
    let of = |key| BackendPlan::Store(store::Config { file: "/s".into(), key });
    let store = "/s: the store of backend `b`";
    let identity = of(KeySource::Identity("/i".into()));
    assert_eq!(needed(&identity, &[]), [store, "/i: `identity` of backend `b`"]);
    let passphrase = of(KeySource::PassphraseFile("/p".into()));
    assert_eq!(needed(&passphrase, &[]), [store, "/p: `passphrase_file` of backend `b`"]);
}
