//! Owns what is logged: standard error, filtered by SECRETFS_LOG.
//! Does not know what anybody says.

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Without SECRETFS_LOG: what we say from INFO up, of libraries warnings only. rustify and vaultrs report every answer of
/// 404 and 403 as an error, with words of the server in it; fuser warns when somebody else unmounted, which we say ourselves.
const DEFAULT: &str = "warn,secretfs=info,fuser=error,rustify=off,vaultrs=off";

/// Starts logging. SECRETFS_LOG takes tracing's filter syntax (`debug`, `secretfs::cache=trace`). Whatever it says,
/// libraries are heard from INFO up only: at DEBUG and TRACE, HTTP and TLS crates print what they send and receive.
pub(super) fn start() {
    let asked = std::env::var("SECRETFS_LOG").unwrap_or_default();
    let filter = EnvFilter::try_new(if asked.is_empty() { DEFAULT } else { &asked });
    let wrong = filter.is_err() || silences_by_mistake(&asked);
    let filter = filter.ok().filter(|_| !wrong).unwrap_or_else(|| EnvFilter::new(DEFAULT));
    let ours = filter_fn(|event| {
        let target = event.target();
        let own = target == "secretfs" || target.starts_with("secretfs::");
        let quiet = target.starts_with("rustify") || target.starts_with("vaultrs");
        own || (!quiet && *event.level() <= Level::INFO)
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(ours);
    tracing_subscriber::registry().with(filter).with(lines).init();
    if wrong {
        tracing::warn!(
            "SECRETFS_LOG is not a filter that tracing understands: write it like `info,secretfs=debug`"
        );
    }
}

/// A word alone that is no level is the name of a crate to tracing, which then hears that crate and nothing else: `inof`
/// would be silence.
fn silences_by_mistake(filter: &str) -> bool {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let known = |word: &str| {
        levels.iter().any(|level| level.eq_ignore_ascii_case(word))
            || word.starts_with("secretfs")
            || word.contains(['=', '[', ':'])
            || word.parse::<usize>().is_ok()
    };
    filter.split(',').map(str::trim).any(|word| !word.is_empty() && !known(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_told_from_a_filter() {
        for good in [
            "",
            "info",
            "WARN",
            "secretfs",
            "warn,secretfs::cache=trace",
            "off",
            "[{path}]=debug",
            "hyper=info",
        ] {
            assert!(!silences_by_mistake(good), "{good}");
        }
        for bad in ["inof", "loud", "warn,secretf"] {
            assert!(silences_by_mistake(bad), "{bad}");
        }
    }
}
