//! Owns the list of the files that a backend opens while it serves.
//! Does not know who asks: a mount must not hide them (`cli`), and the worker's sandbox must let them be read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::backend::store::KeySource;
use crate::backend::vault::{AppRole, RoleId, TokenSource};
use crate::daemon::BackendPlan;

/// Something that the program opens while it serves, or when it is started again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// The file or folder.
    pub(crate) path: PathBuf,
    /// Who says so: the setting, where there is one.
    pub(crate) because: String,
    /// What can be done beside mounting somewhere else; empty: nothing.
    pub(crate) instead: &'static str,
}

pub(crate) const MOVE: &str = ", or move the file and name its new place";
pub(crate) const SET: &str = ", or set the variable to another place";
pub(crate) const NOTHING: &str = "";

/// What a backend opens while it serves, whether it is there yet or not.
pub(crate) fn of_backend(name: &str, backend: &BackendPlan, variables: &Variables<'_>) -> Vec<Need> {
    let of = |key: &str| format!("`{key}` of backend `{name}`");
    let key = |path: &Path, name: &str| need(path, &of(name), MOVE);
    let mut needs = Vec::new();
    match backend {
        BackendPlan::Store(store) => {
            needs.push(need(&store.file, &format!("the store of backend `{name}`"), MOVE));
            match &store.key {
                KeySource::Identity(file) => needs.push(key(file, "identity")),
                KeySource::PassphraseFile(file) => needs.push(key(file, "passphrase_file")),
                KeySource::Passphrase(_) => {}
            }
        }
        BackendPlan::Vault(vault) => {
            match &vault.token {
                TokenSource::File(file) => {
                    let because = format!("{} (without it, ~/.vault-token)", of("token_file"));
                    needs.push(need(file, &because, MOVE));
                }
                TokenSource::AppRole(AppRole { role_id, secret_id, .. }) => {
                    if let RoleId::File(file) = role_id {
                        needs.push(key(file, "role_id_file"));
                    }
                    needs.extend(secret_id.iter().map(|secret_id| key(&secret_id.file, "secret_id_file")));
                }
                TokenSource::Literal(_) | TokenSource::Absent => {}
            }
            match &vault.ca_cert {
                Some(file) => needs.push(need(file, &format!("{} (or VAULT_CACERT)", of("ca_cert")), MOVE)),
                None => needs.extend(variables.trust()),
            }
            needs.extend(name_lookup(name));
        }
        BackendPlan::Aws(_) => {
            needs.extend(variables.files("AWS_CONFIG_FILE", Some(".aws/config")));
            needs.extend(variables.files("AWS_SHARED_CREDENTIALS_FILE", Some(".aws/credentials")));
            needs.extend(variables.files("AWS_WEB_IDENTITY_TOKEN_FILE", None));
            needs.extend(variables.files("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", None));
            let sso = variables.in_home(".aws/sso/cache");
            needs.extend(sso.map(|path| need(path, "HOME, for the session of AWS SSO", SET)));
            match variables.files("AWS_CA_BUNDLE", None) {
                bundle if bundle.is_empty() => needs.extend(variables.trust()),
                bundle => needs.extend(bundle),
            }
            needs.extend(name_lookup(name));
        }
    }
    needs
}

/// What the C library reads to find the address of a server: resolv.conf(5), hosts(5), nsswitch.conf(5).
fn name_lookup(name: &str) -> [Need; 3] {
    let because = format!("the server of backend `{name}` is looked up by its name");
    ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"].map(|file| need(file, &because, NOTHING))
}

/// A need, in short.
pub(crate) fn need(path: impl Into<PathBuf>, because: &str, instead: &'static str) -> Need {
    Need { path: path.into(), because: because.to_owned(), instead }
}

/// What the environment says of places.
pub(crate) struct Variables<'a>(pub(crate) &'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn in_home(&self, below: &str) -> Option<PathBuf> {
        self.get("HOME").map(|home| Path::new(&home).join(below))
    }

    /// What a variable names, of several places between colons each; else the place in the home folder.
    fn files(&self, variable: &str, in_home: Option<&str>) -> Vec<Need> {
        let Some(value) = self.get(variable) else {
            let path = in_home.and_then(|below| self.in_home(below));
            return path.map(|path| need(path, "HOME, for the settings of AWS", SET)).into_iter().collect();
        };
        let home = |path: PathBuf| match path.strip_prefix("~") {
            Ok(below) => self.get("HOME").map(|home| Path::new(&home).join(below)).unwrap_or(path),
            Err(_) => path,
        };
        std::env::split_paths(&value).map(|path| need(home(path), variable, SET)).collect()
    }

    /// The authorities that vouch for servers, where nothing else is said.
    fn trust(&self) -> Vec<Need> {
        let mut named = self.files("SSL_CERT_FILE", None);
        named.extend(self.files("SSL_CERT_DIR", None));
        if named.is_empty() {
            named.push(need("/etc/ssl/certs", "the system's certificate authorities", NOTHING));
        }
        named
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
