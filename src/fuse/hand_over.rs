//! Owns the fork between an answer that is ready and one that must be waited for: deadline, interruption, reply.
//! Does not know what was asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use fuser::Request;
use tokio::runtime::Handle;

use crate::errno::Failure;

/// How long a request waits before its caller is watched, and how often from then on. A killed reader is let go within
/// twice this.
const WATCH: Duration = Duration::from_millis(100);
/// After a caller was let go, others are looked at before they wait, for this long: a crowd is killed together.
const CROWD: Duration = Duration::from_secs(1);

/// Runs what has to wait on the runtime that the daemon gave.
pub(super) struct HandOver {
    runtime: Handle,
    deadline: Duration,
    let_go: LetGo,
}

/// When a caller was let go the last time. Guards a moment; held to read or set it.
type LetGo = Arc<Mutex<Option<Instant>>>;

impl HandOver {
    pub(super) fn new(runtime: Handle, deadline: Duration) -> Self {
        Self { runtime, deadline, let_go: LetGo::default() }
    }

    /// Replies at once when `work` is ready at its first poll. Else moves it and the reply into a task: exactly one reply
    /// comes, at the latest at the deadline.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        request: &Request,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
        reply: impl FnOnce(Result<T, Failure>) + Send + 'static,
    ) {
        // Timers and sockets that the first poll makes belong to this runtime.
        let _runtime = self.runtime.enter();
        let mut work = Box::pin(work);
        if let Poll::Ready(result) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return reply(result);
        }
        let caller = Caller(request.pid());
        let (deadline, let_go) = (self.deadline, self.let_go.clone());
        self.runtime.spawn(async move { reply(wait(work, deadline, caller, &let_go).await) });
    }

    /// Does what no program waits for, however long that takes. What has no answer the kernel sends again to the next worker; an answer
    /// at a deadline would keep it from that.
    pub(super) fn finish(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }
}

async fn wait<T>(
    mut work: Pin<Box<impl Future<Output = Result<T, Failure>>>>,
    deadline: Duration,
    caller: Caller,
    let_go: &LetGo,
) -> Result<T, Failure> {
    let last = || let_go.lock().unwrap_or_else(|e| e.into_inner());
    // Of those whom the kernel let wait behind another's lookup, deaf to signals, some come here killed already. A signal that
    // its program handles is no reason to end a wait that has hardly begun.
    let is_crowd = last().is_some_and(|at| at.elapsed() < CROWD);
    if is_crowd && caller.has_pending(is_killed) {
        *last() = Some(Instant::now());
        return Err(Failure::Interrupted);
    }
    let end = tokio::time::sleep(deadline);
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = &mut end => return Err(Failure::DeadlinePassed),
            () = tokio::time::sleep(WATCH) => {
                if caller.has_pending(is_told_to_stop) {
                    *last() = Some(Instant::now());
                    return Err(Failure::Interrupted);
                }
            }
        }
    }
}

/// The thread that made a request. fuser answers FUSE_INTERRUPT with ENOSYS, and without an answer to its request the
/// thread stays in uninterruptible sleep, SIGKILL or not: so we look at its pending signals ourselves.
struct Caller(u32);

impl Caller {
    /// Whether `is` finds a signal in its status (proc(5)). A caller that cannot be seen (0: another pid namespace) is never
    /// interrupted.
    fn has_pending(&self, is: fn(&str) -> bool) -> bool {
        if self.0 == 0 {
            return false;
        }
        match std::fs::read_to_string(format!("/proc/{}/status", self.0)) {
            Ok(status) => is(&status),
            Err(_) => false,
        }
    }
}

/// Whether a signal that it neither blocks nor ignores is pending for a thread or its process (SigPnd and ShdPnd against SigBlk
/// and SigIgn).
fn is_told_to_stop(status: &str) -> bool {
    (mask(status, "SigPnd") | mask(status, "ShdPnd")) & !(mask(status, "SigBlk") | mask(status, "SigIgn"))
        != 0
}

/// Whether a thread is about to die: of any signal that ends its process the kernel makes a SIGKILL for each thread
/// (`complete_signal`, kernel/signal.c).
fn is_killed(status: &str) -> bool {
    const SIGKILL: u64 = 1 << 8;
    (mask(status, "SigPnd") | mask(status, "ShdPnd")) & SIGKILL != 0
}

fn mask(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signal_that_would_be_delivered_stops_a_caller() {
        let status = |pending: &str, shared: &str, blocked: &str, ignored: &str| {
            format!(
                "Name:\tcat\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\n"
            )
        };
        let none = "0000000000000000";
        let kill = "0000000000000100";
        assert!(!is_told_to_stop(&status(none, none, none, none)));
        assert!(is_told_to_stop(&status(kill, none, none, none)));
        assert!(is_told_to_stop(&status(none, kill, none, none)));
        assert!(!is_told_to_stop(&status(none, kill, kill, none)));
        assert!(!is_told_to_stop(&status(none, kill, none, kill)));
        assert!(!is_told_to_stop("nonsense"));
        let handled = "0000000000010000";
        assert!(is_told_to_stop(&status(none, handled, none, none)));
        assert!(!is_killed(&status(none, handled, none, none)), "its program may go on after SIGCHLD");
        assert!(is_killed(&status(kill, none, none, none)) && is_killed(&status(none, kill, none, none)));
    }
}
