//! Owns the thread that touches files, and how long a clone of the mount lives for it.
//! Does not know why a file is touched.
//!
//! What it does asks the worker, who may die or hang in the middle: then the thread hangs in the kernel. Nobody waits for it. The
//! next worker answers what the kernel asks again, knows by the thread's number for whose sake, and the thread goes on. So it is
//! one thread for all workers of a mount. It shares no open file with the process ([`files`]), and so it wakes no task itself:
//! that is done by writing to one.

mod files;
mod writable;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::conversation::Worker;
use super::message::Trouble;
use super::names::{self, Refusal};
use writable::Clone;

/// A clone lives at most about this long: an unmount meanwhile ends the mount that much later.
const CLONE_LIVES: Duration = Duration::from_millis(100);
/// Between two clones. Making one takes a lock of the kernel's mount tables, and keeps whoever unmounts in that moment from it.
const PAUSE: Duration = Duration::from_millis(10);

/// How the mount can be reached: where it is, and the number of its device.
#[derive(Debug, std::clone::Clone)]
pub struct Place {
    /// An absolute path without links.
    pub at: PathBuf,
    /// As `major:minor`, see [`crate::mounts::Mount`].
    pub device: String,
}

/// Files of one directory to be touched, checked.
#[derive(Debug)]
pub(super) struct Files {
    directory: String,
    changed: Vec<String>,
    gone: Vec<String>,
    more: bool,
}

/// The thread, as others see it.
pub(super) struct Toucher {
    orders: Sender<Order>,
    number: u32,
}

struct Order {
    /// None: no clone is to be left.
    files: Option<Files>,
    whose: Whose,
}

/// Who ordered it, and waits for the answer.
struct Whose {
    worker: Arc<Worker>,
    answer: oneshot::Sender<Result<(), Trouble>>,
}

struct Thread {
    place: Place,
    orders: Receiver<Order>,
    done: Sender<(Whose, Result<(), Trouble>)>,
    clone: Option<(Clone, Instant)>,
    /// When the last clone went.
    closed: Option<Instant>,
}

impl Files {
    /// Takes what a worker said if nothing of it leads elsewhere.
    pub(super) fn of(touch: super::message::Touch) -> Result<Self, Refusal> {
        let super::message::Touch { path, changed, gone, more } = touch;
        let directory = names::directory(&path)?;
        names::files(changed.iter())?;
        names::files(gone.iter())?;
        Ok(Self { directory, changed, gone, more })
    }
}

impl Toucher {
    /// Starts the thread, and one that passes on what it has done. They end when this is dropped, as soon as the kernel lets
    /// them.
    pub(super) fn start(place: Place) -> io::Result<Self> {
        let (orders, due) = channel();
        let (done, results) = channel::<(Whose, _)>();
        std::thread::Builder::new().name("touched".into()).spawn(move || {
            for (whose, result) in results {
                // Who ordered it may be gone.
                let _ = whose.answer.send(result);
            }
        })?;
        let (tell, number) = channel();
        let thread = Thread { place, orders: due, done, clone: None, closed: None };
        std::thread::Builder::new().name("touch".into()).spawn(move || {
            // On a kernel without it nothing can be touched anyway.
            let _ = files::have_own();
            let _ = tell.send(u32::try_from(rustix::thread::gettid().as_raw_pid()).unwrap_or(0));
            thread.run();
        })?;
        let number = number.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(Self { orders, number })
    }

    /// The thread's number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Has files touched for a worker, or with none has no clone left. What comes back is dropped where the thread has ended.
    pub(super) fn order(
        &self,
        files: Option<Files>,
        worker: Arc<Worker>,
    ) -> oneshot::Receiver<Result<(), Trouble>> {
        let (answer, done) = oneshot::channel();
        let _ = self.orders.send(Order { files, whose: Whose { worker, answer } });
        done
    }
}

impl Thread {
    fn run(mut self) {
        while let Some(Order { files, whose }) = self.next() {
            let (more, result) = match files {
                Some(files) if !whose.worker.is_gone() => (files.more, self.touch(&files, &whose.worker)),
                _ => (false, Ok(())),
            };
            if !more || result.is_err() {
                self.close();
            }
            let _ = self.done.send((whose, result.map_err(Into::into)));
        }
    }

    fn next(&mut self) -> Option<Order> {
        if let Some((_, made)) = &self.clone {
            match self.orders.recv_timeout(CLONE_LIVES.saturating_sub(made.elapsed())) {
                Ok(order) => return Some(order),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.close(),
            }
        }
        self.orders.recv().ok()
    }

    fn close(&mut self) {
        if self.clone.take().is_some() {
            self.closed = Some(Instant::now());
        }
    }

    /// Touches every file of it, whatever becomes of the others; the last failure.
    fn touch(&mut self, files: &Files, worker: &Worker) -> io::Result<()> {
        let clone = self.clone()?;
        let directory = clone.directory(&files.directory)?;
        let changed = files.changed.iter().map(|name| (name, false));
        let gone = files.gone.iter().map(|name| (name, true));
        let mut result = Ok(());
        for (name, is_gone) in changed.chain(gone) {
            if worker.is_gone() {
                // Nobody hears of the rest, and the next worker has orders of its own.
                break;
            }
            let done =
                if is_gone { writable::gone(&directory, name) } else { writable::changed(&directory, name) };
            result = done.and(result);
        }
        result
    }

    /// The clone, or a new one in the place of one that is too old.
    fn clone(&mut self) -> io::Result<&Clone> {
        if self.clone.as_ref().is_some_and(|(_, made)| made.elapsed() > CLONE_LIVES) {
            self.close();
        }
        if self.clone.is_none()
            && let Some(closed) = self.closed
        {
            std::thread::sleep(PAUSE.saturating_sub(closed.elapsed()));
        }
        let (clone, _) = match &mut self.clone {
            Some(clone) => clone,
            none => none.insert((Clone::of(&self.place.at, &self.place.device)?, Instant::now())),
        };
        Ok(clone)
    }
}
