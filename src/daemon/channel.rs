//! Owns the conversation between the holder of a mount and a worker: whole messages, some with descriptors.
//! Does not know what a message makes anybody do.
//!
//! A socket that keeps messages apart (SOCK_SEQPACKET, unix(7)): one is there whole or not at all, and its descriptors with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::start::Start;
use crate::fuse::Done;

/// The longest message, in bytes; most are a few.
const LONGEST: usize = 64 << 10;
/// Descriptors that come with one message at most.
pub(super) const MOST_FILES: usize = 12;

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// What it is to serve; with the descriptors that [`Start`] lists. The first message.
    Start(Box<Start>),
    /// Are you there? [`ToHolder::Pong`] with the same number is the answer.
    Ping(u64),
    /// Leave whatever the holder has left: its folder, its terminal, its session, the outputs of whoever started it. With this come the
    /// two outputs that it has by now.
    Leave {
        /// Whether it leads a session of its own.
        session: bool,
    },
    /// Give what you hold to a successor, over the descriptor that comes with this, and change nothing from then on.
    HandOver {
        /// To whom. The answer says it again, for one that comes late may be about another.
        successor: u64,
    },
    /// Nothing came of it: go on.
    GoOn,
    /// Your predecessor is gone: the mount is yours.
    TakeOver,
    /// The mount is to end.
    End,
    /// It is out of the tree, or why it is not.
    Detached(Result<(), String>),
    /// From now on the mount outlives its holder: see [`Start::outlives_holder`].
    Outlives,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHolder {
    /// Keep a copy of the descriptors that come with this for longer than I live: closing the last one takes long, and I would not be
    /// gone before.
    KeepOpen,
    /// Requests are answered.
    Serving,
    /// I am there, and those who answer programs have got so far.
    Pong(u64, Done),
    /// A successor is ready to be handed what its predecessor holds.
    Prepared,
    /// What came of handing over to this successor.
    HandedOver(u64, Handed),
    /// What a successor has of it.
    TookIn(Taken),
    /// Somebody asks for an upgrade; the descriptor that comes with this is theirs, and waits for an answer.
    Upgrade,
    /// The kernel has ended the mount: somebody has unmounted it.
    Over,
    /// Take the mount out of the tree; [`ToWorker::Detached`] is the answer.
    Detach,
    /// All is given back.
    Ended {
        /// Whether somebody has files open in it still.
        in_use: bool,
    },
}

/// What has come of handing over, on the side that hands over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Handed {
    /// All of it is sent, and nothing changes until the holder says so.
    All,
    /// The other side takes no more. Nothing changes until the holder says so: only the other side knows whether it is content.
    Broken(String),
    /// It cannot be, and all goes on.
    Nothing(String),
}

/// The same on the side that is handed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Taken {
    /// All of it is taken in.
    All,
    /// It is not understood, and would not be another time: whoever was handed it begins with nothing.
    Refused(String),
    /// It did not come, or not as a whole; why, the other side knows better.
    Lost(String),
}

/// One end. Cheap to clone; messages may be sent from any thread, and are to be received by one.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    end: Arc<OwnedFd>,
    sends: SendFlags,
}

impl Channel {
    /// Both ends of a new one: the holder's, which never waits, and what a worker is given.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { end: Arc::new(one), sends: SendFlags::NOSIGNAL | SendFlags::DONTWAIT }, other))
    }

    /// The end that the holder has given us. It hears all the time, so what is said to it may wait.
    pub(super) fn over(end: OwnedFd) -> Self {
        Self { end: Arc::new(end), sends: SendFlags::NOSIGNAL }
    }

    /// Sends a message with descriptors, of which the other side gets its own copies.
    ///
    /// # Errors
    /// The other side is gone, or the message is too long; or, from the holder, there is no room for more: a worker that has left so much
    /// unheard is silent, and is killed for that, whatever it was to be told.
    pub(super) fn send<M: Serialize>(&self, message: &M, files: &[&dyn AsFd]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        if bytes.len() > LONGEST || files.len() > MOST_FILES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::net::sendmsg(&*self.end, &[IoSlice::new(&bytes)], &mut ancillary, self.sends)?;
        Ok(())
    }

    /// Waits for the next message; none when the other side is gone.
    ///
    /// # Errors
    /// What came is no message.
    pub(super) fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut room = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let slices = &mut [IoSliceMut::new(&mut room)];
            match rustix::net::recvmsg(&*self.end, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                result => break result?,
            }
        };
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        let message = room.get(..received.bytes).map(serde_json::from_slice);
        match message {
            Some(Ok(message)) => Ok(Some((message, files))),
            // What it was is not said: it may be anything.
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn messages_stay_apart_and_descriptors_come_with_theirs() {
        let (holder, worker) = Channel::pair().unwrap();
        let worker = Channel::over(worker);
        let (mut reader, writer) = std::io::pipe().unwrap();
        worker.send(&ToHolder::Serving, &[]).unwrap();
        worker.send(&ToHolder::Upgrade, &[&writer]).unwrap();
        worker.send(&ToHolder::Pong(7, Done::default()), &[]).unwrap();
        let (first, files) = holder.receive::<ToHolder>().unwrap().unwrap();
        assert!(matches!(first, ToHolder::Serving) && files.is_empty());
        let (second, files) = holder.receive::<ToHolder>().unwrap().unwrap();
        assert!(matches!(second, ToHolder::Upgrade) && files.len() == 1);
        drop(writer);
        std::io::Write::write_all(&mut File::from(files.into_iter().next().unwrap()), b"theirs").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "theirs");
        assert!(matches!(holder.receive().unwrap().unwrap().0, ToHolder::Pong(7, _)));
        drop(worker);
        assert!(holder.receive::<ToHolder>().unwrap().is_none());
        assert!(holder.send(&ToWorker::Ping(1), &[]).is_err());
    }

    #[test]
    fn a_worker_that_hears_nothing_holds_nobody_up_who_tells_it_something() {
        let (holder, _worker) = Channel::pair().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let refused = (0..1_000_000).find_map(|number| holder.send(&ToWorker::Ping(number), &[]).err());
            tell.send(refused.map(|error| error.kind()))
        });
        let refused = told.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(refused, Ok(Some(io::ErrorKind::WouldBlock)));
    }

    #[test]
    fn what_is_no_message_is_refused_and_not_shown() {
        let (holder, worker) = Channel::pair().unwrap();
        rustix::net::send(&worker, b"\"canary\"", SendFlags::empty()).unwrap();
        let error = holder.receive::<ToHolder>().unwrap_err();
        assert!(!format!("{error:?} {error}").contains("canary"));
    }
}
