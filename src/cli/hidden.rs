//! Owns the rule that a mount hides nothing that its own program needs: what is needed, and whether it lies below the
//! mountpoint. Does not know how any of it is used.
//!
//! The program would look for such a file in the mount, and the mount would ask the program: a circle that ends at a deadline,
//! at best. So every name on the way to a file counts, those of links too.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::failure::Failure;
use crate::backend::store::KeySource;
use crate::backend::vault::{AppRole, RoleId, TokenSource};
use crate::daemon::{BackendPlan, Plan};
use crate::hooks::{self, Action};
use crate::{control, mounts};

/// Links that are followed on the way to one file; the kernel follows no more (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Something that the program opens while it serves, or when it is started again.
#[derive(Debug, PartialEq, Eq)]
struct Need {
    path: PathBuf,
    /// Who says so: the setting, where there is one.
    because: String,
    /// What can be done beside mounting somewhere else; empty: nothing.
    instead: &'static str,
}

const MOVE: &str = ", or move the file and name its new place";
const SET: &str = ", or set the variable to another place";
const NOTHING: &str = "";

/// Refuses a plan whose mount would lie over something that it needs itself. `at` is the mountpoint, without links; `file` the
/// configuration that the plan is from.
pub(super) fn refuse(
    plan: &Plan,
    file: Option<&Path>,
    at: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(), Failure> {
    let mut needs = of_the_program(file);
    for (name, backend) in &plan.backends {
        needs.extend(of_backend(name, backend, &Variables(&variable)));
    }
    needs.extend(plan.hooks.iter().filter_map(of_hook));
    let mountpoint = Mountpoint::look(at)?;
    let hidden = needs.iter().find_map(|need| Some((need, mountpoint.met_on_the_way(&need.path)?)));
    let Some((Need { path, because, instead }, met)) = hidden else { return Ok(()) };
    let also = if met == at { String::new() } else { format!(" (seen also at {})", met.display()) };
    let (at, path) = (at.display(), path.display());
    Err(Failure::usage(format!(
        "the mount on {at}{also} would hide {path} from its own program, which needs it: {because}; mount somewhere else{instead}"
    )))
}

/// What every mount needs.
fn of_the_program(file: Option<&Path>) -> Vec<Need> {
    let of_file = file.map(|file| need(file, "the configuration (--config)", MOVE));
    let of_socket = control::folder().map(|folder| need(folder, "the folder of the control socket", NOTHING));
    let [out, err] = [(rustix::stdio::stdout(), 1, "output"), (rustix::stdio::stderr(), 2, "error")].map(
        |(descriptor, number, which)| {
            let log = log_file(descriptor, number)?;
            Some(need(
                log,
                &format!("standard {which}, where the log goes"),
                ", or redirect it to another file",
            ))
        },
    );
    let system = ["/proc/self/mountinfo", "/dev/fuse"].map(|file| need(file, "the system's own", NOTHING));
    of_file.into_iter().chain(of_socket).chain(out).chain(err).chain(system).collect()
}

/// The file that an output is redirected to; nothing for a terminal, a pipe, a socket or a device.
fn log_file(descriptor: BorrowedFd<'_>, number: u32) -> Option<PathBuf> {
    let found = rustix::fs::fstat(descriptor).ok()?;
    let is_file = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::RegularFile;
    is_file.then(|| std::fs::read_link(format!("/proc/self/fd/{number}")).ok()).flatten()
}

fn of_hook(hook: &hooks::Config) -> Option<Need> {
    let (path, key) = match &hook.action {
        Action::Exec { program, .. } => (program, "exec"),
        Action::Signal { pid_file, .. } => (pid_file, "pid_file"),
        Action::SignalUnit { .. } | Action::Reload { .. } => return None,
    };
    Some(need(path, &format!("`{key}` of a [[hook]]"), MOVE))
}

fn of_backend(name: &str, backend: &BackendPlan, variables: &Variables<'_>) -> Vec<Need> {
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

fn need(path: impl Into<PathBuf>, because: &str, instead: &'static str) -> Need {
    Need { path: path.into(), because: because.to_owned(), instead }
}

/// What the environment says of places.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

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

/// The folder that is to be covered, and how it is known again under another name.
struct Mountpoint {
    at: PathBuf,
    identity: (u64, u64),
    location: Option<mounts::Location>,
    table: mounts::Table,
}

impl Mountpoint {
    fn look(at: &Path) -> Result<Self, Failure> {
        let found = at.metadata().map_err(|error| Failure::cannot("mount on", at, &error))?;
        let table = mounts::Table::read()
            .map_err(|error| Failure::io(format!("cannot read the mount table: {error}")))?;
        let location = table.location(at);
        Ok(Self { at: at.to_owned(), identity: identity(&found), location, table })
    }

    /// The first folder on the way to `path` that will be covered, is another name of such a one, or shows a part of it by a
    /// bind mount (which, made anew, would show a part of the mount).
    fn met_on_the_way(&self, path: &Path) -> Option<PathBuf> {
        let is_met = |folder: &PathBuf| {
            let same = folder.symlink_metadata().is_ok_and(|found| identity(&found) == self.identity);
            let below = || Some(self.table.location(folder)?.is_in(self.location.as_ref()?));
            *folder == self.at || same || below().unwrap_or(false)
        };
        way(path).into_iter().find(is_met)
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Every folder that the kernel looks into on its way to `path`, and the end, each without links. What is not there yet is taken
/// for what it will be, a folder or a file.
fn way(path: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ahead = reversed(&absolute);
    let mut here = PathBuf::from("/");
    let mut way = vec![here.clone()];
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        match Path::new(&name).components().next() {
            Some(Component::RootDir) => here = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(here.pop()),
            Some(Component::Normal(name)) => match std::fs::read_link(here.join(name)) {
                Ok(_) if links == MOST_LINKS => break,
                Ok(target) => {
                    links += 1;
                    ahead.extend(reversed(&target));
                }
                // No link, or not there.
                Err(_) => {
                    here.push(name);
                    way.push(here.clone());
                }
            },
            _ => {}
        }
    }
    way
}

fn reversed(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|component| OsStr::to_owned(component.as_os_str())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
