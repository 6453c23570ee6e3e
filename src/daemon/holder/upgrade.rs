//! Owns the exchange of a worker for one of the program that is in place by now, with what the old one holds.
//! Does not know what is handed over.
//!
//! The old one serves until the new one has all that it needs. Then it is killed, as in a crash: what it has taken and not answered the
//! kernel sends again, to the new one.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::super::channel::{ToHolder, ToWorker};
use super::process::{Worker, WorkerCommand, WorkerNo};
use super::words::{Verdict, Words};
use super::{Flow, Holder, Task};
use crate::control::protocol::{self, Answer, Refusal, RefusalKind, Reply, VERSION};
use crate::fuse::Offered;

/// How long it may take all in all, until the new worker takes over.
const PATIENCE: Duration = Duration::from_secs(30);

/// An upgrade that is under way.
pub(super) struct Upgrade {
    successor: Worker,
    /// How it was started: how others are from then on.
    command: WorkerCommand,
    /// Our end of what both workers speak over, until the old one has it.
    legacy: Option<OwnedFd>,
    /// Who waits for the answer.
    asked_by: Vec<UnixStream>,
    until: Instant,
    stage: Stage,
    /// What both say of it.
    words: Words,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The new one prepares itself.
    Preparing,
    /// The old one hands over.
    HandingOver,
    /// The old one is killed.
    Replacing,
}

impl Upgrade {
    pub(super) fn successor(&self) -> &Worker {
        &self.successor
    }
}

/// A new worker that was told to take over and does not serve yet.
pub(super) struct TakingOver {
    asked_by: Vec<UnixStream>,
    /// How workers were started before: so they are again if this one dies of it.
    former: WorkerCommand,
}

