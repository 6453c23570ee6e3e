//! Owns the command line: what is asked for, and the exit code.
//! Does not know how a command does its work.

mod dotenv;
mod edit;
pub mod environment;
mod failure;
mod import;
mod key_values;
mod show;
pub mod store;
mod store_key;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "secretfs", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Keep secrets in one encrypted file
    #[command(subcommand)]
    Store(store::Command),
}

/// Runs what the arguments of the process ask for.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            let _ = writeln!(std::io::stderr(), "secretfs: {}", text.lines().next().unwrap_or("wrong usage"));
            return ExitCode::from(64);
        }
    };
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("SECRETFS_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Command::Store(command) = arguments.command;
    match store::run(command, &environment::Environment::of_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "secretfs: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
