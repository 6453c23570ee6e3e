//! Owns listing engines that make secrets: their folders, and the roles in those. Asks for names only, so it makes nothing.
//! Does not know which engine lies where, or how a secret is made.

use super::api::{Api, Call};
use super::engines::{Engine, Kind};
use super::kv;
use super::well_known::{self, Spot};
use crate::backend::{Entry, Error, Listing};
use crate::path::BackendPath;

/// What lies at `rest` below the mount of an engine that makes secrets. A folder without roles is an empty one: Vault answers
/// 404 for it. One whose roles may not be listed is [`Error::Forbidden`]; what is in it can be opened all the same.
pub(super) async fn list(api: &Api, engine: &Engine, rest: &BackendPath) -> Result<Listing, Error> {
    let Kind::Other(kind) = &engine.kind else { return Err(Error::NotFound) };
    let Some(known) = well_known::engine(kind) else { return list_unknown(api, engine, rest).await };
    match known.spot(rest) {
        Spot::Above(names) | Spot::Leaves(names) if names.is_empty() => Err(Error::NotFound),
        Spot::Above(names) => Ok(entries(names, false)),
        Spot::Leaves(names) => Ok(entries(names, true)),
        Spot::Roles { roles, leaves } => roles_of(api, engine, roles, leaves.is_empty()).await,
        Spot::Secret(_) | Spot::Elsewhere => Err(Error::NotFound),
    }
}

/// An engine that is not known is asked for `roles`, as most have them: what it gives is taken for what is in `creds`.
async fn list_unknown(api: &Api, engine: &Engine, rest: &BackendPath) -> Result<Listing, Error> {
    let segments: Vec<&str> = rest.segments().collect();
    let folder = well_known::UNKNOWN;
    let at_mount = segments.is_empty();
    if !at_mount && segments != folder.at {
        return Err(Error::NotFound);
    }
    match roles_of(api, engine, folder.roles, true).await {
        Ok(roles) if at_mount && roles.entries().is_empty() => Ok(roles),
        Ok(_) if at_mount => Ok(entries(folder.at.to_vec(), false)),
        Err(Error::Status(400 | 405)) if at_mount => Ok(Listing::default()),
        Err(Error::Status(400 | 405)) => Err(Error::NotFound),
        answer => answer,
    }
}

async fn roles_of(api: &Api, engine: &Engine, roles: &[&str], secret: bool) -> Result<Listing, Error> {
    let call = Call::list(engine.mount.segments().chain(roles.iter().copied()))?;
    let listing = match api.call(&call).await {
        Ok(body) => kv::listing(&body)?,
        Err(Error::NotFound) => Listing::default(),
        Err(error) => return Err(error),
    };
    // A role is a name, whatever the engine lists besides.
    let names = listing.entries().iter().filter(|entry| entry.secret).map(|entry| entry.name.clone());
    Ok(Listing::new(names.map(|name| Entry { name, secret, folder: !secret }).collect()))
}

fn entries(names: Vec<&str>, secret: bool) -> Listing {
    let entry = |name: &str| Entry { name: name.to_owned(), secret, folder: !secret };
    Listing::new(names.into_iter().map(entry).collect())
}
