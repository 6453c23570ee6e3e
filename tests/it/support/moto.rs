//! Owns moto's server, a real implementation of the Secrets Manager API in memory, and the requests that fill it.
//! Does not know our own backend; it speaks plain HTTP, so that a test never checks the SDK with the SDK.

#![allow(unreachable_pub, clippy::expect_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{available, free_port, program};

/// The region of every test.
pub const REGION: &str = "eu-west-1";
/// How long a server may take to start on a busy machine.
const START: Duration = Duration::from_secs(120);

/// What a secret of a test holds.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// SecretString.
    Text(&'a str),
    /// SecretBinary.
    Binary(&'a [u8]),
}

impl Content<'_> {
    fn members(self) -> Value {
        match self {
            Self::Text(text) => json!({ "SecretString": text }),
            Self::Binary(bytes) => json!({ "SecretBinary": BASE64_STANDARD.encode(bytes) }),
        }
    }
}

/// A running server; killed when dropped, and by the kernel when the test process ends in whatever way.
pub struct Moto {
    child: Mutex<Child>,
    port: u16,
    tls: bool,
}

impl Moto {
    /// A server of one's own, or nothing where there is no moto (see [`available`]).
    pub fn start() -> Option<Self> {
        available("aws", Self::spawn(None))
    }

    /// A server of one's own that speaks HTTPS with this certificate and key (PEM files). The filling functions do not speak TLS.
    pub fn start_tls(certificate: &Path, key: &Path) -> Option<Self> {
        available("aws", Self::spawn(Some((certificate, key))))
    }

    /// The server that all tests of this process share; each keeps to secrets under a prefix of its own.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Result<Moto, String>> = OnceLock::new();
        available("aws", SHARED.get_or_init(|| Self::spawn(None)).as_ref().map_err(Clone::clone))
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls { "https" } else { "http" }, self.port)
    }

    /// What a process needs in its environment to use this server and nothing else.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test-canary".to_owned()),
            // Nothing may ever ask 169.254.169.254.
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// Creates a secret; its full ARN.
    pub fn create(&self, name: &str, content: Content<'_>) -> String {
        let mut request = content.members();
        request["Name"] = name.into();
        text(&self.call("CreateSecret", &request), "ARN")
    }

    /// Gives a secret a new current version; the VersionId.
    pub fn put(&self, name: &str, content: Content<'_>) -> String {
        let mut request = content.members();
        request["SecretId"] = name.into();
        text(&self.call("PutSecretValue", &request), "VersionId")
    }

    /// Adds a version under a staging label only; what was current stays so.
    pub fn put_staged(&self, name: &str, content: Content<'_>, label: &str) -> String {
        let mut request = content.members();
        request["SecretId"] = name.into();
        request["VersionStages"] = json!([label]);
        text(&self.call("PutSecretValue", &request), "VersionId")
    }

    /// Marks a secret for deletion in a week, as AWS does when nothing is said.
    pub fn schedule_deletion(&self, name: &str) {
        self.call("DeleteSecret", &json!({ "SecretId": name, "RecoveryWindowInDays": 7 }));
    }

    /// Deletes a secret at once.
    pub fn delete(&self, name: &str) {
        self.call("DeleteSecret", &json!({ "SecretId": name, "ForceDeleteWithoutRecovery": true }));
    }

    /// Stops the server; every later call finds its port closed.
    pub fn stop(&self) {
        let mut child = self.child.lock().expect("no test panics while it stops the server");
        let _ = child.kill();
        let _ = child.wait();
    }

    /// One request of the Secrets Manager API that must succeed; its answer.
    pub fn call(&self, operation: &str, request: &Value) -> Value {
        self.try_call(operation, request).unwrap_or_else(|| panic!("moto refuses {operation}"))
    }

    /// One request of the Secrets Manager API; its answer, or nothing where it is refused.
    pub fn try_call(&self, operation: &str, request: &Value) -> Option<Value> {
        let answer = self.post(operation, &request.to_string()).expect("moto answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        head.contains(" 200 ").then(|| serde_json::from_str(body).expect("moto answers JSON"))
    }

    fn post(&self, operation: &str, body: &str) -> std::io::Result<String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(START))?;
        // moto finds the service and region in the signature's scope, and does not check the signature.
        let head = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.1\r\n\
             X-Amz-Target: secretsmanager.{operation}\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=test/20260101/{REGION}/secretsmanager/aws4_request, SignedHeaders=host, Signature=0\r\n\
             Content-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        (&stream).write_all((head + body).as_bytes())?;
        read_answer(&stream)
    }

    fn spawn(tls: Option<(&Path, &Path)>) -> Result<Self, String> {
        let port = free_port();
        let server = program("moto_server")?;
        let mut command = match program("setpriv") {
            Ok(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(server);
                command
            }
            Err(_) => Command::new(server),
        };
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        if let Some((certificate, key)) = tls {
            command.arg("-c").arg(certificate).arg("-k").arg(key);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = spawn_from_lasting_thread(command)
            .map_err(|error| format!("moto_server does not start: {error}"))?;
        let moto = Self { child: Mutex::new(child), port, tls: tls.is_some() };
        moto.wait_until_up()?;
        Ok(moto)
    }

    fn wait_until_up(&self) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < START {
            let up = match self.tls {
                true => TcpStream::connect(("127.0.0.1", self.port)).is_ok(),
                false => self.post("ListSecrets", "{}").is_ok_and(|answer| answer.contains(" 200 ")),
            };
            if up {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.lock().expect("not poisoned").try_wait() {
                return Err(format!("moto_server ended with {status}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("moto_server did not come up".to_owned())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The kernel's death signal comes when the *thread* that spawned ends, and a test's thread ends with its test.
fn spawn_from_lasting_thread(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, queue) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, spawned) = mpsc::channel();
    spawner.lock().expect("not poisoned").send((command, reply)).expect("the spawner lasts");
    spawned.recv().expect("the spawner answers")
}

/// Head and body of an HTTP answer. Does not wait for the connection to close, which moto is slow to do.
fn read_answer(stream: &TcpStream) -> std::io::Result<String> {
    let mut reader = BufReader::new(stream);
    let (mut answer, mut length) = (String::new(), 0);
    while !answer.ends_with("\r\n\r\n") {
        let start = answer.len();
        if reader.read_line(&mut answer)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let header = answer[start..].split_once(':');
        if let Some((_, value)) = header.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            length = value.trim().parse().map_err(|_| std::io::ErrorKind::InvalidData)?;
        }
    }
    reader.take(length).read_to_string(&mut answer)?;
    Ok(answer)
}

fn text(answer: &Value, member: &str) -> String {
    answer[member].as_str().expect("moto answers as AWS does").to_owned()
}
