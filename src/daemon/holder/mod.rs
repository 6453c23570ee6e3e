//! Owns a mount while it lives: holds its descriptor, keeps a worker at it, and takes it out of the tree at the end.
//! Does not know a secret: what is shown is the workers' business.
//!
//! Everything that may block is done by others (the workers); this loop only hears of it, so it can always act.

mod end;
mod given_up;
mod looks;
mod process;
mod upgrade;
mod words;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::channel::{ToHolder, ToWorker};
use super::kept::{self, Kept, Left};
use super::restarts::{Next, Restarts};
use super::signals::{Heard, Signals};
use super::start::{Given, Handed, PROTOCOL, Start};
use super::{Failure, Plan, kernel_timeout, mount_failure, systemd};
use crate::clock::Clock;
use crate::control;
use crate::fuse::{self, MountPoint, Unattached};
use crate::hands::Hands;
use crate::hooks;
use crate::leases::make_ledger;
use crate::tree::journal::Journal;
use end::Ending;
use given_up::take_away;
pub use process::WorkerCommand;
use process::{Event, Worker, WorkerNo};
use upgrade::{TakingOver, Upgrade};

/// How long a worker may take from its start until it serves.
const PATIENCE_WITH_STARTS: Duration = Duration::from_secs(20);

/// Mounts as planned, calls `ready` once programs can use the mount (no backend has been asked yet), and keeps it until a signal says
/// to stop, somebody unmounts, or workers crash too often. `left`: the mount may be there already, and somebody may wait for it.
///
/// # Errors
/// What kept the mount from being made, or from being ended.
pub fn hold(
    plan: Plan,
    left: Left,
    handed: &Handed,
    command: WorkerCommand,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before there is a mount, so that none of them can leave one behind.
    let mut signals = {
        let _runtime = runtime.enter();
        Signals::catch()?
    };
    if let Some(warning) = kernel_timeout::warning(plan.deadline) {
        tracing::warn!("{warning}");
    }
    let at = plan.mountpoint.display().to_string();
    let failed = |error: &io::Error| mount_failure(&at, plan.allow_other, error);
    let is_kept = left.mount.is_some();
    // As far as they can before the mount, which nothing that fails may leave in the tree.
    let ledger = if left.ledger.len() == 2 { left.ledger } else { make_ledger()?.into() };
    let fingerprint = handed.fingerprint(command.arguments());
    let handed = handed.to_file()?;
    let jobs = plan.hooks.iter().map(hooks::Config::job).collect();
    let (mut kept, unattached) = match left.mount {
        Some(kept) => (kept, None),
        None => made(&plan).map_err(|error| failed(&error))?,
    };
    if kept.journal.len() != 2 {
        kept.journal = Journal::make()?.into();
    }
    kept.ledger = ledger;
    let hands = Hands::new(kept.touchable(), kept.place.at.clone(), jobs).inspect_err(|_| {
        if !is_kept {
            take_away(&kept.place);
        }
    })?;
    if !kept.offered.can_resend() {
        tracing::warn!("a crash ends the mount: to survive one needs Linux 6.9 or later");
    }
    // Whoever makes the socket has no right to make its folder.
    if let Err(error) = control::make_folder() {
        tracing::warn!("no folder for the control socket: {error}");
    }
    let max_crashes = if kept.offered.can_resend() { plan.max_crashes } else { 0 };
    let (events, mut heard) = unbounded_channel();
    let mut holder = Holder {
        kept,
        outlives_us: is_kept,
        hands,
        fingerprint,
        handed,
        is_ready: false,
        command,
        watchdog: plan.watchdog,
        restarts: Restarts::new(max_crashes),
        events,
        next_number: 0,
        serving: None,
        restart_at: None,
        upgrade: None,
        taking_over: None,
        ending: None,
        is_aborted: false,
        is_given_up: false,
        pings: 0,
    };
    let how = if is_kept { "goes on" } else { "mounted" };
    let ready = || {
        tracing::info!(mountpoint = %at, source = %plan.source, "{how}");
        ready()?;
        systemd::serving(&at);
        Ok(())
    };
    let ended = runtime.block_on(async {
        if is_kept {
            // Whoever waits for it waits on where its first worker dies: one is like the other.
            if let Flow::Over(ended) = holder.restart() {
                return ended;
            }
        } else {
            holder.begin(&mut heard).await?;
            holder.keep_for_the_next();
            let attached = unattached.map_or(Ok(()), |unattached| unattached.attach(holder.kept.place.at()));
            attached.map_err(|error| failed(&error))?;
        }
        holder.keep(&mut heard, &mut signals, ready).await
    });
    // One that is kept is left to the next process, unless that would fare no better.
    let is_hopeless = !is_kept || matches!(ended, Err(Failure::Worker { .. }));
    if ended.is_err() && !holder.is_ready && is_hopeless {
        if is_kept {
            holder.forget();
        } else {
            holder.forget_mount();
        }
        take_away(&holder.kept.place);
    }
    // A worker that is left over, whatever went wrong, is not left alone.
    holder.kill_all();
    ended
}

