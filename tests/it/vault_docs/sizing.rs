//! Owns the table of docs/vault.md under "Sizing": it is what the decision of `secretfs::lease` does to a lease, times their number.
//! Does not know servers.

use std::time::Duration;

use secretfs::clock::Moment;
use secretfs::lease::{Action, Grant, Lease, Succession, Terms};

use super::page::sections;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Renewals and successors of one lease in a day, on average, when Vault grants `ttl` up to `max_ttl`.
fn a_day(ttl: Duration, max_ttl: Duration) -> (f64, f64) {
    let terms = Terms::default();
    let (mut renewals, mut successors) = (0_u32, 0_u32);
    let days = 512;
    let end = Moment::START.plus(Duration::from_secs(days * DAY));
    let grant = |life| Grant { life: Some(life), renewable: true, succession: Succession::Ahead };
    let (mut now, mut made) = (Moment::START, Moment::START);
    let mut lease = Lease::new(now, grant(ttl), true, 0.5);
    loop {
        let step = lease.next(&terms, None, now, now);
        now = step.at.max(now);
        if now > end {
            return (f64::from(renewals) / days as f64, f64::from(successors) / days as f64);
        }
        match step.action {
            Action::Renew => {
                renewals += 1;
                lease.renewed(now, grant(ttl.min(made.plus(max_ttl).since(now))), 0.5);
            }
            Action::Replace => {
                (successors, made) = (successors + 1, now);
                lease = Lease::new(now, grant(ttl), false, 0.5);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Three digits, as the table has them.
fn rounded(number: f64) -> String {
    let digits = (2 - number.log10().floor() as i32).max(0);
    let step = 10_f64.powi(2 - number.log10().floor() as i32);
    let text = format!("{:.*}", digits as usize, (number * step).round() / step);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if part.is_empty() { grouped } else { format!("{grouped}.{part}") }
}

#[test]
fn the_table_of_sizes_is_what_the_program_decides() {
    let sections = sections();
    let sizing = sections.iter().find(|section| section.title == "Sizing").expect("`## Sizing`");
    let table: Vec<&str> = sizing.text.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    let mut expected = vec![];
    for leases in [100_u32, 1000, 10_000] {
        for (ttl, max_ttl, words) in [(HOUR, DAY, "1 h | 24 h"), (DAY, 32 * DAY, "24 h | 32 d")] {
            let (renewals, successors) = a_day(Duration::from_secs(ttl), Duration::from_secs(max_ttl));
            let (renewals, successors) = (renewals * f64::from(leases), successors * f64::from(leases));
            let mean = (renewals + successors) / DAY as f64;
            let leases = rounded(f64::from(leases));
            let (renewals, successors, mean) = (rounded(renewals), rounded(successors), rounded(mean));
            expected.push(format!("| {leases} | {words} | {renewals} | {successors} | {mean} | {leases} |"));
        }
    }
    assert_eq!(table, expected, "docs/vault.md, `## Sizing`: it is\n{}", expected.join("\n"));
}

#[test]
fn numbers_have_three_digits() {
    for (number, text) in
        [(100.0, "100"), (12_345.0, "12,300"), (0.012_34, "0.0123"), (0.5, "0.5"), (1_234_567.0, "1,230,000")]
    {
        assert_eq!(rounded(number), text);
    }
}
