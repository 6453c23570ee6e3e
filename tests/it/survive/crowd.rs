//! Owns those who use a mount while something happens to it: threads that do one thing again and again, and tell what came of it.
//! Does not know what happens to the mount.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::grove::Secret;
use crate::support::mount::HANG;

/// What came of one try that did not end well.
#[derive(Debug)]
pub enum Bad {
    /// An error where there should be none.
    Failed(String),
    /// Something else than what is right: much worse.
    Wrong(String),
}

/// What came of all tries.
#[derive(Debug, Default)]
pub struct Tally {
    pub done: usize,
    pub failed: Vec<String>,
    pub wrong: Vec<String>,
    /// How long each took.
    took: Vec<Duration>,
}

/// The threads.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Crowd {
    /// Lets as many threads as there are `tries` do each its own, with the number of the round, from now on.
    pub fn start<T>(tries: impl IntoIterator<Item = T>) -> Self
    where
        T: FnMut(usize) -> Result<(), Bad> + Send + 'static,
    {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let start = |mut again: T| {
            let (stop, done) = (stop.clone(), done.clone());
            std::thread::spawn(move || {
                let mut tally = Tally::default();
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    let result = again(tally.done);
                    tally.note(result, began.elapsed());
                    done.fetch_add(1, Ordering::SeqCst);
                }
                tally
            })
        };
        let threads = tries.into_iter().map(start).collect();
        Self { stop, done, threads }
    }

    /// Eight who open, read, check and close one of the secrets after the other, each from another one on.
    pub fn of_readers(secrets: &[Secret]) -> Self {
        let secrets: Arc<[Secret]> = secrets.into();
        Self::start((0..8).map(|reader| {
            let secrets = secrets.clone();
            let from = secrets.len() / 8 * reader;
            // A step that meets all, in an order that no look ahead could guess.
            move |round| open_read_close(&secrets[(from + round * 7) % secrets.len()])
        }))
    }

    /// Waits until so many more tries have ended.
    pub fn go_on_for(&self, tries: usize) {
        let (from, start) = (self.done.load(Ordering::SeqCst), Instant::now());
        while self.done.load(Ordering::SeqCst) < from + tries {
            assert!(start.elapsed() < HANG, "those who use the mount hang");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets all of them end; what came of it. Fails where one hangs.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let start = Instant::now();
        while !self.threads.iter().all(JoinHandle::is_finished) {
            assert!(start.elapsed() < HANG, "somebody who uses the mount hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut all = Tally::default();
        for thread in self.threads {
            let one = thread.join().unwrap();
            all.done += one.done;
            all.failed.extend(one.failed);
            all.wrong.extend(one.wrong);
            all.took.extend(one.took);
        }
        all.took.sort_unstable();
        all
    }
}

impl Tally {
    fn note(&mut self, result: Result<(), Bad>, took: Duration) {
        self.done += 1;
        self.took.push(took);
        match result {
            Ok(()) => {}
            Err(Bad::Failed(why)) => self.failed.push(why),
            Err(Bad::Wrong(why)) => self.wrong.push(why),
        }
    }

    /// The longest pause of anybody.
    pub fn longest(&self) -> Duration {
        self.took.last().copied().unwrap_or_default()
    }

    /// Of a thousand, one takes longer than this.
    fn p999(&self) -> Duration {
        self.took.get(self.took.len() * 999 / 1000).copied().unwrap_or_default()
    }

    /// Fails the test unless all went well, and tells the figures.
    pub fn none_failed(&self, what: &str) {
        let (failed, wrong) = (self.failed.len(), self.wrong.len());
        let (longest, p999) = (self.longest(), self.p999());
        eprintln!(
            "{what}: {} tries, {failed} failed, {wrong} wrong, longest {longest:?}, 99.9 % below {p999:?}",
            self.done
        );
        assert!(self.wrong.is_empty(), "{what}: {wrong} wrong: {:?}", self.wrong.first());
        assert!(self.failed.is_empty(), "{what}: {failed} failed: {:?}", self.failed.first());
    }
}

fn open_read_close(secret: &Secret) -> Result<(), Bad> {
    let value = std::fs::read(&secret.file);
    let value = value.map_err(|error| Bad::Failed(format!("{}: {error}", secret.file.display())))?;
    secret.check(&value).map(drop).map_err(Bad::Wrong)
}
