//! Owns the world that docs/vault.md speaks of: a Vault, a PostgreSQL, the folder for /etc/secretfs, a shell with `vault` and `secretfs`.
//! Does not know what the page says, beyond the names that are others here.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::page::{Step, matches};
use crate::support::mount::{Mount, possible, run, wait_until};
use crate::support::postgres::{Postgres, SUPERUSER_PASSWORD};
use crate::support::vault::{ROOT_TOKEN, Vault};
use crate::support::{available, program};

pub struct Stage {
    pub vault: Vault,
    pub postgres: Postgres,
    folder: tempfile::TempDir,
}

/// What is tried of a section.
pub struct Trial<'a> {
    /// The configuration; none, where the commands mount by themselves.
    pub configuration: Option<&'a str>,
    pub steps: &'a [Step],
}

/// What came of it.
pub struct Outcome {
    /// The first command that did not do what the page says, and what it printed.
    pub failed: Option<(String, String)>,
    /// What the mount logged, up to its end.
    pub log: String,
}

impl Stage {
    /// `None`, with a printed reason, where something is missing.
    pub fn set() -> Option<Self> {
        available("mount", possible())?;
        let vault = available("vault", Vault::start_with_plugins())?;
        let postgres = available("postgres", Postgres::start())?;
        let stage = Self { vault, postgres, folder: tempfile::tempdir().unwrap() };
        for folder in ["bin", "home", "run"] {
            std::fs::create_dir(stage.file(folder)).unwrap();
        }
        stage.command(
            "vault",
            &format!("VAULT_TOKEN={ROOT_TOKEN} exec '{}' \"$@\"", program("vault").unwrap().display()),
        );
        stage.command("secretfs", &format!("exec '{}' \"$@\"", env!("CARGO_BIN_EXE_secretfs")));
        Some(stage)
    }

    /// What lies in the folder that stands for /etc/secretfs, which commands run in.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    /// The names of the page, as they are here.
    pub fn here(&self, text: &str) -> String {
        let (folder, port) = (self.folder.path().display(), self.postgres.port);
        text.replace("/etc/secretfs/", &format!("{folder}/"))
            .replace("https://vault.example:8200", &self.vault.address)
            .replace("db.example:5432", &format!("127.0.0.1:{port}"))
            .replace("-h db.example -p 5432", &format!("-h 127.0.0.1 -p {port}"))
            // This server speaks no TLS.
            .replace("sslmode=verify-full", "sslmode=disable")
            .replace("PASSWORD-OF-POSTGRES", SUPERUSER_PASSWORD)
            .replace("/run/db", &format!("{folder}/run"))
            .replace("/run/nginx.pid", &format!("{folder}/nginx.pid"))
    }

    /// Gives the policies, and a token with them where a mount looks for one.
    pub fn grant(&self, policies: &[(String, String)]) {
        for (name, policy) in policies {
            self.vault.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": policy }));
        }
        let names: Vec<&str> = policies.iter().map(|(name, _)| &**name).collect();
        let answer = self.vault.must("POST", "auth/token/create", json!({"policies": names, "period": "1h"}));
        let token = answer["auth"]["client_token"].as_str().unwrap();
        self.write("token", token);
        self.write("home/.vault-token", token);
    }

    /// Runs the lines of a `sh` block; each must succeed.
    pub fn set_up(&self, script: &str) {
        let script = format!("set -eu\n{}", self.here(script));
        let (succeeded, printed) = self.shell(&script);
        assert!(succeeded, "docs/vault.md:\n{script}\n{printed}");
    }

    /// Mounts, runs the commands in their order up to the first that fails, and then `more`; ends the mount.
    pub fn try_out(&self, trial: &Trial<'_>, more: impl FnOnce(&Mount)) -> Outcome {
        let mut mount = trial.configuration.map(|text| {
            self.write("config.toml", &self.here(text));
            Mount::of("").arg("--config").arg(self.file("config.toml")).start()
        });
        let mountpoint = mount.as_ref().map(|mount| mount.at.display().to_string()).unwrap_or_default();
        let there = |text: &str| self.here(&text.replace("/secrets", &mountpoint));
        let mut failed = None;
        for step in trial.steps {
            let (succeeded, printed) = self.shell(&there(&step.command));
            // What is expected to fail says so itself: `cat: ...`.
            let name = step.command.split(' ').next().unwrap_or_default();
            let is_right = succeeded != step.printed.starts_with(&format!("{name}: "));
            if !is_right || !matches(&there(&step.printed), &printed) {
                failed = Some((step.command.clone(), printed));
                break;
            }
        }
        if let Some(mount) = mount.as_ref().filter(|_| failed.is_none()) {
            more(mount);
        }
        let mut log = String::new();
        if let Some(mount) = mount.as_mut() {
            assert_eq!(mount.stop(), Some(0), "{}", mount.log());
            let _ = write!(log, "{}", mount.log());
        } else {
            self.end_own_mount();
        }
        Outcome { failed, log }
    }

    /// Ends what the commands of the page have mounted and not unmounted, and waits for its program: the next one is mounted at the
    /// same place.
    fn end_own_mount(&self) {
        let (_, status) = self.shell(&self.here("secretfs status --json /run/db"));
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        if let Some(pid) = status["mounts"][0]["pid"].as_u64() {
            self.shell(&self.here("secretfs unmount --lazy /run/db"));
            wait_until("its program ends", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
        }
    }

    /// How many tokens live that logins have made.
    pub fn tokens_of_logins(&self) -> usize {
        let listed = self.vault.must("GET", "auth/token/accessors/?list=true", Value::Null);
        let accessors = listed["data"]["keys"].as_array().unwrap().clone();
        let paths = accessors.into_iter().map(|accessor| {
            let asked = json!({ "accessor": accessor });
            self.vault.api("POST", "auth/token/lookup-accessor", asked).1["data"]["path"].clone()
        });
        paths.filter(|path| path.as_str().is_some_and(|path| path.ends_with("/login"))).count()
    }

    /// Whether it succeeded, and all that it printed.
    pub fn shell(&self, script: &str) -> (bool, String) {
        let printed = self.file("printed");
        // A file: what goes on in the background would keep a pipe open.
        let output =
            || Stdio::from(std::fs::OpenOptions::new().append(true).create(true).open(&printed).unwrap());
        let _ = std::fs::remove_file(&printed);
        let path = format!("{}:{}", self.file("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        shell
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.file("home"))
            .env("VAULT_ADDR", &self.vault.address);
        shell.args(["-c", &script.replace("~/", "$HOME/")]).current_dir(self.folder.path());
        shell.stdin(Stdio::null()).stdout(output()).stderr(output());
        let status = shell.status().unwrap();
        (status.success(), std::fs::read_to_string(&printed).unwrap_or_default())
    }

    fn command(&self, name: &str, script: &str) {
        let file = self.file("bin").join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// What `openssl` prints of a server's certificate, asked for by name: its serial number.
pub fn served_serial(port: u16, name: &str) -> String {
    let line = format!(
        "openssl s_client -connect 127.0.0.1:{port} -servername {name} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    let output = run(Command::new("sh").args(["-c", &line]));
    String::from_utf8(output.stdout).unwrap().trim().trim_start_matches("serial=").to_lowercase()
}
