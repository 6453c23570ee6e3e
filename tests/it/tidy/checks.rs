//! Owns the proof that the rules can fail: for each a snippet that breaks it, and one that does not.
//! Does not know the real house.

use super::{File, House, bare_dependencies, faults, idle_exceptions};

const HEAD: &str = "//! Owns x.\n//! Does not know y.\n";

fn house() -> House {
    let names = |text: &str| text.split(' ').map(str::to_owned).collect();
    House {
        order: names("cli daemon fuse fs cache backend clock secret"),
        backends: names("aws store vault"),
    }
}

/// What is said of a file at `path` that holds `body` from its third line on.
fn said(path: &str, body: &str) -> Vec<String> {
    faults(&house(), &File { path: path.to_owned(), text: format!("{HEAD}{body}") })
}

fn is_refused(path: &str, body: &str, why: &str) {
    let said = said(path, body);
    let place = format!("{path}:");
    assert!(
        said.iter().any(|fault| fault.starts_with(&place) && fault.contains(why)),
        "{path}: {body}: {said:?}"
    );
}

fn is_fine(path: &str, body: &str) {
    assert_eq!(said(path, body), Vec::<String>::new(), "{path}: {body}");
}

#[test]
fn an_import_up_the_list_is_refused_however_it_is_spelled() {
    for body in [
        "use crate::fuse::Mounted;",
        "use crate::{cache::Slot, fuse::Mounted};",
        "use crate::{\n    cache,\n    daemon::{self, Plan},\n};",
        "fn f() { crate::cli::run() }",
        "pub use super::super::fuse::Adapter;",
        "mod inner { use super::super::super::fuse; }",
        "use crate::fuse;",
        "#[cfg(test)]\nmod tests { use crate::daemon::serve; }",
        "impl From<crate::cli::Failure> for F {}",
    ] {
        is_refused("src/fs/resolve.rs", body, "never up");
    }
    is_refused("src/clock.rs", "use super::backend;", "the ground imports only ground");
    is_refused("src/secret.rs", "use crate::clock::Clock;", "the ground imports only ground");
    is_refused("src/fs/mod.rs", "use crate as c;", "names the whole crate");
    is_refused("src/fs/mod.rs", "use super::*;", "names the whole crate");
    is_refused("src/fs/mod.rs", "use crate::nowhere::X;", "lists no module `nowhere`");
    is_refused("src/fs/mod.rs", "extern crate secretfs as s;", "hides imports");
    is_refused("src/main.rs", "use secretfs::daemon;", "command line only");
}

#[test]
fn an_import_down_the_list_or_within_a_module_is_fine() {
    for body in [
        "use crate::{backend::{self, Error}, cache::Slot, clock};",
        "use super::{SecretFs, handles::Handle};",
        "use super::super::cache;",
        "mod inner { use super::super::SecretFs; pub(in crate::fs) struct X; }",
        "/// [`crate::daemon`] and \"crate::cli\"\nconst A: &str = \"crate::fuse::X\"; // crate::fuse",
        "pub(crate) struct A; pub(super) fn b() {}",
        "use std::{sync::Arc, fmt};",
    ] {
        is_fine("src/fs/resolve.rs", body);
    }
    is_fine("src/main.rs", "fn main() { secretfs::cli::run() }");
    is_fine("src/clock.rs", "use super::secret;");
}

#[test]
fn a_backend_that_imports_another_is_refused() {
    is_refused("src/backend/aws/mod.rs", "use crate::backend::vault::Vault;", "knows no other");
    is_refused("src/backend/store/key.rs", "use super::super::{Error, aws::Aws};", "knows no other");
    is_refused("src/backend/json_fields.rs", "use super::vault;", "knows no other");
    is_fine("src/backend/aws/mod.rs", "use super::{Backend, Error, json_fields::fields}; use self::name::N;");
    is_fine("src/backend/mod.rs", "use self::aws::Aws;");
    is_fine("src/daemon/mod.rs", "use crate::backend::{aws::Aws, vault};");
}

