//! Owns answers that look like Vault's, for servers of [`super::fake`]: engines, listings, secrets.
//! Does not know what a test wants of them.

use serde_json::{Value, json};

use super::fake::{Fake, Reply, Request};

/// The segments of a request's path below `/v1/`, each decoded once, and whether it lists.
pub fn asked(request: &Request) -> (Vec<String>, bool) {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let path = path.strip_prefix("/v1/").expect("Vault's API").trim_end_matches('/');
    let segments = path.split('/').map(|segment| String::from_utf8(decode(segment)).expect("UTF-8"));
    (segments.collect(), query == "list=true")
}

/// `data` in Vault's envelope.
pub fn data(data: &Value) -> Reply {
    Reply::json(json!({
        "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data,
        "wrap_info": null, "warnings": null, "auth": null,
    }))
}

/// What `sys/internal/ui/mounts/...` answers for everything in a KV version 2 engine.
pub fn kv2(engine: &str) -> Reply {
    data(&json!({"path": format!("{engine}/"), "type": "kv", "options": {"version": "2"}}))
}

/// A listing.
pub fn keys(keys: &[Value]) -> Reply {
    data(&json!({ "keys": keys }))
}

/// A secret of KV version 2.
pub fn secret(fields: &Value) -> Reply {
    let metadata = json!({
        "version": 1, "created_time": "2025-01-02T03:04:05.6Z", "deletion_time": "", "destroyed": false,
        "custom_metadata": null,
    });
    data(&json!({ "data": fields, "metadata": metadata }))
}

/// A server whose `database/creds/app` makes `lease` again and again. Whoever gives it back is answered after `meanwhile`.
pub fn database(lease: &'static str, meanwhile: impl Fn() + Send + Sync + 'static) -> Fake {
    Fake::start(move |request| match &*asked(request).0.join("/") {
        path if path.starts_with("sys/internal/") => data(&json!({"path": "database/", "type": "database"})),
        "database/creds/app" => Reply::json(json!({
            "request_id": "r", "lease_id": lease, "renewable": true, "lease_duration": 3600,
            "data": {"username": "canary-user", "password": "canary-password"},
            "wrap_info": null, "warnings": null, "auth": null,
        })),
        "auth/token/lookup-self" => {
            data(&json!({"ttl": 0, "renewable": false, "num_uses": 0, "explicit_max_ttl": 0}))
        }
        "sys/leases/revoke" => {
            meanwhile();
            Reply::Answer(204, String::new())
        }
        _ => error(404),
    })
}

/// An error as Vault words it; a real one may quote what it was sent.
pub fn error(status: u16) -> Reply {
    Reply::Answer(status, json!({"errors": ["canary in an error body"]}).to_string())
}

/// Percent-decoding, once, bytes for bytes.
pub fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex.filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}
