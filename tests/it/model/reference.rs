//! Owns what must be true: the history of a backend, and what the filesystem may and must answer at a moment.
//! Does not know the code under test: it has no cache, no inode and no handle.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use secretfs::backend::Error;

/// Longest that an old value or listing may be shown.
pub const TTL: Duration = Duration::from_secs(60);
/// Longest that "no such secret" and "forbidden" may be believed.
pub const NEGATIVE: Duration = Duration::from_secs(1);
/// Larger values cannot be opened.
pub const MAX_SIZE: usize = 400;

/// One version of a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    pub number: u64,
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Version {
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// The bytes of a reserved name; `.meta` has the time in it and is not compared.
    pub fn view(&self, name: &str) -> Option<Vec<u8>> {
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        let fields = self.fields.iter().map(|(name, value)| (name, text(value)));
        match name {
            ".json" => {
                let fields: Vec<_> = fields.map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
                Some(format!("{{{}}}\n", fields.join(",")).into_bytes())
            }
            ".env" => {
                Some(fields.map(|(name, value)| format!("{name}={value}\n")).collect::<String>().into())
            }
            _ => None,
        }
    }
}

/// What something was, and until when.
struct History<T> {
    past: Vec<(T, Duration)>,
    present: T,
}

impl<T> History<T> {
    fn new(present: T) -> Self {
        Self { past: vec![], present }
    }

    fn set(&mut self, value: T, now: Duration) {
        self.past.push((std::mem::replace(&mut self.present, value), now));
    }

    /// What it was at any time later than `since`, and is.
    fn after(&self, since: Option<Duration>) -> impl Iterator<Item = &T> {
        let past = self.past.iter().filter(move |(_, until)| since.is_none_or(|since| *until > since));
        past.map(|(value, _)| value).chain([&self.present])
    }

    /// What it was at `at`, of which there may be several, or later.
    fn from(&self, at: Duration) -> impl Iterator<Item = &T> {
        self.past.iter().filter(move |(_, until)| *until >= at).map(|(value, _)| value).chain([&self.present])
    }
}

/// The backend and all it ever was.
pub struct Reference {
    secrets: BTreeMap<String, History<Option<Rc<Version>>>>,
    /// Paths that hold a secret.
    held: History<BTreeSet<String>>,
    failing: History<Option<Error>>,
    unlisted: History<bool>,
    /// How much older than [`TTL`] a value or listing may be shown in an outage.
    pub max_stale: Duration,
    /// Time since the model began.
    pub now: Duration,
    /// When the question was asked whose answer is being judged: `now`, or earlier where it had to wait.
    pub asked: Duration,
}

impl Reference {
    pub fn new(max_stale: Duration) -> Self {
        Self {
            max_stale,
            secrets: BTreeMap::new(),
            held: History::new(BTreeSet::new()),
            failing: History::new(None),
            unlisted: History::new(false),
            now: Duration::ZERO,
            asked: Duration::ZERO,
        }
    }

    pub fn put(&mut self, path: &str, fields: Vec<(String, Vec<u8>)>) {
        let history = self.secrets.entry(path.to_owned()).or_insert_with(|| History::new(None));
        let number = history.present.as_ref().map_or(1, |version| version.number + 1);
        history.set(Some(Rc::new(Version { number, fields })), self.now);
        let mut held = self.held.present.clone();
        held.insert(path.to_owned());
        self.held.set(held, self.now);
    }

    pub fn delete(&mut self, path: &str) {
        if let Some(history) = self.secrets.get_mut(path) {
            history.set(None, self.now);
        }
        let mut held = self.held.present.clone();
        held.remove(path);
        self.held.set(held, self.now);
    }

    pub fn fail_with(&mut self, error: Option<Error>) {
        self.failing.set(error, self.now);
    }

    pub fn forbid_listing(&mut self, forbidden: bool) {
        self.unlisted.set(forbidden, self.now);
    }

    fn since(&self, window: Duration) -> Option<Duration> {
        self.asked.checked_sub(window)
    }

    /// What the secret was within `window`: its versions, and `None` where there was none.
    fn versions(&self, path: &str, window: Duration) -> Vec<Option<Rc<Version>>> {
        match self.secrets.get(path) {
            Some(history) => history.after(self.since(window)).cloned().collect(),
            None => vec![None],
        }
    }

    /// How old what is shown may be: older than its TTL only in an outage, and for another TTL after one.
    fn window(&self) -> Duration {
        let outage = |failing: &Option<Error>| failing.as_ref().is_some_and(|error| !is_answer(error));
        // The longest rest of the breaker, and what is served then is for another TTL.
        let since = self.since(TTL + Duration::from_secs(13));
        if self.failing.after(since).any(outage) { TTL + self.max_stale } else { TTL }
    }

    /// Versions of a secret that may be shown now.
    pub fn showable(&self, path: &str) -> Vec<Rc<Version>> {
        self.versions(path, self.window()).into_iter().flatten().collect()
    }