/// A mount that nobody serves yet, and what is to be put into the tree.
fn made(plan: &Plan) -> io::Result<(Kept, Option<Unattached>)> {
    let at = plan.mountpoint.canonicalize()?;
    let journal = Journal::make()?.into();
    let fuse::Held { at, requests, offered, device, number, unattached, why_untouchable } =
        fuse::hold(&at, &plan.fuse_options())?;
    let kept = Kept {
        requests,
        place: MountPoint { at, device, number },
        offered,
        why_untouchable,
        since: SystemTime::now(),
        journal,
        ledger: vec![],
    };
    Ok((kept, unattached))
}

/// A mount that lives.
struct Holder {
    kept: Kept,
    /// Somebody else has what it takes to go on with the mount, should we be gone.
    outlives_us: bool,
    hands: Hands,
    /// What the configuration is known by.
    fingerprint: [u8; 32],
    handed: OwnedFd,
    /// Programs can use the mount, and whoever started us was told.
    is_ready: bool,
    command: WorkerCommand,
    /// A worker that is not heard of for so long is replaced.
    watchdog: Duration,
    restarts: Restarts,
    events: UnboundedSender<Event>,
    next_number: u64,
    /// The worker whose mount it is.
    serving: Option<Worker>,
    /// There is none, and is to be one then.
    restart_at: Option<Instant>,
    upgrade: Option<Upgrade>,
    taking_over: Option<TakingOver>,
    ending: Option<Ending>,
    /// It ends because somebody has ended the kernel's connection, and not because somebody wanted it to end.
    is_aborted: bool,
    /// No worker can serve it.
    is_given_up: bool,
    pings: u64,
}

/// What a worker is started for.
#[derive(Debug, Clone, Copy)]
enum Task<'a> {
    /// To serve at once.
    Serve,
    /// To serve when it is told that its predecessor is gone; with the socket over which it is handed what that one holds.
    Succeed(&'a OwnedFd),
    /// To give back what its predecessors had, and nothing else.
    GiveBack,
}

/// What an event means for the loop.
enum Flow {
    GoOn,
    /// The mount is over, and this came of it.
    Over(Result<(), Failure>),
}

impl Holder {
    /// Starts the first worker of a mount that nobody can know yet, and waits until it serves. One that cannot says why itself.
    async fn begin(&mut self, heard: &mut UnboundedReceiver<Event>) -> Result<(), Failure> {
        let worker = self.start_worker(&self.command.clone(), Task::Serve)?;
        let number = worker.number;
        self.serving = Some(worker);
        loop {
            let event = tokio::time::timeout(PATIENCE_WITH_STARTS, heard.recv()).await;
            match event {
                Ok(Some(Event::Said(who, ToHolder::Serving, _))) if who == number => {
                    self.note_serving();
                    return Ok(());
                }
                Ok(Some(Event::Said(..))) => {}
                Ok(Some(Event::Gone(_, status))) => {
                    self.serving = None;
                    let code =
                        status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
                    return Err(Failure::Worker { code: code.filter(|code| *code != 0) });
                }
                Ok(None) | Err(_) => return Err(Failure::Worker { code: None }),
            }
        }
    }

