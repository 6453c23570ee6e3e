//! Owns the checks of hooks on a backend in memory and on little programs of the shell.
//! Does not know a mount; tests/it/hooks.rs has one.

mod handed_over;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::access::Permissions;
use crate::backend::faulty::Faulty;
use crate::cache::{Limits, Source, SourceId};
use crate::clock::Clock;
use crate::freshness::Freshness;
use crate::hands::Hands;
use crate::path::BackendPath;
use crate::tree::Tree;
use crate::tree::promises::Promises;

const HANG: Duration = Duration::from_secs(60);

struct World {
    backend: Arc<Faulty>,
    cache: Arc<SecretCache>,
    hooks: Arc<Hooks>,
    hands: Hands,
    folder: tempfile::TempDir,
}

/// Secrets below `secret/` shown at `/all`, those below `secret/team/` at `/team` as well.
fn world(hooks: impl FnOnce(&Path) -> Vec<Config>) -> World {
    let folder = tempfile::tempdir().unwrap();
    let backend = Arc::new(Faulty::new());
    let cache = cache_over(&backend);
    let hooks = hooks(folder.path());
    let jobs = hooks.iter().map(Config::job).collect();
    let hands = Hands::new(Err("no mount".into()), "/mnt".into(), jobs).unwrap();
    let hooks = hooks_over(&cache, hooks, &hands);
    World { backend, cache, hooks, hands, folder }
}

fn cache_over(backend: &Arc<Faulty>) -> Arc<SecretCache> {
    let source = Source { name: "test".into(), backend: backend.clone() };
    Arc::new(SecretCache::new(vec![source], Limits::default(), Clock::System))
}

fn hooks_over(cache: &Arc<SecretCache>, hooks: Vec<Config>, hands: &Hands) -> Arc<Hooks> {
    let tree = |at: &str, path: &str| {
        let permissions = Permissions { uid: 0, gid: 0, file_mode: 0o400 };
        Tree::of_place(vec![at.to_owned()], of(path), permissions)
    };
    // The hooks look every 100 ms for what changed while it was not held.
    let freshness = Freshness { ttl: Duration::from_millis(200), ..Freshness::default() };
    let promises = Promises::new(freshness, vec![], vec![]).unwrap();
    let trees = Trees::new(vec![tree("all", "secret"), tree("team", "secret/team")]).with_promises(promises);
    let leases = Arc::new(Leases::plain(cache.clone()));
    let client = hands.client().unwrap();
    Arc::new(Hooks::new(hooks, trees, cache.clone(), leases, "/mnt".into(), client).unwrap())
}

fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

/// A hook without waits that runs `script` with the folder as its first argument.
fn shell(patterns: &[&str], script: &str, folder: &Path) -> Config {
    Config {
        patterns: patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        action: Action::Exec {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into(), "hook".into(), folder.to_string_lossy().into_owned()],
            user: None,
        },
        debounce: Duration::ZERO,
        interval: Duration::ZERO,
        timeout: HANG,
        log_output: true,
    }
}

impl World {
    /// Changes the secret at `path`, and has the cache find that.
    async fn change(&self, path: &str) {
        self.backend.put(path, &[("value", b"canary")]);
        self.cache.refresh(&of(path)).await.unwrap();
    }

