//! Owns when a TOTP code ends: the period of its key, asked once, and the clock on the wall.
//! Does not know how a code is asked for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::api::{Api, Call, data};
use super::engines::Engine;
use crate::backend::Error;
use crate::clock::{Clock, Moment};
use crate::path::BackendPath;

/// What Vault and everybody else takes where nothing is said (RFC 6238, 5.2).
const USUAL: Duration = Duration::from_secs(30);
/// A key may be made anew with another period.
const REMEMBERED: Duration = Duration::from_secs(300);
/// No key has a longer one.
const LONGEST: Duration = Duration::from_secs(86400);
/// A code that ends sooner is of no use to who gets it: the next one is waited for.
const TOO_SHORT: Duration = Duration::from_millis(200);

/// The periods of keys.
pub(super) struct Periods {
    clock: Clock,
    /// Guards what was learned, by the place of the code; held for a look or a change, never across a call.
    known: Mutex<HashMap<BackendPath, (Duration, Moment)>>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    period: u64,
}

impl Periods {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, known: Mutex::default() }
    }

    /// The end of the present period of the key `name`, by our clock; waits for the next one where that is near. Our clock and
    /// the server's are taken to agree, as TOTP needs between any two.
    pub(super) async fn end(&self, api: &Api, engine: &Engine, name: &str) -> Result<SystemTime, Error> {
        let period = self.period(api, engine, name).await?;
        let left = left(period, SystemTime::now());
        if left >= TOO_SHORT {
            return Ok(SystemTime::now() + left);
        }
        tokio::time::sleep(left).await;
        let now = SystemTime::now();
        Ok(now + self::left(period, now))
    }

    async fn period(&self, api: &Api, engine: &Engine, name: &str) -> Result<Duration, Error> {
        let place = engine.mount.child(name).map_err(|_| Error::NotFound)?;
        let now = self.clock.now();
        if let Some((period, at)) = self.known().get(&place)
            && now.since(*at) < REMEMBERED
        {
            return Ok(*period);
        }
        let segments = engine.mount.segments().chain(["keys", name]);
        let period = match api.call(&Call::read(segments)?).await {
            Ok(body) => of_key(&body)?,
            // Who may have a code need not be allowed to know its key.
            Err(Error::Forbidden | Error::NotFound) => USUAL,
            Err(error) => return Err(error),
        };
        self.known().insert(place, (period, now));
        Ok(period)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<BackendPath, (Duration, Moment)>> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn of_key(body: &[u8]) -> Result<Duration, Error> {
    let key: Key = data(body)?.ok_or(Error::Malformed("no data about the key"))?;
    Ok(if key.period == 0 { USUAL } else { Duration::from_secs(key.period).min(LONGEST) })
}

/// From `now` to the next multiple of `period` since 1970 (RFC 6238, 4.2).
fn left(period: Duration, now: SystemTime) -> Duration {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let into = since.as_nanos().checked_rem(period.as_nanos()).unwrap_or(0);
    period.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or(0)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_code_ends_at_the_next_multiple_of_its_period() {
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(millis);
        let left = |period: u64, millis| left(Duration::from_secs(period), at(millis)).as_millis();
        assert_eq!(left(30, 1_795_576_333_250), 16_750);
        assert_eq!(left(30, 1_795_576_350_000), 30_000);
        assert_eq!(left(5, 4_999), 1);
        assert_eq!(left(86400, 7), 86_399_993);
    }

    #[test]
    fn the_period_is_that_of_the_key_or_the_usual_one() {
        let body = |data: &str| {
            format!(
                r#"{{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":{data},
                "wrap_info":null,"warnings":null,"auth":null}}"#
            )
        };
        let period = |data: &str| of_key(body(data).as_bytes());
        let key = r#"{"account_name":"a","algorithm":"SHA1","digits":6,"issuer":"canary","period":5}"#;
        assert_eq!(period(key), Ok(Duration::from_secs(5)));
        assert_eq!(period(r#"{"period":18446744073709551615}"#), Ok(LONGEST));
        assert_eq!((period("{}"), period(r#"{"period":0}"#)), (Ok(USUAL), Ok(USUAL)));
        for broken in ["null", r#"{"period":"canary"}"#, r#"{"period":-1}"#] {
            let error = period(broken).unwrap_err();
            assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"));
        }
    }
}
