//! Owns the checks of a login: what a good one becomes, and the wording of every mistake.
//! Does not know how a login is made.

use std::path::Path;

use super::*;
use crate::config::tests::write;
use crate::config::{BackendSettings, load};

/// What becomes of a file whose backend, from line 3 on, has these lines; its folder is not shown.
fn read(lines: &str) -> Result<LoginSettings, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, mode) in [("token", 0o600), ("role", 0o600), ("id", 0o600), ("open", 0o622)] {
        write(folder.path(), name, mode);
    }
    let file = folder.path().join("config.toml");
    let text =
        format!("[backend.prod]\ntype = \"vault\"\n{lines}\n[[tree]]\npath = \"/\"\nbackend = \"prod\"\n");
    std::fs::write(&file, text).unwrap();
    match load(&file) {
        Ok(loaded) => {
            let [(_, BackendSettings::Vault { login, .. })] = &loaded.settings.backends[..] else {
                panic!("not one backend")
            };
            Ok(inside(login.clone(), folder.path()))
        }
        Err(invalid) => {
            Err(invalid.to_string().replace(&format!("{}/config.toml:", folder.path().display()), ""))
        }
    }
}

/// The same with paths relative to `folder`.
fn inside(login: LoginSettings, folder: &Path) -> LoginSettings {
    let short = |path: PathBuf| path.strip_prefix(folder).unwrap().to_owned();
    match login {
        LoginSettings::Token { file } => LoginSettings::Token { file: file.map(short) },
        LoginSettings::AppRole(AppRole { mount, role_id, secret_id }) => LoginSettings::AppRole(AppRole {
            mount,
            role_id: match role_id {
                RoleId::File(file) => RoleId::File(short(file)),
                literal @ RoleId::Literal(_) => literal,
            },
            secret_id: secret_id.map(|id| SecretId { file: short(id.file), wrapped: id.wrapped }),
        }),
    }
}

#[test]
fn every_login_is_read() {
    let token = |file: Option<&str>| Ok(LoginSettings::Token { file: file.map(PathBuf::from) });
    assert_eq!(read(""), token(None));
    assert_eq!(read("auth = \"token\""), token(None));
    assert_eq!(read("auth = \"token\"\ntoken_file = \"token\""), token(Some("token")));
    let approle = |mount: &str, role_id, secret_id: Option<(&str, bool)>| {
        let secret_id = secret_id.map(|(file, wrapped)| SecretId { file: file.into(), wrapped });
        Ok(LoginSettings::AppRole(AppRole { mount: mount.into(), role_id, secret_id }))
    };
    let literal = || RoleId::Literal("r-1".into());
    assert_eq!(read("auth = \"approle\"\nrole_id = \"r-1\""), approle("approle", literal(), None));
    assert_eq!(
        read("auth = \"approle\"\nrole_id = \"r-1\"\nsecret_id_file = \"id\""),
        approle("approle", literal(), Some(("id", false)))
    );
    assert_eq!(
        read(
            "auth = \"approle\"\nauth_mount = \"/team/machines/\"\nrole_id_file = \"role\"\nsecret_id_file = \"id\"\nsecret_id_wrapped = true"
        ),
        approle("team/machines", RoleId::File("role".into()), Some(("id", true)))
    );
}

#[test]
fn mistakes_have_line_key_and_what_to_do() {
    let label = "in [backend.prod]";
    let goes_with = format!("{label}: this goes with `auth = \"approle\"`; add that, or remove this");
    let approle = "auth = \"approle\"\n";
    let role = format!("{approle}role_id = \"canary\"\n");
    for (lines, expected) in [
        (
            "auth = \"aprole\"".into(),
            format!("3: `auth` {label}: expected one of `token`, `approle`; did you mean `approle`?"),
        ),
        (
            "auth = \"canary-kubernetes\"\nrole_id = \"canary\"".into(),
            format!("3: `auth` {label}: expected one of `token`, `approle`; valid here: `token`, `approle`"),
        ),
        ("auth_mount = \"canary\"".into(), format!("3: `auth_mount` {goes_with}")),
        ("role_id = \"canary\"".into(), format!("3: `role_id` {goes_with}")),
        ("role_id_file = \"role\"".into(), format!("3: `role_id_file` {goes_with}")),
        ("auth = \"token\"\nsecret_id_file = \"id\"".into(), format!("4: `secret_id_file` {goes_with}")),
        ("secret_id_wrapped = true".into(), format!("3: `secret_id_wrapped` {goes_with}")),
        (
            approle.into(),
            "1: [backend.prod]: `auth = \"approle\"` needs to know the role; add `role_id` or `role_id_file`"
                .into(),
        ),
        (
            format!("{role}role_id_file = \"role\""),
            format!(
                "5: `role_id_file` {label}: the role is in `role_id` or in a file; remove one of the two"
            ),
        ),
        (
            format!("{role}token_file = \"token\""),
            format!(
                "5: `token_file` {label}: with `auth = \"approle\"` a login gives the token; remove one of the two"
            ),
        ),
        (
            format!("{role}secret_id_wrapped = true"),
            format!(
                "5: `secret_id_wrapped` {label}: this goes with `secret_id_file`; add that, or remove this"
            ),
        ),
        (
            format!("{role}secret_id_file = \"open\""),
            format!(
                "5: `secret_id_file` {label}: users other than its owner can write the file; run `chmod go-w` on it"
            ),
        ),
        (
            format!("{role}secret_id_file = \"canary\""),
            format!(
                "5: `secret_id_file` {label}: there is no such file (relative paths start at this file's folder)"
            ),
        ),
        (
            format!("{approle}role_id_file = \"open\""),
            format!(
                "4: `role_id_file` {label}: users other than its owner can write the file; run `chmod go-w` on it"
            ),
        ),
        (
            format!("{role}auth_mount = \"auth/canary\""),
            format!(
                "5: `auth_mount` {label}: expected where the auth method is mounted, such as \"approle\", without `auth/` in front"
            ),
        ),
    ] {
        assert_eq!(read(&lines).unwrap_err(), expected);
    }
}
