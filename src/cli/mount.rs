//! Owns `secretfs mount`: its arguments, and the way from them to a running mount.
//! Does not know how a mount is made or served.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::background;
use super::environment::Environment;
use super::failure::Failure;
use super::hidden;
use super::options::MountOptions;
use super::plan::{plan, settings_of};
use super::store_key::KeyOptions;
use crate::backend::store::KeySource;
use crate::config::units;
use crate::daemon::{self, BackendPlan, Handed, Left, Plan, WorkerCommand};
use crate::{config, mounts};

/// `secretfs mount SOURCE MOUNTPOINT`, `secretfs mount --config FILE [MOUNTPOINT]`.
#[derive(clap::Args)]
#[command(
    override_usage = "secretfs mount [OPTIONS] SOURCE MOUNTPOINT\n       secretfs mount [OPTIONS] --config FILE [MOUNTPOINT]"
)]
pub(super) struct Arguments {
    /// SOURCE (vault:ENGINE[/PREFIX], aws:[NAME-PREFIX] or store:FILE) and MOUNTPOINT
    #[arg(value_name = "SOURCE MOUNTPOINT", num_args = 0..=2)]
    places: Vec<String>,
    /// Several backends in one tree, from a file (docs/configuration.md)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Return when the mount is ready, and serve in the background
    #[arg(short, long)]
    daemon: bool,
    /// Mount options: allow_other, uid=, gid=, mode= (of files), ttl=, max_stale=, deadline=
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// How long a value is served without asking the backend again [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
    /// How much longer it is served while the backend does not answer; 0 for not at all [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration_or_zero)]
    max_stale: Option<Duration>,
    /// How long a program waits for a backend at most [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Duration>,
    /// What opens a store:FILE
    #[command(flatten)]
    key: KeyOptions,
    /// Say on standard output when the mount is ready, then leave the terminal: what --daemon starts
    #[arg(long, hide = true)]
    announce: bool,
}

/// Mounts and serves, here or in the background.
pub(super) fn run(arguments: Arguments, environment: &Environment) -> Result<(), Failure> {
    let announce = arguments.announce;
    // As they stand after the command: --announce outdoes a --daemon among them, however it is spelled (`-d`, `-do ro`).
    let words: Vec<OsString> = std::env::args_os().skip(2).collect();
    if arguments.daemon && !announce {
        return background::start(OsStr::new("mount"), words);
    }
    // Before anything is opened that could take the place of what is kept.
    let mut left = Left::take();
    let file = arguments.config.clone();
    let text = file.as_deref().map(config::text_of).transpose();
    let text = text.map_err(|invalid| Failure::problems(&invalid.to_string()))?;
    let plan = planned(arguments, text.as_deref(), environment)?;
    let mut folder = std::env::current_dir()
        .map_err(|error| Failure::io(format!("cannot find the current folder: {error}")))?;
    let is_hidden = if left.is_at(&plan.mountpoint) {
        // Not looked at: whoever looks waits for us.
        left.hides(&folder)
    } else {
        left.give_up_mount();
        let at = check_mountpoint(&plan.mountpoint)?;
        hidden::refuse(&plan, file.as_deref(), &at, |name| std::env::var_os(name))?;
        hidden::hides(&at, &folder)
    };
    if is_hidden {
        // Nothing is named from here: what the mount hides it does not need.
        folder = PathBuf::from("/");
    }
    let mut handed = Handed::new(text);
    for (_, backend) in &plan.backends {
        if let BackendPlan::Store(store) = backend
            && let KeySource::Passphrase(typed) = &store.key
        {
            handed.add_passphrase(store.file.clone(), typed);
        }
    }
    let command = WorkerCommand::of_this_program(words, folder)
        .map_err(|error| Failure::io(format!("cannot find this program's own file: {error}")))?;
    daemon::hold(plan, left, &handed, command, || if announce { background::announce() } else { Ok(()) })
        .map_err(Into::into)
}

/// Serves a mount that another process of this program holds: what `secretfs mount` with the same arguments starts.
pub(super) fn work(arguments: Arguments, environment: &Environment) -> Result<(), Failure> {
    let called = daemon::called().map_err(|why| Failure::usage(why.to_string()))?;
    let mut environment = environment.clone();
    environment.passphrases =
        called.handed.passphrases().map(|(store, typed)| (store, typed.into())).collect();
    let plan = planned(arguments, called.handed.config.as_deref(), &environment)?;
    daemon::work(plan, called).map_err(Into::into)
}

