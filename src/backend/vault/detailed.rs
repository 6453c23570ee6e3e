//! Owns asking a KV version 2 engine for the current versions of a whole folder at once, and remembering where it has none to give.
//! Does not know how engines are found, and never sees a value.
//!
//! `LIST detailed-metadata/` is OpenBao's alone. Vault answers 404 for it, and 404 also is what OpenBao answers for a folder
//! without names, so after a 404 the plain `LIST metadata/` of the folder decides: names there mean that this server cannot.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::api::{Api, Call, data};
use super::engines::{Engine, Kind};
use super::kv::{cannot_exist, entry_of, parse_time};
use crate::backend::{Error, Versions};
use crate::clock::{Clock, Moment};
use crate::path::BackendPath;
use crate::secret::Version;

/// Names asked for at once. OpenBao reads the metadata of each: a thousand are some 0.5 MiB, and more with many versions.
const PAGE: u32 = 1000;
/// With fewer a request, asking is not worth it: where the metadata is that large, each secret is read.
const SMALLEST_PAGE: u32 = 30;
/// Names that one folder may hold: a listing that goes on beyond it is no listing.
const FOLDER_HOLDS: usize = 500_000;
/// A server that cannot may be upgraded, which takes a restart or a failover.
const UNABLE: Duration = Duration::from_secs(600);
/// A policy may be widened at any time.
const REFUSED: Duration = Duration::from_secs(300);
/// Where no folder of an engine was ever allowed, the next one is asked for after this: on a server with a thousand folders
/// and no such policy, a thousand useless questions would be as many as there are secrets.
const SPACING: Duration = Duration::from_secs(10);
/// Folders whose refusal is remembered one by one; beyond it the whole engine is left alone.
const REFUSALS_KEPT: usize = 10_000;

/// What was learned about each engine.
pub(super) struct Detailed {
    clock: Clock,
    /// Guards what was learned, by where the engine is mounted; held for a look or a change, never across a call.
    learned: Mutex<HashMap<BackendPath, Learned>>,
}

struct Learned {
    /// Of which engine; another one at the same place starts anew.
    engine: Arc<Engine>,
    /// It has answered, and not contradicted itself since.
    answers: bool,
    /// Until when no folder of it is asked for.
    quiet_until: Option<Moment>,
    /// Until when these folders are not asked for.
    refused: HashMap<BackendPath, Moment>,
    /// Names asked for at once.
    page: u32,
}

impl Detailed {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, learned: Mutex::default() }
    }

    /// The current versions of the secrets that lie directly in `folder` below the engine's mount; `None` where they cannot
    /// be had at once. Each request may take `limit`, and a folder of many thousands takes several.
    ///
    /// Whether a deletion that was set for a time has happened is judged by our own clock here: there is no 404 to tell.
    pub(super) async fn versions(
        &self,
        (api, limit): (&Api, Duration),
        engine: &Arc<Engine>,
        folder: &BackendPath,
    ) -> Result<Option<Versions>, Error> {
        if engine.kind != Kind::Kv2 {
            return Ok(None);
        }
        let Some(mut page) = self.page_to_ask_for(engine, folder) else { return Ok(None) };
        let at = |middle| engine.mount.segments().chain([middle]).chain(folder.segments());
        let mut found = Versions::default();
        let mut seen: HashSet<String> = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            found.requests += 1;
            let call = Call::list_page(at("detailed-metadata"), after.as_deref(), page)?;
            let body = match ask(api, limit, &call, folder).await {
                Ok(body) => body,
                // Metadata has no bound: custom fields, and an entry for each version that is kept.
                Err(Error::TooLarge { .. }) if page / 2 >= SMALLEST_PAGE => {
                    page /= 2;
                    self.learn(engine, |learned| learned.page = page);
                    continue;
                }
                Err(Error::Forbidden | Error::TooLarge { .. }) => {
                    self.was_refused(engine, folder);
                    return Ok(None);
                }
                Err(Error::Status(405)) => {
                    self.is_unable(engine);
                    return Ok(None);
                }
                // Nothing follows the last name.
                Err(Error::NotFound) if after.is_some() => return Ok(Some(found)),
                Err(Error::NotFound) => {
                    found.requests += 1;
                    let names = ask(api, limit, &Call::list(at("metadata"))?, folder).await;
                    return match names.and_then(|body| keys_of(&body)) {
                        Ok(names) if !names.is_empty() => {
                            self.contradicts_itself(engine);
                            Ok(None)
                        }
                        Ok(_) | Err(Error::NotFound) => Ok(Some(found)),
                        Err(Error::Forbidden) => {
                            self.was_refused(engine, folder);
                            Ok(None)
                        }
                        Err(error) => Err(error),
                    };
                }
                Err(error) => return Err(error),
            };
            let keys = current_versions(&body, SystemTime::now(), &mut found)?;
            self.learn(engine, |learned| learned.answers = true);
            let (count, last) = (keys.len(), keys.last().cloned());
            let known = seen.len();
            seen.extend(keys);
            // Fewer than asked for: it was the last page. More: the server does not page, and gave all.
            if count != page as usize {
                return Ok(Some(found));
            }
            if seen.len() == known {
                return Err(Error::Malformed("a page of a listing does not go on from the one before"));
            }
            if seen.len() > FOLDER_HOLDS {
                return Err(Error::Malformed("it lists more names than a folder can hold"));
            }
            after = last;
        }
    }

    /// How many names to ask for at once; `None` when it is not worth a question now.
    fn page_to_ask_for(&self, engine: &Arc<Engine>, folder: &BackendPath) -> Option<u32> {
        let now = self.clock.now();
        let is_ahead = |until: Option<&Moment>| until.is_some_and(|until| now < *until);
        self.learn(engine, |learned| {
            let quiet = is_ahead(learned.quiet_until.as_ref()) || is_ahead(learned.refused.get(folder));
            (!quiet).then_some(learned.page)
        })
    }

    fn is_unable(&self, engine: &Arc<Engine>) {
        let until = self.clock.now().plus(UNABLE);
        self.learn(engine, |learned| {
            learned.answers = false;
            learned.quiet_until = Some(until);
        });
        tracing::debug!(engine = %engine.mount, "it has no detailed-metadata: each secret is asked for by itself");
    }

    /// No names with details, and names without: the server cannot, or it can and somebody wrote in between the two.
    fn contradicts_itself(&self, engine: &Arc<Engine>) {
        if !self.learn(engine, |learned| std::mem::take(&mut learned.answers)) {
            self.is_unable(engine);
        }
    }

    fn was_refused(&self, engine: &Arc<Engine>, folder: &BackendPath) {
        let now = self.clock.now();
        self.learn(engine, |learned| {
            if learned.refused.len() >= REFUSALS_KEPT {
                learned.refused.retain(|_, until| now < *until);
            }
            if learned.refused.len() >= REFUSALS_KEPT {
                learned.quiet_until = Some(now.plus(REFUSED));
                return;
            }
            learned.refused.insert(folder.clone(), now.plus(REFUSED));
            if !learned.answers {
                learned.quiet_until = Some(now.plus(SPACING));
            }
        });
        tracing::debug!(engine = %engine.mount, folder = %folder, "no detailed-metadata of this folder for now: each secret is asked for by itself");
    }

    fn learn<T>(&self, engine: &Arc<Engine>, change: impl FnOnce(&mut Learned) -> T) -> T {
        let new = || Learned {
            engine: Arc::clone(engine),
            answers: false,
            quiet_until: None,
            refused: HashMap::new(),
            page: PAGE,
        };
        let mut all: MutexGuard<'_, HashMap<_, _>> = self.learned.lock().unwrap_or_else(|e| e.into_inner());
        let learned = all.entry(engine.mount.clone()).or_insert_with(new);
        if *learned.engine != **engine {
            *learned = new();
        }
        change(learned)
    }
}

