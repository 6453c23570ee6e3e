//! Owns what an answer that carries a new secret means: its fields, its lease, and when it ends.
//! Does not know how it was asked for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::certificate::Certificate;
use super::well_known::{Ends, Folder};
use super::{kv, pki};
use crate::backend::Error;
use crate::backend::issuer::{Issued, LeaseId, ParentId};
use crate::backend::json_fields::fields_of_object;
use crate::lease::{Grant, Succession};
use crate::secret::{Form, Secret, Version};

/// How long an answer is kept that says nothing of its end. It has no lease, so it is not known to die; whoever reads on gets
/// what Vault gives a minute later. Then, and not before: nothing is made in advance of what may never be asked for again.
const UNTOLD: Duration = Duration::from_secs(60);
/// The shortest life of what the server changes by itself: it may be late, and says 0 until then.
const SHORTEST: Duration = Duration::from_secs(1);

/// The envelope of every answer of Vault (https://developer.hashicorp.com/vault/api-docs).
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(default)]
    lease_id: String,
    #[serde(default)]
    lease_duration: i64,
    #[serde(default)]
    renewable: bool,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    wrap_info: Option<IgnoredAny>,
    #[serde(default)]
    auth: Option<IgnoredAny>,
}

impl Answer<'_> {
    /// Vault counts in whole seconds, and gives every lease an end: where a role says none, that of the mount or of the system
    /// (`CalculateTTL` in its sdk). So 0 is less than a second, not for ever.
    fn life(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.lease_duration).unwrap_or(0))
    }
}

/// When a secret was asked for, and when it ends if it is a code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// What its life counts from.
    pub(super) at: SystemTime,
    /// When the request went out.
    pub(super) sent: SystemTime,
    /// The end of the period it was asked for in.
    pub(super) period_ends: Option<SystemTime>,
}

/// The secret in `body`, the answer to who asked in `folder`. What has a lease ends with the token that it was made with
/// (`parent`) at the latest; nothing else does.
pub(super) fn issued(body: &[u8], folder: &Folder, asked: Asked, parent: ParentId) -> Result<Issued, Error> {
    let answer = parse(body)?;
    let Some(object) = answer.data else { return Err(Error::Malformed(no_data(&answer))) };
    let mut fields =
        fields_of_object(object.get()).ok_or(Error::Malformed("what was made is not a JSON object"))?;
    if folder.ends == Ends::Certificate {
        pki::complete(&mut fields);
    }
    let secret = Secret { fields, version: Version::default(), created: None, expires: None };
    if answer.lease_id.is_empty() {
        let (life, succession) = end_of(&secret, folder, asked)?;
        let grant = Grant { life: Some(life), renewable: false, succession };
        return Ok(Issued { secret, lease: None, grant, parent: None });
    }
    if answer.life().is_zero() {
        return Err(Error::Malformed("the lease has ended already"));
    }
    let grant =
        Grant { life: Some(answer.life()), renewable: answer.renewable, succession: folder.succession };
    let lease = Some(LeaseId::new(answer.lease_id));
    Ok(Issued { secret, lease, grant, parent: Some(parent) })
}

/// Whether `issued` is about to be changed by the server itself, if that is not overdue.
pub(super) fn is_at_its_end(issued: &Issued, folder: &Folder) -> bool {
    let Ends::In(field) = folder.ends else { return false };
    folder.succession == Succession::AtEnd && number(&issued.secret, field) == Some(0)
}

/// The lease of an answer that is of no use otherwise.
pub(super) fn lease(body: &[u8]) -> Option<LeaseId> {
    parse(body).ok().map(|answer| answer.lease_id).filter(|id| !id.is_empty()).map(LeaseId::new)
}

/// What the answer to a renewal grants: all that is left from then on, be it little.
pub(super) fn renewed(body: &[u8]) -> Result<Grant, Error> {
    let answer = parse(body)?;
    if answer.lease_id.is_empty() {
        return Err(Error::Malformed("no lease in the answer to its renewal"));
    }
    // What cannot be had ahead has no lease, as far as is known.
    Ok(Grant { life: Some(answer.life()), renewable: answer.renewable, succession: Succession::Ahead })
}

fn parse(body: &[u8]) -> Result<Answer<'_>, Error> {
    serde_json::from_slice(body).map_err(|_| Error::Malformed("not the JSON that Vault's API documents"))
}

fn no_data(answer: &Answer<'_>) -> &'static str {
    match (&answer.wrap_info, &answer.auth) {
        (Some(_), _) => "the answer is wrapped, and would have to be unwrapped by hand",
        (None, Some(_)) => "the answer is a login, not a secret",
        (None, None) => "there is nothing in it",
    }
}

/// How long what has no lease is good for, counted from when it was asked for, and when its successor is to be had.
fn end_of(secret: &Secret, folder: &Folder, asked: Asked) -> Result<(Duration, Succession), Error> {
    let until = |end: SystemTime| end.duration_since(asked.at).unwrap_or_default();
    let life = match folder.ends {
        Ends::Untold => None,
        // Rounded down by the server, and counted from before it answered: on the safe side.
        Ends::In(field) => number(secret, field).map(|left| {
            let left = Duration::from_secs(left).max(SHORTEST);
            left.saturating_add(until(asked.sent))
        }),
        Ends::At(field) => time(secret, field).map(|end| until(end).max(SHORTEST)),
        Ends::Certificate => certificate_life(secret, until)?,
        Ends::Period => asked.period_ends.map(until),
    };
    Ok(life.map_or((UNTOLD, Succession::AtEnd), |life| (life, folder.succession)))
}

/// `expiration` is a time of the server's clock, and who uses a certificate judges it by his own: here that is ours. A clock of
/// ours that is slow would serve it for longer than it is valid: never for longer than it was made for, says the certificate.
/// One that is fast by more than its whole life would end it before it begins: that is refused and not papered over, since every
/// program on this machine would refuse it as well.
fn certificate_life(
    secret: &Secret,
    until: impl Fn(SystemTime) -> Duration,
) -> Result<Option<Duration>, Error> {
    let Some(end) = time(secret, "expiration") else { return Ok(None) };
    let certificate = secret.field("certificate").and_then(|field| field.value.expose_str());
    let validity = certificate.and_then(Certificate::of_pem).map(|certificate| certificate.validity);
    let life = until(end).min(validity.unwrap_or(Duration::MAX));
    if life.is_zero() {
        return Err(Error::Refused(
            "the certificate has ended already by the clock of this machine: set that, or the server's"
                .to_owned(),
        ));
    }
    Ok(Some(life))
}

fn number(secret: &Secret, name: &str) -> Option<u64> {
    secret.field(name)?.value.expose_str()?.parse().ok()
}

fn time(secret: &Secret, name: &str) -> Option<SystemTime> {
    let field = secret.field(name)?;
    match field.form {
        Form::Json => UNIX_EPOCH.checked_add(Duration::from_secs(number(secret, name)?)),
        Form::Text => kv::parse_time(field.value.expose_str()?),
    }
}

#[cfg(test)]
mod tests;
