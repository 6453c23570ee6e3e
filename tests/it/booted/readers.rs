//! Owns the readers of a drill in the machine: their beginning, their end, and what they have seen.
//! Does not know what is done to the mount meanwhile; support/readers.pl reads.

use std::time::Duration;

use crate::support::systemd::Machine;

/// Readers that run.
pub struct Readers<'a> {
    machine: &'a Machine,
    name: &'a str,
    process: String,
}

/// What readers have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Opened, read, closed, and as expected.
    pub reads: u64,
    pub failures: u64,
    pub wrong: u64,
    /// Reads of a file that was held open: the same bytes, or ESTALE.
    pub same: u64,
    pub stale: u64,
    /// The longest open, read and close.
    pub longest: Duration,
    /// Which errors, and how many of each.
    pub errors: String,
}

impl<'a> Readers<'a> {
    /// Starts them, and with them the instance of that name where it does not run.
    pub fn start(machine: &'a Machine, name: &'a str) -> Self {
        machine.must(&["systemctl", "start", &format!("readers@{name}")]);
        let process = machine.property(&format!("readers@{name}"), "MainPID");
        // they have the time to open what they hold
        std::thread::sleep(Duration::from_millis(300));
        Self { machine, name, process }
    }

    /// Ends them, who must be the same that were started.
    pub fn end(self) -> Seen {
        let unit = format!("readers@{}", self.name);
        assert_eq!(self.machine.property(&unit, "MainPID"), self.process, "readers did not live on");
        self.machine.must(&["systemctl", "stop", &unit]);
        let reports = self.machine.must(&["sh", "-c", &format!("cat /run/readers-{}.*", self.name)]);
        let mut seen = Seen::default();
        for line in reports.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = || words[1].parse::<u64>().expect("a number");
            match words[0] {
                "reads" => seen.reads += number(),
                "failures" => seen.failures += number(),
                "wrong" => seen.wrong += number(),
                "same" => seen.same += number(),
                "stale" => seen.stale += number(),
                "longest" => {
                    let seconds = words[1].parse().expect("seconds");
                    seen.longest = seen.longest.max(Duration::from_secs_f64(seconds));
                }
                _ => seen.errors.push_str(&format!("{} ", words[1..].join(" "))),
            }
        }
        seen
    }
}

impl Seen {
    /// That nobody has noticed anything but a pause.
    pub fn must_be_undisturbed(&self, what: &str) {
        eprintln!(
            "{what}: {} reads, {} failed, {} wrong, longest {:?}; held open: {} the same, {} ESTALE {}",
            self.reads, self.failures, self.wrong, self.longest, self.same, self.stale, self.errors
        );
        assert_eq!((self.failures, self.wrong), (0, 0), "{what}: {}", self.errors);
        assert!(self.reads > 50 && self.same > 20, "{what}: hardly anybody has read: {self:?}");
    }
}
