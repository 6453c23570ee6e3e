//! Owns every test on real parts: a real mount, a real Vault, moto's server, a real age tool.
//! One binary, so that the program is linked once.

// Tests say by panicking what is wrong; helpers are public for all tests, whichever use them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]
#![allow(dead_code, unreachable_pub)]

mod aws;
mod booted;
mod cli;
mod containers;
mod contract;
mod control;
mod docs;
mod docs_config;
mod faults;
mod freshness;
mod hands;
mod hang;
mod hooks;
mod hostile;
mod hygiene;
mod leases;
mod model;
mod mount;
mod mount_aws;
mod mount_vault;
mod operations;
mod pairs;
mod sandbox;
mod servers;
mod store;
mod support;
mod survive;
mod systemd_unit;
mod tidy;
mod users;
mod vault;
mod vault_docs;
mod versions;
mod watch;
