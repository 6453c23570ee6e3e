//! Owns one worker as the holder sees it: a process that was started, is talked to, may be killed, and ends.
//! Does not know what is to be done when it does.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::mpsc::UnboundedSender;

use super::super::channel::{Channel, ToHolder, ToWorker};
use crate::fuse::Done;

/// So many descriptors of one worker are kept open for it, two of each store; what is more is closed at once.
const MOST_KEPT_OPEN: usize = 64;
/// And for so long after its end. Not less than it takes to start the next one, which is born with copies of all that we have, and
/// would itself wait for those to be closed, when its program begins, if they were the last.
const UNTIL_THE_NEXT: Duration = Duration::from_secs(2);

/// Which of all workers that a mount has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkerNo(pub(super) u64);

/// What a worker has done.
#[derive(Debug)]
pub(super) enum Event {
    /// It has said something, with descriptors.
    Said(WorkerNo, ToHolder, Vec<OwnedFd>),
    /// It is gone; all that it had said was told before.
    Gone(WorkerNo, Option<ExitStatus>),
}

/// How workers are started: a program, held open so that what replaces its file changes nothing, and its arguments.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    program: Arc<File>,
    /// Where it was found, and where its successor will be.
    path: PathBuf,
    arguments: Vec<OsString>,
    /// Never below the mountpoint: whoever goes there asks the mount, and only we could start who answers.
    folder: PathBuf,
}

impl WorkerCommand {
    /// This very program with these arguments, in this folder.
    ///
    /// # Errors
    /// The program cannot be opened.
    pub fn of_this_program(arguments: Vec<OsString>, folder: PathBuf) -> io::Result<Self> {
        let program = Arc::new(File::open("/proc/self/exe")?);
        Ok(Self { program, path: std::env::current_exe()?, arguments, folder })
    }

    /// The program that is in its place by now.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn renewed(&self) -> io::Result<Self> {
        Ok(Self { program: Arc::new(File::open(&self.path)?), ..self.clone() })
    }

    /// Where the program's file is, or was.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the program is told.
    pub(super) fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    fn start(&self, input: OwnedFd) -> io::Result<Child> {
        // By its descriptor, which the child has until the program begins.
        Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0("secretfs")
            .arg(OsStr::new("worker"))
            .args(&self.arguments)
            // A folder that is gone meanwhile is no reason to end the mount.
            .current_dir(if self.folder.is_dir() { &self.folder } else { Path::new("/") })
            .stdin(Stdio::from(input))
            .spawn()
    }
}

/// A worker that has not been seen to end.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) number: WorkerNo,
    channel: Channel,
    process: OwnedFd,
    pub(super) pid: u32,
    pub(super) started: Instant,
    /// Since when it answers requests.
    pub(super) serving: Option<Instant>,
    /// Looks since it was heard of.
    pub(super) silent: u32,
    /// Looks in a row at which nothing had been answered that was being answered before.
    pub(super) stuck: u32,
    done: Done,
}

impl Worker {
    /// Starts one. What it says, and its end, is told to `events`.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn start(
        number: WorkerNo,
        command: &WorkerCommand,
        events: &UnboundedSender<Event>,
    ) -> io::Result<Self> {
        let (channel, input) = Channel::pair()?;
        let child = command.start(input)?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let pid = child.id();
        let (heard, events) = (channel.clone(), events.clone());
        std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || listen(number, &heard, child, &events))?;
        let now = Instant::now();
        Ok(Self {
            number,
            channel,
            process,
            pid,
            started: now,
            serving: None,
            silent: 0,
            stuck: 0,
            done: Done::default(),
        })
    }

    /// It is there, and those who answer programs have got so far.
    pub(super) fn heard(&mut self, done: Done) {
        self.silent = 0;
        self.stuck = if done.is_stuck_since(self.done) { self.stuck + 1 } else { 0 };
        self.done = done;
    }

    /// Tells it something. A worker that is gone does not hear it, and is told of by its end.
    pub(super) fn tell(&self, message: &ToWorker, files: &[&dyn AsFd]) {
        if let Err(error) = self.channel.send(message, files) {
            tracing::debug!(pid = self.pid, "the worker cannot be told anything: {}", error.kind());
        }
    }

    /// SIGKILL: its end will be told.
    pub(super) fn kill(&self) {
        // An error means that it has ended already.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

/// Whether it is a descriptor of inotify(7). Nothing else is kept for a worker: with its own end of the channel it would never seem to
/// end.
fn is_a_watch(file: &OwnedFd) -> bool {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    target.is_ok_and(|target| target.as_os_str() == "anon_inode:inotify")
}

fn listen(number: WorkerNo, channel: &Channel, mut child: Child, events: &UnboundedSender<Event>) {
    let mut kept_open = Vec::new();
    loop {
        match channel.receive() {
            Ok(Some((ToHolder::KeepOpen, files))) => {
                // Here and not by the holder: whoever drops the last one waits.
                kept_open.extend(files.into_iter().filter(is_a_watch));
                kept_open.truncate(MOST_KEPT_OPEN);
            }
            Ok(Some((message, files))) => {
                if events.send(Event::Said(number, message, files)).is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::error!("a worker says what nobody understands: {}", error.kind());
                let _ = child.kill();
                break;
            }
        }
    }
    let _ = events.send(Event::Gone(number, child.wait().ok()));
    if !kept_open.is_empty() {
        std::thread::sleep(UNTIL_THE_NEXT);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rustix::fs::inotify::{self, CreateFlags};

    use super::*;

    #[test]
    fn nothing_but_a_watch_is_kept_open_for_a_worker() {
        let (channel, end) = Channel::pair().unwrap();
        let other = File::open("/dev/null").unwrap().into();
        assert!(is_a_watch(&inotify::init(CreateFlags::CLOEXEC).unwrap()));
        assert!(!is_a_watch(&end) && !is_a_watch(&other));
        drop(channel);
    }
}
