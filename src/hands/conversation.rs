//! Owns the hands' end of the socket to one worker: reads orders, has them carried out side by side, answers. Trusts nothing that a
//! worker says. Does not know how anything is done.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};

use super::Shared;
use super::message::{
    Answer, Deed, Done, HEAD, LONGEST_ANSWER, LONGEST_ORDER, MOST_INODES, Order, Outcome, Run, Trouble,
    from_bytes, length, to_bytes,
};
use super::names::{self, Refusal};
use super::run::{News, act};
use super::touch::Files;
use crate::watched;

/// Answers that wait to be read. A worker that does not read them is not listened to meanwhile.
const QUEUE: usize = 16;
/// Looking through /proc takes at most this part of one core's time: where there are very many processes, it is done less often.
const SHARE: u32 = 100;

/// A worker, as long as anything is done for it.
pub(super) struct Worker {
    gone: AtomicBool,
    /// True: its programs are to end.
    end_runs: watch::Sender<bool>,
    /// True: it is not listened to any more.
    over: watch::Sender<bool>,
}

impl Worker {
    pub(super) fn new() -> Self {
        Self {
            gone: AtomicBool::new(false),
            end_runs: watch::Sender::new(false),
            over: watch::Sender::new(false),
        }
    }

    /// Whether it has ended: nobody hears an answer.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Its programs are told to end, and none begins.
    pub(super) fn end_runs(&self) {
        self.end_runs.send_replace(true);
    }

    /// As [`Self::end_runs`]; and it is not listened to any more.
    pub(super) fn end(&self) {
        self.end_runs();
        self.over.send_replace(true);
    }
}

/// Serves a worker until it is gone, and then until programs that run for it have come to their end.
pub(super) async fn serve(hands: Arc<Shared>, socket: UnixStream, worker: Arc<Worker>) {
    let (from, to) = socket.into_split();
    let (answers, due) = mpsc::channel(QUEUE);
    let mut over = worker.over.subscribe();
    let busy = Busy {
        touching: Flag::default(),
        looking: Flag::default(),
        running: hands.hooks.iter().map(|_| Flag::default()).collect(),
    };
    let mut conversation = Conversation {
        hands,
        worker: worker.clone(),
        answers,
        busy,
        waits: JoinSet::new(),
        runs: JoinSet::new(),
        has_refused: false,
    };
    tokio::select! {
        result = conversation.listen(from) => match result {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!("an order of the worker cannot be read: nothing more is done for it");
            }
            // It has hung up.
            _ => {}
        },
        _ = say(to, due) => {}
        _ = over.wait_for(|over| *over) => {}
    }
    worker.gone.store(true, Ordering::Relaxed);
    // Nobody hears of it; and the thread that touches may hang until the next worker is there.
    conversation.waits.abort_all();
    while conversation.runs.join_next().await.is_some() {}
}

async fn say(mut to: OwnedWriteHalf, mut due: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(answer) = due.recv().await {
        to.write_all(&answer).await?;
    }
    Ok(())
}

/// What is done for one worker.
struct Conversation {
    hands: Arc<Shared>,
    worker: Arc<Worker>,
    answers: mpsc::Sender<Vec<u8>>,
    busy: Busy,
    /// What is of no use without the worker.
    waits: JoinSet<()>,
    /// Programs: they run to their end.
    runs: JoinSet<()>,
    /// Whether something was refused, and that was said.
    has_refused: bool,
}

/// Of each kind one order at a time, so what waits is bounded.
struct Busy {
    touching: Flag,
    looking: Flag,
    /// By hook.
    running: Vec<Flag>,
}

type Flag = Arc<AtomicBool>;

/// A flag that is up until this is dropped.
struct Up(Flag);