impl Holder {
    /// Begins one; `asked_by` waits for the answer. Whoever asks during one waits for the same.
    pub(super) fn begin_upgrade(&mut self, asked_by: Option<OwnedFd>) -> Flow {
        let asked_by = asked_by.map(UnixStream::from);
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.asked_by.extend(asked_by);
            return Flow::GoOn;
        }
        let asked_by: Vec<UnixStream> = asked_by.into_iter().collect();
        let is_serving = self.serving.as_ref().is_some_and(|worker| worker.serving.is_some());
        if self.ending.is_some() || !is_serving {
            answer(asked_by, Err("no worker serves the mount at the moment: try again"));
            return Flow::GoOn;
        }
        if let Some(why) = why_never(self.kept.offered) {
            tracing::error!("no upgrade: {why}");
            answer(asked_by, Err(why));
            return Flow::GoOn;
        }
        tracing::info!(program = %self.command.path().display(), "upgrading");
        let started = UnixStream::pair().and_then(|(old, new)| {
            let command = self.command.renewed()?;
            let successor = self.start_worker(&command, Task::Succeed(&new.into()))?;
            let words = Words::about(successor.number.0);
            Ok(Upgrade {
                successor,
                command,
                legacy: Some(old.into()),
                asked_by: vec![],
                until: Instant::now() + PATIENCE,
                stage: Stage::Preparing,
                words,
            })
        });
        match started {
            Ok(upgrade) => self.upgrade = Some(Upgrade { asked_by, ..upgrade }),
            Err(error) => {
                tracing::error!("the new program cannot be started: {error}; the old one goes on");
                answer(asked_by, Err(&format!("the new program cannot be started: {error}")));
            }
        }
        Flow::GoOn
    }

    /// One of the two has come further.
    pub(super) fn go_on_upgrading(&mut self, who: WorkerNo, message: ToHolder) -> Flow {
        let (Some(upgrade), Some(old), None) = (&mut self.upgrade, &self.serving, &self.ending) else {
            return Flow::GoOn;
        };
        let WorkerNo(successor) = upgrade.successor.number;
        let verdict = match (upgrade.stage, message) {
            (Stage::Preparing, ToHolder::Prepared) if who == upgrade.successor.number => {
                upgrade.stage = Stage::HandingOver;
                if let Some(legacy) = upgrade.legacy.take() {
                    old.tell(&ToWorker::HandOver { successor }, &[&legacy]);
                }
                Verdict::Wait
            }
            (Stage::HandingOver, ToHolder::HandedOver(of, handed)) if who == old.number => {
                upgrade.words.handed(of, handed)
            }
            (Stage::HandingOver, ToHolder::TookIn(taken)) if who == upgrade.successor.number => {
                upgrade.words.taken(taken)
            }
            // Of an upgrade that was abandoned, perhaps.
            _ => Verdict::Wait,
        };
        match verdict {
            Verdict::Wait => {}
            Verdict::Abandon(why) => self.abandon_upgrade(&why),
            Verdict::Replace(nothing) => {
                if let Some(why) = nothing {
                    tracing::warn!("the new worker begins with nothing: {why}");
                }
                upgrade.stage = Stage::Replacing;
                old.kill();
            }
        }
        Flow::GoOn
    }

    /// Whether the old worker is gone because it was to go.
    pub(super) fn is_replaced_on_purpose(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.stage == Stage::Replacing)
    }

    /// There is no old worker any more.
    pub(super) fn let_take_over(&mut self) -> Flow {
        let Some(upgrade) = self.upgrade.take() else { return Flow::GoOn };
        upgrade.successor.tell(&ToWorker::TakeOver, &[]);
        let mut successor = upgrade.successor;
        successor.started = Instant::now();
        self.serving = Some(successor);
        let former = std::mem::replace(&mut self.command, upgrade.command);
        self.taking_over = Some(TakingOver { asked_by: upgrade.asked_by, former });
        Flow::GoOn
    }

    /// A worker serves: if it is the new one, that was all.
    pub(super) fn finish_upgrade(&mut self) {
        if let (Some(done), Some(worker)) = (self.taking_over.take(), &self.serving) {
            tracing::info!(pid = worker.pid, "upgraded: a new worker serves");
            answer(done.asked_by, Ok(()));
        }
    }

    /// The worker has died that was to take over.
    pub(super) fn fall_back(&mut self) {
        if let Some(failed) = self.taking_over.take() {
            let why = "the new program died when it took over; the old one is started again";
            tracing::error!("no upgrade: {why}");
            self.command = failed.former;
            answer(failed.asked_by, Err(why));
        }
    }

    /// The new worker has died on the way.
    pub(super) fn lose_successor(&mut self) -> Flow {
        self.abandon_upgrade("the new program does not start; its reason is in the log");
        Flow::GoOn
    }

    pub(super) fn is_successor(&self, who: WorkerNo) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.successor.number == who)
    }

    /// The old worker goes on.
    pub(super) fn abandon_upgrade(&mut self, why: &str) {
        let Some(upgrade) = self.upgrade.take() else { return };
        tracing::error!("no upgrade: {why}; the old program goes on");
        upgrade.successor.kill();
        if let Some(old) = &self.serving {
            old.tell(&ToWorker::GoOn, &[]);
        }
        answer(upgrade.asked_by, Err(why));
    }

    pub(super) fn look_after_upgrade(&mut self) {
        let is_late = |upgrade: &Upgrade| upgrade.until < Instant::now() && upgrade.stage != Stage::Replacing;
        if self.upgrade.as_ref().is_some_and(is_late) {
            self.abandon_upgrade("the new program takes too long");
        }
    }
}

/// Why the workers of a mount cannot be exchanged, where they cannot: what the old one has taken and not answered would wait for ever.
fn why_never(offered: Offered) -> Option<&'static str> {
    (!offered.can_resend()).then_some("it needs Linux 6.9 or later: unmount, and mount again")
}

fn answer(asked_by: Vec<UnixStream>, result: Result<(), &str>) {
    let reply = || match result {
        Ok(()) => Reply::Upgraded,
        Err(why) => Reply::Refused(Refusal::new(RefusalKind::NotUpgraded, why.to_owned())),
    };
    for mut stream in asked_by {
        let line = protocol::line_of(&Answer { version: VERSION, reply: reply() });
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        // Whoever has gone has given up the answer.
        let _ = stream.write_all(&line);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn where_the_kernel_asks_nothing_again_no_worker_is_exchanged() {
        let offered = |flags: u64| -> Offered {
            let text = format!(r#"{{"major":7,"minor":39,"max_readahead":1,"flags":{flags}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        assert!(why_never(offered(0)).is_some_and(|why| why.contains("6.9")));
        assert_eq!(why_never(offered(u64::MAX)), None);
    }
}
