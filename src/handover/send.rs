//! Owns writing the state: first what must go, then as much of the cache as there is room for.
//! Does not know the way it takes.

use std::io::{self, Write};

use super::frames::{Frame, LONGEST_FRAME, MAGIC, MOST_BYTES, VERSION};
use super::{Counts, Fingerprint, Paused, Problem};
use crate::secret::erase_stack_below;

/// A stream that frames are written to.
struct Frames<W> {
    to: W,
    written: usize,
    count: u64,
}

impl<W: Write> Frames<W> {
    /// Writes a frame; false where it has no room.
    fn write(&mut self, frame: &Frame) -> Result<bool, Problem> {
        // Erased by the allocator when it is freed, and when it grows.
        let Ok(bytes) = postcard::to_stdvec(frame) else { return Ok(false) };
        let total = self.written.saturating_add(bytes.len());
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= LONGEST_FRAME);
        let Some(length) = length.filter(|_| total <= MOST_BYTES) else { return Ok(false) };
        self.to.write_all(&length.to_le_bytes()).map_err(stream)?;
        self.to.write_all(&bytes).map_err(stream)?;
        self.written = total;
        self.count += 1;
        Ok(true)
    }

    fn must_write(&mut self, frame: &Frame, what: &'static str) -> Result<(), Problem> {
        if self.write(frame)? { Ok(()) } else { Err(Problem::TooLarge(what)) }
    }
}

pub(super) fn stream(error: io::Error) -> Problem {
    Problem::Stream(error.kind())
}

impl Paused {
    /// Writes everything. May block for as long as `to` does.
    ///
    /// # Errors
    /// It could not be written, or something that must not be left out is too large.
    pub fn send(&mut self, to: &mut impl Write, fingerprint: &Fingerprint) -> Result<Counts, Problem> {
        let sent = self.write(to, fingerprint);
        erase_stack_below();
        sent
    }

    fn write(&mut self, to: &mut impl Write, fingerprint: &Fingerprint) -> Result<Counts, Problem> {
        to.write_all(MAGIC).map_err(stream)?;
        to.write_all(&VERSION.to_le_bytes()).map_err(stream)?;
        to.write_all(fingerprint).map_err(stream)?;
        let mut frames = Frames { to, written: 0, count: 0 };
        let mut counts = Counts::default();
        for (source, tokens) in std::mem::take(&mut self.tokens) {
            let frame = Frame::Tokens(source, tokens);
            let written = frames.must_write(&frame, "what is known of tokens");
            // For another try.
            if let Frame::Tokens(source, tokens) = frame {
                self.tokens.push((source, tokens));
            }
            written?;
            counts.tokens += 1;
        }
        let book = self.leases.export();
        for lease in book.leases {
            frames.must_write(&Frame::Lease(Box::new(lease)), "a secret that was made on demand")?;
            counts.leases += 1;
        }
        for left in book.left {
            frames.must_write(&Frame::Left(left), "the name of a lease")?;
            counts.left_behind += 1;
        }
        let files = self.fs.export();
        for secret in files.secrets {
            frames.must_write(&Frame::Secret(secret), "a secret whose files are open")?;
        }
        for file in files.handles {
            frames.must_write(&Frame::File(file), "an open file")?;
            counts.files += 1;
        }
        for waiting in &self.hooks.waiting {
            frames.must_write(&Frame::Waiting(waiting.clone()), "what a hook is to be told")?;
        }
        for seen in &self.hooks.seen {
            frames.write(&Frame::Seen(seen.clone()))?;
        }
        for nature in book.natures {
            frames.write(&Frame::Nature(nature))?;
        }
        for watched in self.cache.export_watched() {
            frames.write(&Frame::Watched(watched))?;
        }
        for slot in self.cache.export() {
            if frames.write(&Frame::Slot(slot))? {
                counts.kept += 1;
            } else {
                counts.left_out += 1;
            }
        }
        let count = frames.count;
        frames.must_write(&Frame::End(count), "the end")?;
        frames.to.flush().map_err(stream)?;
        Ok(counts)
    }
}