/// `text` is that of the configuration file, where one is named.
fn planned(arguments: Arguments, text: Option<&str>, environment: &Environment) -> Result<Plan, Failure> {
    let mut options = MountOptions::parse(&arguments.options)?;
    options.ttl = arguments.ttl.or(options.ttl);
    options.max_stale = arguments.max_stale.or(options.max_stale);
    options.deadline = arguments.deadline.or(options.deadline);
    let (settings, source, mountpoint) = match (&arguments.config, arguments.places.as_slice()) {
        (Some(file), places @ ([] | [_])) => {
            let settings = settings(text.unwrap_or_default(), file)?;
            let named = places.first().map(PathBuf::from).or_else(|| settings.mount.mountpoint.clone());
            let nowhere = || {
                Failure::usage(format!(
                    "no mountpoint: name it after --config, or set `mountpoint` in [mount] of {}",
                    file.display()
                ))
            };
            (settings, file.display().to_string(), named.ok_or_else(nowhere)?)
        }
        (Some(_), _) => return Err(Failure::usage("with --config only the mountpoint is named, no SOURCE")),
        (None, [source, mountpoint]) => {
            (settings_of(source, &arguments.key)?, source.clone(), PathBuf::from(mountpoint))
        }
        (None, _) => {
            return Err(Failure::usage(
                "say what to mount and where: secretfs mount SOURCE MOUNTPOINT, or secretfs mount --config FILE",
            ));
        }
    };
    plan(settings, &options, &source, mountpoint, environment)
}

/// Reads a configuration; its warnings go to the log, all its mistakes into the failure.
pub(super) fn load(file: &Path) -> Result<config::Settings, Failure> {
    let text = config::text_of(file).map_err(|invalid| Failure::problems(&invalid.to_string()))?;
    settings(&text, file)
}

fn settings(text: &str, file: &Path) -> Result<config::Settings, Failure> {
    let loaded = config::parse(text, file).map_err(|invalid| Failure::problems(&invalid.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.settings)
}

/// That a mount can be made there; the place without links.
fn check_mountpoint(at: &Path) -> Result<PathBuf, Failure> {
    match at.metadata() {
        Ok(found) if !found.is_dir() => {
            return Err(Failure::usage(format!("{} is not a directory: a mount needs one", at.display())));
        }
        Ok(_) => {}
        // The second is what one hears who has asked just before.
        Err(error) if [ErrorKind::NotConnected, ErrorKind::ConnectionAborted].contains(&error.kind()) => {
            replace_gone(at)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let at = at.display();
            return Err(Failure::no_input(format!("there is no directory {at} to mount on: make it first")));
        }
        Err(error) => return Err(Failure::cannot("mount on", at, &error)),
    }
    let at = at.canonicalize().map_err(|error| Failure::cannot("mount on", at, &error))?;
    let mounted =
        mounts::ours().map_err(|error| Failure::io(format!("cannot read the mount table: {error}")))?;
    if mounted.iter().any(|mount| mount.at == at) {
        // The kernel may still hold attributes of a program that is gone; this it always asks the program.
        if rustix::fs::statfs(&at).is_err_and(|error| error == rustix::io::Errno::NOTCONN) {
            return replace_gone(&at).map(|()| at);
        }
        return Err(Failure::usage(format!(
            "{} is a mount of secretfs already: unmount it first",
            at.display()
        )));
    }
    Ok(at)
}

/// Takes a dead mount away where nobody else will: a service manager starts us again and again, and asks nobody.
fn replace_gone(at: &Path) -> Result<(), Failure> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Err(gone(at));
    }
    let whole = std::path::absolute(at).unwrap_or_else(|_| at.to_owned());
    tracing::warn!(mountpoint = %at.display(), "a mount whose program is gone is in its place: it is taken away");
    mounts::unmount(&whole, true).map_err(|error| Failure::cannot("unmount", at, &error))
}

fn gone(at: &Path) -> Failure {
    let at = at.display();
    Failure::usage(format!("{at} is a mount whose program is gone: run `secretfs unmount {at}` first"))
}

fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|bad| bad.to_string())
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    units::duration_or_zero(text).map_err(|bad| bad.to_string())
}
