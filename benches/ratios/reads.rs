//! Owns the figures of how fast a read is: warm against an empty FUSE and tmpfs, cold against a raw HTTP request.
//! Does not know what freshness costs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{Client, Socket};
use crate::support::mount::{Mount, Store, run, secretfs};
use crate::support::vault::{ROOT_TOKEN, Vault};
use crate::{median, quiet, timed};

/// Secrets in the warm runs, as in the design's own measurements.
const FILES: usize = 1000;
/// Rounds of each side; the median of their ratios is the figure.
const ROUNDS: usize = 40;
/// How long one side of one warm round reads.
const ROUND: Duration = Duration::from_millis(200);
/// Secrets read for the first time in the cold run.
const COLD: usize = 1500;

/// Warm open + read + read + close of a 64 byte value: a mount of Vault and one of a store against an empty FUSE in the same
/// mode, and tmpfs. All four in each round.
pub(super) fn warm(vault: Option<&Vault>) {
    let store = Store::new();
    let json: Vec<String> =
        (0..FILES).map(|i| format!("\"s{i}\":{{\"value\":\"{}\"}}", "x".repeat(64))).collect();
    let source = store.folder.path().join("import.json");
    std::fs::write(&source, format!("{{{}}}", json.join(","))).unwrap();
    let mut import = secretfs();
    import.args(["store", "import"]).arg(store.file()).arg(source).arg("--identity").arg(store.identity());
    run(&mut import);
    let of_store = quiet(store.mount()).arg("--ttl").arg("1h").start();
    let of_vault = vault.map(|vault| vault_mount(vault, "warm", FILES));
    let empty = Empty::start(FILES);
    let plain = tmpfs();
    let mut sides = vec![("tmpfs", paths(plain.path())), ("an empty FUSE", paths(&empty.at))];
    sides.push(("a store", paths(&of_store.at)));
    sides.extend(of_vault.as_ref().map(|mount| ("Vault", paths(&mount.at))));
    for readers in [1, 4] {
        let mut rates: Vec<Vec<f64>> = vec![];
        for round in 0..ROUNDS {
            // Each side begins as often as the others: what ran before matters to clocks and caches.
            let mut rate = vec![0.0; sides.len()];
            for at in (0..sides.len()).map(|at| (at + round) % sides.len()) {
                rate[at] = read_for(&sides[at].1, readers);
            }
            rates.push(rate);
        }
        for (at, (what, _)) in sides.iter().enumerate().skip(2) {
            let against = |other: usize| median(rates.iter().map(|round| round[at] / round[other]).collect());
            println!(
                "warm open+read+close, {readers} readers, a mount of {what}: {:.2} of an empty FUSE, {:.3} of tmpfs   ({:.0}/s)",
                against(1),
                against(0),
                median(rates.iter().map(|round| round[at]).collect()),
            );
        }
    }
}

/// A KV v2 engine with that many secrets, mounted; nothing in it has been read.
fn vault_mount(vault: &Vault, engine: &str, secrets: usize) -> Mount {
    vault.enable_kv(engine, 2);
    for i in 0..secrets {
        vault.kv_put(engine, &format!("s{i}"), serde_json::json!({ "value": "x".repeat(64) }));
    }
    let plan = quiet(Mount::of(&format!("vault:{engine}")))
        .envs([("VAULT_ADDR", vault.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)]);
    plan.arg("--ttl").arg("1h").start()
}

/// The first read of a secret through the mount against one raw keep-alive HTTP GET of the same secret: by the HTTP client
/// that programs use (reqwest, in an ordinary tokio program), and by nothing but a socket, which no program does.
pub(super) fn cold(vault: &Vault) {
    let mount = vault_mount(vault, "bench", COLD);
    assert_eq!(mount.ls("").unwrap().len(), COLD);
    let empty = Empty::start(COLD);
    let mut socket = Socket::connect(&vault.address);
    let mut client = Client::new(&vault.address);
    let mut times = [vec![], vec![], vec![], vec![]];
    for i in 0..COLD {
        // In turns, so that all see the same machine.
        let (file, nothing) = (mount.path(&format!("s{i}/value")), empty.at.join(format!("s{i}/value")));
        let path = format!("/v1/bench/data/s{i}");
        times[0].push(timed(|| read_once(&file)));
        times[1].push(timed(|| client.get(&path)));
        times[2].push(timed(|| socket.get(&path)));
        times[3].push(timed(|| read_once(&nothing)));
    }
    let [ours, client, socket, fuse] = times.map(median);
    let us = |seconds: f64| seconds * 1e6;
    println!(
        "cold read: {:.2} of a raw keep-alive HTTP GET by an HTTP client   ({:.0} us, {:.0} us)",
        ours / client,
        us(ours),
        us(client)
    );
    println!("           {:.2} of the same GET on a bare socket   ({:.0} us)", ours / socket, us(socket));
    println!(
        "           {:.2} of that GET and a first read of an empty FUSE together, which no FUSE filesystem can go below   ({:.0} us)",
        ours / (socket + fuse),
        us(socket + fuse)
    );
}

/// As a program reads a small file: open, read, close.
fn read_once(path: &Path) {
    let mut buffer = [0; 4096];
    assert_eq!(File::open(path).unwrap().read(&mut buffer).unwrap(), 64);
}

fn paths(at: &Path) -> Vec<PathBuf> {
    (0..FILES).map(|i| at.join(format!("s{i}/value"))).collect()
}

/// Opens, reads to the end and closes, over and over; how often a second.
fn read_for(paths: &[PathBuf], readers: usize) -> f64 {
    let end = Instant::now() + ROUND;
    let read = |first: usize| {
        let (mut count, mut buffer) = (0u32, [0; 8192]);
        for path in paths.iter().cycle().skip(first) {
            let mut file = File::open(path).unwrap();
            assert_eq!(file.read(&mut buffer).unwrap(), 64);
            assert_eq!(file.read(&mut buffer).unwrap(), 0);
            count += 1;
            if Instant::now() >= end {
                break;
            }
        }
        f64::from(count)
    };
    let total: f64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers).map(|i| scope.spawn(move || read(i * 7))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    total / ROUND.as_secs_f64()
}

/// The same files on tmpfs.
fn tmpfs() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    for path in paths(folder.path()) {
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x".repeat(64)).unwrap();
    }
    folder
}

/// The empty FUSE, in a process of its own as secretfs is.
struct Empty {
    at: PathBuf,
    _folder: tempfile::TempDir,
    child: Child,
}

impl Empty {
    fn start(files: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let child = command
            .arg("--serve-empty")
            .arg(&at)
            .arg(files.to_string())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        while !at.join("s0").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { at, _folder: folder, child }
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        let _ = self.child.wait();
    }
}
