//! Owns a login by AppRole: its ids from their files, a wrapped secret id that is unwrapped once, the login itself.
//! Does not know when to log in, or how often.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::facts::{Login, granted};
use super::file;
use crate::backend::Error;
use crate::backend::vault::api::{Call, data, header_text};
use crate::backend::vault::config::{AppRole, RoleId, SecretId};
use crate::backend::vault::wire::Wire;
use crate::secret::SecretBytes;

const GONE: &str = "the wrapped secret id was unwrapped already, or its time was over: somebody else may have it; revoke it, and \
                    put a newly wrapped one into its file";
const ELSEWHERE: &str = "what wraps the secret id was not made by `auth/MOUNT/role/ROLE/secret-id` of this login: somebody may \
                         have exchanged it; put a newly wrapped one into its file, and find out who wrote this one";

const NO_TOKEN: &str = "what is in the file of the wrapped secret id is no wrapping token: put the one into it that \
                        `vault write -wrap-ttl=... -f auth/MOUNT/role/ROLE/secret-id` gives";

/// Why a login failed.
pub(super) enum Failure {
    /// For good, until the file of the secret id holds something else. Asks no server.
    Spoiled(Error),
    /// The server says no, to what is configured.
    Refused(Error),
    /// No answer that tells.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A wrapped secret id, and what came of it.
pub(super) struct Unwrapped {
    /// What the file held. It is of no use to anybody any more.
    pub(super) content: SecretBytes,
    /// The secret id; or why there is none, for as long as the file holds the same.
    pub(super) outcome: Result<SecretBytes, Error>,
}

#[derive(Serialize)]
struct Ids<'a> {
    role_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
}

/// Logs in. The files are read each time; `unwrapped` remembers a wrapped secret id from one time to the next.
pub(super) async fn log_in(
    wire: &Wire,
    role: &AppRole,
    unwrapped: &mut Option<Unwrapped>,
) -> Result<Login, Failure> {
    let role_id = match &role.role_id {
        RoleId::Literal(id) => SecretBytes::from(id.trim().to_owned()),
        RoleId::File(path) => file::must_read(path, "role id").await?,
    };
    let plain;
    let secret_id = match &role.secret_id {
        None => None,
        Some(SecretId { file, wrapped: false }) => {
            plain = file::must_read(file, "secret id").await?;
            plain.expose_str()
        }
        Some(SecretId { file, wrapped: true }) => {
            let content = file::must_read(file, "wrapped secret id").await?;
            unwrap_once(wire, &role.mount, content, unwrapped).await?.expose_str()
        }
    };
    let ids = Ids { role_id: role_id.expose_str().unwrap_or_default(), secret_id };
    let call = Call::write(in_auth(&role.mount).chain(["login"]), json(&ids)?)?;
    let body = match wire.send_within(&call, &wire.middleware(String::new())).await {
        Ok(body) => body,
        Err(no_body) => return Err(refusal(no_body.error)),
    };
    Ok(granted(&body)?)
}

fn in_auth(mount: &str) -> impl Iterator<Item = &str> {
    ["auth"].into_iter().chain(mount.split('/').filter(|segment| !segment.is_empty()))
}

fn json(body: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Error> {
    serde_json::to_vec(body).map(Zeroizing::new).map_err(|_| Error::Malformed("a login cannot be written"))
}

fn refusal(error: Error) -> Failure {
    let why = match error {
        Error::Status(400) => "HTTP status 400: the role id or the secret id is wrong, used up or over",
        Error::Forbidden => {
            "HTTP status 403: there is no such auth method, or it does not take this login from here"
        }
        Error::NotFound => "HTTP status 404: there is no such auth method",
        other => return Failure::Failed(other),
    };
    Failure::Refused(Error::Unreachable(format!("the login by AppRole is refused ({why})")))
}

/// The secret id that `content` wraps. Unwrapping works once, and that it works is the proof that nobody else has done it; so
/// one content is never tried again after the server has said no.
async fn unwrap_once<'a>(
    wire: &Wire,
    mount: &str,
    content: SecretBytes,
    unwrapped: &'a mut Option<Unwrapped>,
) -> Result<&'a SecretBytes, Failure> {
    let outcome = match unwrapped.take().filter(|known| known.content.expose() == content.expose()) {
        Some(known) => known.outcome,
        None => match unwrap(wire, mount, &content).await {
            Ok(secret_id) => Ok(secret_id),
            Err(Failure::Spoiled(error)) => {
                tracing::error!(server = wire.transport.origin(), "no login: {error}");
                Err(error)
            }
            Err(failure) => return Err(failure),
        },
    };
    match &unwrapped.insert(Unwrapped { content, outcome }).outcome {
        Ok(secret_id) => Ok(secret_id),
        Err(error) => Err(Failure::Spoiled(error.clone())),
    }
}

