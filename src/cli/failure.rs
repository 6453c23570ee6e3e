//! Owns how a command of the store fails: one line that says what to do, and the exit code of sysexits(3).
//! Does not know which command it was.

use std::io::ErrorKind;
use std::path::Path;

use crate::backend::store::{BadPath, ConfigError, FileError};

/// Why a command did not do its work. The message is one line and never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        // A file name may hold anything; a message stays one line.
        let message: String = message.into();
        let one_line = message.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        Self { message: one_line, code }
    }

    /// The exit code: 64 usage, 65 bad data, 66 no input, 70 workers that crash, 71 the system refused or ended a mount, 73 cannot create, 74 I/O, 77 permission or key, 78 configuration.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The command was called in a wrong way.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(64, message)
    }

    /// Input that cannot be understood.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(65, message)
    }

    /// What was asked for is not there.
    pub fn no_input(message: impl Into<String>) -> Self {
        Self::new(66, message)
    }

    /// Reading or writing failed.
    pub fn io(message: impl Into<String>) -> Self {
        Self::new(74, message)
    }

    /// The user may not.
    pub fn permission(message: impl Into<String>) -> Self {
        Self::new(77, message)
    }

    /// The surroundings are not set up.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(78, message)
    }

    /// Nothing when there is none; else all of them, a line each, with the code of the first.
    pub(super) fn all(failures: Vec<Self>) -> Result<(), Self> {
        let Some(code) = failures.first().map(|failure| failure.code) else { return Ok(()) };
        let lines: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        Err(Self { message: lines.join("\n"), code })
    }

    /// A configuration file with mistakes, one a line.
    pub(super) fn problems(lines: &str) -> Self {
        let keep = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
        Self { message: lines.chars().map(keep).collect(), code: 78 }
    }

    /// Another process has printed the reason already.
    pub(super) fn told(code: u8) -> Self {
        Self { message: String::new(), code }
    }

    /// The system did not let us do something with a file.
    pub(super) fn cannot(doing: &str, file: &Path, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::NotFound => 66,
            ErrorKind::PermissionDenied => 77,
            _ => 74,
        };
        Self::new(code, format!("cannot {doing} {}: {error}", file.display()))
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let code = match &error {
            FileError::Missing(_) => 66,
            FileError::Exists(_) => 73,
            FileError::WrongKey { .. } | FileError::NeedsPassphrase(_) | FileError::NeedsIdentity(_) => 77,
            FileError::Corrupt { .. } | FileError::Document { .. } | FileError::TooLarge(_) => 65,
            FileError::Io { doing: "create", .. } => 73,
            FileError::Io { error, .. } if error.kind() == ErrorKind::PermissionDenied => 77,
            FileError::Io { .. } => 74,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = match &error {
            ConfigError::Missing { .. } => 66,
            ConfigError::Untrusted(_) => 77,
            ConfigError::Content { .. } | ConfigError::Passphrase => 78,
            ConfigError::Io { doing: "create", .. } => 73,
            ConfigError::Io { error, .. } if error.kind() == ErrorKind::PermissionDenied => 77,
            ConfigError::Io { .. } => 74,
        };
        Self::new(code, error.to_string())
    }
}

impl From<crate::daemon::Failure> for Failure {
    fn from(error: crate::daemon::Failure) -> Self {
        use crate::daemon::Failure as D;
        // It has said why itself.
        if let D::Worker { code: Some(code) } = error {
            return Self::told(code);
        }
        let code = match &error {
            D::Backend { .. } | D::Hooks(_) => 78,
            D::Worker { .. } | D::GivenUp { .. } => 70,
            D::Mount { .. } | D::Start(_) | D::Unmount { .. } | D::Aborted { .. } => 71,
        };
        Self::new(code, error.to_string())
    }
}

impl From<BadPath> for Failure {
    fn from(error: BadPath) -> Self {
        Self::usage(error.to_string())
    }
}
