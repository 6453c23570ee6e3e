//! Owns what a hook does: a program, a signal, a reload, and within which bounds. It comes from the configuration alone.
//! Does not know when a hook runs, or for which paths.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::printable::{printable, printable_path};

/// What the hands know of one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What it does.
    pub action: Action,
    /// From the beginning of one run to that of the next at least, whoever asks for it.
    pub interval: Duration,
    /// The longest that a program may run.
    pub timeout: Duration,
    /// Whether what a program prints goes to the log.
    pub log_output: bool,
}

/// What a hook does. Shown as the line that names the hook in the log and in `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Runs a program.
    Exec {
        /// An absolute path.
        program: PathBuf,
        /// What it is given; not shown, somebody may have put a password there.
        arguments: Vec<String>,
        /// As whom; none is the user that this process runs as.
        user: Option<User>,
    },
    /// Sends a signal to the process that a file names.
    Signal {
        /// Which.
        signal: Signal,
        /// Holds the number of the process.
        pid_file: PathBuf,
    },
    /// Has systemd send a signal to the main process of a unit.
    SignalUnit {
        /// Which.
        signal: Signal,
        /// The unit.
        unit: String,
    },
    /// Has systemd reload a unit.
    Reload {
        /// The unit.
        unit: String,
    },
}

/// The user and group that a program runs as; without any other group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec { program, .. } => write!(f, "exec {}", printable_path(program)),
            Self::Signal { signal, pid_file } => write!(f, "signal {signal} {}", printable_path(pid_file)),
            Self::SignalUnit { signal, unit } => write!(f, "signal {signal} {}", printable(unit)),
            Self::Reload { unit } => write!(f, "reload {}", printable(unit)),
        }
    }
}

/// A signal that tells a program something: no fault, no job control, nothing that is kept for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    name: &'static str,
    number: rustix::process::Signal,
}

impl Signal {
    /// Every one there is.
    pub const ALL: [Signal; 9] = {
        use rustix::process::Signal as Number;
        const fn signal(name: &'static str, number: Number) -> Signal {
            Signal { name, number }
        }
        [
            signal("HUP", Number::HUP),
            signal("INT", Number::INT),
            signal("QUIT", Number::QUIT),
            signal("USR1", Number::USR1),
            signal("USR2", Number::USR2),
            signal("ALRM", Number::ALARM),
            signal("TERM", Number::TERM),
            signal("WINCH", Number::WINCH),
            signal("KILL", Number::KILL),
        ]
    };

    /// By its name (signal(7)), with or without `SIG`.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.strip_prefix("SIG").unwrap_or(name);
        Self::ALL.into_iter().find(|signal| signal.name == name)
    }

    /// Without `SIG`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// For the system.
    pub(super) fn number(self) -> rustix::process::Signal {
        self.number
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(Signal::named("HUP"), Signal::named("SIGHUP"));
        assert_eq!(Signal::named("USR1").unwrap().number(), rustix::process::Signal::USR1);
        for wrong in ["", "SIG", "hup", "STOP", "1", "SIGSIGHUP"] {
            assert_eq!(Signal::named(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_hook_is_named_without_its_arguments() {
        let action = Action::Exec { program: "/a\nb".into(), arguments: vec!["canary".into()], user: None };
        assert_eq!(action.to_string(), "exec /a\\nb");
    }
}
