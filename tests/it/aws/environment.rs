//! Owns the proof that the environment of every AWS tool works unchanged. The environment belongs to a process, so each case
//! runs this test binary again as a child that makes one read and says what came of it.

use std::path::Path;
use std::process::Command;

use secretfs::backend::Backend;
use secretfs::backend::aws::{Aws, Config};

use super::path;
use crate::support::moto::{Content, Moto, REGION};
use crate::support::program;

/// Set in a child to the secret it shall read.
const CHILD: &str = "SECRETFS_TEST_AWS_READ";
const SAYS: &str = "the child says: ";

/// In a child of the tests below: one read with nothing configured. Elsewhere: nothing.
#[test]
fn child() {
    let Ok(name) = std::env::var(CHILD) else { return };
    // Made before there is a runtime: a mount is ready before AWS is.
    let aws = Aws::new(Config::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(aws.read(&path(&name))) {
        Ok(secret) => println!("{SAYS}{} bytes", secret.field("value").unwrap().value.len()),
        Err(error) => println!("{SAYS}{error}"),
    }
}

/// What the child says that reads `name` with these variables and an empty home.
fn read_with(name: &str, variables: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "aws::environment::child", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        // Nothing may ever ask 169.254.169.254.
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env(CHILD, name)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let shown =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
    let (_, said) = shown.split_once(SAYS).unwrap_or_else(|| panic!("the child was not run: {shown}"));
    said.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn the_variables_alone_are_enough() {
    let Some(moto) = Moto::shared() else { return };
    moto.create("environment/plain", Content::Text("eleven canary"));
    let variables = moto.environment();
    let mut variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(read_with("environment/plain", &variables), "13 bytes");

    variables[0].0 = "AWS_ENDPOINT_URL_SECRETS_MANAGER";
    assert_eq!(read_with("environment/plain", &variables), "13 bytes");
}

#[test]
fn a_profile_is_enough() {
    let Some(moto) = Moto::shared() else { return };
    moto.create("environment/profile", Content::Text("canary"));
    let folder = tempfile::tempdir().unwrap();
    let (config, credentials) = (folder.path().join("config"), folder.path().join("credentials"));
    std::fs::write(
        &config,
        format!("[profile work]\nregion = {REGION}\nendpoint_url = {}\n", moto.endpoint()),
    )
    .unwrap();
    std::fs::write(&credentials, "[work]\naws_access_key_id = test\naws_secret_access_key = test-canary\n")
        .unwrap();
    let variables = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
        ("AWS_PROFILE", "work"),
    ];
    assert_eq!(read_with("environment/profile", &variables), "6 bytes");
}

#[test]
fn what_is_missing_is_named() {
    let nowhere = ("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let said = read_with("a", &[nowhere]);
    assert!(said.contains("no AWS region: set AWS_REGION or `region`"), "{said}");

    let said = read_with("a", &[nowhere, ("AWS_REGION", REGION)]);
    assert!(said.contains("no AWS credentials: set AWS_ACCESS_KEY_ID"), "{said}");

    let said = read_with("a", &[nowhere, ("AWS_REGION", REGION), ("AWS_PROFILE", "nobody")]);
    assert!(said.contains("no AWS credentials") || said.contains("check AWS_PROFILE"), "{said}");
}

#[test]
fn a_private_authority_is_trusted_through_the_tools_variable() {
    let Some(certificate) = certificate() else { return };
    let (pem, key) = (certificate.path().join("cert.pem"), certificate.path().join("key.pem"));
    let Some(moto) = Moto::start_tls(&pem, &key) else { return };
    let variables = moto.environment();
    let mut variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let said = read_with("missing", &variables);
    assert!(said.contains("TLS failed"), "{said}");

    variables.push(("AWS_CA_BUNDLE", pem.to_str().unwrap()));
    assert_eq!(read_with("missing", &variables), "there is no such secret");

    variables.last_mut().unwrap().1 = key.to_str().unwrap();
    let said = read_with("missing", &variables);
    assert!(said.contains("AWS_CA_BUNDLE does not name a file of PEM certificates"), "{said}");
}

/// A folder with `cert.pem` and `key.pem` for 127.0.0.1, made by the Python that runs moto (moto needs its `cryptography`).
fn certificate() -> Option<tempfile::TempDir> {
    let python = program("moto_server").map(|server| server.with_file_name("python3"));
    let python = crate::support::available("aws", python)?;
    let folder = tempfile::tempdir().unwrap();
    let made =
        Command::new(python).arg("-c").arg(CERTIFICATE).arg(Path::new(folder.path())).status().unwrap();
    assert!(made.success());
    Some(folder)
}

const CERTIFICATE: &str = r#"
import datetime, ipaddress, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
now = datetime.datetime.now(datetime.timezone.utc)
day = datetime.timedelta(days=1)
names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
        .add_extension(names, False).sign(key, hashes.SHA256()))
pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
open(sys.argv[1] + "/cert.pem", "wb").write(cert.public_bytes(pem))
open(sys.argv[1] + "/key.pem", "wb").write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
"#;
