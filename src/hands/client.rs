//! Owns the worker's end of the socket to the hands: orders out, answers back to whoever waits for them, in words when there are no
//! hands any more. Does not know what has to be done, or how it is done.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;

use super::message::{
    Answer, Deed, Done, HEAD, LONGEST_ANSWER, LONGEST_ORDER, Order, Outcome, Run, Touch, Trouble, from_bytes,
    length, to_bytes,
};
use super::names::MOST_FILES;

/// The hands read at once whatever comes. Where they have not for so long, they are as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gives orders to the hands. Cheap to clone; dropped by the last who has it, the conversation ends.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    /// Guards the way to the hands; held while an order is written.
    to: Mutex<UnixStream>,
    waiting: Arc<Waiting>,
    touching: Result<TouchingThread, String>,
}

/// Who waits for which answer.
struct Waiting {
    /// Guards who waits; held for a look.
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    next: u64,
    open: HashMap<u64, oneshot::Sender<Result<Done, Trouble>>>,
    /// No answer will come any more.
    over: bool,
}

/// The thread of the hands that touches files: what the kernel asks for its sake carries its number.
#[derive(Clone)]
pub struct TouchingThread(Arc<AtomicU32>);

impl TouchingThread {
    /// Whether the thread has this number. Nobody has it once the hands are gone: it may be another's by now.
    pub fn is(&self, number: u32) -> bool {
        number != 0 && number == self.0.load(Ordering::Relaxed)
    }
}

impl Client {
    /// Over the worker's end of a socket whose other end [`Hands::serve`](super::Hands::serve) has. `touching_thread` is
    /// [`Hands::touching_thread`](super::Hands::touching_thread). Starts a thread that reads the answers: a worker has to lock
    /// itself in before.
    ///
    /// # Errors
    /// The socket or the thread cannot be made use of.
    pub fn over(stream: UnixStream, touching_thread: Result<u32, String>) -> io::Result<Self> {
        let from = stream.try_clone()?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let waiting = Arc::new(Waiting { book: Mutex::default() });
        let touching = touching_thread.map(|number| TouchingThread(Arc::new(AtomicU32::new(number))));
        let (answers_for, its_number) = (waiting.clone(), touching.clone().ok());
        std::thread::Builder::new().name("answers".into()).spawn(move || {
            let mut from = from;
            while let Ok(answer) = receive(&mut from) {
                answers_for.pass_on(answer);
            }
            // Something unreadable ends it for both.
            let _ = from.shutdown(Shutdown::Both);
            if let Some(thread) = its_number {
                thread.0.store(0, Ordering::Relaxed);
            }
            answers_for.end();
        })?;
        Ok(Self(Arc::new(Shared { to: Mutex::new(stream), waiting, touching })))
    }

    /// The thread that touches files.
    ///
    /// # Errors
    /// Why files of this mount are not touched, in words.
    pub fn touching(&self) -> Result<TouchingThread, String> {
        self.0.touching.clone()
    }

    /// Touches files of the directory that `path` leads to, names from the root of the mount, so that whoever watches them is
    /// told: those that show something new as of a write, those that are gone as of a removal. With `more` another such order
    /// follows at once. Returns when it is done; never to be called by a task.
    ///
    /// # Errors
    /// The last of what went wrong.
    pub fn touch(
        &self,
        path: &[String],
        changed: &[String],
        gone: &[String],
        more: bool,
    ) -> Result<(), Trouble> {
        let pieces = |names: &[String]| names.chunks(MOST_FILES).map(<[String]>::to_vec).collect::<Vec<_>>();
        let changed = pieces(changed).into_iter().map(|names| (names, vec![]));
        let gone = pieces(gone).into_iter().map(|names| (vec![], names));
        let mut pieces = changed.chain(gone).peekable();
        let mut result = Ok(());
        while let Some((changed, gone)) = pieces.next() {
            let more = more || pieces.peek().is_some();
            let touch = Touch { path: path.to_vec(), changed, gone, more };
            result = self.wait_for(Deed::Touch(touch)).and(result);
        }
        result
    }

    /// Returns when no clone of the mount is left that was made for [`Self::touch`]. Never to be called by a task.
    ///
    /// # Errors
    /// The hands are gone.
    pub fn rest(&self) -> Result<(), Trouble> {
        self.wait_for(Deed::Rest)
    }

