//! Owns a server on loopback that answers as a test says: wrong, late, too much or not at all.
//! Does not know Secrets Manager beyond the header that names the operation.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// One way to answer a request.
pub enum Reply {
    /// This status and body.
    Answer(u16, String),
    /// This status and redirection.
    Redirect(u16, String),
    /// A body that is announced in full and ends half-way.
    Cut(String),
    /// The start of a body, and then nothing for as long as the client waits.
    Stall(String),
    /// A JSON string of this many bytes.
    Flood(u64),
    /// Nothing, ever.
    Silence,
    /// The connection is closed.
    Close,
}

impl Reply {
    /// 200 with this JSON.
    pub fn json(body: Value) -> Self {
        Self::Answer(200, body.to_string())
    }

    /// 400 with the JSON of an AWS error, whose message holds a canary.
    pub fn error(code: &str) -> Self {
        Self::Answer(400, serde_json::json!({ "__type": code, "message": "canary in a message" }).to_string())
    }
}

/// The server. Its threads end with the test process.
pub struct Fake {
    address: SocketAddr,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    /// Operation and request, in order of arrival.
    requests: Mutex<Vec<(String, Value)>>,
    sent: AtomicU64,
}

impl Fake {
    /// Answers each request by `answer(operation, request)`.
    pub fn start(answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let log = Arc::<Log>::default();
        let (answer, shared) = (Arc::new(answer), Arc::clone(&log));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&shared));
                std::thread::spawn(move || {
                    // A client that goes away is what some tests are about.
                    let _ = serve(stream, &*answer, &log);
                });
            }
        });
        Self { address, log }
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The operations asked for, in order.
    pub fn operations(&self) -> Vec<String> {
        self.log
            .requests
            .lock()
            .expect("not poisoned")
            .iter()
            .map(|(operation, _)| operation.clone())
            .collect()
    }

    /// The requests, in order.
    pub fn requests(&self) -> Vec<Value> {
        self.log.requests.lock().expect("not poisoned").iter().map(|(_, request)| request.clone()).collect()
    }

    /// Bytes of bodies that the kernel took from us.
    pub fn sent(&self) -> u64 {
        self.log.sent.load(Ordering::SeqCst)
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&str, &Value) -> Reply + ?Sized),
    log: &Log,
) -> std::io::Result<()> {
    let (operation, request) = read_request(&stream)?;
    log.requests.lock().expect("not poisoned").push((operation.clone(), request.clone()));
    match answer(&operation, &request) {
        Reply::Answer(status, body) => write!(stream, "{}{body}", head(status, body.len() as u64, "")),
        Reply::Redirect(status, to) => write!(stream, "{}", head(status, 0, &format!("Location: {to}\r\n"))),
        Reply::Cut(body) => {
            let half = body.split_at(body.len() / 2).0;
            write!(stream, "{}{half}", head(200, body.len() as u64, ""))
        }
        Reply::Stall(body) => {
            write!(stream, "{}{body}", head(200, body.len() as u64 + 1, ""))?;
            wait_for_close(&mut stream)
        }
        Reply::Flood(length) => flood(&mut stream, length, log),
        Reply::Silence => wait_for_close(&mut stream),
        Reply::Close => Ok(()),
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut operation) = (0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().expect("a length"),
            "x-amz-target" => operation = value.rsplit('.').next().unwrap_or_default().to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((operation, serde_json::from_slice(&body).unwrap_or_default()))
}

fn head(status: u16, length: u64, more: &str) -> String {
    format!(
        "HTTP/1.1 {status} x\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close\r\n{more}Content-Length: {length}\r\n\r\n"
    )
}

fn flood(stream: &mut TcpStream, length: u64, log: &Log) -> std::io::Result<()> {
    let (start, end) = ("{\"Name\":\"", "\"}");
    write!(stream, "{}{start}", head(200, length, ""))?;
    let chunk = vec![b'x'; 64 * 1024];
    let mut left = length - (start.len() + end.len()) as u64;
    while left > 0 {
        let next = left.min(chunk.len() as u64);
        stream.write_all(&chunk[..next as usize])?;
        log.sent.fetch_add(next, Ordering::SeqCst);
        left -= next;
    }
    stream.write_all(end.as_bytes())
}

fn wait_for_close(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.read(&mut [0]).map(|_| ())
}
