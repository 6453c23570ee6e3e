//! Owns what is known beforehand of the engines that make secrets: where below their mount, how each is asked, what it answers.
//! Does not know how a call is made or what an answer looks like in bytes.

use crate::backend::issuer::Method;
use crate::lease::Succession;
use crate::path::BackendPath;

/// A folder below an engine's mount, in which each role is a secret that is made when asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Folder {
    /// Where it lies below the mount.
    pub(super) at: &'static [&'static str],
    /// What is listed to know its roles; empty where there is nothing to list: the folder is not shown, but can be asked.
    pub(super) roles: &'static [&'static str],
    /// What follows the role, where something does.
    pub(super) leaf: Option<&'static str>,
    /// How the engine wants to be asked when there are no parameters.
    pub(super) method: Method,
    /// The fields of an answer, as the API documents them, and those that are made from it; none where they differ by role.
    pub(super) fields: &'static [&'static str],
    /// What says when an answer without a lease ends.
    pub(super) ends: Ends,
    /// When a successor is to be had.
    pub(super) succession: Succession,
}

/// What says when an answer without a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// Nothing does, as far as is known.
    Untold,
    /// A field with the seconds it has left.
    In(&'static str),
    /// A field with the time: seconds since 1970, or RFC 3339.
    At(&'static str),
    /// `expiration` of a certificate.
    Certificate,
    /// The period of the TOTP key.
    Period,
}

/// The engine makes secrets, and this is where.
pub(super) struct WellKnown {
    /// Vault's name for the type (`sys/mounts`).
    kind: &'static str,
    pub(super) folders: &'static [Folder],
}

/// Most folders: asked with `GET`, answered with a lease.
const LEASED: Folder = Folder {
    at: &["creds"],
    roles: &["roles"],
    leaf: None,
    method: Method::Read,
    fields: &[],
    ends: Ends::Untold,
    succession: Succession::Ahead,
};

/// A password that the server changes by itself: until then it gives the same one, and `ttl` says how long that is.
const STATIC: Folder = Folder {
    at: &["static-creds"],
    roles: &["static-roles"],
    ends: Ends::In("ttl"),
    succession: Succession::AtEnd,
    ..LEASED
};

/// What is assumed of an engine that is not known.
pub(super) const UNKNOWN: Folder = Folder { method: Method::Auto, ..LEASED };

const USER_AND_PASSWORD: &[&str] = &["username", "password"];

/// Sources: Vault's API documentation, https://developer.hashicorp.com/vault/api-docs/secret/TYPE (the link at each), and where
/// that leaves something open the code of Vault 1.21. `*`: tried with Vault 1.21 as well.
const ENGINES: &[WellKnown] = &[
    // databases#generate-credentials, #get-static-credentials *
    WellKnown {
        kind: "database",
        folders: &[
            Folder { fields: USER_AND_PASSWORD, ..LEASED },
            Folder { fields: &["username", "password", "ttl", "last_vault_rotation"], ..STATIC },
        ],
    },
    // ssh#generate-ssh-credentials: needs `ip` *. All roles are listed, those of certificates too.
    WellKnown {
        kind: "ssh",
        folders: &[Folder {
            method: Method::Write,
            fields: &["ip", "key", "key_type", "port", "username"],
            ..LEASED
        }],
    },
    // pki/issuance#generate-certificate-and-key, #sign-certificate: need `common_name`, `csr` *
    WellKnown {
        kind: "pki",
        folders: &[
            Folder {
                at: &["issue"],
                method: Method::Write,
                fields: &[
                    "ca_chain",
                    "certificate",
                    "expiration",
                    "issuing_ca",
                    "private_key",
                    "private_key_type",
                    "serial_number",
                    "fullchain.pem",
                    "bundle.pem",
                ],
                ends: Ends::Certificate,
                ..LEASED
            },
            Folder {
                at: &["sign"],
                roles: &[],
                method: Method::Write,
                fields: &[
                    "ca_chain",
                    "certificate",
                    "expiration",
                    "issuing_ca",
                    "serial_number",
                    "fullchain.pem",
                ],
                ends: Ends::Certificate,
                ..LEASED
            },
        ],
    },
    // totp#generate-code *
    WellKnown {
        kind: "totp",
        folders: &[Folder {
            at: &["code"],
            roles: &["keys"],
            fields: &["code"],
            ends: Ends::Period,
            succession: Succession::AtEnd,
            ..LEASED
        }],
    },
    // identity/tokens#generate-a-signed-id-token *
    WellKnown {
        kind: "identity",
        folders: &[Folder {
            at: &["oidc", "token"],
            roles: &["oidc", "role"],
            fields: &["client_id", "token", "ttl"],
            ends: Ends::In("ttl"),
            ..LEASED
        }],
    },
    // aws#generate-credentials, #get-static-credentials (`expiration` where Vault rotates by itself)
    WellKnown {
        kind: "aws",
        folders: &[
            Folder { fields: &["access_key", "secret_key", "session_token"], ..LEASED },
            Folder {
                at: &["sts"],
                fields: &["access_key", "secret_key", "session_token", "ttl"],
                ends: Ends::In("ttl"),
                ..LEASED
            },
            Folder { fields: &["access_key", "secret_key"], ends: Ends::At("expiration"), ..STATIC },
        ],
    },
    // azure#generate-credentials
    WellKnown { kind: "azure", folders: &[Folder { fields: &["client_id", "client_secret"], ..LEASED }] },
    // gcp#generate-secret-iam-service-account-creds-oauth2-access-token, #...-service-account-key
    WellKnown {
        kind: "gcp",
        folders: &[
            Folder { at: &["roleset"], roles: &["rolesets"], ..GCP_TOKEN },
            Folder { at: &["roleset"], roles: &["rolesets"], ..GCP_KEY },
            Folder { at: &["static-account"], roles: &["static-accounts"], ..GCP_TOKEN },
            Folder { at: &["static-account"], roles: &["static-accounts"], ..GCP_KEY },
            Folder { at: &["impersonated-account"], roles: &["impersonated-accounts"], ..GCP_TOKEN },
        ],
    },
    // kubernetes#generate-credentials: needs `kubernetes_namespace`
    WellKnown {
        kind: "kubernetes",
        folders: &[Folder {
            method: Method::Write,
            fields: &["service_account_name", "service_account_namespace", "service_account_token"],
            ..LEASED
        }],
    },
    // ldap#dynamic-role-passwords, #static-role-passwords
    WellKnown {
        kind: "ldap",
        folders: &[
            Folder { roles: &["role"], fields: &["distinguished_names", "password", "username"], ..LEASED },
            Folder {
                at: &["static-cred"],
                roles: &["static-role"],
                fields: &["username", "password", "dn", "last_password", "last_vault_rotation", "ttl"],
                ..STATIC
            },
        ],
    },
    // rabbitmq#generate-credentials
    WellKnown { kind: "rabbitmq", folders: &[Folder { fields: USER_AND_PASSWORD, ..LEASED }] },
    // consul#generate-credential
    WellKnown { kind: "consul", folders: &[Folder { fields: &["token", "accessor"], ..LEASED }] },
    // nomad#generate-credential
    WellKnown {
        kind: "nomad",
        folders: &[Folder { roles: &["role"], fields: &["accessor_id", "secret_id"], ..LEASED }],
    },
    // terraform#generate-credential
    WellKnown {
        kind: "terraform",
        folders: &[Folder { roles: &["role"], fields: &["token", "token_id"], ..LEASED }],
    },
];

const GCP_TOKEN: Folder = Folder {
    leaf: Some("token"),
    fields: &["token", "expires_at_seconds", "token_ttl"],
    ends: Ends::In("token_ttl"),
    ..LEASED
};
const GCP_KEY: Folder =
    Folder { leaf: Some("key"), fields: &["private_key_data", "key_algorithm", "key_type"], ..LEASED };

/// What is known of engines of this type.
pub(super) fn engine(kind: &str) -> Option<&'static WellKnown> {
    let kind = without_namespace(kind);
    ENGINES.iter().find(|engine| engine.kind == kind)
}

