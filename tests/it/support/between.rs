//! Owns a proxy between a client and a real Vault: it lets through what it is not told to answer itself, and keeps count.
//! Does not know what the requests are about.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fake::{Fake, Reply, Request};
use super::vault::Vault;

/// Says how a request to this path (without `/v1/`) is answered in place of the server; `None`: it is let through.
pub type Fault = Box<dyn Fn(&str) -> Option<Reply> + Send + Sync>;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// When the reply to it was known.
    pub answered: Instant,
    /// Without `/v1/` and without the query.
    pub path: String,
    /// The lease that it was about.
    pub lease: Option<String>,
    /// What the server answered; `None` where the proxy answered itself.
    pub status: Option<u16>,
}

/// The proxy.
pub struct Between {
    fake: Fake,
    /// Guards what a test sets; held while it is asked.
    fault: Arc<Mutex<Option<Fault>>>,
    /// Guards the count; held for a push or a copy.
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Between {
    /// In front of `vault`, with everything let through.
    pub fn start(vault: &Vault) -> Self {
        let to = vault.address.strip_prefix("http://").expect("a server without TLS").to_owned();
        let (fault, seen) = (Arc::<Mutex<Option<Fault>>>::default(), Arc::<Mutex<Vec<Seen>>>::default());
        let (told, count) = (fault.clone(), seen.clone());
        let fake = Fake::start_keeping(move |request| {
            let path = request.target.strip_prefix("/v1/").unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default().to_owned();
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let lease = body["lease_id"].as_str().map(str::to_owned);
            let at = Instant::now();
            let answer = told.lock().unwrap().as_ref().and_then(|fault| fault(&path));
            let (reply, status) = match answer {
                Some(reply) => (reply, None),
                None => forward(&to, request).map_or((Reply::Close, None), |(status, body)| {
                    (Reply::Answer(status, body), Some(status))
                }),
            };
            count.lock().unwrap().push(Seen { at, answered: Instant::now(), path, lease, status });
            reply
        });
        Self { fake, fault, seen }
    }

    /// Answers as `fault` says from now on; `None`: everything is let through again.
    pub fn suffer(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// What a client is given: `http://127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.fake.endpoint()
    }

    /// The requests so far whose path begins with `prefix`, in the order of their arrival.
    pub fn requests(&self, prefix: &str) -> Vec<Seen> {
        let mut seen = self.seen.lock().unwrap().clone();
        seen.retain(|request| request.path.starts_with(prefix));
        seen.sort_by_key(|request| request.at);
        seen
    }

    /// The shortest time between two requests about one lease to a path that begins with `prefix`.
    pub fn closest(&self, prefix: &str) -> Option<Duration> {
        let requests = self.requests(prefix);
        let after = requests.iter().enumerate().filter_map(|(number, first)| {
            let next = requests.iter().skip(number + 1).find(|next| next.lease == first.lease)?;
            Some(next.at - first.at)
        });
        after.min()
    }
}

/// The status and the body of the server's answer; HTTP/1.0, so that the end of the stream is the end of the answer.
fn forward(to: &str, request: &Request) -> Option<(u16, String)> {
    let mut head = format!("{} {} HTTP/1.0\r\nHost: {to}\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if name.starts_with("x-vault-") || name == "content-type" {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", request.body.len()));
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    stream.write_all(&[head.as_bytes(), &request.body].concat()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