    async fn until(&self, what: &str, done: impl Fn(&[HookState]) -> bool) -> Vec<HookState> {
        let wait = async {
            loop {
                let states = self.hooks.states();
                if done(&states) {
                    return states;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(HANG, wait).await;
        waited.unwrap_or_else(|_| panic!("never: {what}: {:?}", self.hooks.states()))
    }

    /// Begins; the first version of `paths` is held from the start.
    async fn begin(&self, paths: &[&str]) -> tokio::task::JoinHandle<()> {
        for path in paths {
            self.change(path).await;
        }
        self.run()
    }

    fn run(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(self.hooks.clone().run(self.cache.subscribe()))
    }

    async fn end(&self, running: tokio::task::JoinHandle<()>) {
        self.hooks.stop();
        tokio::time::timeout(HANG, running).await.unwrap().unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

/// Whether a process lives; one that has ended and was not asked for its status does not.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[tokio::test]
async fn a_program_gets_its_arguments_a_bare_environment_and_the_paths() {
    let world = world(|folder| {
        let mut hook = shell(&["/team/*"], "", folder);
        let script = "for word in \"$@\"; do echo \"[$word]\"; done > $1/args; env | sort > $1/env; pwd > $1/pwd; \
                      cat > $1/stdin";
        if let Action::Exec { arguments, .. } = &mut hook.action {
            arguments[1] = script.to_owned();
            arguments.extend(["a b".into(), "$HOME `id` \"'".into(), String::new(), "ä\n".into()]);
        }
        vec![hook]
    });
    let running = world.begin(&["secret/team/db", "secret/x"]).await;
    world.change("secret/x").await;
    world.change("secret/team/db").await;
    let states = world.until("run", |states| states[0].runs == 1 && !states[0].running).await;
    assert_eq!(states[0].last_outcome.as_deref(), Some("exit code 0, 0 bytes of output"));
    assert!(!states[0].last_failed && states[0].failures == 0 && states[0].last_run.is_some());
    assert_eq!(
        (states[0].what.as_str(), &*states[0].patterns),
        ("exec /bin/sh", &["/team/*".to_owned()][..])
    );
    let folder = world.folder.path().display();
    assert_eq!(world.read("args"), format!("[{folder}]\n[a b]\n[$HOME `id` \"']\n[]\n[ä\n]\n"));
    let shells_own = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
    let environment = world.read("env");
    let given: Vec<_> =
        environment.lines().filter(|line| !shells_own.iter().any(|own| line.starts_with(own))).collect();
    assert_eq!(
        given,
        [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SECRETFS_MOUNT=/mnt",
            "SECRETFS_PATHS=/mnt/team/db"
        ]
    );
    assert_eq!((world.read("pwd").as_str(), world.read("stdin").as_str()), ("/\n", ""));
    world.end(running).await;
}

#[tokio::test]
async fn changes_during_a_run_are_one_more_run_and_runs_never_overlap() {
    let world = world(|folder| {
        let script = "mkdir $1/lock || echo overlap >> $1/bad; echo \"$SECRETFS_PATHS\" >> $1/paths; \
                      while [ ! -e $1/go ]; do sleep 0.01; done; rmdir $1/lock";
        vec![shell(&["/all/**"], script, folder)]
    });
    let running = world.begin(&["secret/a", "secret/b", "secret/team/c"]).await;
    world.change("secret/a").await;
    world.until("begins", |states| states[0].running).await;
    for _ in 0..5 {
        world.change("secret/b").await;
        world.change("secret/team/c").await;
    }
    world.until("waits", |states| states[0].running && states[0].waiting && states[0].runs == 1).await;
    std::fs::write(world.folder.path().join("go"), "").unwrap();
    world.until("ends", |states| states[0].runs == 2 && !states[0].running && !states[0].waiting).await;
    assert_eq!(world.read("paths"), "/mnt/all/a\n/mnt/all/b\n/mnt/all/team/c\n");
    assert_eq!(world.read("bad"), "");
    assert_eq!(world.hooks.counters().hook_runs.get(), 2);
    assert_eq!(world.hooks.counters().hook_changes.get(), 11);
    world.end(running).await;
}

#[tokio::test]
async fn a_secret_that_is_gone_is_news_and_an_older_version_is_not() {
    let world = world(|folder| vec![shell(&["/all/a"], "echo \"$SECRETFS_PATHS\" >> $1/paths", folder)]);
    let running = world.begin(&["secret/a"]).await;
    let old = SecretRef { version: Some(crate::secret::Version::new("1")), ..of("secret/a") };
    world.hooks.notice(&Changed { of: old, version: None });
    assert!(!world.hooks.states()[0].waiting);
    world.backend.delete("secret/a");
    assert!(world.cache.refresh(&of("secret/a")).await.is_err());
    world.until("run", |states| states[0].runs == 1 && !states[0].running).await;
    assert_eq!(world.read("paths"), "/mnt/all/a\n");
    world.change("secret/a").await;
    world.until("it is back", |states| states[0].runs == 2 && !states[0].running).await;
    world.end(running).await;
}

#[tokio::test]
async fn what_changed_while_nobody_held_it_is_news_when_it_is_held_again() {
    let world = world(|folder| vec![shell(&["/all/*"], "echo \"$SECRETFS_PATHS\" >> $1/paths", folder)]);
    let running = world.begin(&["secret/a", "secret/b"]).await;
    let both = [of("secret/a"), of("secret/b")];
    world.until("known", |_| both.iter().all(|of| world.hooks.seen().knows(of))).await;
    world.cache.flush();
    world.backend.put("secret/a", &[("value", b"canary")]);
    world.cache.secret(&of("secret/a")).await.unwrap();
    world.cache.secret(&of("secret/b")).await.unwrap();
    world.until("run", |states| states[0].runs == 1 && !states[0].running).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.hooks.states()[0].runs, 1);
    assert_eq!(world.read("paths"), "/mnt/all/a\n");
    world.end(running).await;
}

#[tokio::test]
async fn a_program_that_fails_or_is_not_there_is_told_and_others_run_on() {
    let world = world(|folder| {
        let action = |program: &str| Action::Exec { program: program.into(), arguments: vec![], user: None };
        let own = folder.join("gone-later");
        vec![
            shell(&["/**"], "exit 3", folder),
            shell(&["/**"], "kill -SEGV $$", folder),
            Config { action: action(&own.to_string_lossy()), ..shell(&["/**"], "", folder) },
            Config {
                action: Action::Signal {
                    signal: Signal::named("HUP").unwrap(),
                    pid_file: folder.join("none.pid"),
                },
                ..shell(&["/**"], "", folder)
            },
            shell(&["/**"], "echo well >> $1/well", folder),
        ]
    });
    let running = world.begin(&["secret/a"]).await;
    for runs in 1..=2 {
        world.change("secret/a").await;
        let states = world
            .until("runs", |states| states.iter().all(|state| state.runs == runs && !state.running))
            .await;
        let outcomes: Vec<_> = states.iter().map(|state| state.last_outcome.as_deref().unwrap()).collect();
        assert_eq!(
            outcomes,
            [
                "exit code 3, 0 bytes of output",
                "ended by signal 11, 0 bytes of output",
                "the program: there is no such file",
                "the PID file cannot be read: entity not found",
                "exit code 0, 0 bytes of output",
            ]
        );
        let failures: Vec<_> = states.iter().map(|state| state.failures).collect();
        assert_eq!(failures, [runs, runs, runs, runs, 0]);
        assert_eq!(
            states.iter().map(|state| state.last_failed).collect::<Vec<_>>(),
            [true, true, true, true, false]
        );
    }
    assert_eq!(world.read("well"), "well\nwell\n");
    assert_eq!(world.hooks.counters().hook_failures.get(), 8);
    world.end(running).await;
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_at_its_time_with_all_that_it_started() {
    let world = world(|folder| {
        let mut hook = shell(&["/**"], "sleep 600 & echo $! > $1/child; echo $$ > $1/own; wait", folder);
        hook.timeout = Duration::from_millis(300);
        vec![hook]
    });
    let running = world.begin(&["secret/a"]).await;
    world.change("secret/a").await;
    let states = world.until("ended", |states| states[0].failures == 1).await;
    let outcome = "ended by signal 15 after its time was up, 0 bytes of output";
    assert_eq!(states[0].last_outcome.as_deref(), Some(outcome));
    assert!(!lives(&world.read("own")) && !lives(&world.read("child")));
    assert_eq!(world.hooks.counters().hook_timeouts.get(), 1);
    world.end(running).await;
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed() {
    let world = world(|folder| {
        let script = "trap '' TERM; echo $$ > $1/own; while :; do sleep 0.1; done";
        let mut hook = shell(&["/**"], script, folder);
        hook.timeout = Duration::from_millis(300);
        vec![hook]
    });
    let running = world.begin(&["secret/a"]).await;
    world.change("secret/a").await;
    let states = world.until("killed", |states| states[0].failures == 1).await;
    let outcome = "ended by signal 9 after its time was up, 0 bytes of output";
    assert_eq!(states[0].last_outcome.as_deref(), Some(outcome));
    assert!(!lives(&world.read("own")));
    world.end(running).await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_in_its_group_is_killed_and_its_pipe_is_not_waited_for() {
    let world = world(|folder| {
        let script = "sleep 600 & echo $! > $1/child; \
                      setsid sh -c 'echo $$ > $0/apart; exec sleep 600' $1 & \
                      while [ ! -s $1/apart ]; do sleep 0.01; done; echo done";
        vec![shell(&["/**"], script, folder)]
    });
    let running = world.begin(&["secret/a"]).await;
    world.change("secret/a").await;
    let states = world.until("ended", |states| states[0].runs == 1 && !states[0].running).await;
    assert_eq!(states[0].last_outcome.as_deref(), Some("exit code 0, 5 bytes of output"));
    let apart = world.read("apart");
    let (child_lives, apart_lives) = (lives(&world.read("child")), lives(&apart));
    let _ = std::process::Command::new("kill").arg(apart.trim()).status();
    assert!(!child_lives, "in the group");
    assert!(apart_lives, "in a session of its own");
    world.end(running).await;
}

#[tokio::test]
async fn a_flood_costs_little_and_holds_up_nobody() {
    let world = world(|folder| {
        let mut flood = shell(&["/**"], "exec yes canary", folder);
        flood.timeout = Duration::from_secs(1);
        vec![flood, shell(&["/**"], "echo $SECRETFS_PATHS >> $1/paths", folder)]
    });
    let running = world.begin(&["secret/a"]).await;
    world.change("secret/a").await;
    for runs in 2..=4 {
        world.until("run beside a flood", |states| states[1].runs == runs - 1 && !states[1].running).await;
        assert!(world.hooks.states()[0].failures == 0 || runs > 2);
        world.change("secret/a").await;
    }
    let states = world.until("ended", |states| states[0].failures >= 1).await;
    let outcome = states[0].last_outcome.clone().unwrap();
    assert!(outcome.starts_with("ended by signal 15 after its time was up, "), "{outcome}");
    let bytes: u64 = outcome.split(' ').rev().nth(3).unwrap().parse().unwrap();
    assert!((1..=100 * 65536 + 65536 * 120).contains(&bytes), "throttled: {bytes}");
    world.end(running).await;
}

#[tokio::test]
async fn at_the_end_what_waits_is_dropped_and_what_runs_is_killed_soon() {
    let world = world(|folder| {
        let stubborn = "trap '' TERM; echo $$ > $1/own; while :; do sleep 0.1; done";
        let later = Config { debounce: HANG * 10, ..shell(&["/**"], "touch $1/never", folder) };
        vec![shell(&["/**"], stubborn, folder), later]
    });
    let running = world.begin(&["secret/a"]).await;
    world.change("secret/a").await;
    world.until("runs and waits", |states| states[0].running && states[1].waiting).await;
    world.until("trapped", |_| !world.read("own").is_empty()).await;
    let begun = std::time::Instant::now();
    world.end(running).await;
    assert!(begun.elapsed() < GRACE_OF_A_HANG, "{:?}", begun.elapsed());
    let states = world.hooks.states();
    assert_eq!(
        states[0].last_outcome.as_deref(),
        Some("ended by signal 9 because the mount ends, 0 bytes of output")
    );
    assert!(!lives(&world.read("own")));
    assert_eq!(states[1].runs, 0);
}

/// The program of the test above may take a minute by its own time.
const GRACE_OF_A_HANG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn hands_that_go_away_take_the_programs_with_them_and_hooks_say_so() {
    let world = world(|folder| {
        vec![shell(&["/**"], "trap '' TERM; echo $$ > $1/own; while :; do sleep 0.1; done", folder)]
    });
    let running = world.begin(&["secret/a"]).await;
    world.change("secret/a").await;
    world.until("trapped", |_| !world.read("own").is_empty()).await;
    assert!(world.hands.stop());
    assert!(!lives(&world.read("own")));
    let states = world.until("told", |states| !states[0].running && states[0].failures == 1).await;
    assert!(states[0].last_outcome.as_deref().unwrap().contains("has ended"), "{states:?}");
    world.change("secret/a").await;
    world.until("fails at once", |states| states[0].failures == 2).await;
    world.end(running).await;
}

#[tokio::test]
async fn what_hooks_are_about_is_read_at_the_start_and_found_as_a_secret_or_its_file() {
    let world = world(|folder| {
        vec![
            shell(&["/all/a"], "echo a >> $1/ran", folder),
            shell(&["/team/db/value"], "echo db >> $1/ran", folder),
            shell(&["/all/missing", "/nowhere/x", "/"], "echo no >> $1/ran", folder),
        ]
    });
    for path in ["secret/a", "secret/team/db", "secret/unrelated"] {
        world.backend.put(path, &[("value", b"canary")]);
    }
    let running = tokio::spawn(world.hooks.clone().run(world.cache.subscribe()));
    world.until("held", |_| world.cache.held().len() == 2).await;
    world.change("secret/a").await;
    world.change("secret/team/db").await;
    world.until("run", |states| states[0].runs == 1 && states[1].runs == 1).await;
    world.until("over", |states| states.iter().all(|state| !state.running)).await;
    assert_eq!(world.hooks.states()[2].runs, 0);
    let mut ran: Vec<_> = world.read("ran").lines().map(str::to_owned).collect();
    ran.sort();
    assert_eq!(ran, ["a", "db"]);
    world.end(running).await;
}

#[tokio::test]
async fn a_storm_of_changes_is_few_runs() {
    let interval = Duration::from_millis(400);
    let world = world(|folder| {
        vec![Config {
            action: Action::Signal { signal: Signal::named("HUP").unwrap(), pid_file: folder.join("none") },
            debounce: Duration::from_millis(100),
            interval,
            ..shell(&["/**"], "", folder)
        }]
    });
    let running = world.begin(&["secret/a"]).await;
    let changes = AtomicUsize::new(0);
    let begun = Instant::now();
    while begun.elapsed() < interval * 5 {
        world.hooks.tell(&["all/a".to_owned()]);
        changes.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let states = world.until("the last run", |states| !states[0].waiting && !states[0].running).await;
    assert!(states[0].runs >= 2, "{states:?}");
    assert!(interval * u32::try_from(states[0].runs - 1).unwrap() <= begun.elapsed(), "{states:?}");
    assert!(changes.load(Ordering::Relaxed) > 10 * usize::try_from(states[0].runs).unwrap());
    world.end(running).await;
}

#[tokio::test]
async fn a_mount_without_hooks_has_nothing_to_do() {
    let world = world(|_| vec![]);
    let running = world.begin(&["secret/a"]).await;
    tokio::time::timeout(HANG, running).await.unwrap().unwrap();
    assert_eq!(world.hooks.states(), []);
}
