//! Owns the promise that the death of a worker is a pause for those who read, list, look and watch, and nothing else.
//! Does not know files that are open meanwhile (open_files.rs).

use std::time::Duration;

use super::crowd::{Crowd, Tally};
use super::grove::Grove;
use super::{drill, is_full};
use crate::support::mount::Mount;

/// As often as it takes, with a mount that does not give up over it.
pub const SETTINGS: &str = "max_crashes = 1000";
/// A worker that has served for so long is replaced at once when it dies.
pub const LIFE: Duration = Duration::from_millis(1100);

/// Kills the worker so many times; each has served for a while.
pub fn kill_again_and_again(mount: &Mount, times: usize) {
    for _ in 0..times {
        std::thread::sleep(LIFE);
        mount.kill_worker();
    }
}

/// The pauses are told; the drill holds them to this.
pub fn pauses(tally: &Tally, limit: Duration, mount: &Mount) {
    let took = took(&mount.log());
    eprintln!("  a worker serves after {:?} to {:?}, {} of them", took.first(), took.last(), took.len());
    if is_full() {
        assert!(tally.longest() <= limit, "a pause of {:?}, where {limit:?} is the most", tally.longest());
    }
}

/// How long each worker took until it served, as its holder says, from the shortest on.
fn took(log: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains("a worker serves"));
    let mut took: Vec<String> =
        lines.filter_map(|line| Some(line.split_once("took")?.1.to_owned())).collect();
    took.sort_by_key(|took| (took.len(), took.clone()));
    took
}

#[test]
fn readers_notice_nothing_of_workers_that_are_killed_but_a_pause() {
    let Some(grove) = Grove::new(SETTINGS) else { return };
    grove.warm();
    let crowd = Crowd::of_readers(&grove.secrets);
    kill_again_and_again(&grove.mount, drill(5, 100));
    crowd.go_on_for(grove.secrets.len());
    let tally = crowd.stop();
    tally.none_failed("readers and kills");
    pauses(&tally, Duration::from_millis(250), &grove.mount);
}
