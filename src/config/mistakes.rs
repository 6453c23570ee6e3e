//! Owns the wording of every message: file, line, key, and what to do.
//! Does not know what a good file becomes (tests.rs).

use super::tests::{SMALLEST, errors, write};
use super::*;

/// The mistakes of a file that begins with the five lines of [`SMALLEST`].
fn errors_after(more: &str) -> String {
    errors(&format!("{SMALLEST}{more}"))
}

#[test]
fn mistakes_have_line_key_and_what_to_do() {
    for (more, expected) in [
        ("[mount]\nttll = \"1s\"", "config.toml:7: unknown key `ttll` in [mount]; did you mean `ttl`?"),
        (
            "[backend.b]\ntype = \"vault\"\nadress = \"canary\"",
            "config.toml:8: unknown key `adress` in [backend.b]; did you mean `address`?",
        ),
        (
            "[backend.b]\ntype = \"aws\"\ntoken_file = \"canary\"",
            "config.toml:8: unknown key `token_file` in [backend.b]; \
             valid here: `type`, `region`, `profile`, `endpoint_url`",
        ),
        ("[mounts]", "config.toml:6: unknown table `mounts` in the file; did you mean `mount`?"),
        (
            "[other]\nx = 1",
            "config.toml:6: unknown table `other` in the file; valid here: `mount`, `backend`, `tree`, `secret`, `freshness`, `hook`",
        ),
        (
            "[mount]\nttl = 60",
            "config.toml:7: `ttl` in [mount]: expected a duration such as \"60s\" or \"1h 30m\", found an integer",
        ),
        (
            "[mount]\nttl = \"canary\"",
            "config.toml:7: `ttl` in [mount]: expected a duration such as \"60s\" or \"1h 30m\"",
        ),
        (
            "[mount]\ndeadline = \"0s\"",
            "config.toml:7: `deadline` in [mount]: expected a duration longer than zero and at most 365 days",
        ),
        (
            "[mount]\nmax_cache = \"64MB\"",
            "config.toml:7: `max_cache` in [mount]: expected a size such as \"64MiB\" \
             (units B, KiB, MiB, GiB), at least one byte",
        ),
        (
            "[mount]\nmax_value_size = \"65MiB\"",
            "config.toml:7: `max_cache` in [mount]: this is below `max_value_size`; make it at least as large",
        ),
        (
            "[mount]\nmax_in_flight = 0",
            "config.toml:7: `max_in_flight` in [mount]: expected a whole number from 1 to 65536",
        ),
        (
            "[mount]\nallow_other = 1",
            "config.toml:7: `allow_other` in [mount]: expected true or false, found an integer",
        ),
        (
            "[mount]\nmode = 400",
            "config.toml:7: `mode` in [mount]: expected octal digits in quotes, at most \"0777\", \
             such as \"0400\", found an integer",
        ),
        (
            "[mount]\nmode = \"0640\"",
            "config.toml:7: `mode` in [mount]: the mount is read-only and nothing in it can be run; use \"0440\"",
        ),
        (
            "[mount]\nuid = \"no-canary-user\"",
            "config.toml:7: `uid` in [mount]: there is no user of this name on this system; create it or give its number",
        ),
        (
            "[mount]\ngid = -1",
            "config.toml:7: `gid` in [mount]: expected a group by name or number, such as \"app\" or 1000",
        ),
        (
            "[mount]\nmountpoint = \"~/secrets\"",
            "config.toml:7: `mountpoint` in [mount]: `~` is not replaced here; write the whole path",
        ),
        (
            "[mount]\nmountpoint = \"\"",
            "config.toml:7: `mountpoint` in [mount]: this is empty; give a value, or remove the key",
        ),
        (
            "[backend.b]\ntype = \"vault\"\nnamespace = \"a\\nX-Evil: canary\"",
            "config.toml:8: `namespace` in [backend.b]: control characters (such as a line break) are not allowed; remove them",
        ),
        (
            "[backend.b]\ntype = \"vault\"\naddress = \"vault.example:8200\"",
            "config.toml:8: `address` in [backend.b]: expected a URL such as \"https://vault.example:8200\"",
        ),
        (
            "[backend.b]\ntype = \"vault\"\naddress = \"https://user:canary@vault.example\"",
            "config.toml:8: `address` in [backend.b]: expected a URL such as \"https://vault.example:8200\"",
        ),
        (
            "[backend.b]\ntype = \"vualt\"",
            "config.toml:7: `type` in [backend.b]: expected one of `vault`, `aws`, `store`; did you mean `vault`?",
        ),
        ("[backend.b]", "config.toml:6: missing key `type` in [backend.b]; add it"),
        ("[backend.b]\ntype = \"store\"", "config.toml:6: missing key `file` in [backend.b]; add it"),
        (
            "[backend.\"a/b\"]\ntype = \"aws\"",
            "config.toml:6: [backend.a/b]: a backend's name is made of letters, digits, `-` and `_`; rename it",
        ),
        (
            "[[tree]]\npath = \"/\"\nbackend = \"prod\"",
            "config.toml:7: `path` in [[tree]]: this is the same as the path of the tree in line 4; choose another",
        ),
        (
            "[[tree]]\npath = \"/a\"\nbackend = \"prod\"",
            "config.toml:7: `path` in [[tree]]: this lies inside the path of the tree in line 4; choose another",
        ),
    ] {
        assert_eq!(errors_after(more), expected);
    }
}