    /// Every secret that ever was at `path` as this version.
    pub fn ever(&self, path: &str, number: u64) -> Vec<Rc<Version>> {
        let all = self.secrets.get(path).into_iter().flat_map(|history| history.after(None));
        all.flatten().filter(|version| version.number == number).cloned().collect()
    }

    /// Whether the backend has this version, and had it all the time that its absence may be believed.
    pub fn surely_keeps_version(&self, path: &str, number: u64) -> bool {
        let keeps = |version: &Option<Rc<Version>>| version.as_ref().is_some_and(|now| now.number >= number);
        number > 0 && self.versions(path, NEGATIVE).iter().all(keeps)
    }

    /// Whether the backend may have said since `since` that there is no such secret, or that it is forbidden.
    pub fn may_have_been_denied(&self, path: &str, since: Duration) -> bool {
        let gone = |history: &History<Option<Rc<Version>>>| history.from(since).any(Option::is_none);
        let refused = |failing: &Option<Error>| failing.as_ref().is_some_and(is_answer);
        self.secrets.get(path).is_none_or(gone) || self.failing.from(since).any(refused)
    }

    /// Whether the secret was there all the time that its absence may be believed.
    pub fn is_surely_there(&self, path: &str) -> bool {
        self.versions(path, NEGATIVE).iter().all(Option::is_some)
    }

    /// Whether the secret was there all the time that a listing may be believed.
    pub fn must_list_secret(&self, path: &str) -> bool {
        self.versions(path, self.window()).iter().all(Option::is_some)
    }

    /// Whether every version that may be shown has this field, so that its absence is a lie.
    pub fn surely_has_field(&self, path: &str, field: &str) -> bool {
        self.is_surely_there(path) && self.showable(path).iter().all(|version| version.field(field).is_some())
    }

    /// Whether something lies at `path` or below, as each state within `window` has it.
    fn lies_at(&self, path: &str, window: Duration) -> Vec<bool> {
        let at = |held: &BTreeSet<String>| {
            let rest = |held: &String| held.strip_prefix(path).map(str::to_owned);
            held.iter().filter_map(rest).any(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.held.after(self.since(window)).map(at).collect()
    }

    pub fn may_show_directory(&self, path: &str) -> bool {
        self.lies_at(path, self.window()).contains(&true)
    }

    pub fn must_find_directory(&self, path: &str) -> bool {
        !self.lies_at(path, NEGATIVE).contains(&false)
    }

    /// Whether it was a folder all the time. (What was first a secret and then a folder may be denied for a moment: one
    /// answer that the folder is not there yet, and one that the secret is not there any more.)
    pub fn must_find_folder(&self, path: &str) -> bool {
        let prefix = format!("{path}/");
        let below = |held: &BTreeSet<String>| held.iter().any(|held| held.starts_with(&prefix));
        path.is_empty() || self.held.after(self.since(NEGATIVE)).all(below)
    }

    pub fn must_list_directory(&self, path: &str) -> bool {
        !self.lies_at(path, self.window()).contains(&false)
    }

    /// Whether the backend answers nothing now.
    pub fn is_failing(&self) -> bool {
        self.failing.present.is_some()
    }

    /// Whether the backend answered everything, all the time that an answer of "no" may be believed.
    pub fn is_calm(&self) -> bool {
        self.failing.after(self.since(NEGATIVE)).all(Option::is_none)
    }

    /// Whether listings were allowed, all the time that a refusal may be believed.
    pub fn is_listable(&self) -> bool {
        self.is_calm() && self.unlisted.after(self.since(NEGATIVE)).all(|unlisted| !unlisted)
    }

    /// Whether no "no" may be believed now. An outage alone must not make a listing shorter: it is all of it, or an error.
    pub fn refuses_nothing(&self) -> bool {
        let refusal = |failing: &Option<Error>| failing.as_ref().is_some_and(is_answer);
        let refused = self.failing.after(self.since(NEGATIVE)).any(refusal);
        !refused && !self.may_refuse_listing()
    }

    /// Whether a listing may be answered with "forbidden" for want of the permission alone.
    pub fn may_refuse_listing(&self) -> bool {
        self.unlisted.after(self.since(NEGATIVE)).any(|unlisted| *unlisted)
    }

    /// Whether the backend's own failure excuses this error: an answer while it may be believed, an outage only while
    /// it lasts.
    pub fn excuses(&self, error: &Error) -> bool {
        let is = |failing: &Option<Error>| failing.as_ref() == Some(error);
        let withheld = matches!(error, Error::Unreachable(why) if why.starts_with("asked again in "));
        if withheld {
            // It failed a moment ago: a reader may ask again a second after the last question.
            let outage = |failing: &Option<Error>| failing.as_ref().is_some_and(|error| !is_answer(error));
            self.failing.after(self.since(NEGATIVE)).any(outage)
        } else if is_answer(error) {
            self.failing.after(self.since(NEGATIVE)).any(is)
        } else {
            self.failing.from(self.asked).any(is)
        }
    }
}

/// Whether the backend has said so, rather than nothing.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::NotFound | Error::Forbidden | Error::Refused(_))
}
