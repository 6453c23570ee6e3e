//! Owns the way from what a user said (SOURCE, options, a configuration file, the environment) to the plan of a mount.
//! Does not know how a mount is made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::failure::Failure;
use super::options::MountOptions;
use super::store_key::KeyOptions;
use crate::access::Permissions;
use crate::backend::issuer::Demand;
use crate::backend::vault::TokenSource;
use crate::backend::{aws, store, vault};
use crate::cache::{DemandId, Limits, SecretRef, SourceId};
use crate::config::{
    BackendSettings, LoginSettings, MountSettings, OnDemandSettings, SecretSettings, Settings, TreeSettings,
};
use crate::daemon::{BackendPlan, Plan};
use crate::freshness::Freshness;
use crate::path::BackendPath;
use crate::tree::promises::{Promise, Promises};
use crate::tree::{Shows, Tree};
use crate::{leases, mounts};

/// An answer is larger than the value in it: JSON escapes, base64, the envelope, other fields of the same secret.
const BODY_FACTOR: usize = 8;

/// SOURCE as settings: one backend, one tree that is the whole mount.
pub(super) fn settings_of(source: &str, key: &KeyOptions) -> Result<Settings, Failure> {
    let usage = || {
        Failure::usage(format!(
            "`{}` is no source: write vault:ENGINE[/PREFIX], aws:[NAME-PREFIX] or store:FILE",
            source.escape_debug()
        ))
    };
    let (kind, rest) = source.split_once(':').ok_or_else(usage)?;
    let path = || {
        BackendPath::parse(rest.strip_prefix('/').filter(|_| kind == "vault").unwrap_or(rest))
            .map_err(|_| usage())
    };
    let (backend, source) = match kind {
        "vault" => {
            let backend = BackendSettings::Vault {
                address: None,
                namespace: None,
                login: LoginSettings::default(),
                ca_cert: None,
                client_timeout: None,
                leases: leases::Limits::default(),
            };
            (backend, path()?)
        }
        "aws" => (BackendSettings::Aws { region: None, profile: None, endpoint_url: None }, path()?),
        "store" if !rest.is_empty() => {
            let file = std::path::absolute(rest)
                .map_err(|error| Failure::cannot("find", Path::new(rest), &error))?;
            let (identity, passphrase_file) = (key.identity.clone(), key.passphrase_file.clone());
            (BackendSettings::Store { file, identity, passphrase_file }, BackendPath::root())
        }
        _ => return Err(usage()),
    };
    let mount = MountSettings::default();
    let tree = TreeSettings {
        path: vec![],
        backend: kind.to_owned(),
        source,
        promise: Promise::default(),
        on_demand: OnDemandSettings::default(),
        mode: mount.mode,
        owner: None,
        group: None,
    };
    let backends = vec![(kind.to_owned(), backend)];
    let trees = vec![tree];
    Ok(Settings { mount, backends, trees, secrets: vec![], freshness: vec![], hooks: vec![] })
}

