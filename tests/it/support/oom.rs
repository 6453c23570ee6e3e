//! Owns the kernel's OOM killer: a control group with hardly any memory, in which the kernel kills the process that is to be killed.
//! Does not know which process that is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::mount::HANG;

/// A control group of this machine with a limit of a few megabytes.
pub struct Pressure {
    group: PathBuf,
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
        let made = Self { group };
        fs::write(made.group.join(limit), "8M").map_err(|error| format!("no limit of memory: {error}"))?;
        Ok(made)
    }

    /// Has the kernel kill this process: it is the first that is to go, in a group with another that wants more than there is.
    pub fn kill(&self, process: u32) {
        let before = self.said();
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a number");
        let end = File::from(pidfd_open(pid, PidfdFlags::empty()).expect("a process"));
        fs::write(format!("/proc/{process}/oom_score_adj"), "1000").expect("root may");
        fs::write(self.group.join("cgroup.procs"), process.to_string()).expect("root may");
        let is_gone = || {
            let mut polled = [PollFd::new(&end, PollFlags::IN)];
            rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).expect("poll")
                > 0
        };
        let start = Instant::now();
        while !is_gone() {
            assert!(start.elapsed() < HANG, "the kernel kills nobody");
            // dd(1) fills a buffer of this size.
            let greedy = "echo $$ > \"$1\" && exec dd if=/dev/zero of=/dev/null bs=64M count=1";
            let mut command = Command::new("sh");
            command.args(["-c", greedy, "sh"]).arg(self.group.join("cgroup.procs"));
            let mut greedy = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh");
            while !is_gone() && greedy.try_wait().expect("a child").is_none() {}
            let _ = greedy.kill();
            let _ = greedy.wait();
        }
        assert!(self.said() > before, "it was not the kernel who has killed it");
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
