//! Owns the drills of freshness on a real mount: outages, thousands of secrets in use, crowds, and what each costs the backend.
//! Does not know how the refresh loop decides; its arithmetic is tested beside it.
//!
//! `SECRETFS_DRILL=full` runs them at the size that the documentation quotes; without it they are smaller and quicker.

mod cost;
mod outage;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::bao::Bao;
use crate::support::mount::Mount;
use crate::support::vault::ROOT_TOKEN;

/// Whether the drills run at full size.
fn full() -> bool {
    std::env::var_os("SECRETFS_DRILL").is_some_and(|size| size == "full")
}

/// A server with the secrets `s0`, `s1`, ... and a mount of its engine.
struct Rig {
    bao: Bao,
    mount: Mount,
    count: usize,
}

impl Rig {
    /// `arguments` as `secretfs mount` takes them.
    fn new(count: usize, detailed: bool, arguments: &[&str]) -> Self {
        let bao = Bao::start().with_detailed(detailed);
        let mut plan = Mount::of("vault:secret");
        for argument in arguments {
            plan = plan.arg(argument);
        }
        // A line for each request, at this size, is a test of the log.
        let variables = [
            ("VAULT_ADDR", bao.address()),
            ("VAULT_TOKEN", ROOT_TOKEN.into()),
            ("SECRETFS_LOG", "debug".into()),
        ];
        let mount = plan.envs(variables).start();
        let rig = Self { bao, mount, count };
        rig.put_all(1);
        rig
    }

    fn put_all(&self, round: usize) {
        for number in 0..self.count {
            self.bao.put(&format!("s{number}"), &json!({"value": format!("canary-{number}-{round}")}));
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.mount.path(&format!("s{number}/value"))
    }

    fn read(&self, number: usize) -> io::Result<String> {
        std::fs::read_to_string(self.path(number))
    }

    /// Reads everything; how many could not be read.
    fn read_all(&self) -> usize {
        (0..self.count).filter(|number| self.read(*number).is_err()).count()
    }

    /// Reads everything, all of which can be read.
    fn must_read_all(&self) {
        for number in 0..self.count {
            if let Err(error) = self.read(number) {
                let log = self.mount.log();
                let said: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
                panic!("s{number}: {error}\n{}", said[said.len().saturating_sub(12)..].join("\n"));
            }
        }
    }

    fn is_stale(&self, number: usize) -> bool {
        let mut text = [0; 16];
        let length = rustix::fs::getxattr(self.path(number), "user.secretfs.stale", &mut text[..]).unwrap();
        &text[..length] == b"true"
    }

    /// How many requests arrived in each second from `begin` to `end`.
    fn flow(&self, begin: Instant, end: Instant) -> Vec<usize> {
        let mut flow = vec![0; usize::try_from((end - begin).as_secs()).unwrap()];
        for (at, _) in self.bao.timed_requests() {
            if let Some(since) = at.checked_duration_since(begin)
                && let Some(second) = flow.get_mut(usize::try_from(since.as_secs()).unwrap())
            {
                *second += 1;
            }
        }
        flow
    }
}

/// Calls `read` again and again for `time`, with a short rest each time.
fn during(time: Duration, mut read: impl FnMut()) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        read();
        std::thread::sleep(Duration::from_millis(200));
    }
}
