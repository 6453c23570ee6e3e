//! Owns real Vault servers for tests: dev servers on loopback, each in a scratch folder, killed when no longer wanted.
//! Does not know the code under test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

/// The token that may do everything. Holds `canary`, so a scan of our logs finds it.
pub const ROOT_TOKEN: &str = "canary-root-token";

/// Runs the server, and kills its own process group when its own standard input ends: when the test process is gone, however it
/// went. The group, because the plugins of a server that is killed live on.
const WRAPPER: &str = r#""$@" >"$VAULT_TEST_LOG" 2>&1 & echo $! >"$VAULT_TEST_PID"; read gone; kill -9 0"#;

/// A dev server with KV version 2 at `secret/`.
pub struct Vault {
    /// What a client is given: `http://127.0.0.1:PORT`, or `https://` from [`Vault::start_tls`].
    pub address: String,
    /// The file of the private CA of a TLS server.
    pub ca: Option<PathBuf>,
    /// The port that speaks plain HTTP, for the helpers below.
    plain: u16,
    folder: tempfile::TempDir,
    wrapper: Child,
    pid: Pid,
    /// Which version each engine made by [`Vault::enable_kv`] has; held for a look or an insert.
    versions: Mutex<HashMap<String, u8>>,
}

impl Vault {
    /// A server of one's own.
    pub fn start() -> Result<Self, String> {
        Self::launch_program(&Self::program()?, Extra::Nothing)
    }

    /// A server of one's own that also has the engine `totp`, and PostgreSQL in its engine `database`.
    ///
    /// Starts half a second later than the others, for Vault tries each plugin.
    pub fn start_with_plugins() -> Result<Self, String> {
        let (program, cache) = (Self::program()?, super::cache_dir().join("bin"));
        // One that the machine has is a whole one, with everything built in; plugins are built for ours alone.
        if !program.starts_with(&cache) {
            return Self::launch_program(&program, Extra::Nothing);
        }
        let plugins = cache.join("plugins").canonicalize();
        let plugins = plugins.map_err(|_| "no plugins beside the server; run `make deps`")?;
        Self::launch_program(&program, Extra::Plugins(plugins))
    }

    /// An OpenBao server of one's own, whatever else there is.
    pub fn start_bao() -> Result<Self, String> {
        let program = super::program("bao").map_err(|_| "`bao` is not on PATH; its stand-in is enough")?;
        Self::launch_program(&program, Extra::Nothing)
    }

    /// A server of one's own on this port, which must be free.
    pub fn start_on(port: u16) -> Result<Self, String> {
        Self::try_launch(&Self::program()?, &Extra::Nothing, port)
    }

    /// A server of one's own that speaks TLS with a CA made for it.
    pub fn start_tls() -> Result<Self, String> {
        Self::launch_program(&Self::program()?, Extra::Tls)
    }