async fn ask(
    api: &Api,
    limit: Duration,
    call: &Call,
    folder: &BackendPath,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let answer = tokio::time::timeout(limit, api.call(call)).await.unwrap_or(Err(Error::TimedOut(limit)));
    answer.map_err(|error| cannot_exist(error, folder))
}

#[derive(Deserialize)]
struct Page {
    keys: Option<Vec<String>>,
    key_info: Option<HashMap<String, Option<KeyInfo>>>,
}

/// A folder's is empty.
#[derive(Deserialize)]
struct KeyInfo {
    current_version: Option<u64>,
    versions: Option<HashMap<String, VersionInfo>>,
}

#[derive(Deserialize)]
struct VersionInfo {
    deletion_time: Option<String>,
    #[serde(default)]
    destroyed: bool,
}

impl KeyInfo {
    /// The current version, `None` inside when it is deleted or destroyed; nothing when the answer does not say.
    fn current(&self, now: SystemTime) -> Option<Option<Version>> {
        let spelled = self.current_version?.to_string();
        let info = self.versions.as_ref().and_then(|versions| versions.get(&spelled));
        let gone = info.is_some_and(|info| {
            let deleted = info.deletion_time.as_deref().and_then(parse_time);
            info.destroyed || deleted.is_some_and(|time| time <= now)
        });
        // 0 is metadata that was made before the first version.
        Some((spelled != "0" && !gone).then(|| Version::new(spelled)))
    }
}

/// Adds what a page tells to `found`; all names of the page, folders too, in its order.
fn current_versions(body: &[u8], now: SystemTime, found: &mut Versions) -> Result<Vec<String>, Error> {
    let page = data::<Page>(body)?.unwrap_or(Page { keys: None, key_info: None });
    let keys = page.keys.unwrap_or_default();
    let info = page.key_info.unwrap_or_default();
    for entry in keys.iter().filter_map(|key| entry_of(key)).filter(|entry| entry.secret) {
        // One that went away while the page was made has no information; left out, it is read.
        if let Some(current) = info.get(&entry.name).and_then(|info| info.as_ref()?.current(now)) {
            found.current.insert(entry.name, current);
        }
    }
    if info.is_empty() && keys.iter().any(|key| !key.ends_with('/')) {
        return Err(Error::Malformed("a detailed listing without details"));
    }
    Ok(keys)
}

fn keys_of(body: &[u8]) -> Result<Vec<String>, Error> {
    Ok(data::<Page>(body)?.and_then(|page| page.keys).unwrap_or_default())
}

#[cfg(test)]
mod tests;
