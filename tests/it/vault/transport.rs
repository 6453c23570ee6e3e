//! Owns what the Vault backend promises of the wire: TLS, redirects, bad answers, dead connections, the token's way.
//! Does not know engines; a false server answers where a real one never would.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

#[tokio::test]
async fn tls_with_a_private_ca_works_and_with_a_wrong_one_says_what_to_set() {
    let Some(server) = available("vault", Server::start_tls()) else { return };
    server.kv_put("secret", "tls", json!({"value": "12345"}));
    let with_ca = |ca: Option<std::path::PathBuf>| {
        build(Config { ca_cert: ca, ..config(&server.address, ROOT_TOKEN) }).unwrap()
    };
    let secret = with_ca(server.ca.clone()).read(&path("secret/tls")).await.unwrap();
    assert_eq!(text(&secret, "value"), "12345");

    server.must("POST", "sys/mounts/pki", json!({"type": "pki"}));
    let other = server.must("POST", "pki/root/generate/internal", json!({"common_name": "another CA"}));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.pem");
    std::fs::write(&file, other["data"]["certificate"].as_str().unwrap()).unwrap();
    let error = with_ca(Some(file)).read(&path("secret/tls")).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable(why) if why.contains("not trusted") && why.contains("VAULT_CACERT")),
        "{error}"
    );

    let skip = Config { skip_verify: true, ..config(&server.address, ROOT_TOKEN) };
    assert!(build(skip).unwrap().read(&path("secret/tls")).await.is_ok());
}

#[tokio::test]
async fn a_frozen_server_costs_the_deadline_and_a_dead_one_an_immediate_error() {
    let Some(server) = available("vault", Server::start()) else { return };
    server.kv_put("secret", "a", json!({"k": "canary"}));
    let limit = Duration::from_millis(400);
    let vault = build(Config { deadline: limit, ..config(&server.address, ROOT_TOKEN) }).unwrap();
    let hang = Instant::now() + Duration::from_secs(20);
    while vault.read(&path("secret/a")).await.is_err() {
        assert!(Instant::now() < hang, "a busy machine");
    }
    server.pause();
    assert_eq!(vault.read(&path("secret/a")).await.unwrap_err(), Error::TimedOut(limit));
    assert_eq!(vault.list(&path("secret")).await.unwrap_err(), Error::TimedOut(limit));
    server.resume();
    while vault.read(&path("secret/a")).await.is_err() {
        assert!(Instant::now() < hang, "it never comes back");
    }
    server.stop();
    let error = vault.read(&path("secret/a")).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable(why) if why.contains("connection refused") && why.contains("127.0.0.1")),
        "{error}"
    );
}

