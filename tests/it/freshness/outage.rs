//! Owns the outage drill: a backend that is gone in five ways costs readers of what is held nothing, and itself little.
//! Does not know cold reads; faults.rs has them.

use std::time::{Duration, Instant};

use super::{Rig, during, full};
use crate::support::available;
use crate::support::bao::Fault;
use crate::support::fake::Reply;
use crate::support::mount::{possible, wait_until};

const FAULTS: [(&str, Fault); 5] = [
    ("black hole", || Reply::Silence),
    ("reset", || Reply::Close),
    ("500", || Reply::Answer(500, "{\"errors\":[\"canary\"]}".into())),
    ("503", || Reply::Answer(503, "{\"errors\":[]}".into())),
    ("429", || Reply::Answer(429, "{\"errors\":[]}".into())),
];

/// Seconds: the TTL, how long the outage lasts, and how many secrets are in use.
fn size() -> (u64, u64, usize) {
    if full() { (40, 60, 1000) } else { (8, 16, 200) }
}

#[test]
fn what_is_held_is_served_through_an_outage_at_few_requests_and_comes_back_as_a_flow() {
    let Some(()) = available("mount", possible()) else { return };
    std::thread::scope(|scope| {
        for (name, fault) in FAULTS {
            scope.spawn(move || drill(name, fault));
        }
    });
}

fn drill(name: &str, fault: Fault) {
    let (ttl, outage, count) = size();
    let rig = Rig::new(count, false, &["--ttl", &format!("{ttl}s")]);
    assert_eq!(rig.read_all(), 0);
    // In use for a while, so that the refreshes are spread.
    during(Duration::from_secs(ttl), || assert_eq!(rig.read_all(), 0, "{name}"));
    rig.bao.suffer(Some(fault));
    let began = Instant::now();
    during(Duration::from_secs(outage), || assert_eq!(rig.read_all(), 0, "{name}: a warm read failed"));
    let asked: usize = rig.bao.timed_requests().iter().filter(|(at, _)| *at >= began).count();
    assert!(asked <= 200, "{name}: {asked} requests in the outage");
    assert!((0..count).all(|number| rig.is_stale(number)), "{name}: what is past its TTL is marked");
    rig.put_all(2);
    let healed = Instant::now();
    rig.bao.suffer(None);
    // The longest rest of the breaker, and the flow.
    let recovery = Duration::from_secs(12 + ttl);
    during(recovery, || assert_eq!(rig.read_all(), 0, "{name}: a read failed in the recovery"));
    let flow = rig.flow(healed, healed + recovery);
    assert!(flow.iter().all(|second| *second <= 50), "{name}: {flow:?} requests a second");
    wait_until("everything is new", || {
        (0..count).all(|number| rig.read(number).is_ok_and(|value| value == format!("canary-{number}-2")))
    });
    eprintln!("{name}: {asked} requests in {outage} s, then at most {} a second", flow.iter().max().unwrap());
    refused_and_deleted(name, &rig);
}

/// A "no" is an answer: at the next refresh it ends what was held, stale or not.
fn refused_and_deleted(name: &str, rig: &Rig) {
    rig.bao.delete("s0");
    wait_until("the deletion is seen", || {
        rig.read(0).is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT))
    });
    rig.bao.suffer(Some(|| Reply::Answer(403, "{\"errors\":[\"canary\"]}".into())));
    wait_until("the refusal is seen", || {
        rig.read(1).is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
    });
    assert!(!rig.mount.log().is_empty(), "{name}");
}

#[test]
fn without_max_stale_reads_fail_as_soon_as_the_ttl_ends() {
    let Some(()) = available("mount", possible()) else { return };
    std::thread::scope(|scope| {
        for (name, fault) in FAULTS {
            scope.spawn(move || {
                let rig = Rig::new(5, false, &["--ttl", "3s", "--max-stale", "0", "--deadline", "1s"]);
                assert_eq!(rig.read_all(), 0);
                let held = Instant::now();
                rig.bao.suffer(Some(fault));
                // Refreshed once more, perhaps, before the server failed.
                wait_until("the TTL is over", || rig.read_all() == rig.count);
                assert!(held.elapsed() < Duration::from_secs(25), "{name}: {:?}", held.elapsed());
                let error = rig.read(3).unwrap_err().raw_os_error();
                assert!([Some(libc::EIO), Some(libc::ETIMEDOUT)].contains(&error), "{name}: {error:?}");
                // Nobody answers, and everybody knows: the next is told at once.
                wait_until("told at once", || {
                    rig.read(4).is_err_and(|error| error.raw_os_error() == Some(libc::EIO))
                });
                rig.bao.suffer(None);
                wait_until("healed", || rig.read_all() == 0);
            });
        }
    });
}
