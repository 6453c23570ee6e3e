//! Owns the promises of having a token: one question, one login, however many are refused at once.
//! Does not know Vault: a small server answers as it would.

mod handed_over;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::backend::vault::config::{AppRole, Config, RoleId};
use crate::backend::vault::http::Transport;

type Answer = dyn Fn(&str, &str) -> (u16, String) + Send + Sync;

/// A server that answers by path and token, and the paths it was asked for.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &seen, &answer);
            }
        });
        Self { address, asked }
    }

    fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    fn auth(&self, source: TokenSource) -> Auth {
        let config = Config { address: self.address.clone(), ..Config::default() };
        let transport = Transport::new(&config, Clock::System).unwrap();
        let wire = Wire { transport, namespace: None, limit: Duration::from_secs(5) };
        Auth::new(wire, source, Clock::System)
    }
}

fn serve(mut stream: TcpStream, asked: &Mutex<Vec<String>>, answer: &Answer) {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        let head = text.windows(4).position(|window| window == b"\r\n\r\n");
        let whole = String::from_utf8_lossy(&text).to_lowercase();
        let length = whole.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length = length.map_or(0, |length| length.parse().unwrap());
        if head.is_some_and(|head| text.len() >= head + 4 + length) {
            break;
        }
        match stream.read(&mut part) {
            Ok(read @ 1..) => text.extend_from_slice(&part[..read]),
            _ => return,
        }
    }
    let text = String::from_utf8(text).unwrap();
    let path = text.split(' ').nth(1).unwrap().strip_prefix("/v1/").unwrap();
    let token =
        text.lines().find_map(|line| line.to_lowercase().strip_prefix("x-vault-token: ").map(str::to_owned));
    asked.lock().unwrap().push(path.to_owned());
    let (status, body) = answer(path, &token.unwrap_or_default());
    let length = body.len();
    let _ =
        write!(stream, "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
}

const INVALID: &str = r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#;
const DENIED: &str = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;