#[test]
fn trees_must_be_apart_and_have_a_backend() {
    let backend = "[backend.prod]\ntype = \"vault\"\n";
    let tree = |path: &str, backend: &str| format!("[[tree]]\npath = \"{path}\"\nbackend = \"{backend}\"\n");
    assert_eq!(
        errors(&format!("{backend}{}{}", tree("/a/b", "prod"), tree("/a", "prod"))),
        "config.toml:7: `path` in [[tree]]: this contains the path of the tree in line 4; choose another"
    );
    assert!(
        parse(&format!("{backend}{}{}", tree("/a/b", "prod"), tree("/a/bc", "prod")), Path::new("c")).is_ok()
    );
    assert_eq!(
        errors(&format!("{backend}{}", tree("/a", "prd"))),
        "config.toml:5: `backend` in [[tree]]: the file has no [backend.NAME] of this name; did you mean `prod`?"
    );
    assert_eq!(
        errors(&format!("{backend}{}", tree("/a", "canary"))),
        "config.toml:5: `backend` in [[tree]]: the file has no [backend.NAME] of this name; valid here: `prod`"
    );
    assert_eq!(
        errors(&format!("{backend}{}", tree("/a/../b", "prod"))),
        "config.toml:4: `path` in [[tree]]: expected a path such as \"/db\" (\"/\" is the whole mount), \
         without empty, `.` or `..` segments"
    );
    assert_eq!(
        errors(&format!("{backend}[tree]\npath = \"/\"\n")),
        "config.toml:3: `tree`: expected [[tree]] (two brackets on each side), found a table"
    );
    assert_eq!(
        errors(backend),
        "config.toml:1: missing table [[tree]] or [[secret]]; add one with `path` and `backend`"
    );
    assert_eq!(
        errors("tree = []\n[backend.b]\ntype = \"aws\"\n"),
        "config.toml:1: `tree` is empty; add a [[tree]] with `path` and `backend`"
    );
    assert_eq!(
        errors("[[tree]]\nsource = \"x\"\n"),
        "config.toml:1: missing table [backend.NAME]; add one with `type = \"vault\"`, \"aws\" or \"store\"\n\
         config.toml:1: missing key `path` in [[tree]]; add it\n\
         config.toml:1: missing key `backend` in [[tree]]; add it"
    );
}

