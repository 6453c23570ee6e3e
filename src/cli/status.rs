//! Owns `secretfs status`: which mounts are asked, and their reports for people and as JSON.
//! Does not know how a mount knows; a report holds no value.

mod leases;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::asking::{self, Asking};
use super::failure::Failure;
use super::in_mount::{InMount, unreadable};
use super::output;
use crate::control::client::Unanswered;
use crate::control::protocol::{Command, Reply, VERSION};
use crate::control::status::{BackendLine, HeldList, HookLine, Measure, Status};
use crate::mounts::{self, Mount};
use crate::printable::printable;

/// `secretfs status [MOUNTPOINT]`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A mount, or anything in it [default: every mount that can be seen]
    mountpoint: Option<PathBuf>,
    /// For programs (docs/operations.md)
    #[arg(long)]
    json: bool,
    /// Each secret that is held too; never its value
    #[arg(long)]
    secrets: bool,
    /// What backends call their leases too: whoever knows that and may, can end them
    #[arg(short, long)]
    verbose: bool,
}

/// One mount as `--json` shows it; the names are promised.
#[derive(Serialize)]
struct Report {
    mountpoint: String,
    source: String,
    device: String,
    owner: u32,
    answers: bool,
    problem: Option<String>,
    #[serde(flatten)]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Reports {
    version: u32,
    mounts: Vec<Report>,
}

/// Prints a report of each mount. One that does not answer is shown as such, and is a failure, unless it is only somebody
/// else's and was not asked for by name.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let asking = Asking::new()?;
    let mounts = match &arguments.mountpoint {
        Some(path) => vec![InMount::of(path)?.mount],
        None => each_once(mounts::ours().map_err(unreadable)?),
    };
    let status = Command::Status { secrets: arguments.secrets, lease_ids: arguments.verbose };
    let replies = asking.ask_all(&mounts, &status);
    let mut reports = Vec::with_capacity(mounts.len());
    let mut failures = Vec::new();
    for (mount, reply) in mounts.iter().zip(replies) {
        let status = match reply {
            Ok(Reply::Status(status)) => Ok(*status),
            Ok(_) => Err(Unanswered::Foreign),
            Err(why) => Err(why),
        };
        match &status {
            Err(Unanswered::NotAllowed { .. }) if arguments.mountpoint.is_none() => {}
            Err(why) => failures.push(asking::failure(&mount.at, why)),
            Ok(_) => {}
        }
        reports.push(report(mount, status));
    }
    let text = if arguments.json { json(reports)? } else { for_people(&reports, SystemTime::now()) };
    output::print(text.as_bytes())?;
    Failure::all(failures)
}

/// A bind mount is the same mount at another place: the place of the whole is told.
fn each_once(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut kept: Vec<Mount> = Vec::new();
    for mount in mounts {
        match kept.iter_mut().find(|known| known.device == mount.device) {
            Some(known) if known.root.as_os_str() != "/" && mount.root.as_os_str() == "/" => *known = mount,
            Some(_) => {}
            None => kept.push(mount),
        }
    }
    kept
}

fn report(mount: &Mount, status: Result<Status, Unanswered>) -> Report {
    Report {
        mountpoint: mount.at.to_string_lossy().into_owned(),
        source: mount.source.clone(),
        device: mount.device.clone(),
        owner: mount.owner,
        answers: status.is_ok(),
        problem: status.as_ref().err().map(ToString::to_string),
        status: status.ok(),
    }
}

fn json(mounts: Vec<Report>) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(&Reports { version: VERSION, mounts });
    Ok(text.map_err(|_| Failure::data("the report cannot be written as JSON"))? + "\n")
}

fn for_people(reports: &[Report], now: SystemTime) -> String {
    if reports.is_empty() {
        return "no mount of secretfs is to be seen\n".to_owned();
    }
    let mut text = String::new();
    for (at, report) in reports.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "{}", printable(&report.mountpoint));
        row(&mut text, "source", &report.source);
        match (&report.status, &report.problem) {
            (Some(status), _) => rows(&mut text, status, now),
            (None, problem) => row(&mut text, "no answer", problem.as_deref().unwrap_or_default()),
        }
    }
    text
}

