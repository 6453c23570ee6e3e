//! Owns the command line: what is asked for, and the exit code.
//! Does not know how a command does its work.

mod asking;
mod background;
mod demo;
mod dotenv;
mod edit;
pub mod environment;
mod explain;
mod failure;
mod flush;
mod helper;
mod hidden;
mod import;
mod in_mount;
mod key_values;
mod logging;
mod mount;
mod options;
mod output;
mod plan;
mod refresh;
mod revoke;
mod show;
mod status;
pub mod store;
mod store_key;
mod unmount;
mod upgrade;
mod validate;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use environment::Environment;
use failure::Failure;

/// Shows secrets from Vault, OpenBao, AWS Secrets Manager and an encrypted store as plain files
#[derive(Parser)]
#[command(name = "secretfs", version, max_term_width = 100, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Mount secrets on a directory
    Mount(mount::Arguments),
    /// Serve a mount that another process holds: what `mount` starts
    #[command(hide = true)]
    Worker(mount::Arguments),
    /// Exchange the program that serves a mount for the one that is installed by now; no reader notices, the
    /// configuration stays
    Upgrade(upgrade::Arguments),
    /// Unmount
    #[command(alias = "umount")]
    Unmount(unmount::Arguments),
    /// Check a configuration file
    Validate(validate::Arguments),
    /// Say who serves a path in a mount, or why it cannot be read; never the value
    Explain(explain::Arguments),
    /// Say how mounts are: backends, what is held, what went wrong; never a value
    Status(status::Arguments),
    /// Ask the backend for new values now, and say when they are visible
    Refresh(refresh::Arguments),
    /// End the leases of secrets that are made on demand, now
    Revoke(revoke::Arguments),
    /// Wipe every value that a mount holds, but for those with a lease
    Flush(flush::Arguments),
    /// Keep secrets in one encrypted file
    #[command(subcommand)]
    Store(store::Command),
    /// Try it: a store, a mount, a change, and nothing left behind
    Demo(demo::Arguments),
}

/// Runs what the arguments of the process ask for.
pub fn run() -> ExitCode {
    // First of all: no core file, no reader of our memory, whatever the command.
    logging::start();
    crate::daemon::harden();
    let mut words = std::env::args_os();
    if helper::is_meant(words.next().as_deref()) {
        return match helper::run(words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(&failure, helper::exit_code(&failure)),
        };
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let failure = Failure::usage(usage(&error));
            return fail(&failure, failure.code());
        }
    };
    let environment = Environment::of_process();
    let result = match arguments.command {
        Command::Mount(arguments) => mount::run(arguments, &environment),
        Command::Worker(arguments) => mount::work(arguments, &environment),
        Command::Upgrade(arguments) => upgrade::run(&arguments),
        Command::Unmount(arguments) => unmount::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments, &environment),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Refresh(arguments) => refresh::run(&arguments),
        Command::Revoke(arguments) => revoke::run(&arguments),
        Command::Flush(arguments) => flush::run(&arguments),
        Command::Store(command) => store::run(command, &environment),
        Command::Demo(arguments) => demo::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure, failure.code()),
    }
}

fn fail(failure: &Failure, code: u8) -> ExitCode {
    for line in failure.to_string().lines() {
        let _ = writeln!(std::io::stderr(), "secretfs: {line}");
    }
    ExitCode::from(code)
}

/// What is wrong in one line, from clap's several: its first sentence, what is missing, and its tip.
fn usage(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "say what to do: `secretfs --help` lists the commands".to_owned();
    }
    let text = error.to_string();
    let ends = |line: &str| line.starts_with("Usage:") || line.starts_with("For more information");
    let lines =
        text.lines().map(|line| line.trim().trim_start_matches("error: ")).take_while(|line| !ends(line));
    let sentence =
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    format!("{sentence}; see `secretfs --help`")
}
