//! Owns what is promised of the token: had, kept alive, followed by another in time, given back; and that no failure makes a flood.
//! Does not know what is read with it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use secretfs::backend::vault::{AppRole, RoleId, SecretId};
use tokio::task::JoinHandle;

use super::*;
use crate::support::fake::{Fake, Reply};
use crate::support::fake_vault;

/// An AppRole of its own, for a KV engine of its own with one secret; its ids in files.
pub(super) struct Role<'a> {
    server: &'a Server,
    name: &'a str,
    pub(super) folder: tempfile::TempDir,
}

impl<'a> Role<'a> {
    pub(super) fn new(server: &'a Server, name: &'a str, mut settings: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        server.enable_kv(name, 2);
        server.kv_put(name, "a", json!({"k": "canary"}));
        let policy = format!("path \"{name}/*\" {{ capabilities = [\"read\", \"list\"] }}");
        server.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": policy }));
        server.must("POST", &format!("sys/auth/{name}"), json!({"type": "approle"}));
        settings["token_policies"] = json!([name]);
        server.must("POST", &format!("auth/{name}/role/web"), settings);
        let answer = server.must("GET", &format!("auth/{name}/role/web/role-id"), Value::Null);
        std::fs::write(folder.path().join("role"), answer["data"]["role_id"].as_str().unwrap()).unwrap();
        Self { server, name, folder }
    }

    pub(super) fn secret_file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    fn config(&self, wrapped: bool) -> Config {
        let secret_id = Some(SecretId { file: self.secret_file(), wrapped });
        let role_id = RoleId::File(self.folder.path().join("role"));
        let role = AppRole { mount: self.name.to_owned(), role_id, secret_id };
        Config { token: TokenSource::AppRole(role), ..config(&self.server.address, "unused") }
    }

    /// A client with a fresh secret id.
    pub(super) fn client(&self) -> Arc<Vault> {
        let path = format!("auth/{}/role/web/secret-id", self.name);
        let answer = self.server.must("POST", &path, Value::Null);
        write(&self.secret_file(), answer["data"]["secret_id"].as_str().unwrap());
        Arc::new(build(self.config(false)).unwrap())
    }

    /// What wraps a fresh secret id.
    fn wrapped(&self) -> String {
        let host = self.server.address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let head = format!(
            "POST /v1/auth/{}/role/web/secret-id HTTP/1.0\r\nHost: {host}\r\nX-Vault-Token: {ROOT_TOKEN}\r\n\
             X-Vault-Wrap-TTL: 300\r\nContent-Length: 0\r\n\r\n",
            self.name
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        body["wrap_info"]["token"].as_str().unwrap().to_owned()
    }

    /// Ends every token of this role.
    pub(super) fn revoke_all(&self) {
        self.server.must(
            "POST",
            &format!("sys/leases/revoke-prefix/auth/{}/login", self.name),
            json!({"sync": true}),
        );
    }

    pub(super) fn logins(&self) -> usize {
        self.requests(&format!("auth/{}/login", self.name))
    }

    fn requests(&self, of: &str) -> usize {
        self.server.audit_requests().iter().filter(|(_, path)| path == of).count()
    }

    /// How many tokens live that logins of this role have made.
    pub(super) fn tokens(&self) -> usize {
        let server = self.server;
        let listed = server.must("GET", "auth/token/accessors/?list=true", Value::Null);
        let all = listed["data"]["keys"].as_array().unwrap().clone();
        let paths = all.into_iter().filter_map(|accessor| {
            let asked = json!({ "accessor": accessor });
            let (status, found) = server.api("POST", "auth/token/lookup-accessor", asked);
            (status == 200).then(|| found["data"]["path"].as_str().unwrap().to_owned())
        });
        let login = format!("auth/{}/login", self.name);
        paths.filter(|path| *path == login).count()
    }

    async fn read(&self, vault: &Vault) -> Result<Secret, Error> {
        vault.read(&path(&format!("{}/a", self.name))).await
    }
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

/// Ends when it is dropped.
struct Tended(JoinHandle<()>);

impl Drop for Tended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn tended(vault: &Arc<Vault>) -> Tended {
    let vault = vault.clone();
    Tended(tokio::spawn(async move { vault.tend().await }))
}

#[tokio::test]
async fn a_token_revoked_from_outside_costs_a_login_and_no_read() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let role = Role::new(server, "login-revoked", json!({"token_ttl": "1h"}));
    let vault = role.client();
    for logins in 1..=3 {
        role.read(&vault).await.unwrap();
        assert_eq!(role.logins(), logins);
        role.revoke_all();
    }
    let all = join_all((0..50).map(|_| role.read(&vault))).await;
    assert!(all.into_iter().all(|read| read.is_ok()));
    assert_eq!(role.logins(), 4, "one login for all who were refused");
}

#[tokio::test]
async fn a_token_at_its_use_limit_is_followed_by_another_and_no_read_fails() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let role = Role::new(server, "login-limit", json!({"token_ttl": "1h", "token_num_uses": 4}));
    let vault = role.client();
    let _tended = tended(&vault);
    for _ in 0..20 {
        role.read(&vault).await.unwrap();
    }
    // 20 reads and one question about the engine, four to a token.
    assert!((5..=7).contains(&role.logins()), "{}", role.logins());
}

