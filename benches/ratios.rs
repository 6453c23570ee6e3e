//! Owns the three figures that README quotes: each a ratio of two things measured in turns in one run.
//! Does not know how the program works; it runs it.
//!
//! `make bench`, or `cargo bench --bench ratios`. Absolute times on a shared machine mean little; a ratio of
//! interleaved rounds holds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing
)]
#![allow(missing_docs)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "ratios/empty.rs"]
mod empty;
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/support/mod.rs"]
mod support;

use support::mount::{Mount, Plan, Store};
use support::vault::{ROOT_TOKEN, Vault};

/// Secrets in the warm runs, as in the design's own measurements.
const FILES: usize = 1000;
/// Rounds of each side; the median of their ratios is the figure.
const ROUNDS: usize = 40;
/// How long one side of one warm round reads.
const ROUND: Duration = Duration::from_millis(200);
/// Secrets read for the first time in the cold run.
const COLD: usize = 1500;

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--serve-empty") {
        let at = arguments.next().expect("mount point");
        empty::serve(Path::new(&at), arguments.next().expect("number of files").parse().unwrap());
        return;
    }
    let vault = Vault::start().inspect_err(|why| println!("without Vault: {why}")).ok();
    warm(vault.as_ref());
    if let Some(vault) = &vault {
        cold(vault);
    }
}

/// Warm open + read + read + close of a 64 byte value: a mount of Vault and one of a store against an empty FUSE in the same
/// mode, and tmpfs. All four in each round.
fn warm(vault: Option<&Vault>) {
    let store = Store::new();
    let json: Vec<String> =
        (0..FILES).map(|i| format!("\"s{i}\":{{\"value\":\"{}\"}}", "x".repeat(64))).collect();
    let source = store.folder.path().join("import.json");
    std::fs::write(&source, format!("{{{}}}", json.join(","))).unwrap();
    let mut import = support::mount::secretfs();
    import.args(["store", "import"]).arg(store.file()).arg(source).arg("--identity").arg(store.identity());
    support::mount::run(&mut import);
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
fn cold(vault: &Vault) {
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

fn quiet(plan: Plan) -> Plan {
    plan.envs([("SECRETFS_LOG", "warn")])
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

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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

/// reqwest with one kept connection, called from the main thread of a tokio program.
struct Client {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    address: String,
}

impl Client {
    fn new(address: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { runtime, client, address: address.to_owned() }
    }

    fn get(&mut self, path: &str) {
        let request = self.client.get(format!("{}{path}", self.address)).header("X-Vault-Token", ROOT_TOKEN);
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap().error_for_status().unwrap();
            assert!(answer.bytes().await.unwrap().len() > 64);
        });
    }
}

/// One kept connection and nothing around it: the least that reading a secret over HTTP can cost.
struct Socket {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Socket {
    fn connect(address: &str) -> Self {
        let host = address.strip_prefix("http://").unwrap().to_owned();
        let stream = TcpStream::connect(&host).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, host, buffer: vec![0; 65536] }
    }

    fn get(&mut self, path: &str) {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nX-Vault-Token: {ROOT_TOKEN}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes()).unwrap();
        let mut filled = 0;
        loop {
            filled += self.stream.read(&mut self.buffer[filled..]).unwrap();
            let text = std::str::from_utf8(&self.buffer[..filled]).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() >= length.trim().parse::<usize>().unwrap() {
                return;
            }
        }
    }
}
