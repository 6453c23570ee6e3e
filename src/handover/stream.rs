//! Owns the way of a state: one end of a private pair of sockets, with a limit of time for all of it.
//! Does not know what goes over it.

use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::send::stream;
use super::{Counts, Fingerprint, Paused, Problem, Refused, State, receive};
use crate::cache::SecretCache;
use crate::leases::Leases;

/// What is read or written at once. Erased by the allocator when it is freed.
const AT_ONCE: usize = 64 << 10;

/// A socket that is given up at a time.
struct Limited<'a> {
    socket: &'a UnixStream,
    until: Instant,
}

impl Limited<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(into).map_err(in_time)
    }
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes).map_err(in_time)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// A socket whose time is over says that it would block.
fn in_time(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

/// Sends all that a mount holds over `socket`, and ends the stream. Blocks for `limit` at most.
///
/// # Errors
/// As [`Paused::send`].
pub fn send_over(
    paused: &mut Paused,
    socket: &UnixStream,
    fingerprint: &Fingerprint,
    limit: Duration,
) -> Result<Counts, Problem> {
    let limited = Limited { socket, until: Instant::now() + limit };
    let mut to = BufWriter::with_capacity(AT_ONCE, limited);
    let counts = paused.send(&mut to, fingerprint)?;
    drop(to);
    socket.shutdown(Shutdown::Write).map_err(stream)?;
    Ok(counts)
}

/// Receives a state from `socket`. Blocks for `limit` at most.
///
/// # Errors
/// As [`receive`].
pub fn receive_from(
    socket: &UnixStream,
    fingerprint: &Fingerprint,
    cache: &SecretCache,
    leases: &Leases,
    limit: Duration,
) -> Result<State, Refused> {
    let limited = Limited { socket, until: Instant::now() + limit };
    receive(&mut BufReader::with_capacity(AT_ONCE, limited), fingerprint, cache, leases)
}
