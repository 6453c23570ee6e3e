//! Owns the error numbers that programs see, and which outcome gets which; docs/semantics.md shows this table.
//! Does not know requests or backends' protocols.

use crate::backend;

/// An error number of errno(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// The number as the kernel takes it, positive.
    pub fn number(self) -> i32 {
        self.0
    }

    /// The symbolic name.
    pub fn name(self) -> &'static str {
        TABLE.iter().find(|row| row.errno == self).map_or("EIO", |row| row.name)
    }
}

/// Why a request on the mount failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The backend's answer, or the lack of one.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// No file or directory of this name, or no longer.
    #[error("there is no such file")]
    NoEntry,
    /// A name longer than 255 bytes.
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// Something below a file was asked for.
    #[error("not a directory")]
    NotADirectory,
    /// The bytes of a directory were asked for.
    #[error("is a directory")]
    IsADirectory,
    /// Any attempt to change something.
    #[error("the mount is read-only")]
    ReadOnly,
    /// A value above `max_value_size`.
    #[error("the value is larger than the limit of {limit} bytes; raise max_value_size to serve it")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The request's own deadline passed.
    #[error("no answer before the deadline")]
    DeadlinePassed,
    /// The caller was told to stop while it waited.
    #[error("interrupted")]
    Interrupted,
    /// A handle that this process did not give out.
    #[error("unknown file handle")]
    BadHandle,
    /// What was opened before a crash cannot be had again exactly as it was.
    #[error("what was opened cannot be had again")]
    Stale,
    /// There is no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer for an extended attribute is too small.
    #[error("buffer too small")]
    SmallBuffer,
    /// An operation that this filesystem does not have.
    #[error("not supported")]
    NotSupported,
}

/// One row of the table of outcomes.
pub struct Row {
    /// The symbolic name.
    pub name: &'static str,
    /// The number.
    pub errno: Errno,
    /// When a program sees it, as docs/semantics.md says it.
    pub when: &'static str,
}

const fn row(name: &'static str, number: i32, when: &'static str) -> Row {
    Row { name, errno: Errno(number), when }
}

/// Every error that a program can see from us, once.
pub const TABLE: [Row; 16] = [
    row("ENOENT", libc::ENOENT, "no such secret or field; deleted or destroyed version"),
    row(
        "EACCES",
        libc::EACCES,
        "the backend says forbidden, or secretfs refuses (an engine it does not serve)",
    ),
    row(
        "EIO",
        libc::EIO,
        "the backend cannot be reached or gives no usable answer, and nothing fresh is held",
    ),
    row("ETIMEDOUT", libc::ETIMEDOUT, "no answer before the deadline"),
    row("EFBIG", libc::EFBIG, "the value or the backend's answer is larger than max_value_size allows"),
    row("EDQUOT", libc::EDQUOT, "opening the file would make one lease more than max_leases allows"),
    row("EROFS", libc::EROFS, "any attempt to change something"),
    row("EINTR", libc::EINTR, "the caller got a signal while it waited for a backend"),
    row("ENAMETOOLONG", libc::ENAMETOOLONG, "a name longer than 255 bytes was asked for"),
    row("ENOTDIR", libc::ENOTDIR, "something below a file was asked for"),
    row("EISDIR", libc::EISDIR, "the bytes of a directory were asked for"),
    row(
        "ESTALE",
        libc::ESTALE,
        "a file that is open since before a crash, whose version cannot be had again; a file or handle that is not known",
    ),
    row("ENODATA", libc::ENODATA, "no such extended attribute"),
    row("ERANGE", libc::ERANGE, "the buffer for an extended attribute is too small"),
    row("EOPNOTSUPP", libc::EOPNOTSUPP, "an operation that secretfs does not have"),
    row("ENOSYS", libc::ENOSYS, "a request the kernel handles by itself from then on (flush, locks)"),
];

impl Failure {
    /// Whether it is an answer of "no" about a name: not there, or not allowed.
    pub fn is_denial(&self) -> bool {
        match self {
            Self::NoEntry => true,
            Self::Backend(error) => error.is_answer(),
            _ => false,
        }
    }

    /// Whether it was waited for in vain.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::DeadlinePassed | Self::Backend(backend::Error::TimedOut(_)))
    }

    /// The error number for this outcome.
    pub fn errno(&self) -> Errno {
        use backend::Error as B;
        Errno(match self {
            Self::Backend(B::NotFound) | Self::NoEntry => libc::ENOENT,
            Self::Backend(B::Forbidden | B::Refused(_)) => libc::EACCES,
            Self::Backend(B::Unreachable(_) | B::Status(_) | B::Busy { .. } | B::Malformed(_)) => libc::EIO,
            Self::Backend(B::TimedOut(_)) | Self::DeadlinePassed => libc::ETIMEDOUT,
            Self::Backend(B::TooLarge { .. }) | Self::TooLarge { .. } => libc::EFBIG,
            Self::Backend(B::TooManyLeases { .. }) => libc::EDQUOT,
            Self::ReadOnly => libc::EROFS,
            Self::Interrupted => libc::EINTR,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::BadHandle | Self::Stale => libc::ESTALE,
            Self::NoAttribute => libc::ENODATA,
            Self::SmallBuffer => libc::ERANGE,
            Self::NotSupported => libc::EOPNOTSUPP,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_failure_is_in_the_table() {
        use backend::Error as B;
        let backend = [
            (B::NotFound, "ENOENT"),
            (B::Forbidden, "EACCES"),
            (B::Refused(String::new()), "EACCES"),
            (B::Unreachable(String::new()), "EIO"),
            (B::Status(503), "EIO"),
            (B::Busy { status: 429, retry_after: Duration::ZERO }, "EIO"),
            (B::Malformed(""), "EIO"),
            (B::TooLarge { limit: 1 }, "EFBIG"),
            (B::TimedOut(Duration::ZERO), "ETIMEDOUT"),
            (B::TooManyLeases { limit: 1 }, "EDQUOT"),
        ];
        for (error, name) in backend {
            assert_eq!(Failure::Backend(error).errno().name(), name);
        }
        let own = [
            (Failure::NoEntry, "ENOENT"),
            (Failure::NameTooLong, "ENAMETOOLONG"),
            (Failure::NotADirectory, "ENOTDIR"),
            (Failure::IsADirectory, "EISDIR"),
            (Failure::ReadOnly, "EROFS"),
            (Failure::TooLarge { limit: 1 }, "EFBIG"),
            (Failure::DeadlinePassed, "ETIMEDOUT"),
            (Failure::Interrupted, "EINTR"),
            (Failure::BadHandle, "ESTALE"),
            (Failure::Stale, "ESTALE"),
            (Failure::NoAttribute, "ENODATA"),
            (Failure::SmallBuffer, "ERANGE"),
            (Failure::NotSupported, "EOPNOTSUPP"),
        ];
        for (failure, name) in own {
            assert_eq!(failure.errno().name(), name);
        }
    }
}
