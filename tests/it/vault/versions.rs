//! Owns what the Vault backend promises about versions: older ones by number, and those of a whole folder in one question.
//! Does not know who asks, or how often.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use secretfs::backend::Versions;
use secretfs::secret::Version;

use super::*;
use crate::support::bao::{Bao, Details};
use crate::support::fake::{Fake, Reply};
use crate::support::fake_vault;

fn at(bao: &Bao) -> Vault {
    build(config(&bao.address(), ROOT_TOKEN)).unwrap()
}

async fn told(vault: &Vault, folder: &str) -> Versions {
    vault.versions(&path(folder)).await.unwrap().expect("this server tells")
}

/// Name and version of each, `-` for one that is deleted.
fn shown(versions: &Versions) -> Vec<String> {
    let shown = |version: &Option<Version>| version.as_ref().map_or("-".to_owned(), Version::to_string);
    versions.current.iter().map(|(name, version)| format!("{name} {}", shown(version))).collect()
}

#[tokio::test]
async fn an_older_version_is_read_by_its_number_and_nothing_else_names_one() {
    let Some(server) = available("vault", Server::shared()) else { return };
    server.enable_kv("older", 2);
    for turn in 1..=4 {
        server.kv_put("older", "a", json!({"k": format!("canary-{turn}")}));
    }
    server.must("POST", "older/delete/a", json!({"versions": [2]}));
    server.must("PUT", "older/destroy/a", json!({"versions": [3]}));
    let vault = client(server);
    let read = async |number: &str| vault.read_version(&path("older/a"), &Version::new(number)).await;
    for number in ["1", "4"] {
        let secret = read(number).await.unwrap();
        assert_eq!((text(&secret, "k"), secret.version.as_str()), (&*format!("canary-{number}"), number));
        assert!(secret.created.is_some());
    }
    let about = || server.audit_requests().into_iter().filter(|(_, path)| path.contains("older/")).count();
    for number in ["2", "3", "5", "4294967295"] {
        assert_eq!(read(number).await.unwrap_err(), Error::NotFound, "{number}");
    }
    let before = about();
    for number in ["", "0", "01", "+1", "-1", "1 ", "1&list=true", "99999999999", "AWSPREVIOUS", "current"] {
        assert_eq!(read(number).await.unwrap_err(), Error::NotFound, "{number:?}");
    }
    assert_eq!(about(), before, "what can be no version is not asked for");
    for none in ["older", "older/none"] {
        let answer = vault.read_version(&path(none), &Version::new("1")).await;
        assert_eq!(answer.unwrap_err(), Error::NotFound, "{none}");
    }
    server.enable_kv("older1", 1);
    server.kv_put("older1", "a", json!({"k": "canary"}));
    let answer = vault.read_version(&path("older1/a"), &Version::new("1")).await;
    assert_eq!(answer.unwrap_err(), Error::NotFound, "version 1 of kv has none");
}

#[tokio::test]
async fn another_version_than_was_asked_for_is_no_answer() {
    let fake = Fake::start(|request| match fake_vault::asked(request) {
        (path, _) if path[0] == "sys" => fake_vault::kv2("kv"),
        // Says that it is number 1, whatever is asked for.
        _ => fake_vault::secret(&json!({"k": "canary"})),
    });
    let vault = build(config(&fake.endpoint(), ROOT_TOKEN)).unwrap();
    assert_eq!(text(&vault.read_version(&path("kv/a"), &Version::new("1")).await.unwrap(), "k"), "canary");
    assert_eq!(fake.requests()[1].target, "/v1/kv/data/a?version=1");
    let error = vault.read_version(&path("kv/a"), &Version::new("2")).await.unwrap_err();
    assert!(matches!(error, Error::Malformed(_)), "{error:?}");
}

