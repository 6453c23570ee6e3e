//! Owns what tests of leases log in with: an AppRole of a server, its ids in files, and its tokens.
//! Does not know what they are used for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::vault::{ROOT_TOKEN, Vault};

/// What a token needs that makes database users and gives them back; to renew them is in Vault's policy `default`.
pub(super) const POLICY: &str = "path \"database/creds/*\" { capabilities = [\"read\"] }\n\
                                 path \"sys/leases/revoke\" { capabilities = [\"update\"] }";

/// The AppRole `web` at `auth/approle` of a server of one's own.
pub(super) struct AppRole<'a> {
    vault: &'a Vault,
    folder: TempDir,
}

impl<'a> AppRole<'a> {
    /// With `settings` beside [`POLICY`].
    pub(super) fn new(vault: &'a Vault, mut settings: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        vault.must("PUT", "sys/policies/acl/web", json!({ "policy": POLICY }));
        vault.must("POST", "sys/auth/approle", json!({"type": "approle"}));
        settings["token_policies"] = json!(["web"]);
        vault.must("POST", "auth/approle/role/web", settings);
        let answer = vault.must("GET", "auth/approle/role/web/role-id", Value::Null);
        let role = Self { vault, folder };
        role.write("role", answer["data"]["role_id"].as_str().unwrap());
        role
    }

    /// The lines of a configuration that log in with a fresh secret id.
    pub(super) fn login(&self) -> String {
        let answer = self.vault.must("POST", "auth/approle/role/web/secret-id", Value::Null);
        self.write("secret", answer["data"]["secret_id"].as_str().unwrap());
        self.lines()
    }

    /// The same with what wraps a fresh secret id, and that.
    pub(super) fn login_wrapped(&self) -> (String, String) {
        let token = self.wrap();
        (format!("{}secret_id_wrapped = true\n", self.lines()), token)
    }

    /// Puts what wraps a fresh secret id into the file; what it is.
    pub(super) fn wrap(&self) -> String {
        let host = self.vault.address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let head = format!(
            "POST /v1/auth/approle/role/web/secret-id HTTP/1.0\r\nHost: {host}\r\nX-Vault-Token: {ROOT_TOKEN}\r\n\
             X-Vault-Wrap-TTL: 300\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let token = body["wrap_info"]["token"].as_str().unwrap().to_owned();
        self.write("secret", &token);
        token
    }

    /// Ends every token of this role, and all that was made with it.
    pub(super) fn revoke_all(&self) {
        self.vault.must("POST", "sys/leases/revoke-prefix/auth/approle/login", json!({"sync": true}));
    }

    /// How many logins the server has seen.
    pub(super) fn logins(&self) -> usize {
        requests(self.vault, "auth/approle/login")
    }

    fn lines(&self) -> String {
        let (role, secret) = (self.path("role"), self.path("secret"));
        format!(
            "auth = \"approle\"\nrole_id_file = \"{}\"\nsecret_id_file = \"{}\"\n",
            role.display(),
            secret.display()
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
}

/// A token of [`POLICY`] with `settings`, as a user has it.
pub(super) fn token(vault: &Vault, settings: Value) -> String {
    vault.must("PUT", "sys/policies/acl/user", json!({ "policy": POLICY }));
    let mut wanted = json!({"policies": ["user"]});
    for (name, value) in settings.as_object().unwrap() {
        wanted[name] = value.clone();
    }
    let answer = vault.must("POST", "auth/token/create", wanted);
    answer["auth"]["client_token"].as_str().unwrap().to_owned()
}

/// The lines of a configuration that take the token from `file`.
pub(super) fn from_file(file: &Path) -> String {
    format!("token_file = \"{}\"\n", file.display())
}

/// Ends a token, and all that was made with it.
pub(super) fn revoke(vault: &Vault, token: &str) {
    vault.must("POST", "auth/token/revoke", json!({ "token": token }));
}

/// How many requests to `path` the server has seen.
pub(super) fn requests(vault: &Vault, path: &str) -> usize {
    vault.audit_requests().iter().filter(|(_, asked)| asked == path).count()
}
