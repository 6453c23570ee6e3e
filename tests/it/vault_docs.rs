//! Owns what docs/vault.md promises: each of its blocks works against real servers, and no right of its policies can be left out.
//! Does not know what the program decides; that is what is tried.

mod page;
mod sizing;
mod stage;
mod without_default;

use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use self::page::{Section, Step, Without, each_right_left_out, sections, steps};
use self::stage::{Outcome, Stage, Trial, served_serial};
use crate::support::available;
use crate::support::mount::{Mount, run, wait_until};
use crate::support::nginx::Nginx;

/// What the log says of a lease that was not given back; the page says the same.
const NOT_REVOKED: &str = "a lease is not revoked, and lives until its end";

/// A section, sorted by what is done with its blocks.
#[derive(Default)]
struct Sorted {
    /// Policies by name.
    policies: Vec<(String, String)>,
    /// What is needed for later sections too.
    common: String,
    configuration: String,
    steps: Vec<Step>,
    nginx: Option<String>,
}

#[test]
fn every_block_of_the_page_works_and_no_right_of_a_policy_can_be_left_out() {
    let Some(stage) = Stage::set() else { return };
    let sections = sections();
    let blocks = sections.iter().flat_map(|section| &section.blocks);
    assert_eq!(blocks.filter(|block| block.note == "untested").count(), 1, "what only OpenBao has");
    let (mut tried, mut left_out) = (0, 0);
    // What several examples need, as far as the page has come; and all that stands in it.
    let (mut common, mut whole) = (String::new(), String::new());
    for section in &sections {
        let sorted = prepare(&stage, section);
        common += &sorted.common;
        whole += &format!("{}{}", sorted.common, sorted.configuration);
        if sorted.steps.is_empty() {
            let rest = sorted.configuration.is_empty() && sorted.nginx.is_none();
            assert!(
                rest && sorted.policies.is_empty(),
                "docs/vault.md, {}: nothing shows that it works",
                section.title
            );
            continue;
        }
        try_section(&stage, &common, section, &sorted);
        tried += 1;
        left_out += leave_out(&stage, &common, section, &sorted);
    }
    println!("{tried} examples, {left_out} rights left out");
    assert!(tried >= 13 && left_out >= 22, "{tried} {left_out}");
    assert!(page::text().contains(&format!("`{NOT_REVOKED}`")), "the page has another line of the log");
    // All of them are one file.
    stage.write("config.toml", &stage.here(&whole));
    let (valid, printed) = stage.shell(&stage.here("secretfs validate --config /etc/secretfs/config.toml"));
    assert!(valid, "{printed}");
}

/// Takes every block of a section, in its order: what sets something up is done at once.
fn prepare(stage: &Stage, section: &Section) -> Sorted {
    let mut sorted = Sorted::default();
    for block in &section.blocks {
        match (&*block.language, &*block.note) {
            ("sql", "") => stage.postgres.superuser().batch_execute(&block.text).unwrap(),
            ("sh", "") => stage.set_up(&block.text),
            ("hcl", "untested") => {}
            ("toml", "common") => sorted.common += &format!("{}\n", block.text),
            // A test of its own needs another token for it.
            ("hcl", without_default::POLICY) => {}
            ("hcl", file) => {
                stage.write(file, &block.text);
                let name = file.strip_suffix(".hcl").expect("a policy has the name of its file").to_owned();
                sorted.policies.push((name, block.text.clone()));
            }
            ("toml", "") => sorted.configuration += &format!("{}\n", block.text),
            ("console", "") => sorted.steps.extend(steps(&block.text)),
            ("nginx", "") => sorted.nginx = Some(block.text.clone()),
            (language, note) => panic!("docs/vault.md, {}: nothing runs ```{language} {note}", section.title),
        }
    }
    sorted
}

fn attempt(stage: &Stage, common: &str, sorted: &Sorted, more: impl FnOnce(&Mount)) -> Outcome {
    let configuration = format!("{common}\n{}", sorted.configuration);
    let configuration = (!sorted.configuration.is_empty()).then_some(&*configuration);
    stage.try_out(&Trial { configuration, steps: &sorted.steps }, more)
}

/// The example does what the page says, and leaves nothing behind.
fn try_section(stage: &Stage, common: &str, section: &Section, sorted: &Sorted) {
    stage.grant(&sorted.policies);
    let outcome = attempt(stage, common, sorted, |mount| {
        if let Some(nginx) = &sorted.nginx {
            try_nginx(stage, mount, nginx);
        }
        if section.title == "TOTP codes" {
            assert_eq!(end_of_code(mount).as_secs() % 60, 0, "the period is known");
        }
    });
    let title = &section.title;
    if let Some((command, printed)) = outcome.failed {
        panic!("docs/vault.md, {title}: `{command}` printed:\n{printed}\n{}", outcome.log);
    }
    assert!(!outcome.log.contains(NOT_REVOKED), "{title}: {}", outcome.log);
    assert_eq!(stage.vault.leases("database/creds/app"), 0, "{title}");
    assert_eq!(stage.postgres.roles(), Vec::<String>::new(), "{title}");
    assert_eq!(stage.tokens_of_logins(), 0, "{title}: a token is left");
}

