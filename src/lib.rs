//! secretfs shows secrets from HashiCorp Vault, OpenBao, AWS Secrets Manager and an embedded encrypted store as plain files.
//!
//! The modules below are listed from the top of the house to the ground; imports only ever go down this list
//! (`tests/it/tidy.rs` enforces it). docs/architecture.md has the tour.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod control;
pub mod hooks;
pub mod refresh;
pub mod handover;
pub mod fuse;
pub mod fs;
pub mod errno;
pub mod tree;
pub mod access;
pub mod render;
pub mod leases;
pub mod cache;
pub mod backend;
pub mod hands;
pub mod mounts;
pub mod watched;
pub mod trusted_file;
pub mod printable;
pub mod pattern;
pub mod record;
pub mod number_hash;
pub mod lease;
pub mod freshness;
pub mod counters;
pub mod carried;
pub mod clock;
pub mod path;
pub mod secret;
pub mod erasing;

#[global_allocator]
static ALLOCATOR: erasing::Erasing = erasing::Erasing;
