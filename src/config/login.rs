//! Owns how a Vault backend gets its token: the keys of a login, and that they fit together.
//! Does not know how a login is made.

use std::path::PathBuf;

use super::reader::Section;
use super::shape::{At, hint, list};
use super::{Reading, units};
use crate::backend::vault::{AppRole, RoleId, SecretId};

const METHODS: [&str; 2] = ["token", "approle"];
/// What goes with `auth = "approle"` only.
const OF_APPROLE: [&str; 5] =
    ["auth_mount", "role_id", "role_id_file", "secret_id_file", "secret_id_wrapped"];
/// Where Vault mounts AppRole unless told otherwise.
const DEFAULT_MOUNT: &str = "approle";

/// How a Vault backend gets its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginSettings {
    /// It is given one.
    Token {
        /// A file with the token, which nobody else can write; `None`: as the environment says.
        file: Option<PathBuf>,
    },
    /// It logs in; the files are absolute, and nobody else can write them.
    AppRole(AppRole),
}

impl Default for LoginSettings {
    fn default() -> Self {
        Self::Token { file: None }
    }
}

impl<'a> Reading<'a> {
    /// The login of a backend; what is wrong is noted.
    pub(super) fn login(&self, section: &Section<'a>) -> Option<LoginSettings> {
        let token_file = self.credential_file(section, "token_file");
        // All are read, whatever `auth` says: a mistake in one is told at once.
        let mount = section.parsed("auth_mount", units::auth_mount).map(|found| found.value);
        let role_id = section.filled("role_id").map(|found| RoleId::Literal(found.value.to_owned()));
        let role_id_file = self.credential_file(section, "role_id_file").map(RoleId::File);
        let secret_id_file = self.credential_file(section, "secret_id_file");
        let wrapped = section.switch("secret_id_wrapped").unwrap_or(false);
        if !self.is_approle(section)? {
            for name in OF_APPROLE {
                if let Some(at) = section.place_of(name) {
                    section.refuse(name, at, "this goes with `auth = \"approle\"`; add that, or remove this");
                }
            }
            return Some(LoginSettings::Token { file: token_file });
        }
        if let Some(at) = section.place_of("token_file") {
            section.refuse(
                "token_file",
                at,
                "with `auth = \"approle\"` a login gives the token; remove one of the two",
            );
        }
        match (section.place_of("role_id"), section.place_of("role_id_file")) {
            (None, None) => {
                section.note("`auth = \"approle\"` needs to know the role; add `role_id` or `role_id_file`")
            }
            (Some(_), Some(at)) => {
                section.refuse(
                    "role_id_file",
                    at,
                    "the role is in `role_id` or in a file; remove one of the two",
                );
            }
            _ => {}
        }
        if let (Some(at), false) = (section.place_of("secret_id_wrapped"), section.has("secret_id_file")) {
            section.refuse(
                "secret_id_wrapped",
                at,
                "this goes with `secret_id_file`; add that, or remove this",
            );
        }
        Some(LoginSettings::AppRole(AppRole {
            mount: mount.unwrap_or_else(|| DEFAULT_MOUNT.to_owned()),
            role_id: role_id.or(role_id_file)?,
            secret_id: secret_id_file.map(|file| SecretId { file, wrapped }),
        }))
    }

    /// Whether `auth` asks for a login by AppRole; `None` when it says something that is not known.
    fn is_approle(&self, section: &Section<'a>) -> Option<bool> {
        if !section.has("auth") {
            return Some(false);
        }
        let At { at, value } = section.filled("auth")?;
        if !METHODS.contains(&value) {
            let hint = hint(value, &METHODS);
            section.refuse("auth", at, format_args!("expected one of {}; {hint}", list(&METHODS)));
            return None;
        }
        Some(value == "approle")
    }
}

#[cfg(test)]
mod tests;