    /// Looks after the mount until it ends; calls `ready` as soon as a worker serves.
    async fn keep(
        &mut self,
        heard: &mut UnboundedReceiver<Event>,
        signals: &mut Signals,
        ready: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), Failure> {
        let (mut ready, mut unheard) = (Some(ready), None);
        let look = self.look_every();
        let mut looks = tokio::time::interval(look);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let systemds = systemd::watchdog();
        let mut signs_of_life = tokio::time::interval(systemds.map_or(look, systemd::often_enough));
        signs_of_life.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_served = self.serving.as_ref().is_some_and(|worker| worker.serving.is_some());
            if let Some(ready) = ready.take_if(|_| is_served && self.ending.is_none()) {
                match ready() {
                    Ok(()) => self.leave(),
                    Err(error) => {
                        unheard = Some(error);
                        let _ = self.end("whoever started it cannot be told that it is there");
                    }
                }
            }
            let restart = self.restart_at;
            let flow = tokio::select! {
                Some(event) = heard.recv() => match event {
                    Event::Said(who, message, files) => self.said(who, message, files),
                    Event::Gone(who, status) => self.gone(who, status.and_then(|status| status.code())),
                },
                signal = signals.next() => match signal {
                    // Whoever restarts us goes on with the mount: what is kept is not given back.
                    // One that is ending is no mount to go on with, and its worker has much to give back.
                    Heard::End("SIGTERM") if self.outlives_us && self.goes_on() && systemd::is_restarting() => {
                        tracing::info!("restarting: the mount stays");
                        Flow::Over(Ok(()))
                    }
                    Heard::End(why) => self.end(why),
                    Heard::Upgrade => self.begin_upgrade(None),
                },
                () = tokio::time::sleep_until(restart.unwrap_or_else(Instant::now).into()), if restart.is_some() => {
                    self.restart()
                }
                _ = looks.tick() => self.look(),
                _ = signs_of_life.tick(), if systemds.is_some() => {
                    systemd::alive();
                    Flow::GoOn
                }
            };
            if let Flow::Over(result) = flow {
                return unheard.map_or(result, |error| Err(error.into()));
            }
        }
    }

    /// Whether the mount lives and is not to end.
    fn goes_on(&self) -> bool {
        self.ending.is_none() && fuse::lives(self.kept.requests.as_fd())
    }

    fn start_worker(&mut self, command: &WorkerCommand, task: Task<'_>) -> io::Result<Worker> {
        let number = WorkerNo(self.next_number);
        self.next_number += 1;
        let (ours, hands) = UnixStream::pair()?;
        self.hands.serve(ours)?;
        let worker = Worker::start(number, command, &self.events)?;
        let mut files: Vec<(Given, &dyn AsFd)> = vec![
            (Given::Requests, &self.kept.requests),
            (Given::Handed, &self.handed),
            (Given::Hands, &hands),
        ];
        files.extend(self.kept.journal.iter().map(|file| (Given::Journal, file as &dyn AsFd)));
        files.extend(self.kept.ledger.iter().map(|file| (Given::Ledger, file as &dyn AsFd)));
        if let Task::Succeed(legacy) = task {
            files.push((Given::Legacy, legacy));
        }
        let start = Start {
            protocol: PROTOCOL,
            at: self.kept.place.at.clone().into_os_string(),
            device: self.kept.place.device.clone(),
            offered: self.kept.offered,
            touching_thread: self.hands.touching_thread(),
            fingerprint: self.fingerprint,
            holder: std::process::id(),
            since: self.kept.since,
            crashes: self.restarts.total(),
            // Before the first worker of a mount nobody can have kept it yet.
            follows_a_crash: (number.0 > 0 || self.outlives_us) && self.ending.is_none(),
            succeeds: matches!(task, Task::Succeed(_)),
            gives_back: matches!(task, Task::GiveBack),
            keeps_open: true,
            outlives_holder: self.outlives_us,
            files: files.iter().map(|(given, _)| *given).collect(),
        };
        let files: Vec<&dyn AsFd> = files.into_iter().map(|(_, file)| file).collect();
        worker.tell(&ToWorker::Start(Box::new(start)), &files);
        Ok(worker)
    }

    /// Gives somebody what it takes to go on with the mount, and has the worker know it: before anybody can be in the mount, for a worker
    /// that does not know ends the mount with its holder, and whoever waits has an error.
    fn keep_for_the_next(&mut self) {
        self.outlives_us = self.kept.keep();
        if !self.outlives_us {
            // The ledger of the mount before may be there still.
            kept::forget();
        }
        if let Some(worker) = self.serving.as_ref().filter(|_| self.outlives_us) {
            worker.tell(&ToWorker::Outlives, &[]);
        }
    }

    /// Has the worker leave what we have left by now.
    fn leave(&mut self) {
        self.is_ready = true;
        // A leader that we cannot see (0: in another PID namespace, or the kernel's own) is not us.
        let session = nix::unistd::getsid(None).is_ok_and(|leader| leader == nix::unistd::getpid());
        if let Some(worker) = &self.serving {
            let outputs: [&dyn AsFd; 2] = [&rustix::stdio::stdout(), &rustix::stdio::stderr()];
            worker.tell(&ToWorker::Leave { session }, &outputs);
        }
    }

    fn note_serving(&mut self) {
        if let Some(worker) = &mut self.serving {
            let now = Instant::now();
            worker.serving = Some(now);
            tracing::debug!(pid = worker.pid, took = ?now - worker.started, "a worker serves");
        }
        if self.is_ready {
            self.leave();
        }
        if self.restarts.total() > 0 {
            systemd::serving_again(&self.kept.place.at.display().to_string(), self.restarts.total());
        }
    }

    fn said(&mut self, who: WorkerNo, message: ToHolder, files: Vec<OwnedFd>) -> Flow {
        let is_serving = self.serving.as_ref().is_some_and(|worker| worker.number == who);
        match message {
            ToHolder::Pong(_, done) => {
                if let Some(worker) = self.serving.as_mut().filter(|_| is_serving) {
                    worker.heard(done);
                }
            }
            ToHolder::Serving if is_serving => {
                self.note_serving();
                self.finish_upgrade();
                self.go_on_ending();
            }
            ToHolder::Upgrade => return self.begin_upgrade(files.into_iter().next()),
            ToHolder::Prepared | ToHolder::TookIn(_) | ToHolder::HandedOver(..) => {
                return self.go_on_upgrading(who, message);
            }
            ToHolder::Over if is_serving => self.note_over(),
            ToHolder::Detach if is_serving => self.detach(),
            ToHolder::Ended { in_use } if is_serving => self.note_ended(in_use),
            // Of one that is not asked any more.
            _ => {}
        }
        Flow::GoOn
    }

    fn gone(&mut self, who: WorkerNo, code: Option<i32>) -> Flow {
        if self.is_successor(who) {
            return self.lose_successor();
        }
        let Some(worker) = self.serving.take_if(|worker| worker.number == who) else { return Flow::GoOn };
        self.fall_back();
        if let Some(flow) = self.is_ended() {
            return flow;
        }
        if self.is_replaced_on_purpose() {
            return self.let_take_over();
        }
        let life = worker.serving.map(|since| since.elapsed());
        let next = self.restarts.crashed(life, Clock::System.now());
        let (pid, crashes) = (worker.pid, self.restarts.total());
        match (code, life) {
            (Some(code), _) => tracing::error!(pid, crashes, "a worker ended with exit code {code}"),
            (None, _) => tracing::error!(pid, crashes, "a worker was killed"),
        }
        if let Some(code) = code.filter(|_| !self.is_ready && life.is_none()).and_then(given_up::hopeless) {
            return Flow::Over(Err(Failure::Worker { code: Some(code) }));
        }
        // One that is prepared already is there sooner than any other.
        if self.upgrade.is_some() && next != Next::GiveUp {
            return self.let_take_over();
        }
        match next {
            Next::Restart(pause) => {
                self.restart_at = Some(Instant::now() + pause);
                // Not by way of the loop, which may have much to hear first: readers wait.
                if pause.is_zero() { self.restart() } else { Flow::GoOn }
            }
            Next::GiveUp => self.give_up(),
        }
    }

    fn restart(&mut self) -> Flow {
        self.restart_at = None;
        match self.start_worker(&self.command.clone(), Task::Serve) {
            Ok(worker) => {
                self.serving = Some(worker);
                Flow::GoOn
            }
            Err(error) => {
                tracing::error!("a worker cannot be started: {error}");
                match self.restarts.crashed(None, Clock::System.now()) {
                    Next::Restart(pause) => {
                        // What the system refuses once it refuses again at once.
                        self.restart_at = Some(Instant::now() + pause.max(Duration::from_millis(100)));
                        Flow::GoOn
                    }
                    Next::GiveUp => self.give_up(),
                }
            }
        }
    }

    fn kill_all(&self) {
        for worker in self.serving.iter().chain(self.upgrade.iter().map(Upgrade::successor)) {
            worker.kill();
        }
    }
}
