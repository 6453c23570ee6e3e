//! Owns the last service of a mount that nobody serves any more: every request is answered with EIO, so that nobody waits.
//! Does not know why it has come to that.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::take_over;
use crate::errno::Failure;

/// Requests that are not answered (linux/fuse.h).
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// The kernel refuses a read that could not take the largest write there may be (`fuse_dev_do_read`, fs/fuse/dev.c), which for us is what
/// fuser allows: 16 MiB and a header. What is never written costs no memory.
const ROOM: usize = (16 << 20) + (64 << 10);
/// One look for requests.
const LOOK: Duration = Duration::from_millis(50);

/// Answers what waits and what comes with EIO, until nothing has come for `quiet`, or the mount has ended, or `most` is over.
///
/// # Errors
/// What poll(2) or the descriptor said.
pub fn refuse_all(requests: BorrowedFd<'_>, quiet: Duration, most: Duration) -> io::Result<()> {
    let mut requests = File::from(requests.try_clone_to_owned()?);
    take_over::resend(&requests);
    let mut room = vec![0; ROOM];
    let (began, mut last) = (Instant::now(), Instant::now());
    while last.elapsed() < quiet && began.elapsed() < most {
        if !is_ready(requests.as_fd())? {
            continue;
        }
        match requests.read(&mut room) {
            Ok(length) => {
                last = Instant::now();
                if let Some(answer) = room.get(..length).and_then(refusal) {
                    // An error means that whoever asked is gone.
                    let _ = requests.write_all(&answer);
                }
            }
            // ENOENT: it was taken back. ENODEV: the mount has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

fn is_ready(requests: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(&requests, PollFlags::IN)];
    let look = Timespec::try_from(LOOK).map_err(io::Error::other)?;
    match rustix::event::poll(&mut polled, Some(&look)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The answer to a request (`fuse_in_header`: len, opcode, unique): `fuse_out_header` with the error; none where the kernel wants none.
fn refusal(request: &[u8]) -> Option<Vec<u8>> {
    let opcode = u32::from_ne_bytes(request.get(4..8)?.try_into().ok()?);
    if [FORGET, INTERRUPT, BATCH_FORGET].contains(&opcode) {
        return None;
    }
    let mut answer = Vec::from(16_u32.to_ne_bytes());
    answer.extend((-Failure::GaveUp.errno().number()).to_ne_bytes());
    answer.extend(request.get(8..16)?);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_by_its_number_and_a_forget_is_not() {
        let request = |opcode: u32| {
            let mut request = Vec::from(40_u32.to_ne_bytes());
            request.extend(opcode.to_ne_bytes());
            request.extend(77_u64.to_ne_bytes());
            request.resize(40, 0);
            request
        };
        let answer = refusal(&request(15)).unwrap_or_default();
        assert_eq!(answer.get(..4), Some(&16_u32.to_ne_bytes()[..]));
        assert_eq!(answer.get(4..8), Some(&(-5_i32).to_ne_bytes()[..]));
        assert_eq!(answer.get(8..), Some(&77_u64.to_ne_bytes()[..]));
        for opcode in [FORGET, INTERRUPT, BATCH_FORGET] {
            assert_eq!(refusal(&request(opcode)), None);
        }
        assert_eq!(refusal(&[1, 2, 3]), None);
    }
}