/// Each right is needed, and without it is what the page says. How many there were.
fn leave_out(stage: &Stage, common: &str, section: &Section, sorted: &Sorted) -> usize {
    let mut count = 0;
    for (name, policy) in &sorted.policies {
        for without in each_right_left_out(policy) {
            let others = sorted.policies.iter().filter(|(other, _)| other != name).cloned();
            stage.grant(&others.chain([(name.clone(), without.policy.clone())]).collect::<Vec<_>>());
            if section.title == "TOTP codes" && without.path == "totp/keys/app" {
                in_the_first_half_of_a_minute();
            }
            let mut end = None;
            let outcome = attempt(stage, common, sorted, |mount| {
                end = (section.title == "TOTP codes").then(|| end_of_code(mount).as_secs());
            });
            as_the_page_says(section, &without, &outcome, end);
            if section.title == "Login by AppRole" {
                wait_until("what was made with the token ends with it", || stage.postgres.roles().is_empty());
            }
            // What could not be given back must not be in the way of what follows.
            stage.vault.must("POST", "sys/leases/revoke-prefix/database/creds", Value::Null);
            wait_until("all users are gone", || stage.postgres.roles().is_empty());
            count += 1;
        }
        // What other sections go on with.
        stage.grant(&[(name.clone(), policy.clone())]);
    }
    count
}

fn as_the_page_says(section: &Section, without: &Without, outcome: &Outcome, end: Option<u64>) {
    let place = format!("docs/vault.md, {}, without {}", section.title, without.path);
    if without.path == "sys/leases/revoke" && !outcome.log.is_empty() {
        assert!(outcome.log.contains(NOT_REVOKED), "{place}: {}", outcome.log);
    }
    let said = without.otherwise.strip_prefix('`').and_then(|said| said.split_once("`: "));
    match (said, &outcome.failed) {
        (Some((command, error)), Some((failed, printed))) => {
            assert!(failed.starts_with(command), "{place}: not `{command}` but `{failed}` failed: {printed}");
            assert!(printed.contains(error), "{place}: `{failed}` printed {printed}");
        }
        (Some(_), None) => panic!("{place}: all works all the same"),
        (None, _) if without.otherwise == "a lease is left" => assert!(outcome.log.contains(NOT_REVOKED)),
        (None, _) if without.otherwise == "the period is taken to be 30 seconds" => {
            assert_eq!(end.expect("it works") % 60, 30, "{place}");
        }
        (None, _) => panic!("{place}: nothing tries `{}`", without.otherwise),
    }
}

/// The server of the page takes the first certificate, and after the hook the next.
fn try_nginx(stage: &Stage, mount: &Mount, server: &str) {
    let at = mount.at.display().to_string();
    let Some(nginx) = available("nginx", Nginx::serving(&server.replace("/secrets", &at))) else { return };
    std::fs::copy(&nginx.pid_file, stage.file("nginx.pid")).unwrap();
    let serial = || String::from_utf8(mount.read("tls/web/serial_number").unwrap()).unwrap().replace(':', "");
    let first = serial();
    assert_eq!(served_serial(nginx.port, "web.example"), first);
    let url = format!("https://web.example:{}/", nginx.port);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--noproxy", "*", "--cacert"]).arg(stage.file("ca.pem")).arg(&url);
    curl.args(["--resolve", &format!("web.example:{}:127.0.0.1", nginx.port)]);
    assert_eq!(run(&mut curl).stdout, b"served\n");
    let (done, printed) = stage.shell(&format!("secretfs refresh {at}/tls/web"));
    assert!(done && serial() != first, "{printed}");
    wait_until("nginx serves the next certificate", || served_serial(nginx.port, "web.example") == serial());
}

/// When the code ends that is served, since 1970.
fn end_of_code(mount: &Mount) -> Duration {
    let meta: Value = serde_json::from_slice(&mount.read("otp/.meta").unwrap()).unwrap();
    let end = humantime::parse_rfc3339(meta["expires"].as_str().unwrap_or_else(|| panic!("{meta}"))).unwrap();
    // It is a moment before the period's.
    end.duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_millis(500)
}

/// Half a minute and a whole one end at different times only then.
fn in_the_first_half_of_a_minute() {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % 60;
    while now() >= 20 {
        std::thread::sleep(Duration::from_millis(200));
    }
}
