//! Owns the figure of memory: what the program takes for so many secrets of 1 KiB that it holds, against their bytes.
//! Does not know what it takes it for.

use std::time::Duration;

use serde_json::json;

use crate::quiet;
use crate::support::bao::Bao;
use crate::support::mount::Mount;
use crate::support::vault::ROOT_TOKEN;

const SECRETS: [usize; 3] = [1_000, 10_000, 100_000];
/// In one folder, so that a listing stays short.
const IN_FOLDER: usize = 1000;
const SIZE: usize = 1024;
const READERS: usize = 4;
const MIB: f64 = (1 << 20) as f64;
/// The idle connections are closed within this, and their buffers with them.
const QUIET: Duration = Duration::from_secs(15);

/// Resident memory (VmRSS) of the real program after each secret was read once through the mount: the names that the kernel
/// remembers, and the program therefore must know, are in it.
pub(super) fn of_cached() {
    for count in SECRETS {
        let bao = Bao::start();
        for i in 0..count {
            bao.put(&path(i), &json!({ "value": value(i) }));
        }
        let mount = mount(&bao);
        let empty = resident(&mount);
        std::thread::scope(|scope| {
            for reader in 0..READERS {
                let mount = &mount;
                scope.spawn(move || {
                    for i in (reader..count).step_by(READERS) {
                        assert_eq!(mount.read(&format!("{}/value", path(i))).unwrap(), value(i).as_bytes());
                    }
                });
            }
        });
        std::thread::sleep(QUIET);
        let (resident, raw) = (resident(&mount), (count * SIZE) as f64);
        let bound = 1.5 * raw + 16.0 * MIB;
        println!(
            "memory for {count} cached secrets of 1 KiB: {:.2} of 1.5 x their bytes + 16 MiB   ({:.1} MiB for {:.1} MiB; {:.1} MiB when it holds none; {:.0} bytes for each beside its value)",
            resident / bound,
            resident / MIB,
            raw / MIB,
            empty / MIB,
            (resident - empty - raw) / count as f64,
        );
    }
}

/// Large enough for all of them, and fresh for longer than it takes.
fn mount(bao: &Bao) -> Mount {
    let plan = quiet(Mount::of(""));
    let file = plan.folder().join("config.toml");
    let text = format!(
        "[mount]\nttl = \"1h\"\nmax_cache = \"1GiB\"\nmax_rate = 65536\n\
         [backend.bao]\ntype = \"vault\"\naddress = \"{}\"\n\
         [[tree]]\npath = \"/\"\nbackend = \"bao\"\nsource = \"secret\"\n",
        bao.address()
    );
    std::fs::write(&file, text).unwrap();
    plan.arg("--config").arg(file).envs([("VAULT_TOKEN", ROOT_TOKEN)]).start()
}

fn path(i: usize) -> String {
    format!("f{}/s{}", i / IN_FOLDER, i % IN_FOLDER)
}

fn value(i: usize) -> String {
    format!("{i:0>SIZE$}")
}

/// In bytes.
fn resident(mount: &Mount) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap() * 1024.0
}
