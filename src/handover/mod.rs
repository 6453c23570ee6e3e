//! Owns the handover.
//! Does not know much yet.
