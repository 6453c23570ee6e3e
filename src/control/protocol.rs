//! Owns what is said over the control socket: one line of JSON asked, one answered, both bounded.
//! Does not know who asks or how an answer is found. No type here can hold a value of a secret.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::status::Status;
use crate::errno;

/// What both sides speak. Another number is another language; fields may be added without changing it.
pub const VERSION: u32 = 1;
/// Longest question, in bytes.
pub(super) const MAX_REQUEST: usize = 1 << 20;
/// Longest answer, in bytes.
pub(super) const MAX_ANSWER: usize = 64 << 20;
/// Most secrets and listings that one question names; a client asks several questions for more.
pub const MAX_TARGETS: usize = 64;
/// Longest path in a mount that can be asked about, in bytes (PATH_MAX, linux/limits.h).
pub(super) const MAX_PATH: usize = 4096;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// How the mount is. Answered at once, without a backend.
    Status {
        /// Each held secret too.
        #[serde(default)]
        secrets: bool,
        /// What backends call their leases too.
        #[serde(default)]
        lease_ids: bool,
    },
    /// Which secrets and listings a path of the mount stands for.
    Find {
        /// File names from the root of the mount, joined by `/`; empty for the root.
        path: String,
        /// All that is held below it, not only directly.
        #[serde(default)]
        recursive: bool,
    },
    /// Ask the backend for these now, at most [`MAX_TARGETS`].
    Refresh {
        /// As `Find` gave them.
        targets: Vec<Target>,
    },
    /// Which leases a path of the mount stands for, to be ended.
    FindLeases {
        /// File names from the root of the mount, joined by `/`; empty for the root.
        path: String,
        /// All that is held below it.
        #[serde(default)]
        recursive: bool,
    },
    /// End the leases of these now, at most [`MAX_TARGETS`].
    Revoke {
        /// As `FindLeases` gave them.
        targets: Vec<Target>,
    },
    /// Wipe every value that is held.
    Flush,
    /// Exchange the program that serves for the one that is in its place by now.
    Upgrade,
}

/// A question as it is sent.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) command: &'a Command,
}

/// An answer as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// The answer.
    pub reply: Reply,
}

/// What a mount answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Find` and `FindLeases`.
    Found(Found),
    /// To `Refresh`: the outcomes, in the order asked.
    Refreshed(Vec<Outcome>),
    /// To `Revoke`: the outcomes, in the order asked.
    Revoked(Vec<Outcome>),
    /// To `Flush`: what was wiped.
    Flushed {
        /// How many secrets.
        secrets: usize,
        /// Bytes of their values and names.
        bytes: usize,
        /// Leases, which were left as they are.
        #[serde(default)]
        leases: usize,
    },
    /// To `Upgrade`: the new program serves.
    Upgraded,
    /// To anything: it was not done.
    Refused(Refusal),
}

/// To `Find` and `FindLeases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// These.
    Targets(Vec<Target>),
    /// A directory of the configuration, which is no backend's: only what lies below it can be refreshed.
    Junction,
    /// A directory in which secrets are made on demand, some of which are held further below.
    Folder,
    /// Nothing there is made on demand, so there is no lease.
    Kept,
}

/// A secret or a listing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Which backend, by its number in `status`.
    pub backend: usize,
    /// In which way it is asked for, where the mount's configuration has several.
    #[serde(default)]
    pub demand: u32,
    /// Where in it, segment by segment.
    pub segments: Vec<String>,
    /// An older version; `None` for the current one.
    pub version: Option<String>,
    /// The names in the folder rather than the secret.
    pub listing: bool,
    /// Where the mount shows it: file names from its root, joined by `/`.
    pub path: String,
    /// The version that was held when it was found; `None` when none was.
    pub held: Option<String>,
    /// It may well not be there: a backend that says no to this one alone is no failure.
    pub maybe: bool,
}

/// How the refresh of one target ended, or its revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The next open sees this version; empty where the backend has none.
    Version(String),
    /// The next `ls` sees this many names.
    Names(usize),
    /// It is made on demand, and there is a new lease of it: the next open sees this version.
    Lease(String),
    /// It is made on demand, and nobody has opened it: nothing was made.
    NotHeld,
    /// So many leases were ended.
    Revoked(usize),
    /// There was no lease that could be ended.
    NoLease,
    /// It is erased here. It has no lease, so it is good until its end, where it has one, wherever else it is.
    Forgotten {
        /// Its end.
        until: Option<String>,
    },
    /// It was not refreshed, or not revoked.
    Failed {
        /// What a program would see now.
        errno: String,
        /// In words; never what a server said.
        reason: String,
        /// The backend's answer is no, rather than none.
        denied: bool,
    },
}

impl Outcome {
    pub(super) fn failed(failure: &errno::Failure) -> Self {
        let (errno, reason) = (failure.errno().name().to_owned(), failure.to_string());
        Self::Failed { errno, reason, denied: failure.is_denial() }
    }
}

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
    /// Of a path: what a program would see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
}

/// What kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The line is no question of this protocol.
    BadRequest,
    /// It is one of another version of it.
    UnknownVersion,
    /// There is no such command.
    UnknownCommand,
    /// The asking user may not ask.
    NotAllowed,
    /// A path leads to nothing that could be refreshed.
    Path,
    /// The new program does not serve; the old one goes on.
    NotUpgraded,
    /// A kind that this program does not know yet.
    #[serde(other)]
    Other,
}

impl Refusal {
    /// Of this kind, with a message for people.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None }
    }
}

/// What every question says, whatever else it says.
#[derive(Deserialize)]
struct Envelope {
    version: u32,
    command: String,
}

const COMMANDS: [&str; 7] = ["status", "find", "refresh", "find_leases", "revoke", "flush", "upgrade"];

/// The question in a line. What serde says of a wrong one is not passed on: it may quote the line.
pub(super) fn parse(line: &[u8]) -> Result<Command, Refusal> {
    let bad = || {
        let shape = r#"write one line like {"version":1,"command":"status"}"#;
        Refusal::new(RefusalKind::BadRequest, format!("this is no request: {shape}"))
    };
    let Envelope { version, command } = serde_json::from_slice(line).map_err(|_| bad())?;
    if version != VERSION {
        let message = format!("this mount speaks version {VERSION} of the protocol, not {version}");
        return Err(Refusal::new(RefusalKind::UnknownVersion, message));
    }
    if !COMMANDS.contains(&command.as_str()) {
        let message = format!("there is no such command; there are {}", COMMANDS.join(", "));
        return Err(Refusal::new(RefusalKind::UnknownCommand, message));
    }
    serde_json::from_slice(line).map_err(|_| bad())
}

/// One line, without its end, of at most `limit` bytes, within `patience`. What follows it is not looked at.
pub(super) async fn read_line(
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
    patience: Duration,
) -> io::Result<Vec<u8>> {
    let read = async {
        let mut line = Vec::new();
        loop {
            let before = line.len();
            let ended = from.read_buf(&mut line).await? == 0;
            let end = line.iter().skip(before).position(|byte| *byte == b'\n').map(|at| before + at);
            if let Some(end) = end {
                line.truncate(end);
            }
            if line.len() > limit {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            if end.is_some() || (ended && !line.is_empty()) {
                return Ok(line);
            }
            if ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(patience, read).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// A line as it is sent. Only a type that JSON cannot have would fail, and there is none here.
pub fn line_of(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}
