//! Owns the signals that a mount heeds: those that end it in good order, and the one that asks for an upgrade.
//! Does not know what either takes.

use std::io;

use nix::sys::signal::{SigSet, Signal as Held};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// SIGTERM, SIGINT or SIGHUP, by name: the end.
    End(&'static str),
    /// SIGUSR2: the program that is in place by now.
    Upgrade,
}

/// SIGTERM, SIGINT, SIGHUP and SIGUSR2, from the moment this is made: before the mount is, so that none of them can kill the
/// process between mounting and serving and leave a mount behind that answers nothing.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    upgrade: Signal,
    /// Absent where SIGHUP was ignored when we were started: nohup(1) wants us to outlive the terminal.
    hangup: Option<Signal>,
}

impl Signals {
    /// Catches the signals. Needs a runtime around it.
    pub(super) fn catch() -> io::Result<Self> {
        let ignored =
            std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status));
        // Held back meanwhile: what comes between the kernel's knowing of a handler and the handler's knowing what to do is lost
        // (signal_hook_registry), and systemd says SIGTERM once.
        let held: SigSet = [Held::SIGTERM, Held::SIGINT, Held::SIGUSR2, Held::SIGHUP].into_iter().collect();
        held.thread_block()?;
        let caught = Self::caught(ignored);
        held.thread_unblock()?;
        caught
    }

    fn caught(hangup_is_ignored: bool) -> io::Result<Self> {
        let hangup = if hangup_is_ignored { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
            hangup,
        })
    }

    /// Waits for one; says which.
    pub(super) async fn next(&mut self) -> Heard {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.term.recv() => Heard::End("SIGTERM"),
            _ = self.int.recv() => Heard::End("SIGINT"),
            _ = self.upgrade.recv() => Heard::Upgrade,
            _ = hangup => Heard::End("SIGHUP"),
        }
    }
}

/// proc(5): SigIgn is a mask in hexadecimal; SIGHUP is signal 1, its lowest bit.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_seen_in_the_mask() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup("nonsense"));
    }
}
