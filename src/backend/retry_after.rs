//! Owns how long a server asks to be left alone: what `Retry-After` says (RFC 9110, section 10.2.3), within bounds of ours.
//! Does not know servers, nor what they answer besides.

use std::time::{Duration, SystemTime};

/// A server that says "now" is not asked again at once.
const SHORTEST: Duration = Duration::from_secs(1);
/// A server that says "tomorrow" is asked again before that: it may have been wrong, or somebody else in between.
const LONGEST: Duration = Duration::from_secs(600);

/// The value of `Retry-After`: whole seconds, or an HTTP date counted from `now`. `None` when it is neither.
pub(crate) fn of_header(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let wait = if is_number {
        // Digits beyond the range are a long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(bounded(wait))
}

/// `wait`, at least a second and at most ten minutes.
pub(crate) fn bounded(wait: Duration) -> Duration {
    wait.clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood_within_bounds_and_nothing_else_is() {
        let now = httpdate::parse_http_date("Tue, 24 Nov 2026 20:41:24 GMT").unwrap();
        let seconds = |wait| Some(Duration::from_secs(wait));
        for (value, expected) in [
            ("30", seconds(30)),
            (" 7 ", seconds(7)),
            ("0", SHORTEST.into()),
            ("86400", LONGEST.into()),
            ("99999999999999999999999999", LONGEST.into()),
            ("Tue, 24 Nov 2026 20:42:00 GMT", seconds(36)),
            ("Tuesday, 24-Nov-26 20:42:00 GMT", seconds(36)),
            ("Tue Nov 24 20:42:00 2026", seconds(36)),
            ("Tue, 24 Nov 2026 20:41:00 GMT", SHORTEST.into()),
            ("Wed, 25 Nov 2026 20:41:24 GMT", LONGEST.into()),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("2026-11-24T20:42:00Z", None),
        ] {
            assert_eq!(of_header(value, now), expected, "{value:?}");
        }
    }
}
