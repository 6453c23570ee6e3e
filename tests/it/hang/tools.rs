//! Owns what people type while a backend is a black hole: each command ends in time, with the error that is promised.
//! Does not know programs that only read.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{Hole, cold, spawned, warm};
use crate::support::available;
use crate::support::mount::{possible, secretfs, wait_until};

const DEADLINE: Duration = Duration::from_secs(3);
/// On top of what a command may take, for a machine that does other things.
const SLACK: Duration = Duration::from_secs(8);
const TIMED_OUT: &str = "Connection timed out";

fn ran(command: &mut Command) -> (Output, Duration) {
    let start = Instant::now();
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    (output, start.elapsed())
}

fn tool(words: &[&str], at: &Path) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(at);
    command
}

/// It ends with success long before the deadline of any request.
fn at_once(mut command: Command) -> String {
    let (output, took) = ran(&mut command);
    eprintln!("{:?}: {took:?}", command.get_program());
    assert!(output.status.success(), "{command:?}: {output:?}");
    assert!(took < DEADLINE, "{command:?} took {took:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// It ends within the deadline and a bit, and says that no answer came in time.
fn in_time(mut command: Command) {
    let (output, took) = ran(&mut command);
    eprintln!("{:?}: {took:?}", command.get_program());
    assert!(!output.status.success(), "{command:?}: {output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(TIMED_OUT), "{command:?}: {output:?}");
    assert!(took < DEADLINE + SLACK, "{command:?} took {took:?}");
}

/// Programs that read fifty secrets which are not held, each of which waits.
fn fifty(hole: &Hole) -> Vec<Child> {
    let readers: Vec<_> =
        (0..50).map(|number| spawned("cat", &hole.mount.path(&cold(500 + number)))).collect();
    wait_until("fifty wait", || hole.swallowed() >= 50);
    readers
}

fn all_end(readers: Vec<Child>) {
    let start = Instant::now();
    for mut reader in readers {
        assert!(!reader.wait().unwrap().success());
    }
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
}

#[test]
fn tools_never_wedge_on_a_black_hole() {
    let Some(()) = available("mount", possible()) else { return };
    let hole = Hole::new("deadline = \"3s\"\nttl = \"1h\"");
    let mount = &hole.mount;
    // One after the other, and each with a backend that does not rest yet: this is the longest that they can take.
    let slow: [(&[&str], String); 5] = [
        (&["stat"], cold(1)),
        (&["ls", "-lR"], "folder-1".into()),
        (&["find"], "folder-2".into()),
        (&["cat"], cold(2)),
        (&["ls", "-l"], "cold-3".into()),
    ];
    for (words, below) in slow {
        hole.open();
        in_time(tool(words, &mount.path(&below)));
        hole.close();
    }
}

#[test]
fn tools_that_need_no_backend_answer_at_once_beside_fifty_that_wait() {
    let Some(()) = available("mount", possible()) else { return };
    let hole = Hole::new("deadline = \"15s\"\nttl = \"1h\"");
    let mount = &hole.mount;
    hole.open();
    let readers = fifty(&hole);
    at_once(tool(&["df"], &mount.at));
    at_once(tool(&["stat", "-f"], &mount.at));
    at_once(tool(&["stat"], &mount.at));
    at_once(tool(&["stat"], &mount.path(&warm(1))));
    at_once(tool(&["ls", "-l"], &mount.at));
    at_once(tool(&["find", "-maxdepth", "1"][..1], &mount.path(&warm(1))));
    let status = at_once({
        let mut command = secretfs();
        command.arg("status").arg(&mount.at);
        command
    });
    assert!(status.contains("program"), "{status}");
    for mut reader in readers {
        assert!(reader.try_wait().unwrap().is_none(), "nobody waited any more");
        reader.kill().unwrap();
        reader.wait().unwrap();
    }
}

#[test]
fn a_walk_over_all_that_is_not_held_ends_after_a_few_deadlines() {
    let Some(()) = available("mount", possible()) else { return };
    let hole = Hole::new("deadline = \"1s\"\nttl = \"1h\"");
    for words in [&["ls", "-lR"][..], &["find"], &["du"]] {
        hole.open();
        let mut command = Command::new(words[0]);
        let (output, took) = ran(command.args(&words[1..]).arg(&hole.mount.at));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (late, failed) = (said.matches(TIMED_OUT).count(), said.matches("Input/output error").count());
        eprintln!("{words:?} of 1340 names: {took:?}, {late} ETIMEDOUT, {failed} EIO");
        assert!(!output.status.success() && late > 0 && failed > 1000, "{words:?}: {late}, {failed}");
        // Five that show that it is silent, and then a probe a second.
        assert!(took < Duration::from_secs(5) + took / 2 + SLACK, "{words:?} took {took:?}");
        hole.close();
    }
}

#[test]
fn a_mount_with_fifty_waiting_readers_is_detached_at_once_and_its_program_ends_with_them() {
    let Some(()) = available("mount", possible()) else { return };
    let mut hole = Hole::new("deadline = \"3s\"\nttl = \"1h\"");
    hole.open();
    let readers = fifty(&hole);
    let (busy, took) = ran(&mut tool(&["umount"], &hole.mount.at));
    assert!(String::from_utf8_lossy(&busy.stderr).contains("busy") && took < DEADLINE, "{busy:?}, {took:?}");
    at_once(tool(&["umount", "-l"], &hole.mount.at));
    assert!(!hole.mount.is_mounted());
    all_end(readers);
    assert_eq!(hole.mount.ended(), Some(0));
}

#[test]
fn a_plain_unmount_works_as_soon_as_the_waiting_readers_are_told() {
    let Some(()) = available("mount", possible()) else { return };
    let mut hole = Hole::new("deadline = \"3s\"\nttl = \"1h\"");
    hole.open();
    let readers = fifty(&hole);
    let start = Instant::now();
    let unmounted = || ran(&mut tool(&["umount"], &hole.mount.at)).0.status.success();
    wait_until("the unmount", unmounted);
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
    assert_eq!(hole.mount.ended(), Some(0));
    all_end(readers);
}

#[test]
fn sigterm_ends_a_mount_with_fifty_waiting_readers_at_once() {
    let Some(()) = available("mount", possible()) else { return };
    let mut hole = Hole::new("deadline = \"120s\"\nttl = \"1h\"");
    hole.open();
    let readers = fifty(&hole);
    let start = Instant::now();
    assert_eq!(hole.mount.stop(), Some(0));
    eprintln!("stopped with fifty readers after {:?}", start.elapsed());
    assert!(!hole.mount.is_mounted());
    all_end(readers);
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
}
