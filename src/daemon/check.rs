//! Owns the question to every backend whether what a plan shows can be had.
//! Does not know mounts, and makes no secret.

use std::time::Duration;

use super::worker::build_source;
use super::{Failure, Plan};
use crate::backend::issuer::Nature;
use crate::backend::{Backend, Error};
use crate::tree::{Shows, Tree};

/// What a backend says of the root of one tree.
pub struct Check {
    /// Where the tree hangs in the mount.
    pub tree: Vec<String>,
    /// Whether programs can use it.
    pub good: bool,
    /// In words; never a name or a value of a secret.
    pub outcome: String,
}

/// Builds every backend of a plan, which reads the files they name; with `connect` also asks for the root of each tree. No
/// secret is made.
///
/// # Errors
/// A backend that cannot be built. What a backend answers is in the checks.
pub fn check(plan: Plan, connect: bool) -> Result<Vec<Check>, Failure> {
    let sources = plan.backends.into_iter().map(build_source).collect::<Result<Vec<_>, _>>()?;
    if !connect {
        return Ok(vec![]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ask = |tree: Tree| {
        let said = match sources.get(tree.root.source.index()) {
            Some(source) => runtime.block_on(ask(source.backend.as_ref(), &tree, plan.deadline)),
            None => of_error(&Error::NotFound),
        };
        let (good, outcome) = said;
        Check { tree: tree.at, good, outcome }
    };
    Ok(plan.trees.into_iter().map(ask).collect())
}

/// Whether programs can use a tree, and what the backend says of it.
async fn ask(backend: &dyn Backend, tree: &Tree, patience: Duration) -> (bool, String) {
    let said = async {
        match tree.shows {
            Shows::Secret => of_secret(backend, tree).await,
            Shows::Place => of_place(backend, tree).await,
        }
    };
    let timed_out = || of_error(&Error::TimedOut(patience));
    tokio::time::timeout(patience, said).await.unwrap_or_else(|_| timed_out())
}

async fn of_place(backend: &dyn Backend, tree: &Tree) -> (bool, String) {
    // What may not be asked about engines may still list its secrets.
    if let Some(issuer) = backend.issuer()
        && let Ok(Nature::OnDemand) = issuer.nature(&tree.root.path).await
    {
        return (true, "secrets are made when they are opened; none was made now".to_owned());
    }
    match backend.list(&tree.root.path).await {
        Ok(listing) => (true, format!("{} names", listing.entries().len())),
        Err(Error::Forbidden) => (true, "may not be listed; known paths may still open".to_owned()),
        Err(error) => of_error(&error),
    }
}

async fn of_secret(backend: &dyn Backend, tree: &Tree) -> (bool, String) {
    let Some(issuer) = backend.issuer() else {
        return (false, "this backend makes no secrets on demand; a [[tree]] shows what it keeps".to_owned());
    };
    match issuer.nature(&tree.root.path).await {
        Ok(Nature::OnDemand) => (true, "made when it is opened; none was made now".to_owned()),
        Ok(Nature::Stored) => {
            (false, "secrets are kept there, and none is made on demand; show it by a [[tree]]".to_owned())
        }
        Err(Error::Forbidden) => {
            (true, "may not be asked what makes secrets there; it may still open".to_owned())
        }
        Err(error) => of_error(&error),
    }
}

fn of_error(error: &Error) -> (bool, String) {
    match error {
        Error::NotFound => (true, "nothing there yet".to_owned()),
        error => (false, error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::access::Permissions;
    use crate::backend::faulty::Faulty;
    use crate::backend::mint::{Mint, Role};
    use crate::cache::{SecretRef, SourceId};
    use crate::clock::Clock;
    use crate::path::BackendPath;

    async fn asked(backend: &dyn Backend, path: &str, shows: Shows) -> (bool, String) {
        let root = SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap());
        let permissions = Permissions { uid: 0, gid: 0, file_mode: 0o400 };
        let tree = Tree { shows, ..Tree::of_place(vec![], root, permissions) };
        ask(backend, &tree, Duration::from_secs(1)).await
    }

    #[tokio::test]
    async fn asking_about_secrets_on_demand_makes_none() {
        let mint = Mint::new(Clock::System);
        mint.role("creds/app", Role::default());
        for shows in [Shows::Secret, Shows::Place] {
            let (good, outcome) = asked(&mint, "creds/app", shows).await;
            assert!(good && outcome.ends_with("none was made now"), "{outcome}");
        }
        assert_eq!(mint.made().len(), 0);
    }

    #[tokio::test]
    async fn a_secret_of_a_backend_that_makes_none_is_a_mistake() {
        let faulty = Faulty::new();
        let (good, outcome) = asked(&faulty, "app", Shows::Secret).await;
        assert!(!good && outcome.starts_with("this backend makes no secrets on demand"), "{outcome}");
        let (good, _) = asked(&faulty, "app", Shows::Place).await;
        assert!(good);
    }
}
