//! Owns the fork between an answer that is ready and one that must be waited for: deadline, interruption, reply.
//! Does not know what was asked.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fuser::Request;
use tokio::runtime::Handle;

use crate::errno::Failure;

/// How long a request waits before its caller is watched, and how often from then on. A killed reader is let go within
/// twice this.
const WATCH: Duration = Duration::from_millis(100);

/// Runs what has to wait on the runtime that the daemon gave.
pub(super) struct HandOver {
    runtime: Handle,
    deadline: Duration,
}

impl HandOver {
    pub(super) fn new(runtime: Handle, deadline: Duration) -> Self {
        Self { runtime, deadline }
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
        let deadline = self.deadline;
        self.runtime.spawn(async move { reply(wait(work, deadline, caller).await) });
    }
}

async fn wait<T>(
    mut work: Pin<Box<impl Future<Output = Result<T, Failure>>>>,
    deadline: Duration,
    caller: Caller,
) -> Result<T, Failure> {
    // Of those whom the kernel let wait behind another's lookup, deaf to signals, some come here killed already.
    if caller.is_told_to_stop() {
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
                if caller.is_told_to_stop() {
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
    /// Whether a signal that it neither blocks nor ignores is pending for the thread or its process (proc(5), SigPnd and
    /// ShdPnd against SigBlk and SigIgn). A caller that cannot be seen (0: another pid namespace) is never interrupted.
    fn is_told_to_stop(&self) -> bool {
        if self.0 == 0 {
            return false;
        }
        match std::fs::read_to_string(format!("/proc/{}/status", self.0)) {
            Ok(status) => has_pending_signal(&status),
            Err(_) => false,
        }
    }
}

fn has_pending_signal(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd") | mask("ShdPnd")) & !(mask("SigBlk") | mask("SigIgn")) != 0
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
        assert!(!has_pending_signal(&status(none, none, none, none)));
        assert!(has_pending_signal(&status(kill, none, none, none)));
        assert!(has_pending_signal(&status(none, kill, none, none)));
        assert!(!has_pending_signal(&status(none, kill, kill, none)));
        assert!(!has_pending_signal(&status(none, kill, none, kill)));
        assert!(!has_pending_signal("nonsense"));
    }
}
