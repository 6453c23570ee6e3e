//! Owns what the service manager is told (sd_notify(3)).
//! Does not know why. Without `NOTIFY_SOCKET` all of it does nothing.

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
