//! Owns a worker: everything that shows secrets, built and run for as long as its holder wants it.
//! Does not know how the mount came to be, or who else serves it before and after.

mod parts;
mod succession;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::channel::{Channel, Handed, MOST_FILES, ToHolder, ToWorker};
use super::sandbox::{self, Rules};
use super::start::{Called, Given};
use super::{Failure, Plan, harden};
use crate::fs::CarriedFiles;
use crate::fuse::{self, SessionEnd, Unmounted};
use crate::handover::Fingerprint;
use crate::hands;
use crate::leases::read_ledger;
use crate::tree::journal::{Journal, Refused};
pub(super) use parts::build_source;
use parts::{Parts, Running, Shown};
use succession::{Old, succeed};

/// What the process is called; Linux takes fifteen bytes.
const NAME: &std::ffi::CStr = c"secretfs-worker";

/// Questions that nobody waits for any more are not worth waiting for longer.
const QUESTIONS_LEFT: Duration = Duration::from_millis(200);

/// What is done on a thread of its own, while programs wait for other things as well.
struct Meanwhile<T>(JoinHandle<T>);

impl<T: Send + 'static> Meanwhile<T> {
    fn begin(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        std::thread::Builder::new().name("start".into()).spawn(work).map(Self)
    }

    /// What came of it.
    fn end(self) -> io::Result<T> {
        // A panic ends this process before anybody hears of it here.
        self.0.join().map_err(|_| io::ErrorKind::Interrupted.into())
    }
}

/// What the holder of the mount does.
enum FromHolder {
    Told(ToWorker, Vec<OwnedFd>),
    /// It is gone.
    Gone,
}

/// Serves the mount that it was `called` for, as planned, until its holder says to stop, the mount is gone, or the holder is.
///
/// # Errors
/// What keeps it from serving.
pub fn work(plan: Plan, mut called: Called) -> Result<(), Failure> {
    // It was started by a descriptor, and would be called by that one's number: `ps` and `top` show this.
    let _ = rustix::thread::set_name(NAME);
    harden::end_at_panic();
    // Before anything else: every thread is born into it.
    let entered = sandbox::enter(&Rules::of(&plan));
    let (options, offered) = (plan.fuse_options(), called.start.offered);
    let preparing = Meanwhile::begin(move || fuse::prepare(&offered, options))?;
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    // Misses wait, they do not compute: on two cores one worker and two measured the same.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).clamp(1, 4))
        .enable_all()
        .build()?;
    let _not_ours = {
        let _runtime = runtime.enter();
        signals_of_the_holder()?
    };
    let channel = called.channel.clone();
    let mut told = listen(&channel)?;
    let hands = UnixStream::from(called.give(Given::Hands)?);
    let hands = hands::Client::over(hands, called.start.touching_thread.clone())?;
    let fingerprint = called.start.fingerprint;
    let serves_at_once = !called.start.succeeds && !called.start.gives_back;
    let opening = serves_at_once.then(|| open_journal(&mut called)).transpose()?;
    let parts = Parts::build(plan, &called.place().at, hands.clone())?;
    if called.start.keeps_open {
        keep_open(&parts, &channel);
    }
    let ledger = [called.give(Given::Ledger)?, called.give(Given::Ledger)?];
    if called.start.gives_back {
        parts.leases.keep_ledger(read_ledger(ledger));
        runtime.block_on(parts::give_all_back(&parts.leases, &parts.cache));
        say(&channel, &ToHolder::Ended { in_use: false });
        runtime.shutdown_timeout(QUESTIONS_LEFT);
        return Ok(());
    }
    let (files, opening) = match opening {
        // Its predecessor, if it has one, has crashed, and whoever used the mount waits.
        Some(opening) => {
            // Before a login can be made, which is noted there.
            parts.leases.keep_ledger(read_ledger(ledger));
            if called.start.follows_a_crash {
                parts.warm_up(&runtime);
            }
            (CarriedFiles::default(), opening)
        }
        None => {
            let legacy = called.take(Given::Legacy);
            let inherited = runtime.block_on(succeed(&parts, legacy, fingerprint, &channel, &mut told));
            let Some(inheritance) = inherited else { return Ok(()) };
            // Not before the predecessor is gone: it writes into it to its last moment.
            let opening = open_journal(&mut called)?;
            let files = runtime.block_on(inheritance.taken_in());
            // After what was handed over, which is known then: what is in there besides is of a worker that has crashed.
            parts.leases.keep_ledger(read_ledger(ledger));
            (files, opening)
        }
    };
    let (journal, taken) = opening.end()?;
    match taken {
        Ok(()) => {
            tracing::debug!(inodes = journal.inherited().len(), worker = journal.worker(), "taking over")
        }
        Err(why) => tracing::warn!("what is open begins anew for its readers: {why}"),
    }
    let mut parts = parts.show(journal);
    parts.fs.import(files);
    let requests = called.give(Given::Requests)?;
    let serving = preparing.end()??.serve(parts.fs.clone(), requests, hands, runtime.handle().clone())?;
    let running = parts.run(&runtime, &serving, (&called.start, &entered), &channel);
    say(&channel, &ToHolder::Serving);
    let mut outlives_holder = called.start.outlives_holder;
    let until_the_end =
        until_the_end(&channel, (&mut told, &mut outlives_holder), &serving, (&runtime, &parts, fingerprint));
    let why = runtime.block_on(until_the_end);
    match why {
        End::Failed => {
            tracing::error!("requests are not read any more, though the mount is there");
            // As a crash, and as if killed, for the same reason as below.
            std::process::exit(harden::PANICKED);
        }
        End::Over => {
            // At once: what follows may take its time, and nobody can read any more.
            parts.fs.flush();
            say(&channel, &ToHolder::Over);
        }
        End::HolderGone if outlives_holder => {
            tracing::info!("the holder of the mount is gone: the next one goes on with it");
            // All that was had is known to the next holder. As if killed, for what is dropped in good order tells whoever waits for an
            // answer that there is none (EIO); what nobody has answered the next worker is asked again.
            std::process::exit(0);
        }
        End::HolderGone => tracing::error!("the holder of the mount is gone: the mount ends"),
        End::Told => {}
    }
    end(&runtime, &parts, running, &serving, (&channel, &mut told), why);
    runtime.shutdown_timeout(QUESTIONS_LEFT);
    Ok(())
}

