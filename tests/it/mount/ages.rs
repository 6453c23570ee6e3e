//! Owns the promises about how old a value may be: said of the mount, of a tree, of a pattern, and on the command line.

use std::time::Duration;

use super::configuration;
use crate::support::available;
use crate::support::mount::{Mount, Store, possible};

/// How long a secret may be served from when it was fetched, as its mount says itself.
fn age(mount: &Mount, secret: &str) -> Duration {
    let time = |name: &str| {
        let mut value = [0; 64];
        let path = mount.path(&format!("{secret}/value"));
        let length = rustix::fs::getxattr(path, format!("user.secretfs.{name}"), &mut value).unwrap();
        humantime::parse_rfc3339(std::str::from_utf8(&value[..length]).unwrap()).unwrap()
    };
    time("expires").duration_since(time("fetched")).unwrap()
}

#[test]
fn the_most_precise_word_on_an_age_counts_and_the_command_line_stands_in_for_the_mount() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    for path in ["a/x", "a/slow/x", "b/x", "b/fast"] {
        store.put(path, &["value=canary"]);
    }
    let trees = "
        [[tree]]
        path = \"/a\"
        source = \"a\"
        backend = \"local\"
        [[tree]]
        path = \"/b\"
        source = \"b\"
        backend = \"local\"
        ttl = \"200s\"
        [[tree]]
        path = \"/all\"
        backend = \"local\"
        ttl = \"1h\"
        [[freshness]]
        path = \"/a/slow/*\"
        ttl = \"300s\"
        [[freshness]]
        path = \"/{b,c}/fast/value\"
        ttl = \"5s\"
        ";
    let config = configuration(&store, "ttl = \"100s\"\nmax_stale = 0", trees);
    for (arguments, of_mount) in [
        (vec![], 100),
        (vec!["--ttl", "50s", "--max-stale", "0"], 50),
        (vec!["-o", "ttl=70s,max_stale=0s"], 70),
        (vec!["-o", "ttl=70s", "--ttl", "80s"], 80),
    ] {
        let mut plan = Mount::of("").arg("--config").arg(&config);
        for argument in arguments {
            plan = plan.arg(argument);
        }
        let mount = plan.start();
        for (secret, seconds) in [("a/x", of_mount), ("a/slow/x", 300), ("b/x", 200), ("b/fast", 5)] {
            let expected = Duration::from_secs(seconds);
            assert_eq!(age(&mount, secret), expected, "{secret}");
            // the same secret, so the same answer
            assert_eq!(age(&mount, &format!("all/{secret}")), expected, "{secret} in all");
        }
    }
}
