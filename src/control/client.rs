//! Owns asking a mount: finding its socket, making sure who answers, and not waiting for ever.
//! Does not know what the answer is for.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::place::places;
use super::protocol::{Answer, Command, MAX_ANSWER, Refusal, Reply, Request, VERSION, line_of, read_line};
use crate::mounts::Mount;
use crate::printable::{printable, printable_path};

/// How long a mount may take for what needs no backend.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer. One line; says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// No socket is where one could be.
    #[error(
        "no control socket is at {}: the mount's log says why it could make none; from within a container or as another user, ask where the mount was made",
        listed(.0)
    )]
    NoSocket(Vec<PathBuf>),
    /// A socket is there, but nobody listens.
    #[error("its program is gone: run `secretfs unmount` on it and mount again")]
    Gone,
    /// The mount belongs to somebody else.
    #[error("it belongs to user {owner}: only that user and root may ask")]
    NotAllowed {
        /// Who mounted.
        owner: u32,
    },
    /// Somebody else's program listens there.
    #[error("{} belongs to a program of user {user}, who did not mount this: not asked", printable_path(.socket))]
    Impostor {
        /// Where.
        socket: PathBuf,
        /// Whose.
        user: u32,
    },
    /// It does not answer in time.
    #[error("no answer within {}: its program is stopped or overloaded", humantime::format_duration(*.0))]
    Silent(Duration),
    /// It hung up, or the system did not let us ask.
    #[error("cannot ask it: {0}")]
    Io(ErrorKind),
    /// It answered something that this program does not understand.
    #[error("it answers as another version of secretfs does: use the program that mounted it")]
    Foreign,
    /// It will not.
    #[error("{}", printable(&.0.message))]
    Refused(Refusal),
}

fn listed(places: &[PathBuf]) -> String {
    places.iter().map(|place| printable_path(place)).collect::<Vec<_>>().join(" or ")
}

/// Asks the program that serves `mount`. Touches the mount table and the socket, never the mount. Needs a runtime.
///
/// # Errors
/// There is no answer within `patience`, or it is a refusal.
pub async fn ask(mount: &Mount, command: &Command, patience: Duration) -> Result<Reply, Unanswered> {
    let asked = async {
        let mut stream = connect(mount).await?;
        // One who may not ask is told so before the question is read: what counts is what can be read afterwards.
        let _ = stream.write_all(&line_of(&Request { version: VERSION, command })).await;
        let line =
            read_line(&mut stream, MAX_ANSWER, patience).await.map_err(|error| match error.kind() {
                ErrorKind::FileTooLarge => Unanswered::Foreign,
                ErrorKind::TimedOut => Unanswered::Silent(patience),
                kind => Unanswered::Io(kind),
            })?;
        let answer: Answer = serde_json::from_slice(&line).map_err(|_| Unanswered::Foreign)?;
        match answer.reply {
            Reply::Refused(refusal) => Err(Unanswered::Refused(refusal)),
            reply => Ok(reply),
        }
    };
    tokio::time::timeout(patience, asked).await.unwrap_or(Err(Unanswered::Silent(patience)))
}

/// The first socket that answers and is the owner's. No other will do, not root's either: in a folder of their own a user
/// could put a link to another mount's socket, and root would ask, or flush, that. Of several failures the first is told.
async fn connect(mount: &Mount) -> Result<UnixStream, Unanswered> {
    let us = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| us == mount.owner);
    let places = places(mount.owner, &mount.device, runtime.as_deref());
    let mut failed = None;
    for place in &places {
        let why = match connected(place).await {
            Ok(stream) => match stream.peer_cred().map(|peer| peer.uid()) {
                Ok(user) if user == mount.owner => return Ok(stream),
                Ok(user) => Unanswered::Impostor { socket: place.clone(), user },
                Err(error) => Unanswered::Io(error.kind()),
            },
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => continue,
                ErrorKind::ConnectionRefused => Unanswered::Gone,
                ErrorKind::PermissionDenied => Unanswered::NotAllowed { owner: mount.owner },
                kind => Unanswered::Io(kind),
            },
        };
        failed.get_or_insert(why);
    }
    Err(failed.unwrap_or(Unanswered::NoSocket(places)))
}

/// A connection, also to a program whose queue is full (connect(2): EAGAIN) until it has room.
async fn connected(place: &Path) -> std::io::Result<UnixStream> {
    loop {
        match UnixStream::connect(place).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
}