fn rows(text: &mut String, status: &Status, now: SystemTime) {
    row(text, "mounted", &with_age(&status.since, now));
    let crashes = match status.crashes {
        0 => String::new(),
        1 => ", 1 crash".to_owned(),
        crashes => format!(", {crashes} crashes"),
    };
    let processes = format!("pid {}, worker {}{crashes}", status.pid, status.worker);
    row(text, "program", &format!("secretfs {}, {processes}", status.program));
    for backend in &status.backends {
        row(text, "backend", &of_backend(backend, now));
    }
    let held = &status.secrets;
    let (all, in_use, stale, bytes) = (held.held, held.in_use, held.stale, held.bytes);
    row(text, "secrets", &format!("{all} held, {in_use} in use, {stale} stale, {bytes} bytes"));
    if !status.leases.totals.is_empty() {
        row(text, "leases", &leases::totals(&status.leases));
    }
    let told = match &status.watchers.why_not {
        None => "told of changes".to_owned(),
        Some(why) => format!("not told of changes: {why}"),
    };
    row(text, "watchers", &told);
    if !status.sandbox.is_empty() {
        row(text, "sandbox", &of_sandbox(&status.sandbox));
    }
    for hook in &status.hooks {
        row(text, "hook", &of_hook(hook, now));
    }
    let counters: Vec<String> =
        status.counters.iter().map(|(name, number)| format!("{name} {number}")).collect();
    // Four to a line, so that a terminal shows them whole.
    for (at, line) in counters.chunks(4).enumerate() {
        row(text, if at == 0 { "counters" } else { "" }, &line.join(", "));
    }
    leases::rows(text, &status.leases, now);
    if let Some(list) = &status.held {
        held_table(text, list, now);
    }
}

fn row(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<11}{}", printable(value));
}

fn of_backend(backend: &BackendLine, now: SystemTime) -> String {
    let mut text = format!("{} ({}): ", backend.name, backend.kind);
    match (backend.answers, &backend.silent_since) {
        (true, _) => text.push_str("answers"),
        (false, None) => text.push_str("does not answer"),
        (false, Some(since)) => text.push_str(&format!("does not answer since {}", with_age(since, now))),
    }
    if let Some(error) = backend.last_error.as_ref().filter(|_| !backend.answers) {
        text.push_str(&format!(": {error}"));
    }
    if let Some(seconds) = backend.asked_again_in_seconds {
        text.push_str(&format!("; asked again in {seconds:.0}s"));
    }
    text
}

fn of_sandbox(measures: &[Measure]) -> String {
    let missing = measures.iter().filter(|measure| !measure.holds);
    let missing: Vec<String> = missing
        .map(|measure| format!("{}: {}", measure.name, measure.why_not.as_deref().unwrap_or("unknown")))
        .collect();
    let all = measures.len();
    if missing.is_empty() {
        return format!("all {all} measures");
    }
    format!("{} of {all} measures; not {}", all - missing.len(), missing.join("; "))
}

fn of_hook(hook: &HookLine, now: SystemTime) -> String {
    let mut text = format!("{}: {}, {} runs, {} failed", hook.name, hook.state, hook.runs, hook.failures);
    if let Some(last) = &hook.last_run {
        text.push_str(&format!(", the last {}", with_age(last, now)));
    }
    if let Some(error) = &hook.last_error {
        text.push_str(&format!(": {error}"));
    }
    text
}

fn held_table(text: &mut String, list: &HeldList, now: SystemTime) {
    let heads = ["PATH", "BACKEND", "VERSION", "AGE", "STATE", "IN USE", "BYTES"];
    let lines = list.secrets.iter().map(|secret| {
        vec![
            secret.paths.first().map(|path| printable(path)).unwrap_or_default(),
            printable(&format!("{}:{}", secret.backend, secret.backend_path)),
            printable(&secret.version),
            age(&secret.fetched, now).unwrap_or_default(),
            if secret.stale { "stale" } else { "fresh" }.to_owned(),
            if secret.in_use { "yes" } else { "no" }.to_owned(),
            secret.bytes.to_string(),
        ]
    });
    table(text, &heads, lines, list.left_out);
}