/// Why a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Told,
    Over,
    /// The mount is there, and this process does not serve it.
    Failed,
    HolderGone,
}

async fn until_the_end(
    channel: &Channel,
    (told, outlives_holder): (&mut UnboundedReceiver<FromHolder>, &mut bool),
    serving: &fuse::Serving,
    (runtime, parts, fingerprint): (&Runtime, &Shown, Fingerprint),
) -> End {
    let mut old = Old::new();
    loop {
        let message = tokio::select! {
            message = told.recv() => message,
            over = serving.over() => return match over {
                SessionEnd::Gone => End::Over,
                SessionEnd::Failed => End::Failed,
            },
        };
        match message {
            Some(FromHolder::Told(ToWorker::Ping(_), _)) if serving.has_failed() => return End::Failed,
            Some(FromHolder::Told(ToWorker::Ping(number), _)) => {
                let (channel, progress) = (channel.clone(), serving.progress().clone());
                // By those who wait for backends as well: they must not be stuck either.
                runtime.spawn(async move { say(&channel, &ToHolder::Pong(number, progress.done())) });
            }
            Some(FromHolder::Told(ToWorker::HandOver { successor }, files)) => match files.into_iter().next()
            {
                Some(to) => {
                    let (cache, leases) = (parts.cache.clone(), parts.leases.clone());
                    let held = (cache, leases, parts.fs.clone(), parts.hooks.clone());
                    old.hand_over(held, (successor, to), fingerprint, channel);
                }
                None => {
                    let nothing = Handed::Nothing("nobody takes it".to_owned());
                    say(channel, &ToHolder::HandedOver(successor, nothing));
                }
            },
            Some(FromHolder::Told(ToWorker::GoOn, _)) => old.go_on(),
            Some(FromHolder::Told(ToWorker::Leave { session }, outputs)) => {
                if let Err(error) = leave(session, &outputs) {
                    tracing::warn!("cannot leave the terminal: {error}");
                }
            }
            Some(FromHolder::Told(ToWorker::Outlives, _)) => *outlives_holder = true,
            Some(FromHolder::Told(ToWorker::End, _)) => return End::Told,
            Some(FromHolder::Told(..)) => {}
            Some(FromHolder::Gone) | None => return End::HolderGone,
        }
    }
}

