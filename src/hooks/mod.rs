//! Owns hooks: which change makes which program run, and what came of it.
//! Does not know TOML, or how a change was found.

mod config;

pub use config::{Action, Config, DEFAULT_DEBOUNCE, DEFAULT_INTERVAL, DEFAULT_TIMEOUT, Signal, User};
