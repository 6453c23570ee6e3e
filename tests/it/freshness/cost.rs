//! Owns the count of requests: what is in use costs one in a TTL, what is idle none, a crowd one, a storm of misses few.
//! Does not know outages.

use std::time::{Duration, Instant};

use super::{Rig, during, full};
use crate::support::available;
use crate::support::mount::{Store, possible, run, secretfs};
use serde_json::{Value, json};

/// Seconds of a TTL, and how many secrets are in use.
fn size() -> (u64, usize) {
    if full() { (60, 10_000) } else { (10, 400) }
}

/// Reads everything once a TTL for so many TTLs; the requests of each second.
fn kept_in_use(rig: &Rig, ttl: u64, ttls: u64) -> Vec<usize> {
    let begin = Instant::now();
    for turn in 1..=ttls {
        rig.must_read_all();
        let next = begin + Duration::from_secs(turn * ttl);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    rig.flow(begin, begin + Duration::from_secs(ttls * ttl))
}

#[test]
fn each_secret_in_use_costs_a_request_per_ttl_evenly_spread_and_an_idle_one_nothing() {
    let Some(()) = available("mount", possible()) else { return };
    let (ttl, count) = size();
    let rig = Rig::new(count, false, &["--ttl", &format!("{ttl}s")]);
    kept_in_use(&rig, ttl, 2);
    let flow = kept_in_use(&rig, ttl, 3);
    let total: usize = flow.iter().sum();
    let (per_ttl, mean) = (total as f64 / 3.0 / count as f64, total as f64 / flow.len() as f64);
    let most = *flow.iter().max().unwrap();
    eprintln!(
        "{count} secrets, TTL {ttl} s: {per_ttl:.3} requests per secret and TTL, {mean:.1} a second, at most {most}"
    );
    // The listing of the folder is asked for as well.
    assert!(per_ttl <= 1.05 + 1.5 / count as f64, "{per_ttl}");
    // A second is a small sample of a small drill.
    let noise = if full() { 0.0 } else { 3.0 * mean.sqrt() };
    // In a small drill one moment in which the machine did other things counts for much.
    let uneven = if full() { 1.5 } else { 2.5 };
    assert!(most as f64 <= uneven * mean + noise, "{most} in one second, {mean} on average");
    // In use for three TTLs more, and then idle.
    std::thread::sleep(Duration::from_secs(3 * ttl + ttl / 2));
    rig.bao.forget_requests();
    std::thread::sleep(Duration::from_secs(2 * ttl));
    assert_eq!(rig.bao.requests(), Vec::<String>::new());
}

#[test]
fn where_versions_come_in_bulk_they_cost_a_twentieth() {
    let Some(()) = available("mount", possible()) else { return };
    let (ttl, count) = size();
    let rig = Rig::new(count, true, &["--ttl", &format!("{ttl}s")]);
    kept_in_use(&rig, ttl, 2);
    rig.bao.forget_requests();
    let total: usize = kept_in_use(&rig, ttl, 3).iter().sum();
    eprintln!("{count} secrets, TTL {ttl} s, versions in bulk: {total} requests in 3 TTLs");
    assert!(total * 20 <= 3 * count, "{total} requests: {:?}", &rig.bao.requests()[..total.min(20)]);
    rig.bao.put("s7", &json!({"value": "canary-new"}));
    std::thread::sleep(Duration::from_secs(ttl + 1));
    assert_eq!(rig.read(7).unwrap(), "canary-new");
}

#[test]
fn a_store_is_never_asked_while_it_does_not_change() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    let count = if full() { 10_000 } else { 500 };
    let secrets: serde_json::Map<String, Value> = (0..count)
        .map(|number| (format!("s{number}"), json!({"value": format!("canary-{number}")})))
        .collect();
    let import = store.folder.path().join("import.json");
    std::fs::write(&import, Value::from(secrets).to_string()).unwrap();
    run(secretfs()
        .args(["store", "import"])
        .arg(store.file())
        .arg(&import)
        .arg("--identity")
        .arg(store.identity()));
    let mount = store.mount().arg("--ttl").arg("2s").envs([("SECRETFS_LOG", "debug")]).start();
    let read_all = || {
        for number in 0..count {
            assert!(mount.read(&format!("s{number}/value")).is_ok());
        }
    };
    let calls = || {
        let output = secretfs().args(["status", "--json"]).arg(&mount.at).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();

        status["mounts"][0]["counters"]["calls_ok"].as_u64().unwrap()
    };
    read_all();
    let before = calls();
    during(Duration::from_secs(10), read_all);
    assert_eq!(calls(), before, "five TTLs, and the file has not changed");
    store.put("s7", &["value=canary-new"]);
    assert_eq!(mount.read("s7/value").unwrap(), b"canary-new");
}

#[test]
fn a_thousand_readers_of_one_cold_secret_cost_one_request() {
    let Some(()) = available("mount", possible()) else { return };
    let rig = Rig::new(1, false, &[]);
    rig.bao.delay(Duration::from_millis(300));
    // Known by name, so that the kernel does not let one wait for the other's lookup.
    std::thread::scope(|scope| {
        for _ in 0..1000 {
            let path = rig.path(0);
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn_scoped(scope, move || assert_eq!(std::fs::read(path).unwrap(), b"canary-0-1"))
                .unwrap();
        }
    });
    let counts = rig.bao.counts();
    assert_eq!(counts.reads, 1, "{:?}", rig.bao.requests());
}

#[test]
fn a_missing_secret_is_asked_for_once_in_a_negative_ttl_however_often_it_is_read() {
    let Some(()) = available("mount", possible()) else { return };
    let rig = Rig::new(1, false, &[]);
    rig.read_all();
    rig.bao.forget_requests();
    let (begin, mut tries) = (Instant::now(), 0_u32);
    let time = Duration::from_secs(if full() { 10 } else { 4 });
    while begin.elapsed() < time {
        for _ in 0..50 {
            tries += 1;
            let error = std::fs::read(rig.mount.path("missing/value")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let asked = rig.bao.requests().len();
    let allowed = usize::try_from(begin.elapsed().as_secs()).unwrap() + 1;
    eprintln!("{tries} reads of a missing secret: {asked} requests in {:?}", begin.elapsed());
    assert!(asked <= allowed + 1, "{:?}", rig.bao.requests());
}
