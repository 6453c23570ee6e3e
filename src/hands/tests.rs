//! Owns the checks of the hands from the worker's end of the socket, in raw bytes where a worker would not send them.
//! Does not know a mount; tests/it/hands.rs has one.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use super::message::{
    Answer, Deed, Done, HEAD, LONGEST_ANSWER, LONGEST_ORDER, Order, Run, Touch, from_bytes, length, to_bytes,
};
use super::*;

const HANG: Duration = Duration::from_secs(60);

/// A program of the shell with a folder as its first argument.
fn shell(script: &str, folder: &Path) -> Job {
    let arguments = ["-c", script, "hook", folder.to_str().unwrap()].map(str::to_owned).to_vec();
    Job {
        action: Action::Exec { program: "/bin/sh".into(), arguments, user: None },
        interval: Duration::ZERO,
        timeout: HANG,
        log_output: true,
    }
}

/// Hands of a place where nothing is mounted.
fn hands(hooks: Vec<Job>) -> Hands {
    let place = Place { at: "/nonexistent".into(), device: "0:0".into() };
    Hands::new(Ok(place), "/mnt".into(), hooks).unwrap()
}

/// A worker that says what it likes.
struct Raw(UnixStream);

impl Raw {
    fn of(hands: &Hands) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        hands.serve(theirs).unwrap();
        ours.set_read_timeout(Some(HANG)).unwrap();
        Self(ours)
    }

    fn order(&mut self, number: u64, deed: Deed) {
        self.0.write_all(&to_bytes(&Order { number, deed }, LONGEST_ORDER).unwrap()).unwrap();
    }

    fn answer(&mut self) -> Answer {
        let mut head = [0; HEAD];
        self.0.read_exact(&mut head).unwrap();
        let mut body = vec![0; length(head, LONGEST_ANSWER).unwrap()];
        self.0.read_exact(&mut body).unwrap();
        from_bytes(&body).unwrap()
    }

    /// What the hands say to this order, if they refuse it.
    fn refusal(&mut self, deed: Deed) -> Option<String> {
        self.order(7, deed);
        let Answer { number, result } = self.answer();
        assert_eq!(number, 7);
        result.err().map(|trouble| trouble.text)
    }

    /// Whether the hands have hung up, in whatever way.
    fn is_hung_up_on(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

fn touch(path: &[&str], changed: &[&str], gone: &[&str]) -> Deed {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Deed::Touch(Touch { path: owned(path), changed: owned(changed), gone: owned(gone), more: false })
}

fn run(hook: u32, paths: &[&str]) -> Deed {
    Deed::Run(Run { hook, paths: paths.iter().map(|path| (*path).to_owned()).collect(), truncated: false })
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < HANG, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_default()
}

fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_name_that_is_none_is_never_touched() {
    let hands = hands(vec![]);
    let mut worker = Raw::of(&hands);
    let long = "x".repeat(256);
    for bad in ["", ".", "..", "/", "a/b", "/etc/passwd", "../../etc/passwd", "a\0b", &long] {
        for deed in [touch(&[bad], &["k"], &[]), touch(&[], &["k", bad], &[]), touch(&["a"], &[], &[bad])] {
            assert_eq!(worker.refusal(deed).unwrap(), "this is no name of a file", "{bad:?}");
        }
    }
    for deed in
        [touch(&[&long[..255]; 17], &["k"], &[]), touch(&[], &["k"; 101], &[]), touch(&[], &[], &["k"; 101])]
    {
        assert_eq!(worker.refusal(deed).unwrap(), "these are too many names or paths");
    }
    // What may be touched is looked for, and here is no mount.
    worker.order(8, touch(&["a"], &["k"], &["old"]));
    let trouble = worker.answer().result.unwrap_err();
    assert!(trouble.not_found, "{trouble}");
}

#[test]
fn only_hooks_of_the_configuration_run_and_hear_only_of_paths_in_the_mount() {
    let folder = tempfile::tempdir().unwrap();
    let hands = hands(vec![shell("echo \"$SECRETFS_PATHS\" >> $1/paths", folder.path())]);
    let mut worker = Raw::of(&hands);
    for hook in [1, 2, u32::MAX] {
        assert_eq!(worker.refusal(run(hook, &["a"])).unwrap(), "there is no such hook");
    }
    for bad in ["..", "a/../../etc", "/etc/passwd", "a//b", "a/", "a\n/etc/shadow", "a\0b", "."] {
        assert_eq!(worker.refusal(run(0, &["a", bad])).unwrap(), "this is no name of a file", "{bad:?}");
    }
    let many = vec!["a"; MOST_NEWS / 7 + 1];
    assert_eq!(worker.refusal(run(0, &many)).unwrap(), "these are too many names or paths");
    assert_eq!(read(folder.path(), "paths"), "", "nothing ran");
    assert_eq!(worker.refusal(run(0, &["a", "b/c"])), None);
    assert_eq!(read(folder.path(), "paths"), "/mnt/a\n/mnt/b/c\n");
}

#[test]
fn an_order_that_cannot_be_read_ends_the_conversation_and_no_other() {
    let hands = hands(vec![]);
    let mut other = Raw::of(&hands);
    let good = to_bytes(&Order { number: 1, deed: Deed::Rest }, LONGEST_ORDER).unwrap();
    let framed = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_le_bytes(), body].concat();
    let nonsense = [
        u32::MAX.to_le_bytes().to_vec(),
        (u32::try_from(LONGEST_ORDER).unwrap() + 1).to_le_bytes().to_vec(),
        framed(&[]),
        framed(&[1, 99]),
        framed(&[good[HEAD..].to_vec(), vec![0]].concat()),
        // A list that says it has 2^32 names.
        framed(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        // Text that is no text.
        framed(&[1, 0, 1, 2, 0xff, 0xfe, 0, 0, 0]),
    ];
    for bytes in nonsense {
        let mut worker = Raw::of(&hands);
        worker.0.write_all(&bytes).unwrap();
        assert!(worker.is_hung_up_on(), "{bytes:?}");
    }
    let mut half = Raw::of(&hands);
    half.0.write_all(&good[..3]).unwrap();
    drop(half);
    other.order(2, Deed::Rest);
    assert_eq!(other.answer(), Answer { number: 2, result: Ok(Done::Well) });
}

#[test]
fn a_second_order_of_a_kind_is_refused_while_the_first_is_on_and_others_are_not_held_up() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo x >> $1/began; while [ ! -e $1/go ]; do sleep 0.01; done";
    let hands = hands(vec![shell(script, folder.path()), shell("exit 3", folder.path())]);
    let mut worker = Raw::of(&hands);
    worker.order(1, run(0, &[]));
    assert_eq!(worker.refusal(run(0, &[])).unwrap(), "this is being done already");
    worker.order(2, run(1, &[]));
    let Answer { number: 2, result: Ok(Done::Ran(outcome)) } = worker.answer() else { panic!() };
    assert_eq!((outcome.failed, &*outcome.text), (true, "exit code 3, 0 bytes of output"));
    assert_eq!(worker.refusal(Deed::Rest), None);
    std::fs::write(folder.path().join("go"), "").unwrap();
    assert_eq!(worker.answer().number, 1);
    assert_eq!(read(folder.path(), "began"), "x\n");
    assert_eq!(worker.refusal(run(0, &[])), None, "the flag is down");
}

