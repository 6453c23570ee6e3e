//! Owns crowds at a black hole: when each of them is told, and that those who read what is held do not notice.
//! Does not know signals.

use std::path::PathBuf;
use std::time::Duration;

use super::{Hole, WARM, cold, not_slower_than_twice, p99, reads, timed, warm};
use crate::support::available;
use crate::support::mount::{possible, wait_until};

const DEADLINE: Duration = Duration::from_secs(3);

/// Whether it took the deadline, within a tenth.
fn is_the_deadline(took: Duration) -> bool {
    took >= DEADLINE.mul_f64(0.9) && took <= DEADLINE.mul_f64(1.1)
}

/// Lets that many readers of as many secrets begin at once; what each got and when.
fn crowd(hole: &Hole, cold_from: usize, count: usize) -> Vec<(i32, Duration)> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = (cold_from..cold_from + count)
            .map(|number| scope.spawn(move || timed(&hole.mount, &cold(number))))
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    })
}

/// All of a crowd are told ETIMEDOUT at the deadline. A machine that does other things gets five tries.
fn ends_at_the_deadline(hole: &Hole, count: usize) {
    let mut late = Vec::new();
    for attempt in 0..5 {
        hole.open();
        let told = crowd(hole, attempt * count + count, count);
        hole.close();
        assert!(told.iter().all(|(errno, _)| *errno == libc::ETIMEDOUT), "{count}: {told:?}");
        let times: Vec<_> = told.iter().map(|(_, took)| *took).collect();
        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        eprintln!("{count} readers: {first:?} to {last:?} of {DEADLINE:?}");
        if times.iter().all(|took| is_the_deadline(*took)) {
            return;
        }
        late.push((*first, *last));
    }
    panic!("{count} readers: {late:?}");
}

#[test]
fn who_waits_for_a_black_hole_is_told_so_at_the_deadline_alone_and_among_two_hundred() {
    let Some(()) = available("mount", possible()) else { return };
    let hole = Hole::new("deadline = \"3s\"\nmax_in_flight = 256");
    ends_at_the_deadline(&hole, 1);
    ends_at_the_deadline(&hole, 200);
}

#[test]
fn who_queues_behind_those_who_wait_is_told_so_at_the_deadline_too() {
    let Some(()) = available("mount", possible()) else { return };
    let hole = Hole::new("deadline = \"3s\"\nmax_in_flight = 8");
    ends_at_the_deadline(&hole, 200);
    // Those who find that it is silent leave their places to a few others.
    assert!(hole.swallowed() <= 20, "{} got past the gate", hole.swallowed());
}

#[test]
fn readers_of_one_unknown_name_are_all_told_at_the_deadline_and_not_one_after_the_other() {
    let Some(()) = available("mount", possible()) else { return };
    let hole = Hole::new("deadline = \"3s\"");
    hole.open();
    let told: Vec<_> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..50).map(|_| scope.spawn(|| timed(&hole.mount, &cold(0)))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let last = told.iter().map(|(_, took)| *took).max().unwrap();
    eprintln!("50 readers of one name: the last after {last:?}");
    assert!(told.iter().all(|(errno, _)| *errno == libc::ETIMEDOUT), "{told:?}");
    assert!(last < DEADLINE * 2, "{told:?}");
    hole.close();
}

/// Reads what is held in turns, with a backend that answers and with one that does not while `count` wait for it.
fn warm_reads_beside(hole: &Hole, count: usize) {
    let paths: Vec<PathBuf> = (0..WARM).map(|number| hole.mount.path(&warm(number))).collect();
    let measured = || p99(reads(&paths, 2000, || false).unwrap());
    not_slower_than_twice(&format!("warm reads beside {count} that wait"), 5, || {
        let usual = measured();
        hole.open();
        let now = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| crowd(hole, 0, count));
            wait_until("they wait", || hole.swallowed() >= count.min(64));
            std::thread::sleep(Duration::from_millis(200));
            let now = measured();
            assert!(!waiting.is_finished(), "nobody waited any more");
            now
        });
        hole.close();
        (usual, now)
    });
}

#[test]
fn warm_reads_do_not_notice_a_black_hole() {
    let Some(()) = available("mount", possible()) else { return };
    warm_reads_beside(&Hole::new("deadline = \"10s\"\nttl = \"1h\""), 20);
}

#[test]
fn five_hundred_slow_misses_cannot_starve_hits() {
    let Some(()) = available("mount", possible()) else { return };
    warm_reads_beside(&Hole::new("deadline = \"10s\"\nttl = \"1h\""), 500);
}
