//! Owns what a failure of the SDK means to those above: one of the errors of `backend`, in our own words.
//! Does not know how to recover. No text of the SDK or of a server passes through here.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};

use super::super::Error;
use super::http::{Known, known_cause};
use super::retry::{is_throttling, wait};

/// What was being asked: the same complaint means another thing to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The value of one secret.
    Value,
    /// The names of secrets.
    Names,
}

/// The bounds that were set, for the errors that name them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) deadline: Duration,
    pub(super) max_body: usize,
}

/// What the failure of a call means.
pub(super) fn meaning<E>(failure: &SdkError<E>, asked: Asked, bounds: Bounds) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match known_cause(failure) {
        Some(Known::TooLarge) => return Error::TooLarge { limit: bounds.max_body },
        Some(Known::Credentials(error)) => return of_credentials(error, bounds),
        Some(Known::NoAnswer(error)) => return Error::Unreachable(error.to_string()),
        None => {}
    }
    match failure {
        SdkError::TimeoutError(_) => Error::TimedOut(bounds.deadline),
        SdkError::ServiceError(answer) => {
            let raw = answer.raw();
            of_answer(answer.err().code(), raw.status().as_u16(), wait(raw.headers()), asked)
        }
        SdkError::ResponseError(answer) => {
            of_answer(None, answer.raw().status().as_u16(), wait(answer.raw().headers()), asked)
        }
        _ => Error::Unreachable("no request could be made: check the region and endpoint_url".into()),
    }
}

fn of_credentials(error: &CredentialsError, bounds: Bounds) -> Error {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => Error::Unreachable(
            "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role".into(),
        ),
        CredentialsError::ProviderTimedOut(_) => Error::TimedOut(bounds.deadline),
        CredentialsError::InvalidConfiguration(_) => {
            Error::Unreachable("the AWS configuration in use is not valid: check AWS_PROFILE and ~/.aws/config".into())
        }
        _ => match error.source().and_then(known_cause) {
            Some(Known::NoAnswer(error)) => Error::Unreachable(format!("the source of AWS credentials: {error}")),
            _ => Error::Unreachable("the source of AWS credentials gave none: is a session expired, or a role missing?".into()),
        },
    }
}

/// The meaning of an error's code (API reference of Secrets Manager, Common Error Types) and of the HTTP status.
fn of_answer(code: Option<&str>, status: u16, wait: Option<Duration>, asked: Asked) -> Error {
    match code.unwrap_or_default() {
        "ResourceNotFoundException" => Error::NotFound,
        // Marked for deletion, or a name that the service refuses: we have checked all else that we send.
        "InvalidRequestException" | "InvalidParameterException" | "ValidationException"
            if asked == Asked::Value =>
        {
            Error::NotFound
        }
        "AccessDeniedException"
        | "AccessDenied"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "NotAuthorized" => Error::Forbidden,
        // AWS answers these with 400 and seldom says for how long.
        code if is_throttling(code) => {
            Error::Busy { status: 429, retry_after: wait.unwrap_or(Duration::from_secs(1)) }
        }
        _ if matches!(status, 401 | 403) => Error::Forbidden,
        _ if (200..300).contains(&status) => {
            Error::Malformed("it is cut off, or is not the JSON of Secrets Manager")
        }
        _ => match wait {
            Some(retry_after) if matches!(status, 429 | 503) => Error::Busy { status, retry_after },
            _ => Error::Status(status),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(status: u16, seconds: u64) -> Error {
        Error::Busy { status, retry_after: Duration::from_secs(seconds) }
    }

    #[test]
    fn codes_mean_what_the_table_says() {
        let cases = [
            (Some("ResourceNotFoundException"), 400, Asked::Value, Error::NotFound),
            (Some("InvalidRequestException"), 400, Asked::Value, Error::NotFound),
            (Some("ValidationException"), 400, Asked::Value, Error::NotFound),
            (Some("ValidationException"), 400, Asked::Names, Error::Status(400)),
            (Some("InvalidNextTokenException"), 400, Asked::Names, Error::Status(400)),
            (Some("AccessDeniedException"), 400, Asked::Value, Error::Forbidden),
            (Some("ExpiredTokenException"), 400, Asked::Names, Error::Forbidden),
            (Some("ThrottlingException"), 400, Asked::Value, busy(429, 1)),
            (Some("TooManyRequestsException"), 400, Asked::Names, busy(429, 1)),
            (Some("DecryptionFailure"), 400, Asked::Value, Error::Status(400)),
            (Some("InternalServiceError"), 500, Asked::Value, Error::Status(500)),
            (None, 403, Asked::Value, Error::Forbidden),
            (None, 404, Asked::Value, Error::Status(404)),
            (None, 307, Asked::Value, Error::Status(307)),
            (None, 503, Asked::Names, Error::Status(503)),
        ];
        for (code, status, asked, expected) in cases {
            assert_eq!(of_answer(code, status, None, asked), expected, "{code:?} {status}");
        }
        assert!(matches!(of_answer(None, 200, None, Asked::Value), Error::Malformed(_)));
    }

    #[test]
    fn a_server_that_says_for_how_long_is_busy() {
        for (code, status, expected) in [
            (Some("ThrottlingException"), 400, busy(429, 30)),
            (Some("ServiceUnavailable"), 503, busy(503, 30)),
            (None, 429, busy(429, 30)),
            (None, 503, busy(503, 30)),
            (None, 500, Error::Status(500)),
            (None, 403, Error::Forbidden),
            (Some("ResourceNotFoundException"), 400, Error::NotFound),
        ] {
            let wait = Some(Duration::from_secs(30));
            assert_eq!(of_answer(code, status, wait, Asked::Value), expected, "{code:?} {status}");
        }
    }
}