/// A server that is not Vault: `answer` makes the bytes of the answer to each request's head; empty means silence.
struct False {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl False {
    /// One request per connection, which is closed without a word afterwards.
    fn new(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (heads, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (seen, count, answer) = (Arc::clone(&heads), Arc::clone(&connections), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || Self::serve(stream, &seen, &*answer));
            }
        });
        Self { address, heads, connections }
    }

    fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, answer: &dyn Fn(&str) -> Vec<u8>) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        seen.lock().unwrap().push(head.clone());
        let bytes = answer(&head);
        if bytes.is_empty() {
            std::thread::sleep(Duration::from_secs(60));
        }
        let _ = stream.write_all(&bytes);
    }

    fn client(&self, deadline: Duration) -> Vault {
        build(Config { deadline, max_body: 1 << 20, ..config(&self.address, ROOT_TOKEN) }).unwrap()
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn reply(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn envelope(data: Value) -> String {
    json!({"request_id": "", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data})
        .to_string()
}

fn mount(head: &str) -> Option<Vec<u8>> {
    let mount = envelope(json!({"path": "fake/", "type": "kv", "options": null}));
    head.starts_with("GET /v1/sys/internal/ui/mounts").then(|| reply("200 OK", "", &mount))
}

#[tokio::test]
async fn a_redirect_to_another_host_never_carries_the_token_there() {
    let other = False::new(|_| reply("200 OK", "", &envelope(json!({"k": "canary"}))));
    let target = other.address.clone();
    for status in
        ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let to = target.clone();
        let first = False::new(move |_| reply(status, &format!("Location: {to}/v1/fake/a\r\n"), ""));
        let error = first.client(Duration::from_secs(20)).read(&path("fake/a")).await.unwrap_err();
        assert!(
            matches!(&error, Error::Unreachable(why) if why.contains(&target) && why.contains("VAULT_ADDR")),
            "{error}"
        );
        assert!(first.heads()[0].to_lowercase().contains(&format!("x-vault-token: {ROOT_TOKEN}")));
    }
    assert_eq!(other.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn one_redirect_within_the_server_is_followed_and_a_circle_is_not() {
    let server = False::new(|head| match head.split(' ').nth(1).unwrap() {
        "/v1/fake/a" => reply("307 Temporary Redirect", "Location: /v1/fake/b\r\n", ""),
        "/v1/fake/b" => reply("200 OK", "", &envelope(json!({"k": "canary-b"}))),
        "/v1/fake/loop" => reply("307 Temporary Redirect", "Location: /v1/fake/loop\r\n", ""),
        _ => mount(head).unwrap(),
    });
    let vault = server.client(Duration::from_secs(20));
    assert_eq!(text(&vault.read(&path("fake/a")).await.unwrap(), "k"), "canary-b");
    assert!(
        matches!(vault.read(&path("fake/loop")).await, Err(Error::Unreachable(why)) if why.contains("circle"))
    );
}

#[tokio::test]
async fn every_bad_answer_is_an_error_of_its_own_and_quotes_nothing() {
    let huge = 50 << 20;
    let server = False::new(move |head| {
        let canary = r#"{"errors":["canary"]}"#;
        match head.split(' ').nth(1).unwrap() {
            "/v1/fake/403" => reply("403 Forbidden", "", canary),
            // Whether it is the token that is refused, which no policy lets us know.
            "/v1/auth/token/lookup-self" => reply("403 Forbidden", "", canary),
            "/v1/fake/404" => reply("404 Not Found", "", canary),
            "/v1/fake/429" => reply("429 Too Many Requests", "", canary),
            "/v1/fake/429-30" => reply("429 Too Many Requests", "Retry-After: 30\r\n", canary),
            "/v1/fake/503-year" => {
                reply("503 Service Unavailable", "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n", canary)
            }
            "/v1/fake/503-past" => {
                reply("503 Service Unavailable", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", canary)
            }
            "/v1/fake/503-soon" => reply("503 Service Unavailable", "Retry-After: canary\r\n", canary),
            "/v1/fake/500-30" => reply("500 Internal Server Error", "Retry-After: 30\r\n", canary),
            "/v1/fake/500" => reply("500 Internal Server Error", "", canary),
            "/v1/fake/503" => reply("503 Service Unavailable", "", canary),
            "/v1/fake/half" => reply("200 OK", "", r#"{"request_id":"","data":{"k":"canary"#),
            "/v1/fake/html" => reply("200 OK", "", "<html>canary</html>"),
            "/v1/fake/nothing" => reply("200 OK", "", ""),
            "/v1/fake/cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"canary\":".to_vec(),
            "/v1/fake/announced" => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {huge}\r\n\r\n{{").into_bytes()
            }
            "/v1/fake/endless" => [b"HTTP/1.1 200 OK\r\n\r\n\"".to_vec(), vec![b'c'; huge]].concat(),
            "/v1/fake/silent" => Vec::new(),
            "/v1/fake/garbage" => b"canary canary canary\r\n\r\n".to_vec(),
            _ => mount(head).unwrap(),
        }
    });
    let limit = Duration::from_secs(2);
    let vault = server.client(limit);
    let read = async |name: &str| {
        let mut error = vault.read(&path(&format!("fake/{name}"))).await.unwrap_err();
        if error == Error::TimedOut(limit) && name != "silent" {
            error = vault.read(&path(&format!("fake/{name}"))).await.unwrap_err(); // a busy machine
        }
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{name}: {shown}");
        error
    };
    assert_eq!(read("403").await, Error::Forbidden);
    assert_eq!(read("404").await, Error::NotFound);
    for status in [429, 500, 503] {
        assert_eq!(read(&status.to_string()).await, Error::Status(status));
    }
    for (name, status, seconds) in [("429-30", 429, 30), ("503-year", 503, 600), ("503-past", 503, 1)] {
        let retry_after = Duration::from_secs(seconds);
        assert_eq!(read(name).await, Error::Busy { status, retry_after }, "{name}");
    }
    assert_eq!(read("503-soon").await, Error::Status(503), "not a time");
    assert_eq!(read("500-30").await, Error::Status(500), "not busy");
    for name in ["half", "html", "nothing"] {
        assert!(matches!(read(name).await, Error::Malformed(_)), "{name}");
    }
    for name in ["announced", "endless"] {
        assert_eq!(read(name).await, Error::TooLarge { limit: 1 << 20 }, "{name}");
    }
    for name in ["cut", "garbage"] {
        assert!(matches!(read(name).await, Error::Unreachable(_)), "{name}");
    }
    assert_eq!(read("silent").await, Error::TimedOut(limit));
    for head in server.heads() {
        assert!(head.to_lowercase().contains("x-vault-request: true"), "{head}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_died_unnoticed_costs_no_error() {
    let server = False::new(|head| {
        mount(head).unwrap_or_else(|| reply("200 OK", "", &envelope(json!({"k": "canary"}))))
    });
    let vault = server.client(Duration::from_secs(20));
    for _ in 0..50 {
        vault.read(&path("fake/a")).await.unwrap();
    }
}

#[tokio::test]
async fn the_namespace_travels_as_a_header_and_a_base_path_stays_in_front() {
    let server = False::new(|head| {
        let mounts = envelope(json!({"path": "fake/", "type": "kv", "options": {"version": "2"}}));
        if head.contains("/ui/mounts/") {
            reply("200 OK", "", &mounts)
        } else {
            reply("200 OK", "", &envelope(json!({"data": {"k": "canary"}, "metadata": {"version": 3}})))
        }
    });
    let address = format!("{}/base/", server.address);
    let vault =
        build(Config { namespace: Some("team/sub/".into()), ..config(&address, ROOT_TOKEN) }).unwrap();
    let secret = vault.read(&path("fake/a b")).await.unwrap();
    assert_eq!(secret.version.as_str(), "3");
    let heads = server.heads();
    assert!(heads[1].starts_with("GET /base/v1/fake/data/a%20b HTTP/1.1\r\n"), "{}", heads[1]);
    assert!(heads[1].to_lowercase().contains("x-vault-namespace: team/sub\r\n"));
}

#[tokio::test]
async fn nothing_listening_and_no_token_are_said_plainly() {
    let nobody = format!("http://127.0.0.1:{}", crate::support::free_port());
    let error = build(config(&nobody, ROOT_TOKEN)).unwrap().read(&path("secret/a")).await.unwrap_err();
    assert_eq!(error, Error::Unreachable(format!("connection refused ({nobody})")));
    let absent = Config { address: nobody, token: TokenSource::Absent, ..Config::default() };
    let error = build(absent).unwrap().read(&path("secret/a")).await.unwrap_err();
    assert!(error.to_string().contains("no token: set VAULT_TOKEN"), "{error}");
}