/// The end in its order: nobody gets in any more, everything is given back, nobody waits.
fn end(
    runtime: &Runtime,
    parts: &Shown,
    running: Running,
    serving: &fuse::Serving,
    (channel, told): (&Channel, &mut UnboundedReceiver<FromHolder>),
    why: End,
) {
    running.stop(runtime, parts);
    serving.let_go();
    if why == End::Told {
        say(channel, &ToHolder::Detach);
        runtime.block_on(detached(told));
    }
    // At once: nobody can open anything any more, and what follows may take its time.
    parts.fs.flush();
    // Before the end of the loop, which makes what is still on its way.
    runtime.block_on(parts::give_all_back(&parts.leases, &parts.cache));
    // At once: whoever has a file open keeps that one's bytes only, and may keep us for a while yet.
    parts.fs.flush();
    let ended = if why == End::HolderGone { Unmounted::Cleanly } else { serving.wait_for_end() };
    parts.fs.flush();
    say(channel, &ToHolder::Ended { in_use: ended == Unmounted::InUse });
}

/// Until the holder has taken the mount out of the tree; the holder says itself what keeps it from that.
async fn detached(told: &mut UnboundedReceiver<FromHolder>) {
    while let Some(FromHolder::Told(message, _)) = told.recv().await {
        if let ToWorker::Detached(_) = message {
            return;
        }
    }
}

/// As the holder has left whoever started it.
fn leave(session: bool, outputs: &[OwnedFd]) -> io::Result<()> {
    if let [out, err] = outputs {
        rustix::stdio::dup2_stdout(out)?;
        rustix::stdio::dup2_stderr(err)?;
    }
    if session {
        // Fails only for a process that leads a group already, which then has no terminal to leave.
        let _ = rustix::process::setsid();
        rustix::process::chdir("/")?;
    }
    Ok(())
}

fn say(channel: &Channel, message: &ToHolder) {
    // A holder that is gone is told of by the channel's end.
    if let Err(error) = channel.send(message, &[]) {
        tracing::debug!("the holder does not hear: {}", error.kind());
    }
}

/// Reads what is known of inodes, which takes a while where that is much.
fn open_journal(called: &mut Called) -> io::Result<Meanwhile<(Journal, Result<(), Refused>)>> {
    let files = [called.give(Given::Journal)?, called.give(Given::Journal)?];
    let fingerprint = called.start.fingerprint;
    Meanwhile::begin(move || Journal::open(files, fingerprint))
}

/// Has the holder keep what would hold up our death.
fn keep_open(parts: &Parts, channel: &Channel) {
    let backends = parts.cache.backends();
    let files: Vec<_> = backends.iter().flat_map(|backend| backend.slow_to_close()).collect();
    for some in files.chunks(MOST_FILES) {
        let some: Vec<&dyn AsFd> = some.iter().map(|file| file as _).collect();
        if let Err(error) = channel.send(&ToHolder::KeepOpen, &some) {
            tracing::debug!("the holder keeps nothing open: {}", error.kind());
        }
    }
}

/// Everything that the holder says, from a thread that can wait for it.
fn listen(channel: &Channel) -> io::Result<UnboundedReceiver<FromHolder>> {
    let (tell, told) = unbounded_channel();
    let channel = channel.clone();
    std::thread::Builder::new().name("holder".into()).spawn(move || {
        while let Ok(Some((message, files))) = channel.receive() {
            if tell.send(FromHolder::Told(message, files)).is_err() {
                return;
            }
        }
        let _ = tell.send(FromHolder::Gone);
    })?;
    Ok(told)
}

/// What ends the holder in good order is not for us, even where it is sent to both: the holder says what is to be done.
fn signals_of_the_holder() -> io::Result<Vec<Signal>> {
    [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined2()]
        .into_iter()
        .map(signal)
        .collect()
}
