//! Owns the kernel's OOM killer: a control group with hardly any memory, in which the kernel kills the process that is to be killed.
//! Does not know which process that is.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::mount::HANG;

/// A control group of this machine with a limit of a few megabytes.
pub struct Pressure {
    group: PathBuf,
    kills: AtomicU32,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Pressure {
    /// Fails with the reason where there can be none.
    pub fn new() -> Result<Self, String> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("secretfs-test-{}-{number}", std::process::id());
        let (old, new) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        // cgroups(7): version 1 has a hierarchy for memory, version 2 has one for all.
        let (group, limit) = if old.is_dir() {
            (old.join(name), "memory.limit_in_bytes")
        } else {
            (new.join(name), "memory.max")
        };
        fs::create_dir(&group).map_err(|error| format!("no control group: {error}"))?;
        let made = Self { group, kills: AtomicU32::new(0) };
        fs::write(made.group.join(limit), "8M").map_err(|error| format!("no limit of memory: {error}"))?;
        Ok(made)
    }

    /// Has the kernel kill this process: it is in the group with another that takes all memory and may not be killed.
    pub fn kill(&self, process: u32) {
        let before = self.said();
        fs::write(format!("/proc/{process}/oom_score_adj"), "1000").expect("root may");
        fs::write(self.group.join("cgroup.procs"), process.to_string()).expect("root may");
        // tail(1) keeps what it has read of a file without an end.
        let greedy = "echo $$ > \"$1\" && echo -1000 > /proc/self/oom_score_adj && exec tail -c 100M /dev/zero";
        let mut command = Command::new("sh");
        command.args(["-c", greedy, "sh"]).arg(self.group.join("cgroup.procs")).process_group(0);
        let mut greedy = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh");
        let start = Instant::now();
        while self.said() == before {
            assert!(start.elapsed() < HANG, "the kernel kills nobody");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.kills.fetch_add(1, Ordering::Relaxed);
        let _ = greedy.kill();
        let _ = greedy.wait();
    }

    /// How many were killed.
    pub fn kills(&self) -> u32 {
        self.kills.load(Ordering::Relaxed)
    }

    /// What the kernel says of how many it has killed in the group.
    fn said(&self) -> Option<u32> {
        let (old, new) = (self.group.join("memory.oom_control"), self.group.join("memory.events"));
        let said = fs::read_to_string(old).or_else(|_| fs::read_to_string(new)).expect("the kernel says it");
        said.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.group);
    }
}
