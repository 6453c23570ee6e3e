//! Owns the figure of what staying fresh costs: the program's own time for a secret in use, and the requests that it makes.
//! Does not know when the program asks; it counts.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::client::Client;
use crate::support::bao::Bao;
use crate::support::mount::{Mount, Plan, Store, run, secretfs};
use crate::support::vault::{ROOT_TOKEN, Vault};
use crate::{median, quiet};

/// Kept in use.
const SECRETS: usize = 500;
/// Short, so that a short run has many refreshes. What is asked again ahead of the end is a larger part of it than of a long
/// one: requests for each TTL are more than a user has.
const TTL: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;
/// What was read is in use for three TTLs: in this time nobody reads, and all that the program does is to refresh.
const WINDOW: Duration = Duration::from_secs(5);
/// What a read causes is over after this.
const SETTLE: Duration = Duration::from_millis(500);

/// What a secret costs for each TTL that it is kept fresh, against a raw keep-alive GET by a program that does nothing else:
/// both in processor time of the one process, kernel included.
pub(super) fn cost(vault: Option<&Vault>) {
    let (plain, detailed) = (Bao::start().with_detailed(false), Bao::start().with_detailed(true));
    for (i, fields) in secrets() {
        plain.put(&i, &fields);
        detailed.put(&i, &fields);
    }
    let get = (plain.address(), "secret".to_owned());
    if let Some(vault) = vault {
        vault.enable_kv("refresh", 2);
        for (i, fields) in secrets() {
            vault.kv_put("refresh", &i, fields);
        }
        of("Vault", mount("refresh", &vault.address), &(vault.address.clone(), "refresh".to_owned()));
    }
    of("OpenBao (a stand-in) that gives no details", mount("secret", &plain.address()), &get);
    of("OpenBao (a stand-in) that gives details", mount("secret", &detailed.address()), &get);
    let store = full_store();
    of("a store", store.mount(), &get);
}

fn of(what: &str, plan: Plan, (address, engine): &(String, String)) {
    let mount = quiet(plan).arg("--ttl").arg(format!("{}s", TTL.as_secs())).start();
    let idle = busy(&mount);
    let refreshed = SECRETS as f64 * WINDOW.as_secs_f64() / TTL.as_secs_f64();
    let (mut ratios, mut ours, mut gets, mut requests) = (vec![], vec![], vec![], vec![]);
    for round in 0..=ROUNDS {
        for (i, _) in secrets() {
            mount.read(&format!("{i}/value")).unwrap();
        }
        std::thread::sleep(SETTLE);
        let before = calls(&mount);
        let time = busy(&mount) - idle;
        // In the first round what was read in one rush spreads over the TTL.
        if round > 0 {
            let get = get_in_child(address, engine, refreshed as usize);
            ratios.push(time / refreshed / get);
            ours.push(time / refreshed * 1e6);
            gets.push(get * 1e6);
            requests.push((calls(&mount) - before) / refreshed);
        }
    }
    println!(
        "a secret of {what} kept fresh for a TTL: {:.2} of the processor time of a raw GET   ({:.0} us, {:.0} us), \
         {:.3} requests   ({SECRETS} secrets, TTL {} s; while nothing is in use {:.1} ms a second)",
        median(ratios),
        median(ours),
        median(gets),
        median(requests),
        TTL.as_secs(),
        idle / WINDOW.as_secs_f64() * 1e3,
    );
}

fn secrets() -> impl Iterator<Item = (String, Value)> {
    (0..SECRETS).map(|i| (format!("s{i}"), json!({ "value": "x".repeat(64) })))
}

fn mount(engine: &str, address: &str) -> Plan {
    Mount::of(&format!("vault:{engine}")).envs([("VAULT_ADDR", address), ("VAULT_TOKEN", ROOT_TOKEN)])
}

fn full_store() -> Store {
    let store = Store::new();
    let source = store.folder.path().join("import.json");
    let all: serde_json::Map<String, Value> = secrets().collect();
    std::fs::write(&source, Value::Object(all).to_string()).unwrap();
    let mut import = secretfs();
    import.args(["store", "import"]).arg(store.file()).arg(source).arg("--identity").arg(store.identity());
    run(&mut import);
    store
}

/// Processor time of the program in one window, in seconds.
fn busy(mount: &Mount) -> f64 {
    let before = processor_time(mount.pid());
    std::thread::sleep(WINDOW);
    processor_time(mount.pid()) - before
}

/// utime and stime of proc_pid_stat(5), in seconds.
fn processor_time(pid: u32) -> f64 {
    /// USER_HZ: 100 on every architecture of today (include/uapi/asm-generic/param.h).
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, which may hold anything, ends at the last parenthesis; the third field follows it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS
}

/// Requests that the program has made of its backend.
fn calls(mount: &Mount) -> f64 {
    let status = run(secretfs().args(["status", "--json"]).arg(&mount.at)).stdout;
    let status: Value = serde_json::from_slice(&status).unwrap();
    let counters = &status["mounts"][0]["counters"];
    let kinds = ["calls_ok", "calls_not_found", "calls_forbidden", "calls_failed"];
    kinds.iter().map(|kind| counters[kind].as_f64().unwrap()).sum()
}

/// Processor time of one GET in seconds, by a process that does nothing else, when it does so many.
fn get_in_child(address: &str, engine: &str, count: usize) -> f64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--get", address, engine, &count.to_string()]).stdin(Stdio::null());
    String::from_utf8(run(&mut child).stdout).unwrap().trim().parse().unwrap()
}

/// That process: prints the seconds.
pub(super) fn get_in_turn(address: &str, engine: &str, count: usize) {
    let mut client = Client::new(address);
    let mut get = |i: usize| client.get(&format!("/v1/{engine}/data/s{}", i % SECRETS));
    // The connection is made.
    get(0);
    let now = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    let before = now();
    (0..count).for_each(&mut get);
    println!("{}", (now() - before) / count as f64);
}
