//! Owns readers of a black hole that are told to end: how soon they are gone, and in which state they wait.
//! Does not know deadlines: here they never come.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Hole, cold};
use crate::support::available;
use crate::support::mount::{HANG, possible, wait_until};

const READERS: usize = 100;
/// So soon all of them are to be gone.
const SOON: Duration = Duration::from_millis(250);

/// A reader that ends on SIGINT whatever its parents ignore.
fn reader(hole: &Hole, number: usize) -> Child {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", "cat"]).arg(hole.mount.path(&cold(number)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The letter of proc(5); none when it is gone.
fn state(child: &Child) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// In which states they are, each letter as often as it is met.
fn states(readers: &[Child]) -> String {
    let mut states: Vec<char> = readers.iter().filter_map(state).collect();
    states.sort_unstable();
    states.into_iter().collect()
}

/// Waits until every one of them is in a system call that opens.
fn all_wait(readers: &[Child]) {
    wait_until("all readers wait", || {
        readers.iter().all(|child| {
            let call = std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default();
            let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap_or_default();
            let open = [libc::SYS_openat, libc::SYS_open].map(|number| number.to_string());
            name.trim() == "cat" && open.iter().any(|open| call.split(' ').next() == Some(open))
        })
    });
    std::thread::sleep(Duration::from_millis(300));
}

/// Sends them all the signal; how long the last of them took to be gone.
fn gone_after(readers: &mut [Child], signal: Signal) -> Duration {
    let start = Instant::now();
    for child in readers.iter() {
        kill_process(Pid::from_child(child), signal).unwrap();
    }
    let mut left: Vec<&mut Child> = readers.iter_mut().collect();
    while !left.is_empty() {
        left.retain_mut(|child| child.try_wait().unwrap().is_none());
        assert!(start.elapsed() < HANG, "{} readers never end", left.len());
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

/// A hundred readers, the one after the other of the secrets that `which` says, are gone soon after the signal; a machine that does
/// other things gets ten tries.
fn all_are_gone_soon(hole: &Hole, signal: Signal, which: impl Fn(usize) -> usize) {
    let mut took = Vec::new();
    for _ in 0..10 {
        hole.open();
        let mut readers: Vec<_> = (0..READERS).map(|number| reader(hole, which(number))).collect();
        all_wait(&readers);
        let before = states(&readers);
        let time = gone_after(&mut readers, signal);
        let left = states(&readers);
        eprintln!("{READERS} readers ({before}), {signal:?}: gone after {time:?}");
        assert_eq!(left, "", "reaped, and there is no process any more");
        took.push(time);
        // Of readers that had waited for a second it has learnt that nobody answers, and would let the next ones go at once.
        hole.close();
        if time <= SOON {
            return;
        }
    }
    panic!("{signal:?}: {took:?}");
}

#[test]
fn a_hundred_waiting_readers_are_gone_a_quarter_of_a_second_after_sigkill_and_sigint() {
    let Some(()) = available("mount", possible()) else { return };
    let hole = Hole::new("deadline = \"120s\"");
    all_are_gone_soon(&hole, Signal::KILL, |number| number);
    all_are_gone_soon(&hole, Signal::INT, |number| 200 + number);
    // And once more after those: an interrupted request changes how the kernel waits for all that follow.
    all_are_gone_soon(&hole, Signal::KILL, |number| 400 + number);
}

#[test]
fn a_hundred_readers_of_one_unknown_name_are_gone_as_soon_when_all_are_killed() {
    let Some(()) = available("mount", possible()) else { return };
    let hole = Hole::new("deadline = \"120s\"");
    all_are_gone_soon(&hole, Signal::KILL, |_| 0);
    all_are_gone_soon(&hole, Signal::INT, |_| 1);
}