    /// The server that all tests of this process share, with its audit log on. Use engines of your own on it.
    pub fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceLock<Result<Vault, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            let vault = Self::start()?;
            vault.enable_audit();
            Ok(vault)
        });
        shared.as_ref().map_err(Clone::clone)
    }

    /// Whether what stands for Vault here is OpenBao.
    pub fn is_openbao() -> bool {
        Self::program().is_ok_and(|program| program.ends_with("bao"))
    }

    fn program() -> Result<PathBuf, String> {
        super::program("vault").or_else(|why| super::program("bao").map_err(|_| why))
    }

    fn launch_program(program: &Path, extra: Extra) -> Result<Self, String> {
        let mut failure = String::new();
        // A port that was free a moment ago may be taken by now.
        for _ in 0..3 {
            match Self::try_launch(program, &extra, super::free_port()) {
                Ok(vault) => return Ok(vault),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    fn try_launch(program: &Path, extra: &Extra, port: u16) -> Result<Self, String> {
        let tls = matches!(extra, Extra::Tls);
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut plain = 0;
        let mut command = Command::new("sh");
        command.args(["-c", WRAPPER, "sh"]).arg(program).args(["server", "-dev", "-dev-no-store-token"]);
        command
            .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"));
        if tls {
            plain = super::free_port();
            let config = folder.path().join("plain.hcl");
            let listener =
                format!("listener \"tcp\" {{\n address = \"127.0.0.1:{plain}\"\n tls_disable = true\n}}\n");
            std::fs::write(&config, listener).map_err(|e| e.to_string())?;
            command.arg("-dev-tls").arg(format!("-dev-tls-cert-dir={}", folder.path().display()));
            command.arg(format!("-config={}", config.display()));
        }
        if let Extra::Plugins(plugins) = extra {
            command.arg(format!("-dev-plugin-dir={}", plugins.display()));
        }
        let (log, pid_file) = (folder.path().join("server.log"), folder.path().join("pid"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder.path());
        command.env("VAULT_TEST_LOG", &log).env("VAULT_TEST_PID", &pid_file);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let wrapper = command.spawn().map_err(|e| format!("sh: {e}"))?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let pid = loop {
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            match text.strip_suffix('\n').and_then(|text| Pid::from_raw(text.parse().ok()?)) {
                Some(pid) => break pid,
                None if Instant::now() > deadline => return Err("sh did not start a server".into()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let vault = Self {
            address: format!("{}://127.0.0.1:{port}", if tls { "https" } else { "http" }),
            ca: tls.then(|| folder.path().join("vault-ca.pem")),
            plain: if tls { plain } else { port },
            folder,
            wrapper,
            pid,
            versions: Mutex::new(HashMap::from([("secret".to_owned(), 2)])),
        };
        while vault
            .try_api("GET", "sys/internal/ui/mounts/secret", &Value::Null)
            .is_none_or(|(status, _)| status != 200)
        {
            let state =
                std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            if Instant::now() > deadline || state.is_empty() || state.contains(") Z ") {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{} did not come up: {log}", program.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        vault.wait_for_kv("secret");
        Ok(vault)
    }

    /// One call with the root token: `path` is what follows `/v1/`, as it stands in a URL; a null `body` is none.
    /// The answer's body is null where it is empty.
    pub fn api(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.try_api(method, path, &body)
            .unwrap_or_else(|| panic!("the test server does not answer {method} {path}"))
    }

    fn try_api(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.plain)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        // HTTP/1.0: the end of the answer is the end of the stream, nothing is chunked.
        let head = format!(
            "{method} /v1/{path} HTTP/1.0\r\nHost: 127.0.0.1\r\nX-Vault-Token: {ROOT_TOKEN}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // In one piece: a server that refuses by the head alone closes, and what comes after that is answered by a reset.
        stream.write_all((head + &body).as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let split = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
        let status = std::str::from_utf8(&answer[..split]).ok()?.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_slice(&answer[split + 4..]).unwrap_or(Value::Null)))
    }

    /// The server's own command line, as a user has it: `vault ARGUMENTS...`, which must succeed.
    pub fn cli(&self, arguments: &[&str]) {
        let mut command = Command::new(Self::program().expect("it runs already"));
        for name in ["VAULT_ADDR", "BAO_ADDR"] {
            command.env(name, format!("http://127.0.0.1:{}", self.plain));
        }
        for name in ["VAULT_TOKEN", "BAO_TOKEN"] {
            command.env(name, ROOT_TOKEN);
        }
        super::mount::run(command.env("HOME", self.folder.path()).args(arguments));
    }

    /// As [`Vault::api`], for calls that must succeed.
    pub fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.api(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Mounts a KV engine of `version` at `path` and waits until it serves.
    pub fn enable_kv(&self, path: &str, version: u8) {
        self.must(
            "POST",
            &format!("sys/mounts/{path}"),
            json!({"type": "kv", "options": {"version": version.to_string()}}),
        );
        self.versions.lock().unwrap().insert(path.to_owned(), version);
        if version == 2 {
            self.wait_for_kv(path);
        }
    }

    /// Unmounts the engine at `path`, with all it holds.
    pub fn disable(&self, path: &str) {
        self.must("DELETE", &format!("sys/mounts/{path}"), Value::Null);
    }

    /// A version 2 engine answers 400 while it prepares itself.
    fn wait_for_kv(&self, path: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.api("GET", &format!("{path}/metadata/?list=true"), Value::Null).0 == 400 {
            assert!(Instant::now() < deadline, "{path} does not become ready");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Writes the secret at `path` below the engine `mount` (`secret`, or one made by [`Vault::enable_kv`]).
    pub fn kv_put(&self, mount: &str, path: &str, fields: Value) {
        assert!(self.kv_try_put(mount, path, fields), "{mount}/{path} is refused");
    }

    /// As [`Vault::kv_put`]; whether the server took it.
    pub fn kv_try_put(&self, mount: &str, path: &str, fields: Value) -> bool {
        let (middle, body) =
            if self.kv_version(mount) == 1 { ("", fields) } else { ("data/", json!({ "data": fields })) };
        let (status, _) = self.api("POST", &format!("{mount}/{middle}{}", encoded(path)), body);
        (200..300).contains(&status)
    }

    /// Deletes the secret at `path` with all its versions.
    pub fn kv_delete(&self, mount: &str, path: &str) {
        let middle = if self.kv_version(mount) == 1 { "" } else { "metadata/" };
        self.must("DELETE", &format!("{mount}/{middle}{}", encoded(path)), Value::Null);
    }

    fn kv_version(&self, mount: &str) -> u8 {
        self.versions.lock().unwrap().get(mount).copied().expect("enable_kv first")
    }

    /// A token that may do what `policy` (HCL) and Vault's default policy allow.
    pub fn policy_token(&self, policy: &str) -> String {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let name = format!("test-{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        self.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": policy }));
        let answer = self.must("POST", "auth/token/create", json!({"policies": [name], "ttl": "1h"}));
        answer["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    /// Turns the raw audit log on.
    pub fn enable_audit(&self) {
        let file = self.folder.path().join("audit.log");
        let options = json!({"file_path": file.to_string_lossy(), "log_raw": "true"});
        self.must("PUT", "sys/audit/file", json!({"type": "file", "options": options}));
    }

    /// Operation (`read`, `list`, ...) and path (without `/v1/`) of every request since [`Vault::enable_audit`].
    pub fn audit_requests(&self) -> Vec<(String, String)> {
        let log = std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        lines
            .filter(|line| line["type"] == "request")
            .map(|line| (text(&line["request"]["operation"]), text(&line["request"]["path"])))
            .collect()
    }

    /// The process group of the server and of its plugins.
    pub fn group(&self) -> Pid {
        Pid::from_child(&self.wrapper)
    }

    /// When each request came whose path (without `/v1/`) is `path`, since [`Vault::enable_audit`].
    pub fn audit_times(&self, path: &str) -> Vec<SystemTime> {
        let log = std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let about = lines.filter(|line| line["type"] == "request" && line["request"]["path"] == path);
        about.map(|line| humantime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap()).collect()
    }

    /// How many leases there are below `prefix`, such as `database/creds/app`.
    pub fn leases(&self, prefix: &str) -> usize {
        match self.api("GET", &format!("sys/leases/lookup/{prefix}?list=true"), Value::Null) {
            (200, answer) => answer["data"]["keys"].as_array().map_or(0, Vec::len),
            (404, _) => 0,
            (status, _) => panic!("leases below {prefix}: {status}"),
        }
    }

    /// Seals a dev server: it forgets its keys, and answers 503 to everything.
    pub fn seal(&self) {
        self.must("PUT", "sys/seal", Value::Null);
    }

    /// Ends [`Vault::seal`], and waits until the server serves.
    pub fn unseal(&self) {
        let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap();
        let key = log.lines().find_map(|line| line.strip_prefix("Unseal Key: ")).expect("a dev server tells");
        self.must("PUT", "sys/unseal", json!({ "key": key.trim() }));
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.api("GET", "auth/token/lookup-self", Value::Null).0 != 200 {
            assert!(Instant::now() < deadline, "the server is not unsealed");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Freezes the server: connections are accepted by the kernel, nothing is answered.
    pub fn pause(&self) {
        kill_process(self.pid, Signal::STOP).expect("our own child");
        // The kernel stops a thread when it next runs, which on a busy machine leaves time to answer.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.is_stopped() {
            assert!(Instant::now() < deadline, "the server does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid.as_raw_nonzero())).expect("procfs");
        let states =
            threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        states.into_iter().all(|stat| stat.contains(") T "))
    }

    /// Ends [`Vault::pause`].
    pub fn resume(&self) {
        kill_process(self.pid, Signal::CONT).expect("our own child");
    }

    /// Kills the server for good; its port refuses connections from then on.
    pub fn stop(&self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.plain)).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        // The wrapper leads the group and is not waited for yet, so the number cannot belong to another group.
        let _ = kill_process_group(self.group(), Signal::KILL);
        let _ = self.wrapper.wait();
    }
}

/// What a server has beyond a plain one.
enum Extra {
    Nothing,
    Tls,
    /// The folder of its plugins, an absolute path.
    Plugins(PathBuf),
}

/// A path as it stands in a URL, its slashes kept.
fn encoded(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
