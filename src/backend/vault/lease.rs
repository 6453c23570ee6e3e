//! Owns making a lease of Vault longer and ending it, and what the statuses of both mean.
//! Does not know what is leased, or when this is wanted.
//!
//! Vault answers 400 to most that goes wrong with a lease, whatever it is. Measured with Vault 1.21:
//!
//! | a lease that                             | `renew` | `lookup`                        | `revoke` |
//! |------------------------------------------|---------|---------------------------------|----------|
//! | lives                                    | 200     | 200, `ttl` > 0                  | 204      |
//! | never was, has ended, was revoked        | 400     | 400                             | 204      |
//! | was made with a token that was revoked   | 400     | 400                             | 204      |
//! | has ended, but could not be revoked      | 400     | 200, `ttl` < 0, not `renewable` | 400      |
//! | lives and is not renewable               | 400     | 200, not `renewable`            | 204      |
//! | has reached its `max_ttl`, and lives     | 200*    | 200, `ttl` > 0                  | 204      |
//! | has lost its role                        | 400     | 200, `renewable`                | 204      |
//! | cannot be changed, the database is down  | 400     | 200, `renewable`                | 400      |
//!
//! *: `lease_duration` is what is left up to there.

use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::answer;
use super::api::{Api, Call, data};
use crate::backend::Error;
use crate::backend::issuer::LeaseId;
use crate::lease::Grant;

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    ttl: i64,
    #[serde(default)]
    renewable: bool,
}

/// Makes a lease longer, by as much as its role says.
///
/// # Errors
/// [`Error::NotFound`]: it has ended. [`Error::Refused`]: it lives and cannot be renewed. [`Error::Status`] with 400: it lives
/// and could not be renewed now; also where the token may not look (`sys/leases/lookup`, which the default policy allows),
/// since a credential that may be good is not thrown away.
pub(super) async fn renew(api: &Api, lease: &LeaseId) -> Result<Grant, Error> {
    let body = match api.call(&call("renew", &json!({ "lease_id": lease.as_str() }))?).await {
        Err(Error::Status(400)) => return Err(reason(api, lease).await?),
        answer => answer?,
    };
    answer::renewed(&body)
}

/// Why a lease was not renewed.
async fn reason(api: &Api, lease: &LeaseId) -> Result<Error, Error> {
    let body = match api.call(&call("lookup", &json!({ "lease_id": lease.as_str() }))?).await {
        Err(Error::Status(400) | Error::NotFound) => return Ok(Error::NotFound),
        Err(Error::Forbidden) => return Ok(Error::Status(400)),
        answer => answer?,
    };
    let state: State = data(&body)?.ok_or(Error::Malformed("no data about the lease"))?;
    Ok(match state {
        State { ttl: ..=0, .. } => Error::NotFound,
        State { renewable: false, .. } => Error::Refused("the lease cannot be renewed".to_owned()),
        State { .. } => Error::Status(400),
    })
}

/// Ends a lease, and waits until what was leased is gone. One that has ended already is a success to Vault too.
///
/// # Errors
/// [`Error::Refused`]: Vault has tried and failed; it goes on trying by itself when the lease ends.
pub(super) async fn revoke(api: &Api, lease: &LeaseId) -> Result<(), Error> {
    let call = call("revoke", &json!({ "lease_id": lease.as_str(), "sync": true }))?;
    api.call(&call).await.map(drop).map_err(|error| match error {
        Error::Status(400) => Error::Refused(
            "Vault cannot revoke it (HTTP status 400): what it was made in, such as a database, does not answer or refuses"
                .to_owned(),
        ),
        other => other,
    })
}

/// Ends a token by the server's name for it, and all leases that were made with it.
///
/// # Errors
/// [`Error::NotFound`]: there is no such token (any more); Vault says 400 or, older ones, 403 with that.
pub(super) async fn revoke_token(api: &Api, accessor: &str) -> Result<(), Error> {
    let body = Zeroizing::new(json!({ "accessor": accessor }).to_string().into_bytes());
    let call = Call::write(["auth", "token", "revoke-accessor"], body)?;
    match api.call(&call).await {
        Err(Error::Status(400)) => Err(Error::NotFound),
        answer => answer.map(drop),
    }
}

/// The id goes into the body: a path is written to the logs of proxies.
fn call(what: &str, body: &serde_json::Value) -> Result<Call, Error> {
    Call::write(["sys", "leases", what], Zeroizing::new(body.to_string().into_bytes()))
}
