//! Owns what Vault says of a token: when it is looked up, made by a login, or renewed.
//! Does not know what is done about it.
//!
//! Source: the API documentation of the token and AppRole auth methods; times are whole seconds.

use std::time::Duration;

use serde::Deserialize;

use crate::backend::Error;
use crate::backend::vault::api::{data, header_text};
use crate::lease::{Grant, Succession};

/// What is known of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) grant: Grant,
    /// How many more calls it is good for; `None`: as many as one likes.
    pub(super) uses: Option<u32>,
    /// It may surely look itself up: when that is refused, it is dead.
    pub(super) looks: bool,
}

impl Facts {
    /// Renewing a token of few uses costs one of them, and it will be used up before its end anyway.
    fn new(life: Option<Duration>, renewable: bool, uses: u32, looks: bool) -> Self {
        let grant = Grant { life, renewable: renewable && uses == 0, succession: Succession::Ahead };
        Self { grant, uses: (uses > 0).then_some(uses), looks }
    }
}

/// A login that went well.
pub(super) struct Login {
    /// Text that a header can hold.
    pub(super) token: String,
    /// The server's name for it.
    pub(super) accessor: Option<String>,
    pub(super) facts: Facts,
}

#[derive(Deserialize)]
struct LookedUp {
    ttl: u64,
    /// Null where the token has no end.
    expire_time: Option<String>,
    #[serde(default)]
    renewable: Option<bool>,
    #[serde(default)]
    num_uses: u32,
}

/// The answer of `auth/token/lookup-self`.
pub(super) fn looked_up(body: &[u8]) -> Result<Facts, Error> {
    let found: LookedUp = data(body)?.ok_or(Error::Malformed("no data about the token"))?;
    let life = (found.ttl > 0 || found.expire_time.is_some()).then(|| Duration::from_secs(found.ttl));
    Ok(Facts::new(life, found.renewable.unwrap_or(false), found.num_uses, true))
}

#[derive(Deserialize)]
struct WithAuth {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    client_token: String,
    #[serde(default)]
    accessor: Option<String>,
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    num_uses: u32,
    #[serde(default)]
    token_policies: Option<Vec<String>>,
}

/// `auth` in the answer to a login or a renewal. serde's own text may quote the input, so it goes nowhere.
pub(super) fn granted(body: &[u8]) -> Result<Login, Error> {
    const STRANGE: Error = Error::Malformed("no token in the answer to a login");
    let answer: WithAuth = serde_json::from_slice(body).map_err(|_| STRANGE)?;
    let auth = answer.auth.ok_or(STRANGE)?;
    let token = header_text(auth.client_token.as_bytes()).filter(|token| !token.is_empty()).ok_or(STRANGE)?;
    let life = (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration));
    // The policy `default` allows a token to look itself up; not every token has it.
    let looks = auth.token_policies.iter().flatten().any(|policy| policy == "default");
    let accessor = auth.accessor.filter(|accessor| !accessor.is_empty());
    Ok(Login { token, accessor, facts: Facts::new(life, auth.renewable, auth.num_uses, looks) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn seconds(facts: Facts) -> Option<u64> {
        facts.grant.life.map(|life| life.as_secs())
    }

    #[test]
    fn a_root_token_has_no_end_and_a_dying_one_has() {
        let of = |text: &str| {
            let head = r#""request_id":"","lease_id":"","renewable":false,"lease_duration":0"#;
            looked_up(format!(r#"{{{head},"data":{text}}}"#).as_bytes())
        };
        let root = of(r#"{"ttl":0,"expire_time":null,"renewable":false,"num_uses":0,"policies":["root"]}"#);
        assert_eq!(seconds(root.unwrap()), None);
        let dying = of(r#"{"ttl":0,"expire_time":"2026-11-25T03:13:29.4Z","renewable":true}"#).unwrap();
        assert_eq!(seconds(dying), Some(0));
        let plain = of(r#"{"ttl":20,"expire_time":"2026-11-25T03:13:29.4Z","renewable":true}"#).unwrap();
        assert!(plain.grant.renewable && plain.looks && plain.uses.is_none());
        for strange in ["null", "{}", "7", r#"{"ttl":"canary"}"#, r#"{"ttl":-1,"expire_time":null}"#] {
            let error = of(strange).unwrap_err();
            assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"));
        }
    }

    #[test]
    fn a_token_of_few_uses_is_not_renewed() {
        let body = br#"{"auth":{"client_token":"canary","lease_duration":20,"renewable":true,"num_uses":3}}"#;
        let login = granted(body).unwrap();
        assert_eq!((login.facts.uses, login.facts.grant.renewable), (Some(3), false));
    }

    #[test]
    fn an_answer_without_a_token_keeps_nothing_of_what_it_was() {
        for strange in [
            "",
            "{}",
            r#"{"auth":null}"#,
            r#"{"auth":{"client_token":"","lease_duration":1}}"#,
            r#"{"auth":{"client_token":"canary\n","lease_duration":"canary"}}"#,
            r#"{"auth":{"client_token":"a canary","lease_duration":1}}"#,
        ] {
            let error = granted(strange.as_bytes()).err().unwrap();
            assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"));
        }
    }
}
