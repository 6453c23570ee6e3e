//! Owns the figures that README and docs quote: each a ratio of two things measured in turns in one run.
//! Does not know how the program works; it runs it.
//!
//! `make bench`, or `cargo bench --bench ratios -- warm cold refresh visible memory` for some of them. Absolute times on a
//! shared machine mean little; a ratio of interleaved rounds holds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing
)]
#![allow(missing_docs)]

use std::path::Path;
use std::time::Instant;

#[path = "ratios/client.rs"]
mod client;
#[path = "ratios/empty.rs"]
mod empty;
#[path = "ratios/memory.rs"]
mod memory;
#[path = "ratios/reads.rs"]
mod reads;
#[path = "ratios/refresh.rs"]
mod refresh;
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/support/mod.rs"]
mod support;
#[path = "ratios/visible.rs"]
mod visible;

use support::mount::Plan;
use support::vault::Vault;

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve-empty", at, files] => return empty::serve(Path::new(at), files.parse().unwrap()),
        ["--get", address, path, count] => {
            return refresh::get_in_turn(address, path, count.parse().unwrap());
        }
        _ => {}
    }
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    let vault = Vault::start().inspect_err(|why| println!("without Vault: {why}")).ok();
    if wanted("warm") {
        reads::warm(vault.as_ref());
    }
    if let Some(vault) = vault.as_ref().filter(|_| wanted("cold")) {
        reads::cold(vault);
    }
    if wanted("refresh") {
        refresh::cost(vault.as_ref());
    }
    if wanted("visible") {
        visible::from_publish(vault.as_ref());
    }
    if wanted("memory") {
        memory::of_cached();
    }
}

fn quiet(plan: Plan) -> Plan {
    plan.envs([("SECRETFS_LOG", "warn")])
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(values: Vec<f64>) -> f64 {
    percentile(values, 50)
}

/// The value that so many percent of the others do not exceed.
fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}