#[tokio::test]
async fn vault_tells_no_versions_which_is_learned_with_two_questions() {
    if Server::is_openbao() {
        return;
    }
    // A server of one's own: every request in its log is ours.
    let Some(server) = available("vault", Server::start()) else { return };
    server.kv_put("secret", "dir/a", json!({"k": "canary"}));
    server.enable_kv("kv1", 1);
    server.kv_put("kv1", "dir/a", json!({"k": "canary"}));
    server.enable_audit();
    let vault = client(&server);
    let asked = async |folder: &str| {
        let before = server.audit_requests().len();
        assert_eq!(vault.versions(&path(folder)).await.unwrap(), None, "{folder}");
        let requests = server.audit_requests().split_off(before);
        let of_the_engine = requests.iter().filter(|(_, path)| !path.starts_with("sys/internal/ui/mounts"));
        of_the_engine.map(|(operation, path)| format!("{operation} {path}")).collect::<Vec<_>>()
    };
    let learned = asked("secret/dir").await;
    assert_eq!(learned, ["list secret/detailed-metadata/dir/", "list secret/metadata/dir/"]);
    for folder in ["secret/dir", "secret", "secret/other", "kv1/dir", "kv1", ""] {
        assert_eq!(asked(folder).await, [""; 0], "{folder}");
    }

    // A policy as it stands in many manuals: nobody thinks of detailed-metadata.
    let policy = "path \"secret/data/*\" { capabilities = [\"read\"] } path \"secret/metadata/*\" { capabilities = [\"list\"] }";
    let token = server.policy_token(policy);
    let narrow = client_with(&server, &token);
    let before = server.audit_requests().len();
    for _ in 0..3 {
        assert_eq!(narrow.versions(&path("secret/dir")).await.unwrap(), None);
    }
    let requests = server.audit_requests().split_off(before);
    let refused = requests.iter().filter(|(_, path)| path.contains("metadata")).count();
    assert_eq!(refused, 1, "{requests:?}");
    assert_eq!(text(&narrow.read(&path("secret/dir/a")).await.unwrap(), "k"), "canary");
}

/// What OpenBao promises, whoever stands for it: `put`, `delete` the latest version, `erase` all of them.
async fn folders_tell(vault: &Vault, put: impl Fn(&str), delete: impl Fn(&str), erase: impl Fn(&str)) {
    for path in
        ["dir/a", "dir/a", "dir/b", "dir/a/deeper", "dir/sub/c", "dirr", "dir/größe & more?", "dir/zz"]
    {
        put(path);
    }
    delete("dir/zz");
    let versions = told(vault, "secret/dir").await;
    assert_eq!(shown(&versions), ["a 2", "b 1", "größe & more? 1", "zz -"]);
    assert_eq!(versions.requests, 1);
    for (name, version) in &versions.current {
        let read = vault.read(&path("secret/dir").child(name).unwrap()).await;
        assert_eq!(read.map(|secret| secret.version).ok(), *version, "{name}");
    }
    assert_eq!(shown(&told(vault, "secret").await), ["dirr 1"]);
    assert_eq!(shown(&told(vault, "secret/dir/a").await), ["deeper 1"]);
    put("dir/b");
    put("dir/zz");
    erase("dir/a");
    assert_eq!(shown(&told(vault, "secret/dir").await), ["b 2", "größe & more? 1", "zz 2"]);
    for nowhere in ["secret/none", "secret/dirr", "secret/di"] {
        assert_eq!(shown(&told(vault, nowhere).await), [""; 0], "{nowhere}");
    }
    assert_eq!(shown(&told(vault, "secret/dir").await).len(), 3, "an empty folder taught nothing wrong");
}

#[tokio::test]
async fn openbao_tells_the_versions_of_a_folder_in_one_question() {
    if let Some(server) = available("bao", Server::start_bao()) {
        let put = |path: &str| server.kv_put("secret", path, json!({"k": "canary"}));
        let delete = |path: &str| drop(server.must("DELETE", &format!("secret/data/{path}"), Value::Null));
        folders_tell(&client(&server), put, delete, |path| server.kv_delete("secret", path)).await;
    }
    let bao = Bao::start();
    let put = |path: &str| {
        bao.put(path, &json!({"k": "canary"}));
    };
    let delete = |path: &str| bao.delete_version(path, 1, Some(SystemTime::now()));
    folders_tell(&at(&bao), put, delete, |path| assert!(bao.delete(path))).await;
}

