//! Owns the tests of writers that meet or die: nothing is lost, nothing is torn.
//! Does not know what is in the file beyond its secrets.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use secretfs::backend::store;

use super::Home;

#[test]
fn a_writer_stopped_in_the_middle_of_the_file_leaves_the_old_one() {
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "k=canary"]);
    let before = fs::read(home.path("s.age")).unwrap();
    home.write("large", vec![b'x'; 200_000]);
    // The kernel ends a process that writes more than its limit (SIGXFSZ): here, after 64 KiB at most.
    let program = env!("CARGO_BIN_EXE_secretfs");
    let script = format!("ulimit -c 0; ulimit -f 64; exec '{program}' store put s.age a k=@large");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(home.folder.path()).env("HOME", home.folder.path());
    let status = shell.stderr(Stdio::null()).status().unwrap();
    assert!(!status.success());
    assert_eq!(fs::read(home.path("s.age")).unwrap(), before);
    if status.signal().is_some() {
        assert_eq!(home.names(), [".s.age.new", "large", "s.age"]);
    }
    home.ok(&["put", "s.age", "a", "k=@large"]);
    assert_eq!(home.names(), ["large", "s.age"]);
}

#[test]
fn concurrent_writers_lose_nothing() {
    let home = Home::with_store();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let home = &home;
            scope.spawn(move || {
                for turn in 0..10 {
                    home.ok(&["put", "s.age", &format!("own/{writer}/{turn}"), "k=canary"]);
                    home.ok(&["put", "s.age", "shared", &format!("k=canary{writer}")]);
                }
            });
        }
    });
    let document = home.document();
    assert_eq!(document.get("shared").unwrap().version, 30);
    for (writer, turn) in (0..3).flat_map(|writer| (0..10).map(move |turn| (writer, turn))) {
        assert_eq!(document.get(&format!("own/{writer}/{turn}")).unwrap().version, 1);
    }
}

/// Kills in each of the two writers.
const KILLS: u64 = 100;

#[test]
fn two_writers_and_kill_minus_nine_leave_old_or_new() {
    let home = Home::with_store();
    home.write("pad", [b'p'; 40_000]);
    let acknowledged = [AtomicU64::new(1), AtomicU64::new(1)];
    let put = |writer: usize, counter: u64| {
        let arguments = [
            "put".to_owned(),
            "s.age".into(),
            format!("writer/{writer}"),
            format!("first=canary{counter}"),
            "pad=@pad".into(),
            format!("last=canary{counter}"),
        ];
        home.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut usual = Duration::ZERO;
    for writer in [0, 1] {
        let begun = Instant::now();
        assert!(put(writer, 1).wait().unwrap().success());
        usual = begun.elapsed();
    }
    let outcomes = Mutex::new((0, 0, 0));
    std::thread::scope(|scope| {
        for writer in [0, 1] {
            let (home, acknowledged, outcomes, put) = (&home, &acknowledged, &outcomes, &put);
            scope.spawn(move || {
                let key = home.key();
                let read = |writer: usize| {
                    let (_, document) =
                        store::load(&home.path("s.age"), &key).expect("the store always opens");
                    let kept = document.get(&format!("writer/{writer}")).expect("it is never lost");
                    let field = |at: usize| kept.fields[at].value.expose_str().unwrap().to_owned();
                    assert_eq!(kept.fields[1].value.len(), 40_000);
                    assert_eq!(field(0), field(2), "never of two versions");
                    (kept.version, field(0).strip_prefix("canary").unwrap().parse::<u64>().unwrap())
                };
                let (mut random, mut kills, mut span) = (Random::new(writer as u64), 0, usual.mul_f64(2.0));
                let (mut version, mut counter) = read(writer);
                while kills < KILLS {
                    let mut child = put(writer, counter + 1);
                    std::thread::sleep(span.mul_f64(random.fraction()));
                    child.kill().unwrap();
                    let killed = child.wait().unwrap().signal() == Some(9);
                    kills += u64::from(killed);
                    // The other writer and the machine's load change how long a put takes; the kills follow it.
                    span = span.mul_f64(if killed { 1.05 } else { 0.9 });

                    let others = acknowledged[1 - writer].load(Ordering::SeqCst);
                    assert!(read(1 - writer).1 >= others, "what the other writer has put stays");
                    let now = read(writer);
                    let (old, new) = ((version, counter), (version + 1, counter + 1));
                    assert!(now == new || (killed && now == old), "{now:?} is neither {old:?} nor {new:?}");
                    let mut outcomes = outcomes.lock().unwrap();
                    outcomes.0 += u32::from(!killed);
                    outcomes.1 += u32::from(killed && now == old);
                    outcomes.2 += u32::from(killed && now == new);
                    (version, counter) = now;
                    acknowledged[writer].store(counter, Ordering::SeqCst);
                }
            });
        }
    });
    let (done, old, new) = *outcomes.lock().unwrap();
    eprintln!("not killed in time: {done}; killed with the old value: {old}, with the new one: {new}");
    home.ok(&["put", "s.age", "after", "k=canary"]);
    assert_eq!(home.names(), ["pad", "s.age"]);
}

/// xorshift64*, seeded by the time: every run tries other points.
struct Random(u64);

impl Random {
    fn new(number: u64) -> Self {
        let time = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        Self((time as u64 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}
