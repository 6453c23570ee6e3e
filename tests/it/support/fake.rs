//! Owns an HTTP server on loopback that answers as a test says: right, wrong, late, too much or not at all; and that can be
//! stopped and started again on its port. Does not know any protocol above HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// One way to answer a request.
pub enum Reply {
    /// This status and body.
    Answer(u16, String),
    /// This status, header (`Name: value`) and body.
    Headed(u16, String, String),
    /// This status and redirection.
    Redirect(u16, String),
    /// A body that is announced in full and ends half-way.
    Cut(String),
    /// The start of a body, and then nothing for as long as the client waits.
    Stall(String),
    /// A JSON object with a string in it, of this many bytes.
    Flood(u64),
    /// The same, without a word about its length beforehand.
    Stream(u64),
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
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path and query, not decoded.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The value of the header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// The server. Its threads end with the test process.
pub struct Fake {
    address: SocketAddr,
    answer: Arc<Answer>,
    log: Arc<Log>,
    /// Connections are kept for more requests, as a real server does, and requests are not logged here.
    keeps: bool,
    /// The thread that accepts; none while stopped.
    listening: Mutex<Option<(Arc<AtomicBool>, JoinHandle<()>)>>,
}

#[derive(Default)]
struct Log {
    requests: Mutex<Vec<Request>>,
    sent: AtomicU64,
    connections: AtomicU64,
    closed: AtomicU64,
}

impl Fake {
    /// Answers each request by `answer`. One request a connection.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(answer, false)
    }

    /// As [`Fake::start`], for many requests: connections are kept, and whoever answers keeps count.
    pub fn start_keeping(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(answer, true)
    }

    fn launch(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static, keeps: bool) -> Self {
        let listener = bind_somewhere();
        let address = listener.local_addr().expect("bound");
        let (answer, log, listening) = (Arc::new(answer), Arc::default(), Mutex::default());
        let fake = Self { address, answer, log, keeps, listening };
        fake.listen(listener);
        fake
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.log.requests.lock().expect("not poisoned").clone()
    }

    /// Bytes of bodies that the kernel took from us.
    pub fn sent(&self) -> u64 {
        self.log.sent.load(Ordering::SeqCst)
    }

    /// How many connections have come, and how many of them are over.
    pub fn connections(&self) -> (u64, u64) {
        (self.log.connections.load(Ordering::SeqCst), self.log.closed.load(Ordering::SeqCst))
    }

    /// Connections are refused from now on.
    pub fn stop(&self) {
        if let Some((over, thread)) = self.listening.lock().expect("not poisoned").take() {
            over.store(true, Ordering::SeqCst);
            // Wakes the thread, which then drops its socket.
            let _ = TcpStream::connect(self.address);
            thread.join().expect("the accepting thread");
        }
    }

    /// Ends [`Fake::stop`].
    pub fn resume(&self) {
        self.listen(TcpListener::bind(self.address).expect("nobody is given ports of this range"));
    }

    fn listen(&self, listener: TcpListener) {
        let over = Arc::<AtomicBool>::default();
        let (answer, log, ends, keeps) = (self.answer.clone(), self.log.clone(), over.clone(), self.keeps);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, log, ends) = (answer.clone(), log.clone(), ends.clone());
                log.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    // A client that goes away is what some tests are about.
                    let _ = if keeps {
                        serve_many(&stream, &*answer, &log, &ends)
                    } else {
                        serve(&stream, &*answer, &log)
                    };
                    log.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        *self.listening.lock().expect("not poisoned") = Some((over, thread));
    }
}

/// Below the ports that Linux gives to whoever asks for any (`ip_local_port_range`): nobody gets ours while we are stopped.
fn bind_somewhere() -> TcpListener {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = std::process::id() as u16;
    loop {
        let offset = base.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", 16_000 + offset % 16_000)) {
            return listener;
        }
    }
}

fn serve(stream: &TcpStream, answer: &Answer, log: &Log) -> std::io::Result<()> {
    let request = read_request(&mut BufReader::new(stream))?;
    log.requests.lock().expect("not poisoned").push(request.clone());
    reply(stream, answer(&request), log, CLOSE)
}

/// Until the client goes away, an answer ends the connection, or the server is stopped.
fn serve_many(stream: &TcpStream, answer: &Answer, log: &Log, over: &AtomicBool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let request = read_request(&mut reader)?;
        if over.load(Ordering::SeqCst) {
            return Ok(());
        }
        let answer = answer(&request);
        let goes_on = matches!(answer, Reply::Answer(..) | Reply::Headed(..) | Reply::Redirect(..));
        reply(stream, answer, log, if goes_on { "" } else { CLOSE })?;
        if !goes_on {
            return Ok(());
        }
    }
}

const CLOSE: &str = "Connection: close\r\n";

fn reply(mut stream: &TcpStream, answer: Reply, log: &Log, close: &str) -> std::io::Result<()> {
    let head = |status, length, more: &str| head(status, length, &format!("{close}{more}"));
    let whole = |status, body: &str, more: &str| head(status, Some(body.len() as u64), more) + body;
    match answer {
        Reply::Answer(status, body) => stream.write_all(whole(status, &body, "").as_bytes()),
        Reply::Headed(status, header, body) => {
            stream.write_all(whole(status, &body, &format!("{header}\r\n")).as_bytes())
        }
        Reply::Redirect(status, to) => {
            stream.write_all(whole(status, "", &format!("Location: {to}\r\n")).as_bytes())
        }
        Reply::Cut(body) => {
            let half = body.split_at(body.len() / 2).0;
            write!(stream, "{}{half}", head(200, Some(body.len() as u64), ""))
        }
        Reply::Stall(body) => {
            write!(stream, "{}{body}", head(200, Some(body.len() as u64 + 1), ""))?;
            wait_for_close(stream)
        }
        Reply::Flood(length) => flood(stream, length, &head(200, Some(length), ""), log),
        Reply::Stream(length) => flood(stream, length, &head(200, None, ""), log),
        Reply::Silence => wait_for_close(stream),
        Reply::Close => Ok(()),
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Request> {
    let line = |reader: &mut BufReader<_>| {
        let mut line = String::new();
        match reader.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok::<_, std::io::Error>(line.trim_end().to_owned()),
        }
    };
    let first = line(reader)?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    while let Some((name, value)) = line(reader)?.split_once(": ") {
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().expect("a length"));
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    Ok(request)
}

fn head(status: u16, length: Option<u64>, more: &str) -> String {
    let length = length.map_or_else(String::new, |length| format!("Content-Length: {length}\r\n"));
    format!("HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n{more}{length}\r\n")
}

fn flood(mut stream: &TcpStream, length: u64, head: &str, log: &Log) -> std::io::Result<()> {
    let (start, end) = ("{\"Name\":\"", "\"}");
    write!(stream, "{head}{start}")?;
    let chunk = b"canary42".repeat(8 * 1024);
    let mut left = length - (start.len() + end.len()) as u64;
    while left > 0 {
        let next = left.min(chunk.len() as u64);
        stream.write_all(&chunk[..next as usize])?;
        log.sent.fetch_add(next, Ordering::SeqCst);
        left -= next;
    }
    stream.write_all(end.as_bytes())
}

fn wait_for_close(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.read(&mut [0]).map(|_| ())
}
