//! Owns what readers of database credentials see while renewing them fails and all else is well.
//! Does not know tokens.

use std::time::{Duration, Instant};

use super::database::servers;
use super::faults::declared;
use super::mount_at;
use crate::support::available;
use crate::support::between::{Between, Seen};
use crate::support::fake::Reply;
use crate::support::mount::{possible, wait_until};
use crate::support::postgres::{Postgres, REFUSED, database_role};
use crate::support::samples::Samples;
use crate::support::vault::Vault;

/// How a renewal is answered, for how long the server asks to be left alone with that, and how often one lease is asked about.
struct Trouble {
    role: &'static str,
    answer: fn() -> Reply,
    rest: Duration,
    /// Tries to renew one lease, at most.
    tries: usize,
}

fn refused(status: u16) -> Reply {
    Reply::Answer(status, "{\"errors\":[\"canary\"]}".into())
}

const LIFE: Duration = Duration::from_secs(10);
const TROUBLE: Duration = Duration::from_secs(25);
const AFTER: Duration = Duration::from_secs(15);

const TROUBLES: [Trouble; 5] = [
    Trouble { role: "denied", answer: || refused(403), rest: Duration::ZERO, tries: 1 },
    Trouble { role: "limited", answer: || refused(429), rest: Duration::ZERO, tries: 7 },
    Trouble {
        role: "told-to-wait",
        answer: || Reply::Headed(429, "Retry-After: 3".into(), "{\"errors\":[\"canary\"]}".into()),
        rest: Duration::from_secs(3),
        tries: 3,
    },
    Trouble { role: "broken", answer: || refused(500), rest: Duration::ZERO, tries: 7 },
    Trouble { role: "silent", answer: || Reply::Silence, rest: Duration::ZERO, tries: 7 },
];

#[test]
fn while_renewals_fail_credentials_are_replaced_in_time_and_nobody_is_asked_more_than_once_a_second() {
    let (vault, postgres) = servers!();
    for trouble in &TROUBLES {
        database_role(&vault, &postgres, "database", trouble.role, "10s", "1h");
    }
    std::thread::scope(|scope| {
        for trouble in &TROUBLES {
            let (vault, postgres) = (&vault, &postgres);
            scope.spawn(move || drill(vault, postgres, trouble));
        }
    });
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

fn drill(vault: &Vault, postgres: &Postgres, trouble: &Trouble) {
    let Trouble { role, answer, rest, tries } = *trouble;
    let between = Between::start(vault);
    between.suffer(Some(Box::new(move |path| (path == "sys/leases/renew").then(answer))));
    let mut mount = mount_at(&between.address(), "", &declared(role)).start();
    let began = Instant::now();
    let samples = Samples::start(postgres.port, &mount.path(role), Duration::from_millis(100));
    std::thread::sleep(TROUBLE);
    between.suffer(None);
    let count = samples.stop();
    let healed = Instant::now();
    let made = between.requests(&format!("database/creds/{role}")).len();
    eprintln!("{role}: {} logins, {:?}; {made} leases", count.logins, count.reasons());
    for request in between.requests("") {
        let Seen { at, answered, path, status, .. } = request;
        eprintln!("{role}: {:?} + {:?}: {path} {status:?}", at - began, answered - at);
    }
    // Where the server asks to be left alone a lease may end meanwhile. It is not shown then: an attempt that read it just before
    // can be too late, the next one cannot.
    let late: Vec<Duration> =
        count.failures.iter().filter(|failure| failure.why == REFUSED).map(|failure| failure.at).collect();
    assert!(late.windows(2).all(|two| two[1] - two[0] > LIFE / 2), "{role}: {:?}", count.failures);
    if rest.is_zero() {
        assert!(count.failures.is_empty(), "{role}: {:?}", count.failures);
    }
    let without = count.failures.len() as u32 * Duration::from_millis(100);
    assert!(without <= rest * TROUBLE.div_duration_f32(LIFE).ceil() as u32, "{role}: {without:?}");
    assert!((2..=5).contains(&made), "{role}: {made} leases");
    let closest = between.closest("sys/leases/renew");
    assert!(closest.is_none_or(|time| time >= Duration::from_millis(700)), "{role}: {closest:?}");
    let renewals = between.requests("sys/leases/renew").into_iter().filter(|request| request.at < healed);
    let renewals = renewals.count();
    assert!((1..=made * tries).contains(&renewals), "{role}: {renewals} renewals of {made} leases");
    // As soon as it can be.
    std::thread::sleep(rest);
    let samples = Samples::start(postgres.port, &mount.path(role), Duration::from_millis(100));
    wait_until("a renewal is granted", || {
        between.requests("sys/leases/renew").iter().any(|request| request.status == Some(200))
    });
    std::thread::sleep(AFTER.saturating_sub(healed.elapsed()));
    let count = samples.stop();
    assert!(count.failures.is_empty(), "{role}: {:?}", count.failures);
    assert_eq!(mount.stop(), Some(0), "{role}");
}
