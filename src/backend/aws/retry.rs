//! Owns whether the SDK may ask a second time within one call, and for how long a server asks to be left alone.
//! Does not know what is asked, nor when the caller asks again.

use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use aws_sdk_secretsmanager::config::interceptors::InterceptorContext;
use aws_sdk_secretsmanager::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use aws_sdk_secretsmanager::operation::list_secrets::ListSecretsError;
use aws_smithy_runtime_api::http::Headers;

use super::super::retry_after;
use super::http::{Known, known_cause};

/// What AWS calls too many requests (THROTTLING_ERRORS of the SDK, less those of other services).
const THROTTLING: [&str; 8] = [
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "RequestThrottledException",
    "RequestThrottled",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "SlowDown",
];
/// Milliseconds, by AWS's own clients' word.
const AMAZONS: &str = "x-amz-retry-after";
/// The same under a name that the SDK does not know.
const HIDDEN: &str = "x-secretfs-retry-after";

/// Whether an error of this code says that there were too many requests.
pub(super) fn is_throttling(code: &str) -> bool {
    THROTTLING.contains(&code)
}

/// For how long the server asks to be left alone, if it does.
pub(super) fn wait(headers: &Headers) -> Option<Duration> {
    let standard =
        headers.get("retry-after").and_then(|value| retry_after::of_header(value, SystemTime::now()));
    let amazons =
        || Some(retry_after::bounded(Duration::from_millis(headers.get(HIDDEN)?.trim().parse().ok()?)));
    standard.or_else(amazons)
}

/// Renames what would make the SDK wait within the call: a wait beyond the deadline would become a timeout, and its debug
/// build stops at a wait that comes with an error it does not know. The caller is told instead.
pub(super) fn hide_wait(headers: &mut Headers) {
    if let Some(wait) = headers.remove(AMAZONS) {
        // What was a value a moment ago is one still.
        let _ = headers.try_insert(HIDDEN, wait);
    }
}

/// Keeps the SDK from fetching a body again that was too large: to it, that is a connection that broke.
#[derive(Debug)]
pub(super) struct TooLargeIsFinal;

impl ClassifyRetry for TooLargeIsFinal {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = context.output_or_error() else { return RetryAction::NoActionIndicated };
        match StdError::source(error).and_then(known_cause) {
            Some(Known::TooLarge) => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "a body that is too large"
    }
}

/// Keeps the SDK from asking again a server that says it has too much to do.
#[derive(Debug)]
pub(super) struct BusyIsFinal;

impl ClassifyRetry for BusyIsFinal {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let asks_to_wait = context.response().is_some_and(|response| wait(response.headers()).is_some());
        let code = context.output_or_error().and_then(|result| {
            let error = result.as_ref().err()?.as_operation_error()?;
            let of_value = error.downcast_ref::<GetSecretValueError>().and_then(|error| error.code());
            of_value.or_else(|| error.downcast_ref::<ListSecretsError>()?.code())
        });
        if asks_to_wait || code.is_some_and(is_throttling) {
            RetryAction::RetryForbidden
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "a server that is busy"
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_found_under_either_name_and_is_bounded() {
        for (name, value, expected) in [
            ("retry-after", "30", Some(30)),
            ("retry-after", "soon", None),
            ("x-amz-retry-after", "5000", Some(5)),
            ("x-amz-retry-after", "1", Some(1)),
            ("x-amz-retry-after", "99999999999", Some(600)),
            ("x-amz-retry-after", "invalid", None),
            ("x-other", "5", None),
        ] {
            let mut headers = Headers::new();
            headers.insert(name, value);
            hide_wait(&mut headers);
            assert_eq!(wait(&headers), expected.map(Duration::from_secs), "{name}: {value}");
            assert_eq!(headers.get(AMAZONS), None);
        }
    }
}
