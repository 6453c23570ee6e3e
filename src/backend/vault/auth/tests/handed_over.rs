//! Owns the promises about tokens that another worker has had: no login for a handover, the same numbers, names noted for a crash.
//! Does not know Vault: a small server answers as it would.

use super::super::super::config::SecretId;
use super::*;
use crate::backend::tokens::CarriedTokens;

/// What is noted.
#[derive(Default)]
struct Noted(Mutex<Vec<String>>, Mutex<Option<Moment>>);

impl NoteTokens for Noted {
    fn had(&self, accessor: &str, until: Option<Moment>) {
        assert!(until.is_some());
        *self.1.lock().unwrap() = until;
        self.0.lock().unwrap().push(accessor.to_owned());
    }

    fn gone(&self, accessor: &str) {
        self.0.lock().unwrap().push(format!("gone {accessor}"));
    }
}

impl Noted {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// The end that was noted last.
    fn until(&self) -> Moment {
        self.1.lock().unwrap().unwrap()
    }
}

fn logged_in(number: usize, seconds: u64) -> (u16, String) {
    let auth = format!(
        r#"{{"client_token":"canary-{number}","accessor":"a{number}","lease_duration":{seconds},"renewable":true}}"#
    );
    (200, format!(r#"{{"auth":{auth}}}"#))
}

/// Logs in, and lets every token renew and revoke itself.
fn server() -> Server {
    let logins = Mutex::new(0);
    Server::start(move |path, _| {
        let mut logins = logins.lock().unwrap();
        match path {
            "auth/approle/login" => {
                *logins += 1;
                logged_in(*logins, 3600)
            }
            "auth/token/revoke-self" => (204, String::new()),
            _ => (200, "{}".to_owned()),
        }
    })
}

/// As it comes out at the other end.
fn carried(tokens: &CarriedTokens) -> CarriedTokens {
    let tokens: CarriedTokens = postcard::from_bytes(&postcard::to_stdvec(tokens).unwrap()).unwrap();
    assert!(tokens.is_sound());
    tokens
}

#[tokio::test]
async fn the_next_worker_has_the_same_tokens_and_does_not_log_in() {
    let server = server();
    let (old, new) = (server.auth(role()), server.auth(role()));
    let first = old.token(Use::Lease).await.unwrap();
    old.is_good(&first);
    // Leases hang on both.
    old.core.is_dead_for_good(&first);
    let second = old.token(Use::Lease).await.unwrap();
    let third = old.settle(Want::Successor(second.id)).await;
    assert!(third.unwrap().is_none() && server.count("auth/approle/login") == 3);
    new.take_over(carried(&old.hand_over().await)).await;
    let token = new.token(Use::Lease).await.unwrap();
    assert!(token.middleware.token == "canary-3" && token.id == ParentId(3) && token.ours);
    for id in (0..5).map(ParentId) {
        assert_eq!(new.parent(id), old.parent(id), "{id:?}");
    }
    assert!(new.knows("a2") && new.knows("a3") && !new.knows("a1"), "the first is dead");
    assert_eq!(server.count("auth/approle/login"), 3);
    new.close(&[]).await;
    assert_eq!(server.count("auth/token/revoke-self"), 2);
}

#[tokio::test]
async fn nobody_logs_in_while_tokens_are_handed_over_and_all_goes_on_where_they_are_not_taken() {
    let server = server();
    let auth = server.auth(role());
    let handed = auth.hand_over().await;
    assert!(handed.is_sound());
    let waiting = auth.token(Use::Read);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    assert_eq!(server.count("auth/approle/login"), 0);
    auth.resume();
    assert_eq!(waiting.await.unwrap().id, ParentId(1));
}

#[tokio::test]
async fn a_token_that_a_user_gave_is_handed_over_and_never_given_back() {
    let server = server();
    let source = || TokenSource::Literal("canary-of-user".to_owned().into());
    let (old, new) = (server.auth(source()), server.auth(source()));
    let token = old.token(Use::Lease).await.unwrap();
    new.take_over(carried(&old.hand_over().await)).await;
    assert_eq!(new.token(Use::Read).await.unwrap().id, token.id);
    assert_eq!(new.accessor(token.id), None);
    new.close(&[]).await;
    assert_eq!(server.count("auth/token/revoke-self"), 0);
}

#[tokio::test]
async fn a_secret_id_that_was_unwrapped_goes_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrapped");
    std::fs::write(&file, "canary-wrapping").unwrap();
    let data = |data: &str| {
        let head = r#""request_id":"","lease_id":"","renewable":false,"lease_duration":0"#;
        (200, format!(r#"{{{head},"data":{data}}}"#))
    };
    let server = Server::start(move |path, _| match path {
        "sys/wrapping/lookup" => data(r#"{"creation_path":"auth/approle/role/web/secret-id"}"#),
        "sys/wrapping/unwrap" => data(r#"{"secret_id":"canary-secret-id"}"#),
        "auth/approle/login" => logged_in(1, 3600),
        _ => (200, "{}".to_owned()),
    });
    let source = || {
        let role_id = RoleId::Literal("canary-role".to_owned());
        let secret_id = Some(SecretId { file: file.clone(), wrapped: true });
        TokenSource::AppRole(AppRole { mount: "approle".to_owned(), role_id, secret_id })
    };
    let (old, new) = (server.auth(source()), server.auth(source()));
    let token = old.token(Use::Read).await.unwrap();
    new.take_over(carried(&old.hand_over().await)).await;
    new.core.is_dead_for_good(&token);
    assert_eq!(new.token(Use::Read).await.unwrap().id, ParentId(2));
    assert_eq!(server.count("sys/wrapping/unwrap"), 1, "it works once");
}

#[tokio::test]
async fn names_of_tokens_are_noted_when_they_are_had_and_when_they_are_gone() {
    let server = server();
    let (noted, auth) = (Arc::<Noted>::default(), server.auth(role()));
    auth.note_in(noted.clone());
    let first = auth.token(Use::Read).await.unwrap();
    assert_eq!(noted.take(), ["a1"]);
    auth.core.is_dead_for_good(&first);
    assert_eq!(noted.take(), ["gone a1"]);
    auth.token(Use::Read).await.unwrap();
    auth.close(&[]).await;
    assert_eq!(noted.take(), ["a2", "gone a2"]);
    let later = server.auth(role());
    later.token(Use::Read).await.unwrap();
    later.note_in(noted.clone());
    assert_eq!(noted.take(), ["a3"], "also what was had before");
}

#[tokio::test]
async fn a_token_that_may_have_been_renewed_unheard_is_looked_after_until_that_end() {
    let status = Arc::new(Mutex::new(504));
    let answers = status.clone();
    let server = Server::start(move |path, _| match path {
        "auth/approle/login" => logged_in(1, 3600),
        "auth/token/renew-self" => (*answers.lock().unwrap(), "{}".to_owned()),
        _ => (200, "{}".to_owned()),
    });
    let (noted, auth) = (Arc::<Noted>::default(), server.auth(role()));
    auth.note_in(noted.clone());
    let token = auth.token(Use::Lease).await.unwrap();
    let first = noted.until();
    *status.lock().unwrap() = 400;
    auth.renew(&token).await;
    assert_eq!(noted.until(), first, "the server said no");
    *status.lock().unwrap() = 504;
    auth.renew(&token).await;
    let latest = noted.until();
    assert!(latest > first, "who lost the answer cannot know");
    *status.lock().unwrap() = 400;
    auth.renew(&token).await;
    assert_eq!(noted.until(), latest, "the one before may have been done");
    let new = server.auth(role());
    new.take_over(carried(&auth.hand_over().await)).await;
    for auth in [&auth, &new] {
        assert_eq!(auth.core.ledger().ends(), Some(first), "it is used no longer than it is sure to live");
        assert_eq!(auth.core.ledger().accessors(first), [("a1".to_owned(), Some(latest))]);
        assert_eq!(auth.core.ledger().to_give_back(first).len(), 1);
        assert!(auth.core.ledger().to_give_back(latest).is_empty());
    }
}
