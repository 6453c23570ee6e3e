//! Owns the allocator of the program: every block is erased when it is freed, for HTTP, TLS and JSON libraries leave copies of a
//! secret in theirs. Does not know what a block holds.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::slice;

use zeroize::Zeroize;
use zeroizing_alloc::ZeroAlloc;

/// Of blocks of this size only what was touched is erased. fuser has one of 16 MiB for each thread, and one for the first words of a
/// session, of which some bytes are used: to erase all of it has the kernel find 4,096 pages, which takes ten milliseconds, and a
/// hundred where the host has taken unused memory back. Programs wait for that after a crash.
const LARGE: usize = 4 << 20;
/// Pages that are asked about at once.
const AT_ONCE: usize = 1024;

/// The allocator. Its `realloc` is the trait's default, which allocates, copies and frees through `dealloc`, so it erases too.
pub struct Erasing;

// SAFETY: all blocks are the system's, with the layouts that it was asked for.
unsafe impl GlobalAlloc for Erasing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what holds for us holds for it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is ours until it is freed, and nobody else has it any more.
        unsafe {
            if layout.size() >= LARGE && erase_touched(block, layout.size()) {
                System.dealloc(block, layout);
            } else {
                ZeroAlloc(System).dealloc(block, layout);
            }
        }
    }
}

/// Erases the pages of a block that are in memory: what was never touched is in none. False where the kernel does not say which are.
///
/// # Safety
/// The block is that long, and nobody else's.
unsafe fn erase_touched(block: *mut u8, size: usize) -> bool {
    let mut present = [0_u8; AT_ONCE];
    // SAFETY: no pointers.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return false };
    let head = block.align_offset(page).min(size);
    let pages = (size - head) / page;
    // SAFETY: both ends are within the block.
    unsafe {
        erase(block, head);
        erase(block.add(head + pages * page), size - head - pages * page);
    }
    for first in (0..pages).step_by(AT_ONCE) {
        let count = AT_ONCE.min(pages - first);
        // SAFETY: these pages are within the block, and there is room for a byte for each.
        let at = unsafe { block.add(head + first * page) };
        // SAFETY: as above. mincore(2): the lowest bit says whether a page is in memory.
        if unsafe { libc::mincore(at.cast(), count * page, present.as_mut_ptr()) } != 0 {
            return false;
        }
        for (number, _) in present.iter().take(count).enumerate().filter(|(_, present)| **present & 1 == 1) {
            // SAFETY: one of these pages.
            unsafe { erase(at.add(number * page), page) };
        }
    }
    true
}

/// # Safety
/// So many bytes are there, and nobody else's.
unsafe fn erase(from: *mut u8, size: usize) {
    // SAFETY: as said above. Blocks are initialized as far as the kernel is concerned, which is all that is needed to write.
    unsafe { slice::from_raw_parts_mut(from, size) }.zeroize();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    fn in_memory(block: &[u8], page: usize) -> usize {
        let mut present = vec![0_u8; block.len() / page];
        let start = block.as_ptr().wrapping_add(block.as_ptr().align_offset(page));
        let length = (block.len() / page - 1) * page;
        // SAFETY: within the block.
        assert_eq!(unsafe { libc::mincore(start.cast_mut().cast(), length, present.as_mut_ptr()) }, 0);
        present.iter().filter(|present| **present & 1 == 1).count()
    }

    #[test]
    fn what_was_touched_of_a_large_block_is_erased_and_nothing_else_is_looked_for() {
        const SIZE: usize = 16 << 20;
        let mut block = vec![0_u8; SIZE];
        for at in [0, 5, 4095, 4096, 3 << 20, SIZE - 1] {
            block[at] = 7;
        }
        let before = in_memory(&block, 4096);
        assert!(before < 1000, "{before} pages of an untouched block");
        // SAFETY: it is ours.
        assert!(unsafe { erase_touched(block.as_mut_ptr(), SIZE) });
        assert!(in_memory(&block, 4096) <= before + 2);
        assert!(block.iter().all(|byte| *byte == 0));
        let mut full = vec![7_u8; SIZE];
        // SAFETY: it is ours.
        assert!(unsafe { erase_touched(full.as_mut_ptr().wrapping_add(9), SIZE - 20) });
        let left = full.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at);
        assert!(left.eq((0..9).chain(SIZE - 11..SIZE)));
    }
}
