//! Owns real nginx servers for tests: each serves one page by TLS on loopback with a certificate from two files, and reloads.
//! Does not know what serves these files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::guard::Guard;

/// Where a server listens, in the configuration that it is given.
const LISTEN: &str = "listen 443 ssl;";

/// A server with a page at `/`.
pub struct Nginx {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// Holds the number of the process that a HUP makes read its files again.
    pub pid_file: PathBuf,
    /// Before the folder: what is dropped first ends first.
    _guard: Guard,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// A server of one's own. It reads the two PEM files (the first with the whole chain) at its start and at each reload.
    pub fn start(certificate: &Path, key: &Path) -> Result<Self, String> {
        let (certificate, key) = (certificate.display(), key.display());
        Self::serving(&format!(
            "server {{\n    {LISTEN}\n    ssl_certificate \"{certificate}\";\n    ssl_certificate_key \"{key}\";\n    \
             location / {{ return 200 \"served\\n\"; }}\n}}\n"
        ))
    }

    /// A server of one's own with this `server { ... }` of its configuration, whose [`LISTEN`] becomes a free port of loopback.
    pub fn serving(server: &str) -> Result<Self, String> {
        let mut failure = String::new();
        // A port that was free a moment ago may be taken by now.
        for _ in 0..3 {
            match Self::try_start(server, super::free_port()) {
                Ok(server) => return Ok(server),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    /// Makes it read its files again. New connections get the new certificate a moment later; where the files are no good, they get
    /// the old one, and [`Nginx::log`] says why.
    pub fn reload(&self) {
        kill_process(self.master().expect("it runs"), Signal::HUP).expect("it runs");
    }

    /// One request on a new connection that believes only `ca` (PEM). Fails with the exit status of curl: 60 for a certificate that
    /// is not good.
    pub fn ask(&self, ca: &Path) -> Result<(), i32> {
        let mut curl = Command::new(super::program("curl").expect("`make deps` installs curl"));
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10", "--noproxy", "*"]);
        curl.arg("--cacert").arg(ca).args(["--resolve", &format!("localhost:{}:127.0.0.1", self.port)]);
        let answer = curl.arg(format!("https://localhost:{}/", self.port)).stdin(Stdio::null()).output();
        let answer = answer.expect("curl runs");
        match answer.stdout == b"served\n" {
            true => Ok(()),
            false => Err(answer.status.code().unwrap_or(-1)),
        }
    }

    /// What it has had to say.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    fn try_start(server: &str, port: u16) -> Result<Self, String> {
        let program = super::program("nginx")?;
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (config, pid_file) = (folder.path().join("nginx.conf"), folder.path().join("pid"));
        std::fs::write(&config, configuration(folder.path(), server, port)).map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&config);
        let guard = Guard::start(&command, "TERM", folder.path())?;
        let nginx = Self { port, pid_file, _guard: guard, folder };
        let deadline = Instant::now() + Duration::from_secs(60);
        // The PID file is written once the port is its own.
        while nginx.master().is_none() {
            if Instant::now() > deadline || nginx.log().contains("[emerg]") {
                return Err(format!("nginx did not come up: {}", nginx.log()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(nginx)
    }

    fn master(&self) -> Option<Pid> {
        Pid::from_raw(std::fs::read_to_string(&self.pid_file).ok()?.strip_suffix('\n')?.parse().ok()?)
    }
}

/// Everything that nginx writes is in `folder`, so that a normal user can run it.
fn configuration(folder: &Path, server: &str, port: u16) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"))
        .concat();
    let server = server.replace(LISTEN, &format!("listen 127.0.0.1:{port} ssl;"));
    format!(
        "daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr notice;\nevents {{}}\nhttp {{\n    \
         access_log off;\n{temporary}{server}}}\n"
    )
}

/// A new key, and a certificate for `localhost` that it has signed itself.
pub fn self_signed(openssl: &Path, certificate: &Path, key: &Path) {
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    super::mount::run(command.arg("-keyout").arg(key).arg("-out").arg(certificate).stderr(Stdio::null()));
}