#[tokio::test]
async fn a_token_with_a_longest_life_is_followed_by_another_before_its_end() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let settings = json!({"token_ttl": "4s", "token_explicit_max_ttl": "6s"});
    let role = Role::new(server, "login-max", settings);
    let vault = role.client();
    let _tended = tended(&vault);
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        role.read(&vault).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!((4..=12).contains(&role.logins()), "{}", role.logins());
}

#[tokio::test]
async fn a_token_that_can_be_renewed_lives_as_long_as_it_is_tended() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let role = Role::new(server, "login-period", json!({"token_period": "6s"}));
    let vault = role.client();
    let made =
        server.must("POST", "auth/token/create", json!({"policies": ["login-period"], "period": "6s"}));
    let token = made["auth"]["client_token"].as_str().unwrap().to_owned();
    let user = Arc::new(client_with(server, &token));
    let _both = (tended(&vault), tended(&user));
    // Nobody reads meanwhile.
    tokio::time::sleep(Duration::from_secs(20)).await;
    role.read(&vault).await.unwrap();
    assert_eq!(role.logins(), 1);
    role.read(&user).await.unwrap();
}

#[tokio::test]
async fn a_token_file_that_is_replaced_is_used_and_a_dead_one_takes_nothing_away() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let role = Role::new(server, "login-file", json!({}));
    let rule = "path \"login-file/*\" { capabilities = [\"read\"] }";
    let file = role.folder.path().join("token");
    let vault = Arc::new(
        build(Config { token: TokenSource::File(file.clone()), ..config(&server.address, "unused") })
            .unwrap(),
    );
    let [first, second, third] = [(); 3].map(|()| server.policy_token(rule));
    write(&file, &first);
    role.read(&vault).await.unwrap();
    let revoke = |token: &str| server.must("POST", "auth/token/revoke", json!({ "token": token }));
    // Replaced before it is missed.
    write(&file, &second);
    revoke(&first);
    role.read(&vault).await.unwrap();
    // Missed, and replaced later.
    revoke(&second);
    for _ in 0..5 {
        let error = role.read(&vault).await.unwrap_err();
        assert!(!error.is_answer() && error.to_string().contains("run `vault login`"), "{error}");
    }
    write(&file, &third);
    role.read(&vault).await.unwrap();
    // While it lives: soon, without any call that fails.
    let _tended = tended(&vault);
    let fourth = server.policy_token(rule);
    write(&file, &fourth);
    tokio::time::sleep(Duration::from_secs(5)).await;
    revoke(&third);
    role.read(&vault).await.unwrap();
}

