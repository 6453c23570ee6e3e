//! Owns the last service of a mount that nobody serves any more: every request is answered with EIO, so that nobody waits.
//! Does not know why it has come to that.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

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
/// Nobody else may read from the descriptor meanwhile: for all who have it reads do not wait then.
///
/// # Errors
/// What poll(2) or the descriptor said.
pub fn refuse_all(requests: BorrowedFd<'_>, quiet: Duration, most: Duration) -> io::Result<()> {
    refuse_ready(requests, quiet, most, is_ready)
}

fn refuse_ready(
    requests: BorrowedFd<'_>,
    quiet: Duration,
    most: Duration,
    is_ready: impl Fn(BorrowedFd<'_>) -> io::Result<bool>,
) -> io::Result<()> {
    let requests = File::from(requests.try_clone_to_owned()?);
    let flags = fcntl_getfl(&requests)?;
    // What was ready may be gone when it is read: the kernel takes back what its asker does not want any more.
    fcntl_setfl(&requests, flags | OFlags::NONBLOCK)?;
    let refused = refuse(&requests, quiet, most, is_ready);
    fcntl_setfl(&requests, flags)?;
    refused
}

fn refuse(
    mut requests: &File,
    quiet: Duration,
    most: Duration,
    is_ready: impl Fn(BorrowedFd<'_>) -> io::Result<bool>,
) -> io::Result<()> {
    take_over::resend(requests);
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
            // ENOENT: it was taken back while it was read. ENODEV: the mount has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock].contains(&error.kind()) => {
            }
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
    #![allow(clippy::unwrap_used)]

    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

    use super::*;

    fn request(opcode: u32) -> Vec<u8> {
        let mut request = Vec::from(40_u32.to_ne_bytes());
        request.extend(opcode.to_ne_bytes());
        request.extend(77_u64.to_ne_bytes());
        request.resize(40, 0);
        request
    }

    #[test]
    fn a_request_that_is_taken_back_before_it_is_read_holds_nobody_up() {
        let (kernel, ours) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        rustix::net::send(&kernel, &request(15), SendFlags::empty()).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let requests = ours.try_clone().unwrap();
        std::thread::spawn(move || {
            // As the kernel says that something is there, and it is not when it is read.
            let quiet = Duration::from_millis(20);
            tell.send(refuse_ready(requests.as_fd(), quiet, Duration::from_secs(5), |_| Ok(true)).is_ok())
        });
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(true));
        let mut answer = [0; 64];
        let mut heard = || rustix::net::recv(&kernel, &mut answer, RecvFlags::DONTWAIT).unwrap().1;
        assert_eq!([heard(), heard()], [16, 16], "that all is to be sent again, and one refusal");
        assert!(!fcntl_getfl(&ours).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_request_is_answered_by_its_number_and_a_forget_is_not() {
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
