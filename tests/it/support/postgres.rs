//! Owns real PostgreSQL servers for tests: clusters of their own on loopback, each in a scratch folder, stopped with their owner.
//! Does not know the code under test, nor who made the roles it counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};
use serde_json::{Value, json};

use super::guard::Guard;
use super::vault::Vault;

/// Who may do everything.
pub const SUPERUSER: &str = "postgres";
/// The superuser's password. Holds `canary`, so a scan of our logs finds it.
pub const SUPERUSER_PASSWORD: &str = "canary-superuser-password";
/// What [`login`] gives for a wrong password, for a user that there is not (any more), and for one past its VALID UNTIL: SQLSTATE
/// `invalid_password`, <https://www.postgresql.org/docs/current/errcodes-appendix.html>. The server does not tell them apart.
pub const REFUSED: &str = "28P01";

/// How long a login may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// PostgreSQL refuses to run as root; this user is on every machine.
const UNPRIVILEGED: (&str, u32, u32) = ("nobody", 65534, 65534);
/// A server with the database `postgres`, where every login needs its password.
pub struct Postgres {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// Before the folder: what is dropped first ends first.
    _guard: Guard,
    /// The cluster, the log and the superuser's password.
    _folder: tempfile::TempDir,
}

impl Postgres {
    /// A server of one's own.
    pub fn start() -> Result<Self, String> {
        let mut failure = String::new();
        // A port that was free a moment ago may be taken by now.
        for _ in 0..3 {
            match Self::try_start(super::free_port()) {
                Ok(server) => return Ok(server),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    /// The names of the roles that Vault has made and not yet removed: with Vault's own template they begin with `v-`.
    pub fn roles(&self) -> Vec<String> {
        let mut superuser = self.superuser();
        let rows =
            superuser.query("SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'v-%' ORDER BY 1", &[]);
        rows.expect("a superuser may look").iter().map(|row| row.get(0)).collect()
    }

    /// One of PostgreSQL's programs.
    pub fn program(&self, name: &str) -> Result<PathBuf, String> {
        let file = programs()?.join(name);
        if file.is_file() { Ok(file) } else { super::program(name) }
    }

    /// A connection of the superuser.
    pub fn superuser(&self) -> Client {
        connect(self.port, SUPERUSER, SUPERUSER_PASSWORD)
            .unwrap_or_else(|why| panic!("the superuser cannot log in: {why}"))
    }

    /// As [`login`] at this server.
    pub fn login(&self, user: &str, password: &str) -> Result<(), String> {
        login(self.port, user, password)
    }

    fn try_start(port: u16) -> Result<Self, String> {
        let programs = programs()?;
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        if rustix::process::geteuid().is_root() {
            let (_, uid, gid) = UNPRIVILEGED;
            chown(folder.path(), Some(uid), Some(gid)).map_err(|e| e.to_string())?;
        }
        let (data, log) = (folder.path().join("data"), folder.path().join("server.log"));
        make_cluster(&programs, folder.path(), &data)?;
        let mut server = as_unprivileged(&programs.join("postgres"))?;
        server.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            // Nothing here outlives the test, and this machine's disk is slow.
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            // In the scratch folder, where nothing can be left behind.
            "dynamic_shared_memory_type=mmap",
        ] {
            server.args(["-c", setting]);
        }
        // The immediate shutdown: it removes shared memory, which KILL does not.
        let guard = Guard::start(&server, "QUIT", folder.path())?;
        let postgres = Self { port, _guard: guard, _folder: folder };
        postgres.wait_until_up(&data, &log)?;
        Ok(postgres)
    }

    /// A server that got its port says so in its PID file; a login alone would also be answered by the port's other owner.
    fn wait_until_up(&self, data: &Path, log: &Path) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let state = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if state.lines().nth(7).is_some_and(|status| status.trim() == "ready")
                && self.login(SUPERUSER, SUPERUSER_PASSWORD).is_ok()
            {
                return Ok(());
            }
            // The log of a server that refuses to start is short and holds no password.
            let log = || std::fs::read_to_string(log).unwrap_or_default();
            if Instant::now() > deadline || log().contains("FATAL:") {
                return Err(format!("postgres did not come up: {}", log()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Logs in to the server at this port of loopback by a new connection, with SCRAM, and leaves.
/// The error is the server's SQLSTATE ([`REFUSED`]) or what kept from reaching it, never a name or a password.
pub fn login(port: u16, user: &str, password: &str) -> Result<(), String> {
    connect(port, user, password)?.close().map_err(|error| class(&error))
}

/// Lets Vault make users of `postgres`: the engine `database` at `mount` (made unless it is there), whose `creds/ROLE` are users who may
/// log in until their lease ends. Terms are Vault's durations: `20s`.
pub fn database_role(
    vault: &Vault,
    postgres: &Postgres,
    mount: &str,
    role: &str,
    default_ttl: &str,
    max_ttl: &str,
) {
    if vault.api("GET", &format!("sys/mounts/{mount}/tune"), Value::Null).0 != 200 {
        vault.must("POST", &format!("sys/mounts/{mount}"), json!({"type": "database"}));
    }
    let address = format!("127.0.0.1:{}", postgres.port);
    let connection = json!({
        "plugin_name": "postgresql-database-plugin",
        "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@{address}/postgres?sslmode=disable"),
        "username": SUPERUSER,
        "password": SUPERUSER_PASSWORD,
        "allowed_roles": "*",
    });
    vault.must("POST", &format!("{mount}/config/postgres"), connection);
    let creation =
        r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"#;
    let terms = json!({
        "db_name": "postgres",
        "creation_statements": [creation],
        "default_ttl": default_ttl,
        "max_ttl": max_ttl,
    });
    vault.must("POST", &format!("{mount}/roles/{role}"), terms);
}

fn connect(port: u16, user: &str, password: &str) -> Result<Client, String> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(user).password(password).dbname("postgres");
    config.connect_timeout(PATIENCE).connect(NoTls).map_err(|error| class(&error))
}

/// What kind of error it is. Its text is not passed on: the server puts the user's name into it.
fn class(error: &postgres::Error) -> String {
    if let Some(code) = error.code() {
        return code.code().to_owned();
    }
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return format!("{:?}", error.kind());
        }
        cause = error.source();
    }
    "no PostgreSQL".to_owned()
}

/// The folder of PostgreSQL's programs: that of PATH, else the newest of Debian's, which are not on PATH.
fn programs() -> Result<PathBuf, String> {
    // Resolved: a link stands for one program, and others lie beside what it points to.
    let on_path = super::program("postgres").ok().and_then(|file| file.canonicalize().ok());
    if let Some(folder) = on_path.as_deref().and_then(Path::parent) {
        return Ok(folder.to_owned());
    }
    let version = |folder: &PathBuf| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = installed.map(|entry| entry.path()).collect();
    folders.retain(|folder| folder.join("bin/postgres").is_file());
    let newest = folders.into_iter().max_by_key(version);
    newest.map(|folder| folder.join("bin")).ok_or("PostgreSQL is not installed; run `make deps`".to_owned())
}

/// `program`, run by a user whom PostgreSQL accepts.
fn as_unprivileged(program: &Path) -> Result<Command, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let (user, _, gid) = UNPRIVILEGED;
    let mut command = Command::new(super::program("setpriv")?);
    command
        .args([format!("--reuid={user}"), format!("--regid={gid}"), "--clear-groups".to_owned()])
        .arg(program);
    Ok(command)
}

/// An empty cluster in `data`, below the scratch folder.
fn make_cluster(programs: &Path, folder: &Path, data: &Path) -> Result<(), String> {
    let password = folder.join("password");
    std::fs::write(&password, SUPERUSER_PASSWORD).map_err(|e| e.to_string())?;
    let mut initdb = as_unprivileged(&programs.join("initdb"))?;
    initdb.arg("-D").arg(data).arg(format!("--pwfile={}", password.display()));
    initdb.args([
        "-U",
        SUPERUSER,
        "--auth=scram-sha-256",
        "--no-sync",
        "--no-locale",
        "--encoding=UTF8",
        "--wal-segsize=1",
    ]);
    let made = initdb.current_dir("/").stdin(Stdio::null()).output().map_err(|e| format!("initdb: {e}"))?;
    match made.status.success() {
        true => Ok(()),
        false => Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr))),
    }
}
