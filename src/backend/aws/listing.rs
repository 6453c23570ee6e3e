//! Owns going through all secrets whose names begin with a prefix: for a name, for a folder, for a folder's versions.
//! Does not know values.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, SecretListEntry};

use super::fault::{Asked, meaning};
use super::{Aws, name, version};
use crate::backend::{Error, Listing, Versions};
use crate::clock::{Clock, Moment};

/// Secrets in one page of a listing: the most that the API gives.
const PAGE: i32 = 100;
/// Secrets that one account and region can hold (AWS quota): a listing that goes on beyond it is no listing.
const ACCOUNT_HOLDS: usize = 500_000;

/// After so many pages it is seen whether a folder is worth them.
const PAGES_TO_JUDGE_BY: usize = 10;
/// A folder whose versions cost more requests than it holds secrets is not asked for again for this long.
const NOT_WORTH_IT: Duration = Duration::from_secs(600);

impl Aws {
    /// The full ARN of the secret called exactly `name`.
    pub(super) async fn arn(&self, name: &str) -> Result<Option<String>, Error> {
        let mut pages = Pages::new(name.to_owned());
        while let Some(page) = pages.next(self).await? {
            let exact = page
                .into_iter()
                .find(|secret| secret.name() == Some(name) && secret.deleted_date().is_none());
            if let Some(secret) = exact {
                return Ok(secret.arn);
            }
        }
        Ok(None)
    }

    /// The names in the folder of all that begin with `prefix`.
    pub(super) async fn names_below(&self, prefix: String) -> Result<Listing, Error> {
        let mut folder = name::Folder::new(prefix.clone());
        let mut pages = Pages::new(prefix);
        while let Some(page) = pages.next(self).await? {
            for secret in page.iter().filter(|secret| secret.deleted_date().is_none()) {
                folder.add(secret.name().unwrap_or_default());
            }
            if folder.len() > ACCOUNT_HOLDS {
                return Err(Error::Malformed("it lists more secrets than an account can hold"));
            }
        }
        Ok(folder.into_listing())
    }

    /// The current versions of the secrets directly in the folder of all names that begin with `prefix`.
    ///
    /// Every secret whose name begins with `prefix` is on the pages, in whatever order; those deeper down tell us nothing.
    /// `None` where it takes more pages than there are secrets directly in the folder.
    pub(super) async fn versions_in(&self, prefix: String) -> Result<Option<Versions>, Error> {
        let mut found = Versions::default();
        let mut pages = Pages::new(prefix.clone());
        let mut count = 0;
        while let Some(page) = self.within_deadline(pages.next(self)).await? {
            count += 1;
            for secret in page.iter().filter(|secret| secret.deleted_date().is_none()) {
                let name = secret.name().and_then(|name| name::directly_in(&prefix, name));
                // Without its versions it was just made, or has no value: left out, it is read.
                if let (Some(name), Some(stages)) = (name, secret.secret_versions_to_stages()) {
                    found.current.insert(name.to_owned(), version::current_of(stages));
                }
            }
            if count >= PAGES_TO_JUDGE_BY && found.current.len() < count {
                return Ok(None);
            }
            if found.current.len() > ACCOUNT_HOLDS {
                return Err(Error::Malformed("it lists more secrets than an account can hold"));
            }
        }
        found.requests = u32::try_from(count).unwrap_or(u32::MAX);
        Ok((count <= found.current.len().max(1)).then_some(found))
    }
}

/// Folders that are not worth asking for their versions.
pub(super) struct Costly {
    clock: Clock,
    /// Guards their prefixes, and until when; held for a look or a change.
    until: Mutex<HashMap<String, Moment>>,
}

impl Costly {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, until: Mutex::default() }
    }

    /// Whether the folder of this prefix was noted of late.
    pub(super) fn contains(&self, prefix: &str) -> bool {
        let now = self.clock.now();
        let mut until = self.until.lock().unwrap_or_else(|e| e.into_inner());
        until.retain(|_, until| now < *until);
        until.contains_key(prefix)
    }

    /// Notes the folder of this prefix for a while.
    pub(super) fn note(&self, prefix: String) {
        let end = self.clock.now().plus(NOT_WORTH_IT);
        self.until.lock().unwrap_or_else(|e| e.into_inner()).insert(prefix, end);
    }
}

/// All secrets whose names begin with a prefix, page by page.
struct Pages {
    prefix: String,
    token: Option<String>,
    ended: bool,
}

impl Pages {
    fn new(prefix: String) -> Self {
        Self { prefix, token: None, ended: false }
    }

    /// The next page; `None` after the last.
    async fn next(&mut self, aws: &Aws) -> Result<Option<Vec<SecretListEntry>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut request =
            aws.client().await?.list_secrets().max_results(PAGE).set_next_token(self.token.take());
        if !self.prefix.is_empty() {
            request = request
                .filters(Filter::builder().key(FilterNameStringType::Name).values(&self.prefix).build());
        }
        let answer = request.send().await.map_err(|failure| meaning(&failure, Asked::Names, aws.bounds()))?;
        self.token = answer.next_token.filter(|token| !token.is_empty());
        self.ended = self.token.is_none();
        Ok(Some(answer.secret_list.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_costly_folder_is_asked_for_again_after_a_while() {
        let clock = Clock::manual();
        let costly = Costly::new(clock.clone());
        costly.note("prod/".into());
        assert!(costly.contains("prod/") && !costly.contains(""));
        clock.advance(NOT_WORTH_IT);
        assert!(!costly.contains("prod/"));
    }
}