#[test]
fn tables_of_the_wrong_shape_are_told() {
    assert_eq!(
        errors_after("[mount]\n[backend]\ntype = \"aws\"\n"),
        "config.toml:8: unknown key `type` in [backend]; write [backend.NAME], with a name of your choice"
    );
    assert_eq!(
        errors(&format!("mount = \"canary\"\n{SMALLEST}")),
        "config.toml:1: `mount`: expected a table [mount], found a string"
    );
    assert_eq!(
        errors("backend = 1\n[[tree]]\npath = \"/\"\nbackend = \"b\"\n"),
        "config.toml:1: `backend`: expected tables [backend.NAME], found an integer\n\
         config.toml:4: `backend` in [[tree]]: the file has no [backend.NAME] of this name; add one"
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    assert_eq!(
        errors_after("[mount]\nttl = \"canary\"\nmodee = \"0400\"\n[backend.b]\ntype = \"canary\"\n"),
        "config.toml:7: `ttl` in [mount]: expected a duration such as \"60s\" or \"1h 30m\"\n\
         config.toml:8: unknown key `modee` in [mount]; did you mean `mode`?\n\
         config.toml:10: `type` in [backend.b]: expected one of `vault`, `aws`, `store`; valid here: `vault`, `aws`, `store`"
    );
}

#[test]
fn what_is_no_toml_is_told_with_line_and_column_but_without_the_line() {
    for (text, expected) in [
        (
            "[mount]\nttl = canary\n",
            "config.toml:2:7: this is not TOML: string values must be quoted, expected literal string",
        ),
        ("[mount]\ncanary\n", "config.toml:2:7: this is not TOML: key with no value, expected `=`"),
        ("[mount]\nttl = \"1s\"\nttl = \"2s\"\n", "config.toml:3:1: this is not TOML: duplicate key"),
        (
            "[mount]\nttl = \"canary\n",
            "config.toml:2:14: this is not TOML: invalid basic string, expected `\"`",
        ),
    ] {
        assert_eq!(errors(text), expected);
    }
}

#[test]
fn files_that_are_named_must_be_there_and_safe() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    write(folder.path(), "open", 0o622);
    write(folder.path(), "store.age", 0o666);
    let told = |lines: &str| {
        std::fs::write(&config, format!("{SMALLEST}{lines}")).unwrap();
        load(&config).unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    assert_eq!(
        told("[backend.b]\ntype = \"vault\"\ntoken_file = \"canary\"\nca_cert = \"open/x\"\n"),
        "config.toml:8: `token_file` in [backend.b]: there is no such file (relative paths start at this file's folder)\n\
         config.toml:9: `ca_cert` in [backend.b]: there is no such file (relative paths start at this file's folder)"
    );
    assert_eq!(
        told("[backend.b]\ntype = \"vault\"\ntoken_file = \"open\"\n"),
        "config.toml:8: `token_file` in [backend.b]: users other than its owner can write the file; run `chmod go-w` on it"
    );
    assert_eq!(
        told(
            "[backend.b]\ntype = \"store\"\nfile = \"canary\"\nidentity = \".\"\npassphrase_file = \"open\"\n"
        ),
        "config.toml:8: `file` in [backend.b]: there is no such file (relative paths start at this file's folder); make it with `secretfs store init`\n\
         config.toml:9: `identity` in [backend.b]: this is a folder, not a file\n\
         config.toml:10: `passphrase_file` in [backend.b]: users other than its owner can write the file; run `chmod go-w` on it\n\
         config.toml:10: `passphrase_file` in [backend.b]: a store has an `identity` or a passphrase; remove one of the two"
    );
    // the store itself is encrypted and holds no credential: others may write it
    std::fs::write(&config, format!("{SMALLEST}[backend.b]\ntype = \"store\"\nfile = \"store.age\"\n"))
        .unwrap();
    assert!(load(&config).is_ok());
}

#[test]
fn the_configuration_file_itself_must_be_there_safe_and_text() {
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str| {
        load(&folder.path().join(name))
            .unwrap_err()
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    };
    assert_eq!(told("none.toml"), "none.toml: there is no such file; give the path of a configuration file");
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    assert_eq!(told("sub"), "sub: this is a folder, not a file; give the path of a configuration file");
    let shown = write(folder.path(), "open.toml", 0o664).display().to_string();
    let text = load(Path::new(&shown)).unwrap_err().problems[0].text.clone();
    assert_eq!(text, format!("users other than its owner can write the file; run `chmod go-w {shown}`"));
    std::fs::write(folder.path().join("latin.toml"), b"[mount]\nttl = \"\xe4canary\"\n").unwrap();
    assert_eq!(told("latin.toml"), "latin.toml:2: this is not UTF-8 text; save the file as UTF-8");
    std::fs::write(folder.path().join("big.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        told("big.toml"),
        "big.toml: the file is larger than 1 MiB, so it is no configuration; give another"
    );
}
