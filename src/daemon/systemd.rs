//! Owns what the service manager is told (sd_notify(3)), and what it is asked.
//! Does not know why. Without `NOTIFY_SOCKET` nothing is told.

use std::process::{Command, Stdio};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::printable::printable;

/// Programs can use the mount at `at`.
pub(super) fn serving(at: &str) {
    let status = format!("serving on {at}");
    tell(&[NotifyState::Ready, NotifyState::Status(&printable(&status))]);
}

/// They can again, after so many crashes since it was made.
pub(super) fn serving_again(at: &str, crashes: u64) {
    let crashes = if crashes == 1 { "1 crash".to_owned() } else { format!("{crashes} crashes") };
    tell(&[NotifyState::Status(&printable(&format!("serving on {at}, {crashes}")))]);
}

/// How long systemd waits for a sign of life before it takes us for stuck (`WatchdogSec=`); none where it does not wait.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|wait| !wait.is_zero())
}

/// How often a sign of life is due where systemd waits for so long. sd_watchdog_enabled(3) recommends half of it; twice as often, for a
/// busy machine may be late.
pub(super) fn often_enough(wait: Duration) -> Duration {
    (wait / 4).max(Duration::from_millis(1))
}

/// A sign of life.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Whether the unit that this process belongs to is being restarted rather than stopped, as far as the service manager says so:
/// it sends the same signal for both.
pub(super) fn is_restarting() -> bool {
    let Some(unit) = own_unit() else { return false };
    let mut command = Command::new("systemctl");
    command.args(["list-jobs", "--no-legend", "--no-pager", "--plain"]);
    // Meanwhile nobody looks after the mount.
    command.env("SYSTEMD_BUS_TIMEOUT", "5s").stdin(Stdio::null());
    let Ok(output) = command.output() else { return false };
    comes_back(&String::from_utf8_lossy(&output.stdout), &unit)
}

/// The unit, by the control group that systemd has put this process into.
fn own_unit() -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut of_unit =
        groups.lines().filter_map(|line| line.rsplit('/').find(|name| name.ends_with(".service")));
    of_unit.next_back().map(str::to_owned)
}

/// systemctl(1), `list-jobs`: JOB UNIT TYPE STATE; the name of the unit stands there as it is. A start waits where somebody starts a
/// service that is being stopped.
fn comes_back(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(unit)
            && words.next().is_some_and(|kind| ["restart", "try-restart", "start"].contains(&kind))
    })
}

/// The mount ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("unmounting")]);
}

fn tell(state: &[NotifyState<'_>]) {
    // A broken socket is systemd's to notice.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {}", error.kind());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_told_from_a_stop() {
        let jobs = " 7 other.service restart running\n 8 secretfs@a.service stop running\n 9 secretfs@b.service restart running\n\
                    10 secretfs@c.service start waiting\n";
        assert!(comes_back(jobs, "secretfs@b.service"));
        assert!(comes_back(jobs, "secretfs@c.service"));
        assert!(!comes_back(jobs, "secretfs@a.service"));
        assert!(!comes_back("", "secretfs@a.service"));
        assert!(!comes_back("No jobs running.\n", "secretfs@a.service"));
    }
}
