//! Owns a server that answers in place of Secrets Manager, as a test says.
//! Does not know Secrets Manager beyond the header that names the operation.

use serde_json::Value;

pub use crate::support::fake::Reply;
use crate::support::fake::{self, Request};

impl Reply {
    /// 400 with the JSON of an AWS error, whose message holds a canary.
    pub fn error(code: &str) -> Self {
        Self::Answer(400, serde_json::json!({ "__type": code, "message": "canary in a message" }).to_string())
    }
}

/// The server. Its threads end with the test process.
pub struct Fake(fake::Fake);

impl Fake {
    /// Answers each request by `answer(operation, request)`.
    pub fn start(answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        Self(fake::Fake::start(move |request| answer(operation(request), &body(request))))
    }

    /// The same, and connections are kept for more requests, which are not logged.
    pub fn start_keeping(answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        Self(fake::Fake::start_keeping(move |request| answer(operation(request), &body(request))))
    }

    /// How many connections have come, and how many of them are over.
    pub fn connections(&self) -> (u64, u64) {
        self.0.connections()
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        self.0.endpoint()
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.0.host()
    }

    /// The operations asked for, in order.
    pub fn operations(&self) -> Vec<String> {
        self.0.requests().iter().map(|request| operation(request).to_owned()).collect()
    }

    /// The requests, in order.
    pub fn requests(&self) -> Vec<Value> {
        self.0.requests().iter().map(body).collect()
    }

    /// Bytes of bodies that the kernel took from us.
    pub fn sent(&self) -> u64 {
        self.0.sent()
    }
}

fn operation(request: &Request) -> &str {
    let target = request.header("x-amz-target").unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default()
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_default()
}
