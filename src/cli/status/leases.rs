//! Owns how `secretfs status` shows leases to people.
//! Does not know how a mount knows them; it is given what has no value in it.

use std::time::{Duration, SystemTime};

use super::{age, table};
use crate::control::leases::{LeaseLine, LeaseList};
use crate::printable::printable;

/// How many there are, and of how many.
pub(super) fn totals(list: &LeaseList) -> String {
    let several = list.totals.len() > 1;
    let total = list.totals.iter().map(|total| {
        let mut text = format!("{} of {} held", total.held, total.max_leases);
        if several {
            text.push_str(&format!(" of {}", total.backend));
        }
        if total.held >= total.max_leases {
            text.push_str(" (no more can be opened: `max_leases`)");
        }
        if total.set_aside > 0 {
            text.push_str(&format!(", {} set aside", total.set_aside));
        }
        text
    });
    total.collect::<Vec<_>>().join("; ")
}

/// A line for each; nothing where there is none.
pub(super) fn rows(text: &mut String, list: &LeaseList, now: SystemTime) {
    if list.leases.is_empty() {
        return;
    }
    let with_ids = list.leases.iter().any(|lease| lease.id.is_some());
    let mut heads = vec!["PATH", "MADE BY", "AGE", "ENDS IN", "NEXT", "FAILED", "PREVIOUS", "STATE"];
    heads.extend(with_ids.then_some("LEASE"));
    let lines = list.leases.iter().map(|lease| {
        let mut line = vec![
            lease.paths.first().map(|path| printable(path)).unwrap_or_default(),
            printable(&made_by(lease)),
            age(&lease.made, now).unwrap_or_default(),
            lease.ends.as_ref().map_or_else(|| "never".to_owned(), |end| left(end, now)),
            next(lease),
            lease.failures.to_string(),
            if lease.previous { "yes" } else { "no" }.to_owned(),
            if lease.good { "good" } else { "ended" }.to_owned(),
        ];
        if with_ids {
            line.push(lease.id.as_ref().map(|id| printable(&id.0)).unwrap_or_default());
        }
        line
    });
    table(text, &heads, lines, list.left_out);
}

fn made_by(lease: &LeaseLine) -> String {
    let mut text = format!("{}:{}", lease.backend, lease.backend_path);
    if lease.demand != 0 {
        text.push_str(&format!(" (#{})", lease.demand));
    }
    text
}

/// In what time, to the second.
fn left(end: &str, now: SystemTime) -> String {
    let Ok(end) = humantime::parse_rfc3339(end) else { return String::new() };
    seconds(end.duration_since(now).unwrap_or_default())
}

fn next(lease: &LeaseLine) -> String {
    let next = printable(&lease.next);
    match lease.next_in_seconds {
        None => "nothing".to_owned(),
        Some(_) if next.starts_with("being ") => next,
        Some(wait) => {
            let wait = Duration::try_from_secs_f64(wait).unwrap_or_default();
            if wait < Duration::from_secs(1) {
                format!("{next} now")
            } else {
                format!("{next} in {}", seconds(wait))
            }
        }
    }
}

fn seconds(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::leases::{LeaseTotal, ShownId};
    use crate::control::status::spelled;

    fn lease(then: SystemTime) -> LeaseLine {
        LeaseLine {
            paths: vec!["db/app\u{1b}".into(), "b".into()],
            backend: "vault".into(),
            backend_path: "database/creds/app".into(),
            role: "app".into(),
            demand: 0,
            made: spelled(then),
            ends: Some(spelled(then + Duration::from_secs(100))),
            next: "renew".into(),
            next_in_seconds: Some(12.4),
            failures: 0,
            previous: false,
            good: true,
            id: None,
        }
    }

    fn shown(leases: Vec<LeaseLine>, left_out: usize) -> String {
        let mut text = String::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(41);
        rows(&mut text, &LeaseList { totals: vec![], leases, left_out }, now);
        text
    }

    #[test]
    fn each_lease_is_told_with_what_is_done_next_and_drives_no_terminal() {
        let plain = lease(SystemTime::UNIX_EPOCH);
        let failing = LeaseLine {
            paths: vec!["x".into()],
            demand: 2,
            next: "replace".into(),
            next_in_seconds: Some(240.0),
            failures: 3,
            previous: true,
            ..plain.clone()
        };
        let ended = LeaseLine { next_in_seconds: Some(0.2), good: false, ..failing.clone() };
        let busy = LeaseLine { next: "being replaced".into(), ..ended.clone() };
        let endless = LeaseLine { ends: None, next: "forget".into(), next_in_seconds: None, ..plain.clone() };
        let expected = "  PATH          MADE BY                        AGE  ENDS IN  NEXT            FAILED  PREVIOUS  STATE
  db/app\\u{1b}  vault:database/creds/app       41s  59s      renew in 12s    0       no        good
  x             vault:database/creds/app (#2)  41s  59s      replace in 4m   3       yes       good
  x             vault:database/creds/app (#2)  41s  59s      replace now     3       yes       ended
  x             vault:database/creds/app (#2)  41s  59s      being replaced  3       yes       ended
  db/app\\u{1b}  vault:database/creds/app       41s  never    nothing         0       no        good
  and 7 more
";
        assert_eq!(shown(vec![plain, failing, ended, busy, endless], 7), expected);
        assert_eq!(shown(vec![], 0), "");
    }

    #[test]
    fn what_the_backend_calls_a_lease_is_shown_only_where_it_was_asked_for_and_never_in_debug() {
        let plain = lease(SystemTime::UNIX_EPOCH);
        assert!(!shown(vec![plain.clone()], 0).contains("LEASE"));
        let named = LeaseLine { id: Some(ShownId("database/creds/app/one".into())), ..plain };
        assert!(!format!("{named:?}").contains("app/one"));
        let text = shown(vec![named], 0);
        assert!(
            text.lines().next().unwrap().ends_with("  LEASE") && text.ends_with("  database/creds/app/one\n")
        );
    }

    #[test]
    fn every_name_in_the_json_is_promised_in_the_page_on_operations() {
        let named = LeaseLine { id: Some(ShownId("x".into())), ..lease(SystemTime::UNIX_EPOCH) };
        let total = LeaseTotal { backend: "a".into(), held: 0, max_leases: 1, set_aside: 0 };
        let list = LeaseList { totals: vec![total.clone()], leases: vec![named.clone()], left_out: 0 };
        let page = include_str!("../../../docs/operations.md");
        for json in [
            serde_json::to_value(list).unwrap(),
            serde_json::to_value(named).unwrap(),
            serde_json::to_value(total).unwrap(),
        ] {
            for name in json.as_object().unwrap().keys() {
                assert!(page.contains(&format!("`{name}`")), "docs/operations.md does not tell of `{name}`");
            }
        }
    }

    #[test]
    fn totals_say_when_no_more_can_be_opened() {
        let total = |backend: &str, held, set_aside| LeaseTotal {
            backend: backend.into(),
            held,
            max_leases: 1000,
            set_aside,
        };
        let list = |totals| LeaseList { totals, ..LeaseList::default() };
        assert_eq!(totals(&list(vec![total("a", 0, 0)])), "0 of 1000 held");
        assert_eq!(
            totals(&list(vec![total("a", 1, 2), total("b", 1000, 0)])),
            "1 of 1000 held of a, 2 set aside; 1000 of 1000 held of b (no more can be opened: `max_leases`)"
        );
    }
}