#[derive(Serialize)]
struct Wrapping<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    creation_path: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Inside<'a> {
    #[serde(borrow)]
    secret_id: Cow<'a, str>,
}

async fn unwrap(wire: &Wire, mount: &str, content: &SecretBytes) -> Result<SecretBytes, Failure> {
    let spoiled = |why: &str| Failure::Spoiled(Error::Unreachable(why.to_owned()));
    let Some(token) = header_text(content.expose()) else { return Err(spoiled(NO_TOKEN)) };
    let ask = async |what, body, middleware| {
        let call = Call::write(["sys", "wrapping", what], body)?;
        match wire.send_within(&call, &middleware).await {
            Ok(body) => Ok(body),
            // Vault: 400, "wrapping token is not valid or does not exist".
            Err(no_body) => Err(match no_body.error {
                Error::Status(400) | Error::Forbidden | Error::NotFound => spoiled(GONE),
                other => Failure::Failed(other),
            }),
        }
    };
    let lookup = json(&Wrapping { token: &token })?;
    let body = ask("lookup", lookup, wire.middleware(String::new())).await?;
    let wrapped: Wrapped<'_> = data(&body)?.ok_or(Error::Malformed("no data about what is wrapped"))?;
    if !is_secret_id_of(mount, wire.namespace.as_deref(), &wrapped.creation_path) {
        return Err(spoiled(ELSEWHERE));
    }
    // With itself for a token: one that is named in the body takes another token to ask with.
    let body = ask("unwrap", Zeroizing::new(b"{}".to_vec()), wire.middleware(token)).await?;
    // It is used up now, whatever it was.
    let inside = data::<Inside<'_>>(&body).ok().flatten();
    let inside = inside.filter(|inside| !inside.secret_id.is_empty()).ok_or_else(|| spoiled(ELSEWHERE))?;
    Ok(SecretBytes::from(inside.secret_id.into_owned()))
}

/// Whether `path` is `auth/MOUNT/role/ROLE/secret-id`, with the namespace before it or not.
fn is_secret_id_of(mount: &str, namespace: Option<&str>, path: &str) -> bool {
    let inner = namespace.and_then(|namespace| path.strip_prefix(namespace)?.strip_prefix('/'));
    let mount: Vec<&str> = in_auth(mount).collect();
    inner.into_iter().chain([path]).any(|path| {
        let segments: Vec<&str> = path.split('/').collect();
        match segments.strip_prefix(mount.as_slice()) {
            Some(["role", role, "secret-id"]) => !role.is_empty(),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_secret_id_of_this_login_is_unwrapped() {
        let is = |path| is_secret_id_of("approle", Some("team/a"), path);
        assert!(is("auth/approle/role/web/secret-id") && is("team/a/auth/approle/role/web/secret-id"));
        for other in [
            "auth/approle/role/web/custom-secret-id",
            "auth/other/role/web/secret-id",
            "auth/approle/role//secret-id",
            "auth/approle/role/a/b/secret-id",
            "team/b/auth/approle/role/web/secret-id",
            "auth/approle/role/web/secret-id/",
            "sys/wrapping/wrap",
            "cubbyhole/auth/approle/role/web/secret-id",
            "",
        ] {
            assert!(!is(other), "{other}");
        }
        assert!(is_secret_id_of("org/machines", None, "auth/org/machines/role/web/secret-id"));
    }
}
