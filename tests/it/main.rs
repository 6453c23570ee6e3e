//! Owns every test on real parts: a real mount, a real Vault, moto's server, a real age tool.
//! One binary, so that the program is linked once.

mod aws;
mod docs_config;
mod store;
mod support;
mod systemd_unit;
mod vault;
