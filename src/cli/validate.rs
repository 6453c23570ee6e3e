//! Owns `secretfs validate`: a configuration file, checked as far as asked.
//! Does not know how a backend is reached.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::failure::Failure;
use super::options::MountOptions;
use super::plan::plan;
use crate::daemon;
use crate::tree::Shows;

/// Where the packages put it.
const DEFAULT_FILE: &str = "/etc/secretfs/config.toml";

/// `secretfs validate`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Also ask every backend for the root of its trees; no secret is made
    #[arg(long)]
    connect: bool,
}

/// Reads the file and everything it names; with `--connect` asks the backends too. No secret is made.
pub(super) fn run(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    let file = &arguments.config;
    let settings = super::mount::load(file)?;
    let mountpoint = settings.mount.mountpoint.clone().unwrap_or_default();
    let plan =
        plan(settings, &MountOptions::default(), &file.display().to_string(), mountpoint, environment)?;
    let backends = plan.backends.len();
    let secrets = plan.trees.iter().filter(|tree| tree.shows == Shows::Secret).count();
    let trees = plan.trees.len() - secrets;
    let mut answers = Vec::new();
    for check in daemon::check(plan, arguments.connect)? {
        answers.push(format!("/{}: {}", check.tree.join("/"), check.outcome));
        if !check.good {
            return Err(Failure::configuration(format!("{}: {}", file.display(), answers.join("; "))));
        }
    }
    let on_demand = if secrets == 0 { String::new() } else { format!(", {secrets} secrets made on demand") };
    let counts = format!("{}: {backends} backends, {trees} trees{on_demand}, no mistake found", shown(file));
    let text = answers.into_iter().chain([counts]).fold(String::new(), |text, line| text + &line + "\n");
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::io(format!("cannot print: {error}")))
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}