/// Columns as wide as they need to be.
fn table(text: &mut String, heads: &[&str], lines: impl Iterator<Item = Vec<String>>, left_out: usize) {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(heads).chain(lines).collect();
    let mut widths = vec![0; lines.first().map_or(0, Vec::len)];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    for line in &lines {
        let cells: String =
            line.iter().zip(&widths).map(|(cell, width)| format!("  {cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.trim_end());
    }
    if left_out > 0 {
        let _ = writeln!(text, "  and {left_out} more");
    }
}

fn with_age(time: &str, now: SystemTime) -> String {
    age(time, now).map_or_else(|| time.to_owned(), |age| format!("{time} ({age} ago)"))
}

/// How long ago, to the second; nothing for what is no time.
fn age(time: &str, now: SystemTime) -> Option<String> {
    let then = humantime::parse_rfc3339(time).ok()?;
    let age = now.duration_since(then).unwrap_or_default();
    Some(humantime::format_duration(Duration::from_secs(age.as_secs())).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::leases::{LeaseList, LeaseTotal};
    use crate::control::status::{HeldLine, Totals, Watchers, spelled};

    fn mount(at: &str, device: &str, root: &str) -> Mount {
        Mount {
            number: 1,
            at: at.into(),
            source: "store:/a".into(),
            device: device.into(),
            root: root.into(),
            owner: 0,
        }
    }

    fn status(then: SystemTime) -> Status {
        let backend = |name: &str, answers: bool| BackendLine {
            name: name.into(),
            kind: "vault".into(),
            answers,
            silent_since: (!answers).then(|| spelled(then)),
            last_error: Some("the backend answered with HTTP status 503".into()),
            asked_again_in_seconds: (!answers).then_some(12.4),
        };
        let hook = HookLine {
            name: "reload nginx".into(),
            state: "idle".into(),
            runs: 3,
            failures: 1,
            last_run: Some(spelled(then)),
            last_error: Some("exit code 1".into()),
        };
        let held = HeldLine {
            paths: vec!["a\u{1b}[2J".into(), "b".into()],
            backend: "one".into(),
            backend_path: "secret/a".into(),
            version: "4".into(),
            fetched: spelled(then),
            expires: spelled(then),
            stale: true,
            in_use: true,
            bytes: 9,
        };
        let measure = |name: &str, why_not: Option<&str>| Measure {
            name: name.into(),
            holds: why_not.is_none(),
            why_not: why_not.map(Into::into),
        };
        Status {
            program: "0.1.0".into(),
            pid: 7,
            worker: 8,
            crashes: 2,
            since: spelled(then),
            deadline_seconds: 5.0,
            backends: vec![backend("one", true), backend("two", false)],
            secrets: Totals { held: 2, in_use: 1, stale: 1, bytes: 18 },
            leases: LeaseList {
                totals: vec![LeaseTotal { backend: "one".into(), held: 0, max_leases: 9, set_aside: 0 }],
                ..LeaseList::default()
            },
            watchers: Watchers { told: false, why_not: Some("no privilege: mount as root".into()) },
            sandbox: vec![
                measure("closed memory", None),
                measure("files (Landlock)", Some("not in this kernel")),
            ],
            hooks: vec![hook],
            counters: ["a", "b", "c", "d", "e"].map(|name| (name.to_owned(), 1)).into(),
            held: Some(HeldList { secrets: vec![held], left_out: 1 }),
        }
    }

    #[test]
    fn a_report_for_people_says_all_that_is_wrong_and_drives_no_terminal() {
        let then = SystemTime::UNIX_EPOCH;
        let good = report(&mount("/secrets", "0:1", "/"), Ok(status(then)));
        let bad = report(&mount("/other\n", "0:2", "/"), Err(Unanswered::Gone));
        let text = for_people(&[good, bad], then + Duration::from_secs(3661));
        let expected = "\
/secrets
  source     store:/a
  mounted    1970-01-01T00:00:00.000Z (1h 1m 1s ago)
  program    secretfs 0.1.0, pid 7, worker 8, 2 crashes
  backend    one (vault): answers
  backend    two (vault): does not answer since 1970-01-01T00:00:00.000Z (1h 1m 1s ago): the backend answered with HTTP status 503; asked again in 12s
  secrets    2 held, 1 in use, 1 stale, 18 bytes
  leases     0 of 9 held
  watchers   not told of changes: no privilege: mount as root
  sandbox    1 of 2 measures; not files (Landlock): not in this kernel
  hook       reload nginx: idle, 3 runs, 1 failed, the last 1970-01-01T00:00:00.000Z (1h 1m 1s ago): exit code 1
  counters   a 1, b 1, c 1, d 1
             e 1
  PATH        BACKEND       VERSION  AGE       STATE  IN USE  BYTES
  a\\u{1b}[2J  one:secret/a  4        1h 1m 1s  stale  yes     9
  and 1 more

/other\\n
  source     store:/a
  no answer  its program is gone: run `secretfs unmount` on it and mount again
";
        assert_eq!(text, expected);
        assert!(for_people(&[], then).contains("no mount"));
    }

    #[test]
    fn a_mount_that_is_seen_at_several_places_is_told_once_and_whole() {
        let seen = vec![mount("/part", "0:1", "/team"), mount("/all", "0:1", "/"), mount("/b", "0:2", "/")];
        let told: Vec<_> = each_once(seen).into_iter().map(|mount| mount.at).collect();
        assert_eq!(told, [PathBuf::from("/all"), PathBuf::from("/b")]);
    }
}
