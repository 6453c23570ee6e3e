//! Owns what tests share: finding resources, scratch folders, servers.
//! A resource that is missing skips its tests with a printed reason, and fails them where REQUIRE names it (CI).

pub mod bao;
pub mod between;
pub mod container;
pub mod fake;
pub mod fake_vault;
pub mod guard;
pub mod inotify;
pub mod lease_rig;
pub mod moto;
pub mod mount;
pub mod nginx;
pub mod oom;
pub mod page_cache;
pub mod postgres;
pub mod rig;
pub mod samples;
pub mod systemd;
pub mod vault;

use std::io::Write;
use std::path::PathBuf;

/// `found`, or nothing with a printed reason. Panics where the environment variable REQUIRE
/// (comma separated: `mount,vault,aws,...`) names the resource.
pub fn available<T>(resource: &str, found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(why) => {
            let required = std::env::var("REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == resource), "{resource} is required here: {why}");
            // Past the test harness, which keeps the output of tests that pass: a skip must be seen.
            let _ = writeln!(std::io::stderr(), "skipped: no {resource}: {why}");
            None
        }
    }
}

/// Where `make` puts what tests need and git does not hold: `$SECRETFS_CACHE`, else `secretfs-test` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("SECRETFS_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        cache
            .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"))
            .join("secretfs-test")
    })
}

/// The program `name`: from the cache's `bin`, else from PATH.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let mut folders = vec![cache_dir().join("bin"), cache_dir().join("venv/bin")];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.push(PathBuf::from("/usr/sbin"));
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or(format!("`{name}` is not on PATH; run `make deps`"))
}

/// A TCP port on loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound").port()
}
