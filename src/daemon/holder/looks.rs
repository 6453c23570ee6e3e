//! Owns the looking after a worker: who says nothing, or gets nowhere, for too long is killed, which ends it as a crash does.
//! Does not know what follows a crash.

use std::time::{Duration, Instant};

use super::super::channel::ToWorker;
use super::{Flow, Holder, PATIENCE_WITH_STARTS};

/// How often a worker is looked after, within the time after which it is taken for stuck.
const LOOKS: u32 = 8;

impl Holder {
    /// How often that is due.
    pub(super) fn look_every(&self) -> Duration {
        (self.watchdog / LOOKS).max(Duration::from_millis(10))
    }

    /// Whether everybody is well; what is stuck is killed, which ends it as a crash does.
    pub(super) fn look(&mut self) -> Flow {
        self.pings += 1;
        let ping = self.pings;
        let is_ending = self.ending.is_some();
        let is_held_on_to = self.is_held_on_to();
        if let Some(worker) = self.serving.as_mut() {
            let stuck = match worker.serving {
                // It serves nobody, and the end has its own time.
                None if self.is_given_up => None,
                None => {
                    (worker.started.elapsed() > PATIENCE_WITH_STARTS).then_some("does not begin to serve")
                }
                // It answers no more, and has its own time for all but this.
                Some(_) if is_ending => is_held_on_to.then_some("does not let go of the mount"),
                Some(_) if worker.silent >= LOOKS => Some("does not answer"),
                Some(_) if worker.stuck >= LOOKS => Some("does not answer programs"),
                Some(_) => None,
            };
            if let Some(stuck) = stuck {
                tracing::error!(pid = worker.pid, "a worker {stuck}: it is replaced");
                worker.kill();
                // Not again at every look until its end is heard of. For how long it has served is left as it is: one that did for
                // long is replaced without a pause.
                (worker.silent, worker.stuck) = (0, 0);
                worker.started = Instant::now();
            } else if worker.serving.is_some() && !is_ending {
                // By looks and not by the clock: where we ourselves did not get to look, its answers wait for us.
                worker.silent += 1;
                worker.tell(&ToWorker::Ping(ping), &[]);
            }
        }
        self.look_after_upgrade();
        self.look_after_end()
    }
}