/// The plan of a mount: settings, with what the command line says on top.
pub(super) fn plan(
    settings: Settings,
    options: &MountOptions,
    source: &str,
    mountpoint: PathBuf,
    environment: &Environment,
) -> Result<Plan, Failure> {
    let mount = settings.mount;
    let deadline = options.deadline.unwrap_or(mount.deadline);
    let max_value_size = usize::try_from(mount.max_value_size).unwrap_or(usize::MAX);
    let bounds = Bounds { deadline, max_body: max_value_size.saturating_mul(BODY_FACTOR) };
    let names: Vec<String> = settings.backends.iter().map(|(name, _)| name.clone()).collect();
    let lease_limits = settings.backends.iter().map(|(_, backend)| lease_limits(backend)).collect();
    let mut backends = Vec::with_capacity(settings.backends.len());
    for (name, backend) in settings.backends {
        let backend = backend_plan(backend, bounds, environment)
            .map_err(|failure| Failure::configuration(format!("backend `{name}`: {failure}")))?;
        backends.push((name, backend));
    }
    let (own_uid, own_gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let freshness = Freshness {
        ttl: options.ttl.unwrap_or(mount.ttl),
        max_stale: options.max_stale.unwrap_or(mount.max_stale),
        negative_ttl: mount.negative_ttl,
    };
    // What is said of a tree or a pattern is more precise than what a command line says of the whole mount.
    let of_trees = settings.trees.iter().map(|tree| tree.promise).collect();
    let promises = Promises::new(freshness, of_trees, settings.freshness)
        .map_err(|bad| Failure::configuration(format!("[[freshness]]: {bad}")))?;
    let mut demands = Demands::default();
    let mut trees = Vec::with_capacity(settings.trees.len() + settings.secrets.len());
    let of_trees = settings.trees.into_iter().map(Place::from);
    // Trees first: the promises are in their order.
    for place in of_trees.chain(settings.secrets.into_iter().map(Place::from)) {
        let known = names.iter().position(|name| *name == place.backend);
        let source = known
            .ok_or_else(|| Failure::configuration("a tree or a secret names a backend that is not there"))?;
        let permissions = Permissions {
            uid: options.uid.or(place.owner).or(mount.uid).unwrap_or(own_uid),
            gid: options.gid.or(place.group).or(mount.gid).unwrap_or(own_gid),
            file_mode: u16::try_from(options.mode.unwrap_or(place.mode)).unwrap_or(0o400),
        };
        let OnDemandSettings { demand, fields, terms } = place.on_demand;
        let source = SourceId::new(source);
        let demand = demands.number(source, demand);
        trees.push(Tree {
            at: place.path,
            root: SecretRef { source, demand, path: place.source, version: None },
            permissions,
            shows: place.shows,
            fields: fields.map(Into::into),
            terms,
        });
    }
    Ok(Plan {
        source: mounts::source_option(source),
        mountpoint,
        allow_other: options.allow_other || mount.allow_other,
        deadline,
        limits: Limits {
            // A reader gets a stale answer well before its deadline.
            patience: Limits::default().patience.min(deadline / 2),
            freshness,
            max_bytes: mount.max_cache,
            max_in_flight: usize::try_from(mount.max_in_flight).unwrap_or(usize::MAX),
            max_rate: mount.max_rate,
        },
        pair_window: mount.pair_window,
        max_value_size,
        backends,
        trees,
        promises,
        demands: demands.into_list(),
        lease_limits,
        hooks: settings.hooks,
        max_crashes: mount.max_crashes,
        watchdog: mount.watchdog,
    })
}

/// What a tree and a secret of a configuration have in common.
struct Place {
    path: Vec<String>,
    backend: String,
    source: BackendPath,
    shows: Shows,
    on_demand: OnDemandSettings,
    mode: u32,
    owner: Option<u32>,
    group: Option<u32>,
}

impl From<TreeSettings> for Place {
    fn from(tree: TreeSettings) -> Self {
        let TreeSettings { path, backend, source, promise: _, on_demand, mode, owner, group } = tree;
        Self { path, backend, source, shows: Shows::Place, on_demand, mode, owner, group }
    }
}

impl From<SecretSettings> for Place {
    fn from(secret: SecretSettings) -> Self {
        let SecretSettings { path, backend, source, on_demand, mode, owner, group } = secret;
        Self { path, backend, source, shows: Shows::Secret, on_demand, mode, owner, group }
    }
}

/// The ways of asking that are not plain, each once for a backend.
#[derive(Default)]
struct Demands(Vec<(SourceId, Demand)>);

impl Demands {
    /// The number of a way of asking: 0 is the plain one, the others count from 1.
    fn number(&mut self, source: SourceId, demand: Demand) -> DemandId {
        if demand == Demand::default() {
            return DemandId::default();
        }
        let asked = (source, demand);
        let at = self.0.iter().position(|known| *known == asked).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push(asked);
        }
        DemandId(u32::try_from(at + 1).unwrap_or(u32::MAX))
    }

    fn into_list(self) -> Vec<Demand> {
        self.0.into_iter().map(|(_, demand)| demand).collect()
    }
}

fn lease_limits(backend: &BackendSettings) -> leases::Limits {
    match backend {
        BackendSettings::Vault { leases, .. } => *leases,
        // Nothing is made there.
        BackendSettings::Aws { .. } | BackendSettings::Store { .. } => leases::Limits::default(),
    }
}

#[derive(Clone, Copy)]
struct Bounds {
    deadline: Duration,
    max_body: usize,
}

fn backend_plan(
    settings: BackendSettings,
    bounds: Bounds,
    environment: &Environment,
) -> Result<BackendPlan, Failure> {
    Ok(match settings {
        BackendSettings::Vault { address, namespace, login, ca_cert, client_timeout, leases: _ } => {
            let mut config = vault::Config::from_environment(|name| std::env::var_os(name))
                .map_err(|error| Failure::configuration(error.to_string()))?;
            if let Some(address) = address {
                config.address = address;
            }
            match login {
                // As the environment says.
                LoginSettings::Token { file: None } => {}
                LoginSettings::Token { file: Some(file) } => config.token = TokenSource::File(file),
                LoginSettings::AppRole(login) => config.token = TokenSource::AppRole(login),
            }
            config.namespace = namespace.or(config.namespace);
            config.ca_cert = ca_cert.or(config.ca_cert);
            config.client_timeout = client_timeout.unwrap_or(config.client_timeout);
            config.deadline = bounds.deadline;
            config.max_body = bounds.max_body;
            BackendPlan::Vault(config)
        }
        BackendSettings::Aws { region, profile, endpoint_url } => {
            let Bounds { deadline, max_body } = bounds;
            BackendPlan::Aws(aws::Config { region, profile, endpoint_url, deadline, max_body })
        }
        BackendSettings::Store { file, identity, passphrase_file } => {
            let key = KeyOptions { identity, passphrase_file }.source(&file, environment)?;
            BackendPlan::Store(store::Config { file, key })
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests;
