//! Owns the question how much of a file is in the page cache, and mappings of files: the tests' only `unsafe`.
//! Does not know what a file is for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;

/// cachestat(2) has this number on every architecture but Alpha (include/uapi/asm-generic/unistd.h); libc does not have it for all.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` (include/uapi/linux/mman.h); all of a file where both are 0.
#[repr(C)]
#[derive(Default)]
struct Range {
    off: u64,
    len: u64,
}

/// `struct cachestat`.
#[repr(C)]
#[derive(Default)]
struct Pages {
    cache: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages of a file are in the page cache now. Linux 6.5 and later; newer ones tell only owners and writers.
pub fn pages(file: &File) -> io::Result<u64> {
    let (range, mut pages) = (Range::default(), Pages::default());
    // SAFETY: the kernel reads `range`, writes `pages`, both of the layout that it documents, and keeps neither.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut pages, 0 as libc::c_uint)
    };
    if result == 0 { Ok(pages.cache) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel tells.
pub fn possible() -> Result<(), String> {
    let file = tempfile::tempfile().map_err(|error| error.to_string())?;
    pages(&file).map(drop).map_err(|error| format!("cachestat(2), Linux 6.5: {error}"))
}

/// A whole file, mapped for reading until this is dropped.
pub struct Mapped {
    start: NonNull<u8>,
    length: usize,
}

impl Mapped {
    /// Maps it as programs do that share it with whoever else maps it; the file may be closed then.
    ///
    /// # Errors
    /// What mmap(2) said: before Linux 6.6 a file that is read directly cannot be mapped so.
    pub fn of(file: &File) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let fd: RawFd = file.as_raw_fd();
        // SAFETY: a new mapping, of which nothing else knows.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, length })
    }

    /// What it shows now. The file must be as long as it was.
    pub fn bytes(&self) -> Vec<u8> {
        // SAFETY: within the mapping, which lives as long as we do. Read byte by byte and volatile, since the file may change.
        (0..self.length).map(|at| unsafe { self.start.add(at).read_volatile() }).collect()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nobody has a reference into it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
