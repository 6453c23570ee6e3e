//! Owns which version of each secret hooks know of, so that each change is news once, also one made while nobody held it.
//! Does not know values, and not what a hook does.

use std::collections::HashMap;

use crate::cache::SecretRef;
use crate::handover::CarriedSight;
use crate::secret::Version;

/// The versions, by secret. As large as there are secrets that hooks are about.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<SecretRef, Known>);

#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// None where it was last known to be gone.
    version: Option<Version>,
    /// Whether hooks were told of it as a change. What was only seen may be a change that the cache is about to tell of.
    told: bool,
}

impl Seen {
    /// The cache says that a secret changed; whether that is news.
    pub(super) fn changed(&mut self, of: &SecretRef, version: Option<&Version>) -> bool {
        let now = Known { version: version.cloned(), told: true };
        let is_news = self.0.get(of) != Some(&now);
        self.0.insert(of.clone(), now);
        is_news
    }

    /// A secret is held at this version; whether that is another than before. The first time it is not.
    pub(super) fn held(&mut self, of: &SecretRef, version: &Version) -> bool {
        let known = self.0.get(of);
        if known.is_some_and(|known| known.version.as_ref() == Some(version)) {
            return false;
        }
        let is_news = known.is_some();
        self.0.insert(of.clone(), Known { version: Some(version.clone()), told: is_news });
        is_news
    }

    /// All of it, for the next worker.
    pub(super) fn export(&self) -> Vec<CarriedSight> {
        let sight = |(of, known): (&SecretRef, &Known)| CarriedSight {
            of: of.clone(),
            version: known.version.clone(),
            told: known.told,
        };
        self.0.iter().map(sight).collect()
    }

    /// Knows what another worker knew.
    pub(super) fn import(&mut self, sights: Vec<CarriedSight>) {
        let known = |CarriedSight { of, version, told }| (of, Known { version, told });
        self.0.extend(sights.into_iter().map(known));
    }

    /// Whether anything is known of a secret.
    #[cfg(test)]
    pub(super) fn knows(&self, of: &SecretRef) -> bool {
        self.0.contains_key(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::SourceId;
    use crate::path::BackendPath;

    #[test]
    fn news_is_told_once_whoever_sees_it_first() {
        let of = SecretRef::current(SourceId(0), BackendPath::root());
        let [one, two, three] = ["1", "2", "3"].map(Version::new);
        let mut seen = Seen::default();
        assert!(!seen.held(&of, &one), "the first time");
        assert!(!seen.held(&of, &one));
        assert!(seen.held(&of, &two), "it was not held when it changed");
        assert!(!seen.changed(&of, Some(&two)), "told already");
        assert!(seen.changed(&of, Some(&three)));
        assert!(!seen.held(&of, &three));
        assert!(seen.changed(&of, None), "gone");
        assert!(!seen.changed(&of, None));
        assert!(seen.held(&of, &three), "back");
        let other = SecretRef { source: SourceId(1), ..of };
        assert!(!seen.held(&other, &two), "seen before the cache's word on it came");
        assert!(seen.changed(&other, Some(&two)), "what the cache calls a change is one");
        assert!(!seen.changed(&other, Some(&two)));
    }
}