    /// The inodes of the mount that somebody watches. The hands take their time: looking costs.
    ///
    /// # Errors
    /// It cannot be seen, or the hands are gone.
    pub async fn watched(&self) -> Result<Vec<u64>, Trouble> {
        match self.order(Deed::Look)?.await.unwrap_or_else(|_| Err(gone()))? {
            Done::Watched(inodes) => Ok(inodes),
            Done::Well | Done::Ran(_) => Err(misunderstood()),
        }
    }

    /// Runs the hook of this number, and tells it of these paths: file names from the root of the mount, joined by slashes. The order
    /// is given when this returns; what comes of it can be waited for.
    pub fn run(
        &self,
        hook: usize,
        paths: Vec<String>,
        truncated: bool,
    ) -> impl Future<Output = Outcome> + use<> {
        let hook = u32::try_from(hook).unwrap_or(u32::MAX);
        let ordered = self.order(Deed::Run(Run { hook, paths, truncated }));
        async move {
            let ran = match ordered {
                Ok(answer) => answer.await.unwrap_or_else(|_| Err(gone())),
                Err(trouble) => Err(trouble),
            };
            match ran {
                Ok(Done::Ran(outcome)) => outcome,
                Ok(Done::Well | Done::Watched(_)) => Outcome::failure(misunderstood().text),
                Err(trouble) => Outcome::failure(trouble.text),
            }
        }
    }

    /// The mount ends: programs that run are told to end, and killed a second later. What came of them is answered to
    /// [`Self::run`]. No hook runs after it.
    pub fn end_runs(&self) {
        // Whoever waits for a run is told the same.
        let _ = self.order(Deed::EndRuns);
    }

    fn wait_for(&self, deed: Deed) -> Result<(), Trouble> {
        self.order(deed)?.blocking_recv().unwrap_or_else(|_| Err(gone())).map(drop)
    }

    fn order(&self, deed: Deed) -> Result<oneshot::Receiver<Result<Done, Trouble>>, Trouble> {
        let (number, answer) = self.0.waiting.open()?;
        let sent = to_bytes(&Order { number, deed }, LONGEST_ORDER).and_then(|bytes| self.0.send(&bytes));
        if let Err(error) = sent {
            self.0.waiting.close(number);
            return Err(if error.kind() == io::ErrorKind::InvalidInput { error.into() } else { gone() });
        }
        Ok(answer)
    }
}

impl Shared {
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut to = self.to.lock().unwrap_or_else(|e| e.into_inner());
        let sent = to.write_all(bytes);
        if sent.is_err() {
            // Half an order may be on its way: nothing can follow it.
            let _ = to.shutdown(Shutdown::Both);
        }
        sent
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The thread that reads has the socket too.
        let to = self.to.get_mut().unwrap_or_else(|e| e.into_inner());
        let _ = to.shutdown(Shutdown::Both);
    }
}

impl Waiting {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn open(&self) -> Result<(u64, oneshot::Receiver<Result<Done, Trouble>>), Trouble> {
        let (sender, receiver) = oneshot::channel();
        let mut book = self.book();
        if book.over {
            return Err(gone());
        }
        let number = book.next;
        book.next += 1;
        book.open.insert(number, sender);
        Ok((number, receiver))
    }

    fn close(&self, number: u64) {
        self.book().open.remove(&number);
    }

    fn pass_on(&self, answer: Answer) {
        let waits = self.book().open.remove(&answer.number);
        // Who asked may have stopped waiting.
        let _ = waits.map(|waits| waits.send(answer.result));
    }

    /// Whoever waits is told that nothing comes.
    fn end(&self) {
        let mut book = self.book();
        book.over = true;
        book.open.clear();
    }
}

fn receive(from: &mut UnixStream) -> io::Result<Answer> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let mut body = vec![0; length(head, LONGEST_ANSWER)?];
    from.read_exact(&mut body)?;
    from_bytes(&body)
}

fn gone() -> Trouble {
    Trouble::new("the part of the program that has the right to do it has ended")
}

fn misunderstood() -> Trouble {
    Trouble::new("the answer is to another question")
}
