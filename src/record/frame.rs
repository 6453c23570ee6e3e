//! Owns the frames of a record: a length that is checked, a checksum, a kind and bytes; what is whole, cut or wrong.
//! Does not know files or what the bytes mean.

use std::hash::Hasher;

use serde::Serialize;
use serde::de::DeserializeOwned;
use siphasher::sip::SipHasher13;

/// Length, its complement and the checksum of what follows.
const HEAD: usize = 12;
/// Kind and bytes of one frame at most. A path of many thousand folders is shorter.
pub(super) const LONGEST: usize = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first frame of a file.
    Header,
    /// One entry of the owner's.
    Entry,
    /// Ends the snapshot that a file begins with: from here on the file is valid.
    Commit,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Header => b'H',
            Self::Entry => b'E',
            Self::Commit => b'C',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Header, Self::Entry, Self::Commit].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// Why the next frame is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end within it: what a writer leaves that was killed.
    Cut,
    /// Its length is none that is ever written.
    Length,
    /// Its checksum or its kind is wrong.
    Content,
}

/// Adds a frame to `bytes`; adds nothing and says so when it would be too long.
pub(super) fn put<T: Serialize>(bytes: &mut Vec<u8>, kind: Kind, content: &T) -> bool {
    let start = bytes.len();
    let mut longer = std::mem::take(bytes);
    longer.extend([0; HEAD]);
    longer.push(kind.byte());
    // The serializer takes the buffer and keeps it when it fails, which no type of ours makes it do.
    let Ok(longer) = postcard::to_extend(content, longer) else { return false };
    *bytes = longer;
    let Some((head, body)) = bytes.get_mut(start..).and_then(|frame| frame.split_at_mut_checked(HEAD)) else {
        return false;
    };
    let Some(length) = u32::try_from(body.len()).ok().filter(|_| body.len() <= LONGEST) else {
        bytes.truncate(start);
        return false;
    };
    let words = [length, !length, checksum(body)];
    head.iter_mut().zip(words.iter().flat_map(|word| word.to_le_bytes())).for_each(|(to, from)| *to = from);
    true
}

/// A frame: its kind, its content, and what comes after it.
pub(super) type Frame<'a> = (Kind, &'a [u8], &'a [u8]);

/// The first frame of `bytes`.
pub(super) fn next(bytes: &[u8]) -> Result<Frame<'_>, Fault> {
    let (sum, body, rest) = first(bytes)?;
    let (kind, content) = body.split_first().ok_or(Fault::Content)?;
    let kind = Kind::of(*kind).filter(|_| checksum(body) == sum).ok_or(Fault::Content)?;
    Ok((kind, content, rest))
}

/// How many frames there are, by their lengths alone.
pub(super) fn count(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Ok((_, _, rest)) = first(bytes) {
        bytes = rest;
        count += 1;
    }
    count
}

/// The checksum of the first frame, what it should be of, and what comes after it.
fn first(bytes: &[u8]) -> Result<(u32, &[u8], &[u8]), Fault> {
    let (head, after) = bytes.split_at_checked(HEAD).ok_or(Fault::Cut)?;
    let mut words = head.chunks_exact(4).filter_map(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let (Some(length), Some(complement), Some(sum)) = (words.next(), words.next(), words.next()) else {
        return Err(Fault::Cut);
    };
    let expected = usize::try_from(length).map_err(|_| Fault::Length)?;
    if complement != !length || expected == 0 || expected > LONGEST {
        return Err(Fault::Length);
    }
    let (body, rest) = after.split_at_checked(expected).ok_or(Fault::Cut)?;
    Ok((sum, body, rest))
}

/// The content of a frame; none where it is no `T` or more than one.
pub(super) fn parse<T: DeserializeOwned>(content: &[u8]) -> Option<T> {
    let (parsed, rest) = postcard::take_from_bytes(content).ok()?;
    rest.is_empty().then_some(parsed)
}

/// Against accidents, not against somebody who may write the record: that is only us.
fn checksum(body: &[u8]) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(body);
    let sum = hasher.finish();
    #[allow(clippy::cast_possible_truncation)]
    let folded = (sum ^ (sum >> 32)) as u32;
    folded
}