/// Whether engines of this type keep what they are given, or are no secrets engines at all: asking them makes nothing that
/// would have to be kept alive. kv is here for a version of it that is not known.
pub(super) fn keeps(kind: &str) -> bool {
    matches!(without_namespace(kind), "kv" | "generic" | "cubbyhole" | "system")
}

/// The type of what each namespace has of its own begins with `ns_` in Vault Enterprise and OpenBao.
fn without_namespace(kind: &str) -> &str {
    kind.strip_prefix("ns_").unwrap_or(kind)
}

/// What a path below an engine's mount is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// On the way to folders: their next segments.
    Above(Vec<&'static str>),
    /// A folder: listing `roles` names what is in it, and each name is a folder with these leaves, or where there are none
    /// a secret.
    Roles { roles: &'static [&'static str], leaves: Vec<&'static str> },
    /// A role of a folder whose secrets lie one deeper: their names.
    Leaves(Vec<&'static str>),
    /// A secret.
    Secret(&'static Folder),
    /// Nothing that is known.
    Elsewhere,
}

impl WellKnown {
    /// What `rest`, counted from the mount, is.
    pub(super) fn spot(&self, rest: &BackendPath) -> Spot {
        let rest: Vec<&str> = rest.segments().collect();
        if let Some(folder) = self.folders.iter().find(|folder| folder.secret(&rest)) {
            return Spot::Secret(folder);
        }
        let shown = || self.folders.iter().filter(|folder| !folder.roles.is_empty());
        let next = |below: &[&'static str]| below.get(rest.len()).copied();
        let above: Vec<&str> = shown()
            .filter(|folder| folder.at.starts_with(&rest))
            .filter_map(|folder| next(folder.at))
            .collect();
        if !above.is_empty() {
            return Spot::Above(above);
        }
        let mut here = shown().filter(|folder| folder.at == rest).peekable();
        if let Some(first) = here.peek() {
            let roles = first.roles;
            return Spot::Roles { roles, leaves: here.filter_map(|folder| folder.leaf).collect() };
        }
        let role = rest.split_last().map(|(_, folder)| folder);
        let leaves: Vec<&str> =
            shown().filter(|folder| role == Some(folder.at)).filter_map(|folder| folder.leaf).collect();
        if leaves.is_empty() { Spot::Elsewhere } else { Spot::Leaves(leaves) }
    }
}

impl Folder {
    /// Whether `rest` is a secret in it.
    fn secret(&self, rest: &[&str]) -> bool {
        let Some(below) = rest.strip_prefix(self.at) else { return false };
        match (below, self.leaf) {
            ([_role], None) => true,
            ([_role, leaf], Some(own)) => *leaf == own,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
