//! Owns a program as users have it: again and again it reads a user name and a password from two files and logs in with them.
//! Does not know what serves the files, and never shows what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use secretfs::errno::TABLE;

use super::postgres::login;

/// The program, running on a thread of its own until it is asked to stop.
pub struct Samples {
    /// Dropped to stop the thread.
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Count>,
}

/// What became of the attempts.
#[derive(Debug, Default)]
pub struct Count {
    /// Attempts that logged in.
    pub logins: usize,
    /// Attempts that did not, in their order.
    pub failures: Vec<Failure>,
    /// How many different user names logged in: the number of leases, where nobody else makes any.
    pub users: usize,
    /// The longest that one attempt took, from the first open to the end of the login.
    pub longest: Duration,
}

/// An attempt that did not log in.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Since the start of the program.
    pub at: Duration,
    /// `username: ERRNO` or `password: ERRNO` (`username: EIO`) for a file that could not be read, else what [`login`] says.
    pub why: String,
}

impl Samples {
    /// Logs in to the server at `port` every `pace` (a tick that an attempt overran is left out) with what the files `username` and
    /// `password` of `folder` hold at that moment.
    pub fn start(port: u16, folder: &Path, pace: Duration) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let folder = folder.to_owned();
        let thread = std::thread::spawn(move || run(port, &folder, pace, &stopped));
        Self { stop, thread }
    }

    /// Ends the program after the attempt it is at; what became of all.
    pub fn stop(self) -> Count {
        drop(self.stop);
        self.thread.join().expect("an attempt counts and does not panic")
    }
}

impl Count {
    /// How many attempts failed for each reason.
    pub fn reasons(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for failure in &self.failures {
            *reasons.entry(failure.why.as_str()).or_default() += 1;
        }
        reasons
    }
}

fn run(port: u16, folder: &Path, pace: Duration, stopped: &mpsc::Receiver<()>) -> Count {
    let (mut count, mut users) = (Count::default(), BTreeSet::new());
    let began = Instant::now();
    let mut next = began;
    loop {
        let at = Instant::now();
        match attempt(port, folder) {
            Ok(user) => {
                count.logins += 1;
                users.insert(user);
            }
            Err(why) => count.failures.push(Failure { at: at - began, why }),
        }
        count.longest = count.longest.max(at.elapsed());
        while next <= Instant::now() {
            next += pace;
        }
        if stopped.recv_timeout(next - Instant::now()) != Err(RecvTimeoutError::Timeout) {
            count.users = users.len();
            return count;
        }
    }
}

/// The user who logged in.
fn attempt(port: u16, folder: &Path) -> Result<String, String> {
    let (user, password) = (read(folder.join("username"))?, read(folder.join("password"))?);
    login(port, &user, &password).map(|()| user)
}

fn read(file: PathBuf) -> Result<String, String> {
    std::fs::read_to_string(&file).map_err(|error| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = error.raw_os_error().unwrap_or_default();
        match TABLE.iter().find(|row| row.errno.number() == number) {
            Some(row) => format!("{name}: {}", row.name),
            None => format!("{name}: {:?} ({number})", error.kind()),
        }
    })
}