#[tokio::test]
async fn a_wrapped_secret_id_is_unwrapped_once_and_serves_every_login() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let role = Role::new(server, "login-wrapped", json!({"token_ttl": "1h"}));
    let token = role.wrapped();
    write(&role.secret_file(), &format!("{token}\n"));
    let vault = build(role.config(true)).unwrap();
    for _ in 0..3 {
        role.read(&vault).await.unwrap();
        role.revoke_all();
    }
    assert_eq!(role.logins(), 3);
    // Whoever has it now has nothing.
    let (status, _) = server.api("POST", "sys/wrapping/lookup", json!({ "token": token }));
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_secret_id_that_somebody_else_has_unwrapped_is_a_loud_error_and_never_tried_again() {
    // A server of its own: nobody else unwraps.
    let Some(server) = available("vault", Server::start()) else { return };
    server.enable_audit();
    let role = Role::new(&server, "login-stolen", json!({"token_ttl": "1h"}));
    let token = role.wrapped();
    write(&role.secret_file(), &token);
    server.must("POST", "sys/wrapping/unwrap", json!({ "token": token }));
    let vault = Arc::new(build(role.config(true)).unwrap());
    let _tended = tended(&vault);
    for _ in 0..50 {
        let error = role.read(&vault).await.unwrap_err();
        let text = error.to_string();
        assert!(!error.is_answer() && text.contains("somebody else may have it"), "{text}");
        assert!(!text.contains(&token));
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((role.requests("sys/wrapping/lookup"), role.logins()), (1, 0));
    // What something else wraps is not touched.
    let other = server.must("POST", "sys/wrapping/lookup", json!({ "token": role.wrapped() }));
    assert!(other["data"]["creation_path"].as_str().unwrap().ends_with("role/web/secret-id"));
    let unwrapped = role.requests("sys/wrapping/unwrap");
    let alien = Role::new(&server, "login-alien", json!({}));
    write(&role.secret_file(), &alien.wrapped());
    let text = role.read(&vault).await.unwrap_err().to_string();
    assert!(text.contains("somebody may have exchanged it"), "{text}");
    assert_eq!(role.requests("sys/wrapping/unwrap"), unwrapped);
    // A new one is tried anew.
    write(&role.secret_file(), &role.wrapped());
    role.read(&vault).await.unwrap();
}

#[tokio::test]
async fn at_the_end_our_token_is_given_back_and_that_of_the_user_is_not() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let role = Role::new(server, "login-end", json!({"token_ttl": "1h"}));
    let vault = role.client();
    role.read(&vault).await.unwrap();
    assert_eq!(role.tokens(), 1);
    vault.close(&[]).await;
    assert_eq!(role.tokens(), 0);
    assert!(role.read(&vault).await.is_err(), "no login follows");
    assert_eq!(role.logins(), 1);

    let token = server.policy_token("path \"login-end/*\" { capabilities = [\"read\"] }");
    let user = client_with(server, &token);
    role.read(&user).await.unwrap();
    user.close(&[]).await;
    role.read(&user).await.unwrap();
}

#[tokio::test]
async fn a_login_that_fails_makes_no_flood_and_is_made_when_the_server_allows_it() {
    let faults: [fn() -> Reply; 6] = [
        || fake_vault::error(400),
        || fake_vault::error(403),
        || fake_vault::error(429),
        || fake_vault::error(500),
        || Reply::Close,
        || Reply::Answer(200, "{\"auth\":{\"client_token\":\"canary".into()),
    ];
    join_all(faults.into_iter().enumerate().map(|(number, fault)| async move {
        let ill = Arc::new(Mutex::new(true));
        let now = ill.clone();
        let fake = Fake::start(move |request| match fake_vault::asked(request).0.join("/").as_str() {
            "auth/approle/login" if *now.lock().unwrap() => fault(),
            "auth/approle/login" => Reply::json(
                json!({"auth": {"client_token": "canary-token", "lease_duration": 3600, "renewable": true}}),
            ),
            path if path.starts_with("sys/") => fake_vault::kv2("kv"),
            _ => fake_vault::secret(&json!({"k": "canary"})),
        });
        let role_id = RoleId::Literal("canary-role".to_owned());
        let role = AppRole { mount: "approle".to_owned(), role_id, secret_id: None };
        let token = TokenSource::AppRole(role);
        let vault = Arc::new(build(Config { token, ..config(&fake.endpoint(), "unused") }).unwrap());
        let _tended = tended(&vault);
        let (began, at) = (Instant::now(), path("kv/a"));
        while began.elapsed() < Duration::from_secs(4) {
            for read in join_all((0..20).map(|_| vault.read(&at))).await {
                let error = read.unwrap_err();
                let text = format!("{error} {error:?}");
                assert!(!error.is_answer() && !text.contains("canary"), "{text}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let logins = fake.requests().len();
        assert!((2..=4).contains(&logins), "fault {number}: {logins} logins in four seconds");
        *ill.lock().unwrap() = false;
        let hang = Instant::now() + Duration::from_secs(20);
        while vault.read(&at).await.is_err() {
            assert!(Instant::now() < hang, "fault {number}: never recovers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }))
    .await;
}

#[tokio::test]
async fn a_login_that_is_never_answered_costs_the_reader_the_deadline() {
    let fake = Fake::start(|_| Reply::Silence);
    let role =
        AppRole { mount: "approle".to_owned(), role_id: RoleId::Literal("canary".into()), secret_id: None };
    let limit = Duration::from_millis(500);
    let token = TokenSource::AppRole(role);
    let vault = build(Config { token, deadline: limit, ..config(&fake.endpoint(), "unused") }).unwrap();
    let (began, at) = (Instant::now(), path("kv/a"));
    while began.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        let all = join_all((0..20).map(|_| vault.read(&at))).await;
        assert!(all.into_iter().all(|read| read.unwrap_err() == Error::TimedOut(limit)));
        assert!(asked.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((2..=4).contains(&fake.requests().len()), "{}", fake.requests().len());
}