#[test]
fn a_worker_that_reads_no_answers_is_not_listened_to_and_costs_no_memory() {
    let hands = hands(vec![]);
    let mut worker = Raw::of(&hands);
    worker.0.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let bytes = to_bytes(&Order { number: 1, deed: run(9, &[]) }, LONGEST_ORDER).unwrap();
    let block = bytes.repeat(1000);
    let sent = (0..1000).find_map(|_| worker.0.write_all(&block).err());
    assert_eq!(sent.unwrap().kind(), io::ErrorKind::WouldBlock, "a megabyte and more was taken");
    assert!(hands.stop(), "it can be ended all the same");
}

#[test]
fn a_hook_runs_no_more_often_than_the_configuration_says_whoever_orders_it() {
    let folder = tempfile::tempdir().unwrap();
    let interval = Duration::from_millis(300);
    let job = Job { interval, ..shell("echo x >> $1/ran", folder.path()) };
    let hands = hands(vec![job]);
    let began = Instant::now();
    for worker in 1..=3_u32 {
        let mut worker_itself = Raw::of(&hands);
        assert_eq!(worker_itself.refusal(run(0, &[])), None);
        assert!(began.elapsed() >= interval * (worker - 1));
    }
    assert_eq!(read(folder.path(), "ran"), "x\nx\nx\n");
}

#[test]
fn a_crash_lets_programs_run_on_and_the_next_worker_waits_for_them_and_can_end_them() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mkdir $1/lock || touch $1/overlap; echo $$ >> $1/own; \
                  while [ ! -e $1/go ]; do sleep 0.01; done; rmdir $1/lock; echo done >> $1/done";
    let hands = hands(vec![shell(script, folder.path())]);
    let mut first = Raw::of(&hands);
    first.order(1, run(0, &[]));
    until("begins", || !read(folder.path(), "own").is_empty());
    drop(first);
    let mut second = Raw::of(&hands);
    second.order(1, run(0, &[]));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(read(folder.path(), "own").lines().count(), 1, "the second waits");
    std::fs::write(folder.path().join("go"), "").unwrap();
    assert!(matches!(second.answer().result, Ok(Done::Ran(_))));
    assert_eq!(read(folder.path(), "done"), "done\ndone\n", "the first ran to its end");
    assert!(!folder.path().join("overlap").exists());
    // One that is left over from a crash ends with the mount.
    std::fs::remove_file(folder.path().join("go")).unwrap();
    second.order(2, run(0, &[]));
    until("begins", || read(folder.path(), "own").lines().count() == 3);
    drop(second);
    let mut third = Raw::of(&hands);
    // Its hooks have not been waited for: they would wait for the one that is left over.
    third.order(1, run(0, &[]));
    let left_over = read(folder.path(), "own").lines().last().unwrap().to_owned();
    until("seen to be gone", || hands.0.workers().all.iter().any(|worker| worker.is_gone()));
    assert!(lives(&left_over));
    third.order(2, Deed::EndRuns);
    let Ok(Done::Ran(outcome)) = third.answer().result else { panic!() };
    assert_eq!((outcome.failed, &*outcome.text), (true, "not run, because the mount ends"));
    until("the program left over ends", || !lives(&left_over));
    third.order(3, run(0, &[]));
    assert!(matches!(third.answer().result, Ok(Done::Ran(outcome)) if outcome.failed), "it is over");
}

