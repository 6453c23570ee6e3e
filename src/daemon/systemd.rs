//! Owns what the service manager is told (sd_notify(3)), and what it is asked.
//! Does not know why. Without `NOTIFY_SOCKET` nothing is told.

use std::process::{Command, Stdio};

use sd_notify::NotifyState;

use crate::printable::printable;

/// Programs can use the mount at `at`.
pub(super) fn serving(at: &str) {
    let status = format!("serving on {at}");
    tell(&[NotifyState::Ready, NotifyState::Status(&printable(&status))]);
}

/// The holder's loop turns (`WatchdogSec=`).
pub(super) fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

/// What the unit's end means when the service manager has no job for it: exit codes that are not tried again, for what they mean does
/// not mend itself. `RestartPreventExitStatus=` of systemd/secretfs@.service.
pub const DOES_NOT_MEND: [&str; 6] = ["64", "65", "66", "70", "77", "78"];

/// What the service manager is about to do with a unit (systemctl(1), `list-jobs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    /// To start it; `begun`: this start is what has just failed.
    Start {
        begun: bool,
    },
    Restart,
    Stop,
}

/// Whether the unit that this process belongs to is being restarted rather than stopped, as far as the service manager says so:
/// it sends the same signal for both.
pub(super) fn is_restarting() -> bool {
    // A start that waits for the end of this process is as good.
    matches!(own_job(), Some(Job::Restart | Job::Start { .. }))
}

/// Whether the service manager starts the service again whose process is gone, and has kept its mount for that: to be asked by
/// `ExecStopPost=`, which is told what has happened (systemd.exec(5), `$SERVICE_RESULT`).
pub fn comes_back() -> bool {
    let said = |name| std::env::var(name).unwrap_or_default();
    let code = Some(said("EXIT_STATUS")).filter(|_| said("EXIT_CODE") == "exited");
    follows(own_job(), said("SERVICE_RESULT") == "success", code.as_deref())
}

fn follows(job: Option<Job>, went_well: bool, code: Option<&str>) -> bool {
    let mends = !code.is_some_and(|code| DOES_NOT_MEND.contains(&code));
    match job {
        Some(Job::Stop) => false,
        Some(Job::Restart | Job::Start { begun: false }) => true,
        Some(Job::Start { begun: true }) => mends,
        // `Restart=on-failure`
        None => !went_well && mends,
    }
}

fn own_job() -> Option<Job> {
    let unit = own_unit()?;
    let mut command = Command::new("systemctl");
    command.args(["list-jobs", "--no-legend", "--no-pager", "--plain"]);
    // Whoever waits for it waits with readers, or has to stop.
    command.env("SYSTEMD_BUS_TIMEOUT", "5s").stdin(Stdio::null());
    let output = command.output().ok()?;
    job(&String::from_utf8_lossy(&output.stdout), &unit)
}

/// The unit, by the control group that systemd has put this process into.
fn own_unit() -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let of_unit = groups.lines().filter_map(|line| line.rsplit('/').find(|name| name.ends_with(".service")));
    of_unit.last().map(str::to_owned)
}

/// A line is JOB UNIT TYPE STATE; the name of the unit stands there as it is.
fn job(jobs: &str, unit: &str) -> Option<Job> {
    let mut lines = jobs.lines().map(|line| line.split_whitespace().skip(1));
    let mut words = lines.find_map(|mut words| (words.next() == Some(unit)).then_some(words))?;
    match words.next()? {
        "start" => Some(Job::Start { begun: words.next() == Some("running") }),
        "restart" | "try-restart" => Some(Job::Restart),
        "stop" => Some(Job::Stop),
        _ => None,
    }
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
                    10 secretfs@c.service start waiting\n11 secretfs@d.service start running\n12 secretfs@e.service verify-active running\n";
        assert_eq!(job(jobs, "secretfs@a.service"), Some(Job::Stop));
        assert_eq!(job(jobs, "secretfs@b.service"), Some(Job::Restart));
        assert_eq!(job(jobs, "secretfs@c.service"), Some(Job::Start { begun: false }));
        assert_eq!(job(jobs, "secretfs@d.service"), Some(Job::Start { begun: true }));
        assert_eq!(job(jobs, "secretfs@e.service"), None);
        assert_eq!(job("", "secretfs@a.service"), None);
        assert_eq!(job("No jobs running.\n", "secretfs@a.service"), None);
    }

    #[test]
    fn a_mount_stays_for_a_service_that_comes_back_and_for_no_other() {
        assert!(follows(Some(Job::Restart), true, Some("0")));
        assert!(follows(Some(Job::Start { begun: false }), true, Some("0")));
        assert!(!follows(Some(Job::Stop), true, Some("0")));
        assert!(!follows(Some(Job::Stop), false, None));
        // Killed or crashed, by itself and when it was started.
        assert!(follows(None, false, None));
        assert!(follows(None, false, Some("74")));
        assert!(follows(Some(Job::Start { begun: true }), false, None));
        // A mistake in the configuration.
        assert!(!follows(None, false, Some("78")));
        assert!(!follows(Some(Job::Start { begun: true }), false, Some("78")));
        assert!(!follows(None, true, Some("0")));
    }
}
