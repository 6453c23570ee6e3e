//! Owns what needs rights: touching files of the mount, seeing who watches them, running hooks.
//! Does not know secrets, or when any of it is wanted: a worker orders it over a socket ([`Client`]).
//!
//! The worker, who reads what servers send, has no rights. The hands have them, and trust nothing that a worker says: it can have
//! files of this mount touched, learn which of its inodes are watched, and have the hooks of the configuration run, each no
//! more often than that says. Workers come and go; the hands live as long as the mount.

mod client;
mod conversation;
mod job;
mod message;
mod names;
mod run;
#[cfg(test)]
mod tests;
mod touch;
mod turn;

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

pub use client::{Client, TouchingThread};
use conversation::Worker;
pub use job::{Action, Job, Signal, User};
pub use message::{Outcome, Trouble};
pub use names::{MOST_NEWS, news_size};
pub use touch::Place;
use touch::Toucher;
use turn::Turn;

/// How long the end of the hands waits for programs: they are killed a second after they were told to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The hands of one mount. Dropped, they are as stopped.
pub struct Hands(Arc<Shared>);

struct Shared {
    place: Result<Place, String>,
    toucher: Option<Toucher>,
    mountpoint: OsString,
    hooks: Vec<Arc<Hook>>,
    looks: Turn,
    /// Guards for whom something is done, and whether that is over; held for a look.
    workers: Mutex<Workers>,
    /// Signalled when nothing is done for one of them any more.
    left: Condvar,
}

#[derive(Default)]
struct Workers {
    all: Vec<Arc<Worker>>,
    over: bool,
}

/// A hook of the configuration.
struct Hook {
    job: Job,
    what: String,
    turn: Turn,
}

impl Hands {
    /// Of the mount that shows itself at `mountpoint`, which is absolute, and whose hooks these are. Where `place` is a reason why
    /// its files cannot be touched, nothing is; nor is anybody seen who watches them. Starts the thread that touches: one for
    /// all workers, so that each knows for whose sake it is asked, whoever ordered it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(place: Result<Place, String>, mountpoint: PathBuf, hooks: Vec<Job>) -> io::Result<Self> {
        let toucher = place.clone().ok().map(Toucher::start).transpose()?;
        let hook = |job: Job| Hook { what: job.action.to_string(), job, turn: Turn::new() };
        Ok(Self(Arc::new(Shared {
            place,
            toucher,
            mountpoint: mountpoint.into_os_string(),
            hooks: hooks.into_iter().map(hook).map(Arc::new).collect(),
            looks: Turn::new(),
            workers: Mutex::default(),
            left: Condvar::new(),
        })))
    }

    /// The number of the thread that touches files, for [`Client::over`].
    ///
    /// # Errors
    /// Why files are not touched, in words.
    pub fn touching_thread(&self) -> Result<u32, String> {
        let number = self.0.toucher.as_ref().map(Toucher::number);
        number.ok_or_else(|| self.0.place.as_ref().err().cloned().unwrap_or_default())
    }

    /// Does what the worker at the other end of the socket orders, on a thread of its own, until that end is closed. Programs that
    /// run for it then go on to their end, and nobody hears of it: the worker may have crashed.
    ///
    /// # Errors
    /// The thread cannot be started, or the hands have been stopped.
    pub fn serve(&self, worker: UnixStream) -> io::Result<()> {
        worker.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = {
            let _runtime = runtime.enter();
            tokio::net::UnixStream::from_std(worker)?
        };
        let one = Arc::new(Worker::new());
        let shared = self.0.clone();
        {
            let mut workers = self.0.workers();
            if workers.over {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            workers.all.push(one.clone());
        }
        let done = Done { shared: shared.clone(), worker: one.clone() };
        std::thread::Builder::new().name("hands".into()).spawn(move || {
            runtime.block_on(conversation::serve(shared, socket, one));
            // A program that is being started may hang in the mount, where nobody serves it any more.
            runtime.shutdown_background();
            drop(done);
        })?;
        Ok(())
    }

    /// A worker's end of a new conversation, for a worker within this process.
    ///
    /// # Errors
    /// As [`Self::serve`] and [`Client::over`].
    pub fn client(&self) -> io::Result<Client> {
        let (ours, theirs) = UnixStream::pair()?;
        self.serve(theirs)?;
        Client::over(ours, self.touching_thread())
    }

    /// Ends it: no worker is listened to any more, programs are told to end and killed a second later. Waits for them; whether
    /// all have ended in time.
    pub fn stop(&self) -> bool {
        let mut workers = self.0.workers();
        workers.over = true;
        workers.all.iter().for_each(|worker| worker.end());
        let waited = self.0.left.wait_timeout_while(workers, PATIENCE, |workers| !workers.all.is_empty());
        !waited.unwrap_or_else(|e| e.into_inner()).1.timed_out()
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Ends what runs for this worker, and what runs still for those that are gone.
    fn end_runs(&self, worker: &Worker) {
        worker.end_runs();
        let workers = self.workers();
        workers.all.iter().filter(|one| one.is_gone()).for_each(|one| one.end_runs());
    }
}

/// Dropped when nothing is done for a worker any more, or when its thread never began.
struct Done {
    shared: Arc<Shared>,
    worker: Arc<Worker>,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.shared.workers().all.retain(|one| !Arc::ptr_eq(one, &self.worker));
        self.shared.left.notify_all();
    }
}