#[tokio::test]
async fn a_name_that_vault_does_not_take_is_a_folder_without_secrets() {
    let Some(server) = available("vault", Server::shared()) else { return };
    server.enable_kv("nowhere", 2);
    let vault = client(server);
    for name in ["\u{200b}", "a\u{a0}b", "a..b"] {
        let versions = vault.versions(&path("nowhere").child(name).unwrap()).await.unwrap();
        assert!(versions.is_none_or(|versions| versions.current.is_empty()), "{name:?}");
    }
    for name in ["..", "", "a\nb"] {
        assert_eq!(vault.versions(&path("nowhere").child(name).unwrap()).await.unwrap(), None, "{name:?}");
    }
    let nobody = client_with(server, "canary-no-such-token");
    assert_eq!(nobody.versions(&path("nowhere")).await.unwrap(), None);
    assert_eq!(vault.versions(&path("no-such-engine/a")).await.unwrap(), None);
}

#[tokio::test]
async fn ten_thousand_versions_cost_a_question_for_each_thousand() {
    let bao = Bao::start();
    for number in 0..10_000 {
        bao.put(&format!("many/s{number:05}"), &json!({"k": "canary"}));
    }
    bao.put("many/s00000/below", &json!({"k": "canary"}));
    let vault = at(&bao);
    let versions = told(&vault, "secret/many").await;
    assert_eq!(versions.current.len(), 10_000);
    assert!(versions.current.values().flatten().all(|version| version.as_str() == "1"));
    // 10,001 names: ten pages and one more.
    assert_eq!((versions.requests, bao.counts().details), (11, 11));
    bao.put("many/s07777", &json!({"k": "canary"}));
    let again = told(&vault, "secret/many").await;
    let moved: Vec<_> =
        again.current.iter().filter(|(name, now)| versions.current.get(*name) != Some(now)).collect();
    assert_eq!(moved, [(&"s07777".to_owned(), &Some(Version::new("2")))]);
    assert_eq!(bao.counts().reads + bao.counts().lists, 0, "no value was asked for");
    // As many as pages hold: the next question finds nothing.
    bao.delete("many/s00000/below");
    assert_eq!(told(&vault, "secret/many").await.requests, 11);
}

#[tokio::test]
async fn a_server_without_details_is_asked_once() {
    for details in [Details::Unknown, Details::NotAllowed, Details::Denied] {
        let bao = Bao::start();
        bao.put("dir/a", &json!({"k": "canary"}));
        bao.set_details(details);
        let vault = at(&bao);
        for _ in 0..5 {
            assert_eq!(vault.versions(&path("secret/dir")).await.unwrap(), None, "{details:?}");
        }
        assert_eq!(bao.counts().details, 1, "{details:?}");
        assert_eq!(bao.counts().lists, usize::from(details == Details::Unknown), "{details:?}");
    }
}

#[tokio::test]
async fn pages_that_are_too_large_are_asked_for_in_smaller_ones() {
    let bao = Bao::start();
    for number in 0..1500 {
        bao.put(&format!("large/s{number:04}"), &json!({"k": "canary"}));
    }
    let tight = build(Config { max_body: 60 << 10, ..config(&bao.address(), ROOT_TOKEN) }).unwrap();
    assert_eq!(told(&tight, "secret/large").await.current.len(), 1500);
    bao.forget_requests();
    let versions = told(&tight, "secret/large").await;
    assert_eq!((versions.current.len(), versions.requests), (1500, 13), "the size is remembered");
    let hopeless = build(Config { max_body: 1000, ..config(&bao.address(), ROOT_TOKEN) }).unwrap();
    assert_eq!(hopeless.versions(&path("secret/large")).await.unwrap(), None);
    bao.forget_requests();
    assert_eq!(hopeless.versions(&path("secret/large")).await.unwrap(), None);
    assert_eq!(bao.counts().all(), 0, "nor are they asked for again");
}