#[test]
fn programs_end_with_the_hands() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; echo $$ > $1/own; while :; do sleep 0.1; done";
    let hands = hands(vec![shell(script, folder.path())]);
    let mut worker = Raw::of(&hands);
    worker.order(1, run(0, &[]));
    until("begins", || !read(folder.path(), "own").is_empty());
    drop(hands);
    assert!(!lives(&read(folder.path(), "own")));
    assert!(worker.is_hung_up_on());
}

#[test]
fn all_workers_have_the_same_touching_thread_and_nobody_has_it_once_the_hands_are_gone() {
    let hands = hands(vec![]);
    let number = hands.touching_thread().unwrap();
    let task = format!("/proc/self/task/{number}/comm");
    assert_eq!(std::fs::read_to_string(&task).unwrap(), "touch\n");
    let clients = [hands.client().unwrap(), hands.client().unwrap()];
    let threads = clients.each_ref().map(|client| client.touching().unwrap());
    assert!(threads.iter().all(|thread| thread.is(number) && !thread.is(number + 1) && !thread.is(0)));
    drop(hands);
    until("forgotten", || threads.iter().all(|thread| !thread.is(number)));
}

#[test]
fn without_hands_everything_fails_in_words_and_at_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = Client::over(ours, Ok(1)).unwrap();
    let waits = client.clone();
    let waiting = std::thread::spawn(move || waits.rest());
    std::thread::sleep(Duration::from_millis(50));
    drop(theirs);
    let gone = "the part of the program that has the right to do it has ended";
    assert_eq!(waiting.join().unwrap().unwrap_err().text, gone, "who waited");
    assert_eq!(client.touch(&[], &["k".into()], &[], false).unwrap_err().text, gone);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(client.watched()).unwrap_err().text, gone);
    let outcome = runtime.block_on(client.run(0, vec![], false));
    assert_eq!((outcome.failed, &*outcome.text), (true, gone));
    client.end_runs();
}

#[test]
fn an_answer_that_cannot_be_read_is_as_good_as_none() {
    for bytes in [&[0xff; 8][..], &[1, 0, 0, 0, 0xff][..]] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let client = Client::over(ours, Ok(1)).unwrap();
        theirs.write_all(bytes).unwrap();
        assert!(client.rest().is_err());
    }
}

#[test]
fn where_nothing_can_be_touched_the_reason_is_told_and_orders_are_refused() {
    let hands = Hands::new(Err("it needs the right to mount".into()), "/mnt".into(), vec![]).unwrap();
    assert_eq!(hands.touching_thread().unwrap_err(), "it needs the right to mount");
    assert_eq!(hands.client().unwrap().touching().err().unwrap(), "it needs the right to mount");
    let mut worker = Raw::of(&hands);
    for deed in [touch(&[], &["k"], &[]), Deed::Rest, Deed::Look] {
        assert_eq!(worker.refusal(deed).unwrap(), "this cannot be done for this mount");
    }
}

#[test]
fn many_names_are_many_orders() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = Client::over(ours, Ok(1)).unwrap();
    let mut hands = Raw(theirs);
    let names = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
    let asking = std::thread::spawn(move || client.touch(&["a".into()], &names(150), &names(1), false));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut head = [0; HEAD];
        hands.0.read_exact(&mut head).unwrap();
        let mut body = vec![0; length(head, LONGEST_ORDER).unwrap()];
        hands.0.read_exact(&mut body).unwrap();
        let Order { number, deed: Deed::Touch(touch) } = from_bytes(&body).unwrap() else { panic!() };
        seen.push((touch.changed.len(), touch.gone.len(), touch.more));
        let result = if number == 1 { Err(Trouble::new("the second")) } else { Ok(Done::Well) };
        let answer = to_bytes(&Answer { number, result }, LONGEST_ANSWER).unwrap();
        hands.0.write_all(&answer).unwrap();
    }
    assert_eq!(seen, [(100, 0, true), (50, 0, true), (0, 1, false)]);
    assert_eq!(asking.join().unwrap().unwrap_err().text, "the second");
}
