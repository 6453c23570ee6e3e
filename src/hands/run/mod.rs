//! Owns doing what a hook says: a program, a signal, a reload.
//! Does not know when, or who wants it.

mod output;
mod pid_file;
mod program;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::sync::watch;

use super::job::{Action, Job, Signal, User};
use super::message::Outcome;
use crate::trusted_file;
use program::Told;

/// Where programs of a hook look for others; ours is not passed on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where systemd puts it. No PATH decides which program is run as our user.
const SYSTEMCTL: [&str; 2] = ["/usr/bin/systemctl", "/bin/systemctl"];

/// What a program is told, in its environment.
pub(super) struct News<'a> {
    pub(super) mountpoint: &'a OsStr,
    /// Whole paths, one a line.
    pub(super) paths: OsString,
    /// Whether there were more.
    pub(super) truncated: bool,
}

/// Runs the hook once. What its program prints goes to the log as `what`.
pub(super) async fn act(job: &Job, what: &str, news: News<'_>, stop: &mut watch::Receiver<bool>) -> Outcome {
    let command = match &job.action {
        Action::Exec { program, arguments, user } => {
            exec(program, arguments, *user).await.map(|mut command| {
                command.env("SECRETFS_MOUNT", news.mountpoint).env("SECRETFS_PATHS", news.paths);
                if news.truncated {
                    command.env("SECRETFS_PATHS_TRUNCATED", "1");
                }
                command
            })
        }
        Action::Signal { signal, pid_file } => return send(pid_file.clone(), *signal).await,
        // systemd 252 calls the option --kill-whom, and takes the name it had before as the beginning of that.
        Action::SignalUnit { signal, unit } => {
            systemctl(&["kill", "--kill-who=main", "--signal", signal.name(), "--", unit])
        }
        Action::Reload { unit } => systemctl(&["reload", "--", unit]),
    };
    match command {
        Ok(command) => run(command, job, what, stop).await,
        Err(text) => Outcome::failure(text),
    }
}

async fn run(command: Command, job: &Job, what: &str, stop: &mut watch::Receiver<bool>) -> Outcome {
    let mut log = |line: &str| {
        if job.log_output {
            tracing::info!(hook = what, "{line}");
        }
    };
    match program::run(command, job.timeout, stop, &mut log).await {
        Ok(ended) => Outcome {
            failed: !ended.status.success() || ended.told.is_some(),
            late: ended.told == Some(Told::Late),
            text: ended.to_string(),
        },
        Err(error) => Outcome::failure(format!("cannot be run: {error}")),
    }
}

/// A program as the configuration names it. What was checked when the mount began is checked again.
async fn exec(program: &Path, arguments: &[String], user: Option<User>) -> Result<Command, String> {
    let path = program.to_owned();
    let checked = tokio::task::spawn_blocking(move || trusted_file::check(&path)).await;
    match checked {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => return Err(format!("the program: {refusal}")),
        Err(_) => return Err("the program cannot be looked at".to_owned()),
    }
    let mut command = bare(program);
    command.args(arguments);
    if let Some(User { uid, gid }) = user {
        // Becoming another user drops all other groups (std::os::unix::process::CommandExt::uid).
        command.gid(gid).uid(uid);
    }
    Ok(command)
}

fn systemctl(arguments: &[&str]) -> Result<Command, String> {
    let there = SYSTEMCTL.into_iter().find(|path| Path::new(path).exists());
    let program = there.ok_or("this system has no /usr/bin/systemctl")?;
    let mut command = bare(Path::new(program));
    // Nobody is there to be asked.
    command.arg("--no-ask-password").args(arguments);
    Ok(command)
}

/// A command that inherits nothing: our environment has tokens in it.
fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).current_dir("/");
    command
}

async fn send(pid_file: PathBuf, signal: Signal) -> Outcome {
    // The file may lie on a disk that is slow.
    match tokio::task::spawn_blocking(move || pid_file::signal(&pid_file, signal)).await {
        Ok(Ok(number)) => Outcome::success(format!("sent to process {number}")),
        Ok(Err(trouble)) => Outcome::failure(trouble.to_string()),
        Err(_) => Outcome::failure("the signal could not be sent".to_owned()),
    }
}
