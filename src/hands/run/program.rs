//! Owns one run of a program: started in a process group of its own, listened to, ended at its time with all of its group.
//! Does not know hooks.

use std::io::{self, ErrorKind, PipeReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::output::Output;

/// From SIGTERM to SIGKILL, at the end of a program's time.
const GRACE: Duration = Duration::from_secs(5);
/// From SIGTERM to SIGKILL, when the mount ends.
pub(super) const GRACE_AT_END: Duration = Duration::from_secs(1);
/// How long what a program has printed is listened to after its end: something outside of its group may hold the pipe.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes read at once, and how long until the next: a flood costs next to nothing, and the program goes on.
const PIECE: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(10);

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// What it said itself.
    pub(super) status: ExitStatus,
    /// Why it was told to end.
    pub(super) told: Option<Told>,
    /// Bytes that it printed.
    pub(super) printed: u64,
}

/// Why a program was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Its time was up.
    Late,
    /// The mount ends.
    Over,
}

/// Runs `command` to its end, at most `limit` and a grace; each line that it prints goes to `log`. When `stop` becomes true
/// it ends early. Nothing of its process group is left when this returns, or when it is dropped.
///
/// # Errors
/// It cannot be started.
pub(super) async fn run(
    command: Command,
    limit: Duration,
    stop: &mut watch::Receiver<bool>,
    log: &mut (dyn FnMut(&str) + Send),
) -> io::Result<Ended> {
    // The disk may be slow, or the program lie in this very mount: not on a thread that others need.
    let started = spawn_blocking(move || start(command)).await;
    let (mut group, printed) = started.map_err(|_| io::Error::from(ErrorKind::Interrupted))??;
    let mut gone = group.gone();
    let mut printed = pipe::Receiver::from_owned_fd(OwnedFd::from(printed))?;
    let mut output = Output::new();
    let told = {
        let mut listening = pin!(listen(&mut printed, &mut output, log));
        let mut living = pin!(live(&group, &mut gone, limit, stop));
        let mut is_silent = false;
        let told = loop {
            tokio::select! {
                told = &mut living => break told,
                () = &mut listening, if !is_silent => is_silent = true,
            }
        };
        // While it is not waited for, its number is nobody else's: the group is its own.
        group.signal(Signal::KILL);
        if !is_silent {
            let _ = timeout(LAST_WORDS, listening).await;
        }
        told
    };
    output.end(log);
    Ok(Ended { status: group.bury()?, told, printed: output.total() })
}

fn start(mut command: Command) -> io::Result<(Group, PipeReader)> {
    // One pipe for both, so that lines keep their order.
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let child = command.spawn()?;
    Ok((Group { child, is_buried: false }, reader))
}

/// Waits until the program is gone; tells it to go when its time is up.
async fn live(
    group: &Group,
    gone: &mut JoinHandle<()>,
    limit: Duration,
    stop: &mut watch::Receiver<bool>,
) -> Option<Told> {
    let told = tokio::select! {
        _ = &mut *gone => return None,
        () = sleep(limit) => Told::Late,
        () = stopped(stop) => Told::Over,
    };
    group.signal(Signal::TERM);
    let over = async {
        if told == Told::Late {
            stopped(stop).await;
        }
        sleep(GRACE_AT_END).await;
    };
    tokio::select! {
        _ = &mut *gone => return Some(told),
        () = sleep(GRACE) => {}
        () = over => {}
    }
    group.signal(Signal::KILL);
    // A process that sleeps in the kernel dies when that lets it go. Until then the run is not over.
    let _ = gone.await;
    Some(told)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Whoever could say stop is gone: then nobody waits for anything any more either.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn listen(from: &mut pipe::Receiver, output: &mut Output, log: &mut (dyn FnMut(&str) + Send)) {
    let mut piece = vec![0; PIECE];
    loop {
        if from.readable().await.is_err() {
            return;
        }
        match from.try_read(&mut piece) {
            Ok(0) => return,
            Ok(read) => output.take(piece.get(..read).unwrap_or_default(), log),
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => return,
        }
        sleep(PAUSE).await;
    }
}

/// A program and all that it started and that stayed in its process group. Dropped, all of it is killed.
struct Group {
    child: Child,
    is_buried: bool,
}

impl Group {
    /// Ready when the program has ended. Its status is left where it is (WNOWAIT, waitid(2)), and with it its number.
    fn gone(&self) -> JoinHandle<()> {
        let program = Pid::from_child(&self.child);
        let wait = move || waitid(WaitId::Pid(program), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        spawn_blocking(move || while wait().err() == Some(Errno::INTR) {})
    }

    /// To every process of the group. Those that are gone or are somebody else's by now (setuid) are not our business.
    fn signal(&self, signal: Signal) {
        if !self.is_buried {
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }

    /// Takes the status of a program that has ended. From then on its number may be another's.
    fn bury(&mut self) -> io::Result<ExitStatus> {
        self.is_buried = true;
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_buried {
            self.signal(Signal::KILL);
            // Not waited for: it is gone in a moment, and this may be a thread that others need.
            let _ = self.child.try_wait();
        }
    }
}

/// In words: how it ended, and how much it printed.
impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (None, Some(signal)) => write!(f, "ended by signal {signal}")?,
            (None, None) => write!(f, "ended")?,
        }
        match self.told {
            Some(Told::Late) => write!(f, " after its time was up")?,
            Some(Told::Over) => write!(f, " because the mount ends")?,
            None => {}
        }
        write!(f, ", {} bytes of output", self.printed)
    }
}