/// A server that answers every question about a folder by `page`, which is given how many came before.
fn false_pages(page: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Fake {
    let asked = AtomicUsize::new(0);
    Fake::start(move |request| match fake_vault::asked(request) {
        (path, _) if path[0] == "sys" => fake_vault::kv2("kv"),
        _ => page(asked.fetch_add(1, Ordering::SeqCst)),
    })
}

fn page(names: impl Iterator<Item = usize>) -> Reply {
    let names: Vec<String> = names.map(|number| format!("s{number:05}")).collect();
    let info: serde_json::Map<String, Value> =
        names.iter().map(|name| (name.clone(), json!({"current_version": 1}))).collect();
    fake_vault::data(&json!({ "keys": names, "key_info": info }))
}

#[tokio::test]
async fn pages_that_lead_nowhere_end() {
    let ask = async |fake: &Fake| {
        let vault = build(config(&fake.endpoint(), ROOT_TOKEN)).unwrap();
        vault.versions(&path("kv/dir")).await
    };
    let stuck = false_pages(|_| page(0..1000));
    let error = ask(&stuck).await.unwrap_err();
    assert!(matches!(error, Error::Malformed(_)), "{error:?}");
    assert_eq!(stuck.requests().len(), 3);

    // One that ignores what it is told gives all at once.
    let whole = false_pages(|_| page(0..3000));
    assert_eq!(ask(&whole).await.unwrap().unwrap().current.len(), 3000);
    assert_eq!(whole.requests().len(), 2);

    // What came after the first page was removed meanwhile.
    let shrinking = false_pages(|asked| if asked == 0 { page(0..1000) } else { fake_vault::error(404) });
    assert_eq!(ask(&shrinking).await.unwrap().unwrap().current.len(), 1000);

    for reply in [
        || Reply::Answer(200, r#"{"data":{"keys":["canary"#.to_owned()),
        || fake_vault::data(&json!({"keys": ["canary"]})),
        || fake_vault::data(&json!({"keys": "canary"})),
    ] {
        let error = ask(&false_pages(move |_| reply())).await.unwrap_err();
        assert!(matches!(error, Error::Malformed(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
    for status in [400, 429, 500, 503] {
        let error = ask(&false_pages(move |_| fake_vault::error(status))).await.unwrap_err();
        assert_eq!(error, Error::Status(status), "not an answer, so nothing is learned");
    }
}

#[tokio::test]
async fn a_write_between_two_questions_does_not_make_a_server_one_that_cannot() {
    let bao = Bao::start();
    bao.put("dir/a", &json!({"k": "canary"}));
    let vault = at(&bao);
    told(&vault, "secret/dir").await;
    bao.set_details(Details::Unknown);
    assert_eq!(vault.versions(&path("secret/dir")).await.unwrap(), None);
    bao.set_details(Details::Given);
    assert_eq!(shown(&told(&vault, "secret/dir").await), ["a 1"]);
}

#[tokio::test]
async fn each_page_has_the_deadline_for_itself() {
    let bao = Bao::start();
    for number in 0..4500 {
        bao.put(&format!("slow/s{number:04}"), &json!({"k": "canary"}));
    }
    bao.delay(Duration::from_millis(500));
    let limit = Duration::from_secs(2);
    let vault = build(Config { deadline: limit, ..config(&bao.address(), ROOT_TOKEN) }).unwrap();
    let hang = Instant::now() + Duration::from_secs(60);
    let versions = loop {
        match vault.versions(&path("secret/slow")).await {
            Ok(versions) => break versions.unwrap(),
            // A busy machine.
            Err(error) => assert_eq!(error, Error::TimedOut(limit)),
        }
        assert!(Instant::now() < hang);
    };
    assert_eq!((versions.current.len(), versions.requests), (4500, 5));
    bao.suffer(Some(|| Reply::Silence));
    assert_eq!(vault.versions(&path("secret/slow")).await.unwrap_err(), Error::TimedOut(limit));
    bao.suffer(None);
    bao.stop();
    let error = vault.versions(&path("secret/slow")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    bao.resume();
    while vault.versions(&path("secret/slow")).await.is_err() {
        assert!(Instant::now() < hang, "it never comes back");
    }
}