impl Up {
    fn of(flag: &Flag) -> Result<Self, Refusal> {
        if flag.swap(true, Ordering::AcqRel) { Err(Refusal::Busy) } else { Ok(Self(flag.clone())) }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Conversation {
    /// Until the worker hangs up.
    async fn listen(&mut self, mut from: OwnedReadHalf) -> io::Result<()> {
        loop {
            let mut head = [0; HEAD];
            from.read_exact(&mut head).await?;
            let mut body = vec![0; length(head, LONGEST_ORDER)?];
            from.read_exact(&mut body).await?;
            let Order { number, deed } = from_bytes(&body)?;
            if let Err(refusal) = self.take(number, deed) {
                // Once: it may go on and on.
                if !std::mem::replace(&mut self.has_refused, true) {
                    tracing::warn!("an order of the worker is refused: {refusal}");
                }
                answer(&self.answers, number, Err(Trouble::new(refusal))).await;
            }
            while self.waits.try_join_next().is_some() || self.runs.try_join_next().is_some() {}
        }
    }

    fn take(&mut self, number: u64, deed: Deed) -> Result<(), Refusal> {
        match deed {
            Deed::Touch(touch) => self.touch(number, Some(Files::of(touch)?)),
            Deed::Rest => self.touch(number, None),
            Deed::Look => self.look(number),
            Deed::Run(run) => self.run(number, run),
            // What comes of it is told to those who wait for a run.
            Deed::EndRuns => {
                self.hands.end_runs(&self.worker);
                Ok(())
            }
        }
    }

    fn touch(&mut self, number: u64, files: Option<Files>) -> Result<(), Refusal> {
        let toucher = self.hands.toucher.as_ref().ok_or(Refusal::Impossible)?;
        let up = Up::of(&self.busy.touching)?;
        let done = toucher.order(files, self.worker.clone());
        let answers = self.answers.clone();
        self.waits.spawn(async move {
            let result = done.await.unwrap_or_else(|_| Err(Trouble::new("nothing is touched any more")));
            drop(up);
            answer(&answers, number, result.map(|()| Done::Well)).await;
        });
        Ok(())
    }

    fn look(&mut self, number: u64) -> Result<(), Refusal> {
        let place = self.hands.place.as_ref().map_err(|_| Refusal::Impossible)?;
        let up = Up::of(&self.busy.looking)?;
        let (device, hands, answers) = (place.device.clone(), self.hands.clone(), self.answers.clone());
        self.waits.spawn(async move {
            let turn = hands.looks.take().await;
            let found = spawn_blocking(move || {
                // Not the time that passes: on a busy machine watchers would wait a hundred times as long as this thread did.
                let before = used_by_this_thread();
                let found = watched::inodes_on(&device);
                (found, used_by_this_thread().saturating_sub(before))
            });
            let result = match found.await {
                Ok((found, used)) => {
                    hands.looks.not_again_before(used * SHARE);
                    found
                        .map(|inodes| Done::Watched(inodes.into_iter().take(MOST_INODES).collect()))
                        .map_err(Trouble::from)
                }
                Err(_) => Err(Trouble::new("/proc cannot be looked into")),
            };
            drop((turn, up));
            answer(&answers, number, result).await;
        });
        Ok(())
    }

    fn run(&mut self, number: u64, run: Run) -> Result<(), Refusal> {
        let Run { hook, paths, truncated } = run;
        let hook = usize::try_from(hook).unwrap_or(usize::MAX);
        let flag = self.busy.running.get(hook).ok_or(Refusal::NoHook)?;
        let known = self.hands.hooks.get(hook).ok_or(Refusal::NoHook)?.clone();
        let paths = names::lines(&paths, &self.hands.mountpoint)?;
        let up = Up::of(flag)?;
        let mut stop = self.worker.end_runs.subscribe();
        let (hands, answers) = (self.hands.clone(), self.answers.clone());
        self.runs.spawn(async move {
            let turn = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => None,
                turn = known.turn.take() => Some(turn),
            };
            let outcome = match &turn {
                Some(_) => {
                    known.turn.not_again_before(known.job.interval);
                    let news = News { mountpoint: &hands.mountpoint, paths, truncated };
                    act(&known.job, &known.what, news, &mut stop).await
                }
                None => Outcome::failure("not run, because the mount ends".to_owned()),
            };
            drop(turn);
            drop(up);
            answer(&answers, number, Ok(Done::Ran(outcome))).await;
        });
        Ok(())
    }
}

async fn answer(answers: &mpsc::Sender<Vec<u8>>, number: u64, result: Result<Done, Trouble>) {
    if let Ok(bytes) = to_bytes(&Answer { number, result }, LONGEST_ANSWER) {
        // Without a worker there is nobody to be told.
        let _ = answers.send(bytes).await;
    }
}

/// Time of a core that the calling thread has used so far.
fn used_by_this_thread() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}
