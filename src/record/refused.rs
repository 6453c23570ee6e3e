//! Owns the reasons why a record is not taken over, in words for a log.
//! Does not know how one is read.

/// Why nothing of a record was taken over. The new worker starts with none of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No file of it was ever finished, or its writer gave it up because it could not be written.
    #[error("the record is not complete")]
    Incomplete,
    /// It is no record, or one of something else.
    #[error("it is no record of this kind")]
    Magic,
    /// It was written by an older or newer program.
    #[error("the record has format {found}, and this program reads format {wanted} only")]
    Format {
        /// What it has.
        found: u32,
        /// What this program reads and writes.
        wanted: u32,
    },
    /// It was written under another configuration.
    #[error("the record was written under another configuration")]
    Fingerprint,
    /// A length that nobody writes.
    #[error("the record has a frame of an impossible length")]
    Length,
    /// A frame that is damaged, or stands where none of its kind may.
    #[error("the record has a damaged frame")]
    Damaged,
    /// More bytes than are ever read.
    #[error("the record is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The file cannot be read.
    #[error("the record cannot be read: {0}")]
    Unreadable(std::io::ErrorKind),
    /// Its entries contradict each other, or one is not what the owner writes.
    #[error("the record has an entry that makes no sense: {0}")]
    Entry(&'static str),
}