#[test]
fn a_crate_outside_its_home_is_refused() {
    for (path, body) in [
        ("src/fs/mod.rs", "use fuser::ReplyAttr;"),
        ("src/fs/mod.rs", "use {std::fmt, fuser::FileAttr};"),
        ("src/fs/mod.rs", "use fuser;"),
        ("src/fs/mod.rs", "fn f(e: ::fuser::Errno) {}"),
        ("src/backend/aws/mod.rs", "use vaultrs::client::Client;"),
        ("src/daemon/mod.rs", "fn f() -> reqwest::Client {}"),
        ("src/daemon/mod.rs", "use rustify as r;"),
        ("src/backend/vault/mod.rs", "use aws_sdk_secretsmanager::Client;"),
        ("src/cache/mod.rs", "use age::Decryptor;"),
        ("src/fs/mod.rs", "use moka::sync::Cache;"),
        ("src/daemon/mod.rs", "#[derive(clap::Args)] struct A;"),
    ] {
        is_refused(path, body, "outside src/");
    }
    is_fine("src/fuse/mount.rs", "use fuser::Session;");
    is_fine(
        "src/cache/mod.rs",
        "use moka::future::Cache; fn f(age: u8) { age.max(1); x.age::<u8>(); a::age::b() }",
    );
    is_fine("tests/it/x.rs", "use fuser::Session;");
}

#[test]
fn what_no_file_may_do_is_refused() {
    for (body, why) in [
        ("fn f() { unsafe { g() } }", "`unsafe`"),
        ("#[allow(clippy::unwrap_used)]\nfn f() {}", "allows what may panic"),
        ("#![allow(dead_code, clippy::panic)]", "allows what may panic"),
        ("#[expect(clippy::expect_used, reason = \"x\")]\nfn f() {}", "allows what may panic"),
        ("#[cfg_attr(unix, allow(unsafe_code))]\nfn f() {}", "allows what may panic"),
        ("fn f() { tokio::spawn(async {}); }", "nobody waits for"),
        ("fn f() { std::thread::spawn(|| ()); }", "nobody waits for"),
        ("fn f(r: Handle) { r.spawn_blocking(g) }", "nobody waits for"),
        ("fn f() { println!(\"x\") }", "prints where it stands"),
        ("fn f() { std::eprintln!(\"x\") }", "prints where it stands"),
        ("fn f() { dbg!(1); }", "prints where it stands"),
        ("fn f() { libc::EIO }", "errno table"),
        ("use libc::{c_int, ENOENT};", "errno table"),
    ] {
        is_refused("src/fs/mod.rs", body, why);
    }
    is_refused("tests/it/x.rs", "fn f() { unsafe {} }", "`unsafe`");
    for body in [
        "#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod tests { fn f() { tokio::spawn(g()); println!() } }",
        "#[allow(clippy::type_complexity)]\nfn f() { x.expect(panic) }",
        "fn spawn() {} fn f() { let spawn = 1; libc::O_RDONLY; libc::SIGTERM }",
        "// unsafe { println!() }\nconst A: &str = \"unsafe dbg!()\";",
    ] {
        is_fine("src/fs/mod.rs", body);
    }
    is_fine("src/fs/tests.rs", "#![allow(clippy::unwrap_used)]\nfn f() { tokio::spawn(g()); }");
    is_fine("src/errno.rs", "use libc::EIO;");
}

#[test]
fn a_fault_says_its_line() {
    let said = said("src/fs/mod.rs", "/* a\n b */ const A: &str = \"\n\";\nuse crate::fuse::X;");
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("src/fs/mod.rs:6: "), "{said:?}");
}

#[test]
fn a_file_says_what_it_owns_and_is_not_long() {
    for text in ["", "//! Something.\n//! Does not know y.\n", "//! Owns x.\nuse std::fmt;\n"] {
        let file = File { path: "src/fs/mod.rs".into(), text: text.into() };
        assert!(!faults(&house(), &file).is_empty(), "{text}");
    }
    is_fine("src/fs/mod.rs", &"\n".repeat(498));
    is_refused("src/fs/mod.rs", &"\n".repeat(499), "longer than 500 lines");
    is_refused("tests/it/x.rs", &"\n".repeat(499), "longer than 500 lines");
}

#[test]
fn a_dependency_without_a_reason_is_refused() {
    let good = "[package]\nname = \"x\"\n[dependencies]\n# why\na = \"1\"\n# why\nb = { version = \"1\" }\n\n[dev-dependencies]\n# why\nc = \"1\"\n# why\n[dependencies.d]\nversion = \"1\"\n[lints.rust]\nx = \"deny\"\n";
    assert_eq!(bare_dependencies(good), Vec::<String>::new());
    let bad = "[dependencies]\n# why\na = \"1\"\nb = \"1\"\n\n[target.'cfg(unix)'.dev-dependencies]\nc = \"1\"\n\n[dependencies.d]\n";
    let said = bare_dependencies(bad);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("Cargo.toml:4: "), "{said:?}");
}

#[test]
fn an_exception_that_is_not_needed_is_refused() {
    let file = File { path: "src/daemon/worker/parts.rs".into(), text: format!("{HEAD}fn f() {{}}") };
    assert!(idle_exceptions(&[file]).iter().any(|fault| fault.starts_with("src/daemon/worker/parts.rs: ")));
}
