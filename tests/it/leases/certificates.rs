//! Owns what certificates in files promise: certificate and key always match, and a server that reads them is never caught with an old one.
//! Does not know other engines.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{drill, mount_with};
use crate::support::mount::{possible, run};
use crate::support::nginx::Nginx;
use crate::support::vault::Vault;
use crate::support::{available, program};

/// The public key of a certificate or a private key, as openssl prints it.
fn public_key(what: &str, file: &Path) -> Vec<u8> {
    let mut openssl = Command::new(program("openssl").unwrap());
    match what {
        "certificate" => openssl.args(["x509", "-noout", "-pubkey", "-in"]),
        _ => openssl.args(["pkey", "-pubout", "-in"]),
    };
    run(openssl.arg(file)).stdout
}

/// An engine `pki` with a root of its own and a role `web` for `localhost`; the root's certificate.
fn enable_pki(vault: &Vault, life: &str) -> String {
    vault.must("POST", "sys/mounts/pki", json!({"type": "pki", "config": {"max_lease_ttl": "24h"}}));
    let root =
        vault.must("POST", "pki/root/generate/internal", json!({"common_name": "canary root", "ttl": "20h"}));
    let role = json!({
        "allow_localhost": true, "allow_bare_domains": true, "allowed_domains": ["localhost"], "key_type": "ec",
        "key_bits": 256, "ttl": life, "max_ttl": life, "not_before_duration": "30s",
    });
    vault.must("POST", "pki/roles/web", role);
    root["data"]["certificate"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_that_reads_its_certificate_from_the_mount_is_never_caught_with_an_old_one() {
    let Some(vault) = available("mount", possible()).and_then(|()| available("vault", Vault::start())) else {
        return;
    };
    let ca = enable_pki(&vault, "60s");
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, pid_file) = (folder.path().join("ca.pem"), folder.path().join("nginx.pid"));
    std::fs::write(&ca_file, ca + "\n").unwrap();
    // The hook is there before the server: it reads the file's number when it fires.
    let rest = format!(
        "[[secret]]\npath = \"/tls\"\nbackend = \"v\"\nsource = \"pki/issue/web\"\n\
         parameters = {{ common_name = \"localhost\" }}\n\
         [[hook]]\npath = \"/tls\"\nsignal = \"HUP\"\npid_file = \"{}\"\ndebounce = 0\ninterval = \"1s\"\n",
        pid_file.display()
    );
    let mut mount = mount_with(&vault, "", &rest).start();
    let (chain, key) = (mount.path("tls/fullchain.pem"), mount.path("tls/private_key"));
    let Some(nginx) = available("nginx", Nginx::start(&chain, &key)) else { return };
    std::os::unix::fs::symlink(&nginx.pid_file, &pid_file).unwrap();
    let time = drill(4 * 60, 10 * 60);
    let began = Instant::now();
    let (mut shakes, mut failures, mut serials) = (0, vec![], std::collections::BTreeSet::new());
    while began.elapsed() < time {
        let next = Instant::now() + Duration::from_millis(250);
        if let Err(code) = nginx.ask(&ca_file) {
            failures.push((began.elapsed(), code));
        }
        shakes += 1;
        if shakes % 8 == 0 {
            // One directory, one generation: as `cp` takes them.
            let copy = tempfile::tempdir().unwrap();
            run(Command::new("cp").arg("-r").arg(mount.path("tls")).arg(copy.path().join("tls")));
            let at = |name: &str| copy.path().join("tls").join(name);
            assert_eq!(public_key("certificate", &at("certificate")), public_key("key", &at("private_key")));
            assert_eq!(public_key("certificate", &at("fullchain.pem")), public_key("key", &at("bundle.pem")));
            serials.insert(std::fs::read(at("serial_number")).unwrap());
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert!(failures.is_empty(), "{failures:?} of {shakes}\n{}", nginx.log());
    assert!(serials.len() as u64 >= time.as_secs() / 60, "{} certificates", serials.len());
    println!("{shakes} handshakes, {} certificates seen", serials.len());
    drop(nginx);
    assert_eq!(mount.stop(), Some(0));
}