fn login(token: &str) -> (u16, String) {
    let auth = format!(r#"{{"client_token":"{token}","lease_duration":3600,"renewable":true}}"#);
    (200, format!(r#"{{"auth":{auth}}}"#))
}

fn role() -> TokenSource {
    let role_id = RoleId::Literal("canary-role".to_owned());
    TokenSource::AppRole(AppRole { mount: "approle".to_owned(), role_id, secret_id: None })
}

/// Logs in as `t1`, `t2`, ...; knows the last one only.
fn one_living_token() -> Server {
    let logins = Mutex::new(0);
    Server::start(move |path, token| {
        let mut logins = logins.lock().unwrap();
        match path {
            "auth/approle/login" => {
                *logins += 1;
                login(&format!("t{logins}"))
            }
            "revoke" => {
                *logins += 1;
                (204, String::new())
            }
            _ if token != format!("t{logins}") => (403, INVALID.to_owned()),
            "denied" => (403, DENIED.to_owned()),
            "auth/token/lookup-self" => (403, DENIED.to_owned()),
            _ => (200, "{}".to_owned()),
        }
    })
}

/// Every login goes well, and no token that one gives is known.
#[tokio::test]
async fn logins_that_give_useless_tokens_make_no_flood() {
    let server = Server::start(|path, _| match path {
        "auth/approle/login" => login("t"),
        _ => (403, INVALID.to_owned()),
    });
    let auth = server.auth(role());
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        if let Ok(token) = auth.token(Use::Read).await {
            let error = auth.other_than(&token, true, Use::Read).await.err().unwrap();
            assert!(!error.is_answer() && error.to_string().contains("the token is refused"), "{error}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // At 0, 1, 3 and perhaps 7 s, less what chance takes.
    let logins = server.count("auth/approle/login");
    assert!((2..=4).contains(&logins), "{logins}");
}

async fn is_denied(auth: &Auth, token: &Arc<Token>) -> NoBodyError {
    let call = Call::read(["denied"]).unwrap();
    let no_body = auth.wire().send(&call, &token.middleware).await.err().unwrap();
    (no_body.error, no_body.token_invalid)
}

type NoBodyError = (Error, bool);

#[tokio::test]
async fn a_token_that_died_is_followed_by_another_and_what_was_made_with_it_is_known_to_be_dead() {
    let server = one_living_token();
    let auth = Arc::new(server.auth(role()));
    let first = auth.token(Use::Lease).await.unwrap();
    auth.is_good(&first);
    assert_eq!(auth.parent(first.id), Parent::Current(None));
    let _ = tokio::time::timeout(Duration::from_millis(1), auth.parents_changed()).await;
    auth.wire().send(&Call::read(["revoke"]).unwrap(), &first.middleware).await.ok().unwrap();
    let told = {
        let auth = auth.clone();
        tokio::spawn(async move { auth.parents_changed().await })
    };
    // All who are refused at once: one question, one login.
    let all = (0..50).map(|_| async { auth.other_than(&first, true, Use::Read).await.unwrap().unwrap().id });
    let ids = join_all(all).await;
    assert!(ids.iter().all(|id| *id == ParentId(2)), "{ids:?}");
    assert_eq!(auth.parent(first.id), Parent::Dead);
    assert_eq!(auth.parent(ParentId(2)), Parent::Current(None));
    tokio::time::timeout(Duration::from_secs(5), told).await.unwrap().unwrap();
    assert_eq!((server.count("auth/approle/login"), server.count("auth/token/lookup-self")), (2, 1));
}

#[tokio::test]
async fn a_path_that_is_refused_costs_one_question_a_second_and_no_login() {
    let server = one_living_token();
    let auth = server.auth(role());
    let token = auth.token(Use::Read).await.unwrap();
    assert_eq!(is_denied(&auth, &token).await, (Error::Forbidden, false));
    let began = std::time::Instant::now();
    for _ in 0..200 {
        assert!(auth.other_than(&token, false, Use::Read).await.unwrap().is_none());
    }
    let most = began.elapsed().as_secs() as usize + 1;
    assert!(server.count("auth/token/lookup-self") <= most);
    assert_eq!(server.count("auth/approle/login"), 1);
}

#[tokio::test]
async fn a_dead_token_that_nothing_follows_is_no_answer_and_one_that_was_never_good_is() {
    let server = Server::start(|path, _| match path {
        "good" => (200, "{}".to_owned()),
        _ => (403, INVALID.to_owned()),
    });
    let auth = server.auth(TokenSource::Literal("canary".to_owned().into()));
    let token = auth.token(Use::Read).await.unwrap();
    assert_eq!(auth.other_than(&token, true, Use::Read).await.err(), Some(Error::Forbidden));
    auth.is_good(&token);
    for _ in 0..20 {
        let error = auth.token(Use::Read).await.err().unwrap();
        assert!(!error.is_answer() && error.to_string().contains("the token is refused"), "{error}");
    }
    assert!(server.asked.lock().unwrap().len() <= 2, "that it is dead is remembered");
    auth.close(&[]).await;
    assert_eq!(server.count("auth/token/revoke-self"), 0);
}

#[tokio::test]
async fn without_a_token_the_first_call_says_what_to_set_and_a_later_one_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join(".vault-token");
    let server = one_living_token();
    let auth = server.auth(TokenSource::File(file.clone()));
    let error = auth.token(Use::Read).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "the backend cannot be reached: no token: set VAULT_TOKEN or run `vault login`"
    );
    std::fs::write(&file, "canary \x01 token").unwrap();
    let error = auth.token(Use::Read).await.err().unwrap().to_string();
    assert!(error.contains("VAULT_TOKEN") && !error.contains("canary"), "{error}");
    std::fs::write(&file, "canary-token\n").unwrap();
    assert_eq!(auth.token(Use::Read).await.unwrap().middleware.token, "canary-token");
    let absent = server.auth(TokenSource::Absent).token(Use::Read).await.err().unwrap();
    assert!(absent.to_string().contains("no token: set VAULT_TOKEN"));
}

#[tokio::test]
async fn a_file_that_was_written_is_noticed_with_the_first_403() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "canary-1").unwrap();
    let server = one_living_token();
    let auth = server.auth(TokenSource::File(file.clone()));
    let first = auth.token(Use::Read).await.unwrap();
    std::fs::write(&file, "canary-2 ").unwrap();
    let other = auth.other_than(&first, false, Use::Read).await.unwrap().unwrap();
    assert_eq!((other.middleware.token.as_str(), other.id), ("canary-2", ParentId(2)));
    assert_eq!(server.count("auth/token/lookup-self"), 0);
}

#[tokio::test]
async fn a_reader_who_gives_up_leaves_a_login_that_the_next_one_uses() {
    let server = Server::start(|path, _| {
        if path == "auth/approle/login" {
            std::thread::sleep(Duration::from_secs(2));
        }
        login("t1")
    });
    let auth = server.auth(role());
    let short = tokio::time::timeout(Duration::from_millis(20), auth.token(Use::Read)).await;
    assert!(short.is_err());
    assert_eq!(auth.token(Use::Read).await.unwrap().id, ParentId(1));
    assert_eq!(server.count("auth/approle/login"), 1);
    auth.close(&[]).await;
    assert_eq!(server.count("auth/token/revoke-self"), 1);
}

#[tokio::test]
async fn a_login_that_may_be_tried_again_is_nothing_to_wait_for() {
    let server = Server::start(|_, _| (503, String::new()));
    let auth = server.auth(role());
    assert!(auth.token(Use::Read).await.is_err());
    let next = auth.core.next_login().await.unwrap();
    tokio::time::sleep(next.since(Clock::System.now()) + Duration::from_millis(50)).await;
    assert_eq!(auth.core.next_login().await, None);
}

/// The secret id is used up, and the server was away when the token was to be renewed.
#[tokio::test]
async fn a_token_that_no_login_follows_is_renewed_to_its_very_end() {
    let began = Arc::<Mutex<Option<std::time::Instant>>>::default();
    let server = Server::start(move |path, _| {
        let token = r#"{"client_token":"t","lease_duration":8,"renewable":true}"#;
        let (good, mut began) = ((200, format!(r#"{{"auth":{token}}}"#)), began.lock().unwrap());
        match path {
            "auth/approle/login" if began.is_none() => {
                *began = Some(std::time::Instant::now());
                good
            }
            "auth/approle/login" => (400, r#"{"errors":["invalid role or secret ID"]}"#.to_owned()),
            // Up to when only a successor would do.
            "auth/token/renew-self" if began.is_some_and(|at| at.elapsed() < Duration::from_secs(6)) => {
                (503, String::new())
            }
            "auth/token/renew-self" => good,
            _ => (200, "{}".to_owned()),
        }
    });
    let auth = server.auth(role());
    auth.token(Use::Read).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_secs(10), auth.tend()).await;
    assert!(auth.core.ledger().is_alive(), "{:?}", server.asked.lock().unwrap());
    assert!(server.count("auth/approle/login") > 1, "no successor was wanted");
}
