//! Owns the hashing of numbers that nobody outside can choose: inode numbers and handles, on every request.
//! Does not know what they stand for.

use std::hash::{BuildHasherDefault, Hasher};

/// For maps whose keys are such numbers.
pub type BuildNumberHash = BuildHasherDefault<NumberHash>;

/// One multiplication (Fibonacci hashing) in place of SipHash, whose key guards against chosen keys.
#[derive(Debug, Default)]
pub struct NumberHash(u64);

impl Hasher for NumberHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
