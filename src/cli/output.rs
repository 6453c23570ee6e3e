//! Owns what commands write to standard output.
//! Does not know what it is.

use std::io::{ErrorKind, Write};

use super::failure::Failure;

/// Writes all of it now.
pub(super) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        // Whoever reads has seen enough: `get | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| Failure::io(format!("cannot write to standard output: {error}"))),
    }
}
