//! Owns the sentence that says which tree, backend and path serve a name, or why it cannot be read.
//! Does not know how the question arrives; it never has a value in its hands.

use std::ffi::OsStr;
use std::fmt::Write;

use super::SecretFs;
use super::directory::worse;
use super::on_demand::Known;
use super::resolve::Part;
use crate::backend::Error;
use crate::cache::SecretRef;
use crate::errno::Failure;
use crate::tree::inode::Place;
use crate::tree::{TreeId, name};

impl SecretFs {
    /// Lines of `key: text` about `name` in `parent`; the last says whether and why not it can be read.
    pub(super) async fn explain(&self, parent: &Place, name: &OsStr) -> String {
        let mut text = String::new();
        match self.resolve(parent, name).await {
            Ok(place) => self.explain_place(&mut text, &place).await,
            Err(failure) => {
                let wanted = match name::decode(name) {
                    Some(name::Decoded::Exact(name)) => Some(name),
                    _ => None,
                };
                match parent {
                    Place::Directory { tree, of } if of.version.is_none() => {
                        let child = wanted.and_then(|child| self.child(of, &child).ok());
                        self.explain_source(&mut text, *tree, child.as_ref().unwrap_or(of));
                    }
                    Place::Directory { tree, of } | Place::Versions { tree, of } => {
                        self.explain_source(&mut text, *tree, of);
                    }
                    _ => {}
                }
                let undeclared = match parent {
                    Place::Directory { tree, of } if failure.is_denial() => {
                        self.undeclared_in(*tree, of, name).await
                    }
                    _ => None,
                };
                let reason = undeclared.map_or_else(|| failure.to_string(), |of| self.how_to_declare(&of));
                say(&mut text, "readable", &format!("no: {} ({reason})", failure.errno().name()));
            }
        }
        text
    }

    /// The same about `place` itself, which no name leads to: the root of the mount.
    pub(super) async fn explain_itself(&self, place: &Place) -> String {
        let mut text = String::new();
        self.explain_place(&mut text, place).await;
        text
    }

    async fn explain_place(&self, text: &mut String, place: &Place) {
        let (tree, of, what) = match place {
            Place::Junction(path) => {
                say(text, "what", &format!("a directory of the configuration: /{}", path.join("/")));
                return;
            }
            Place::Versions { tree, of } => {
                say(text, "what", "the versions of a secret: each is found by its name, and none is listed");
                self.explain_source(text, *tree, of);
                return;
            }
            Place::Directory { tree, of } => match &of.version {
                Some(_) if self.is_known_on_demand(*tree) => {
                    (*tree, of, "the predecessor of a secret, until that ends".to_owned())
                }
                Some(version) => {
                    (*tree, of, format!("the secret at version `{}`", version.as_str().escape_debug()))
                }
                None => (*tree, of, "a directory".to_owned()),
            },
            Place::Field { tree, of, field } => (*tree, of, format!("the field `{}`", field.escape_debug())),
            Place::View { tree, of, view } => (*tree, of, format!("a view of the whole secret ({view:?})")),
        };
        say(text, "what", &what);
        self.explain_source(text, tree, of);
        let is_folder = matches!(place, Place::Directory { .. })
            && self.is_known_on_demand(tree)
            && self.parts(tree, of).await.is_ok_and(|parts| parts.secret == Part::No);
        let found = if is_folder { Err(Error::NotFound) } else { self.known_secret(tree, of).await };
        let made = match &found {
            Ok(Known::Held(snapshot)) => Some(snapshot),
            _ => None,
        };
        if found.is_ok() {
            for (key, value) in self.meta(tree, of, made.map(|snapshot| &**snapshot)).attributes() {
                if !matches!(key, "backend" | "path") {
                    say(text, key, &value);
                }
            }
        }
        match found {
            Ok(Known::NotMade { .. }) => match self.on_demand.leases.why_not_made(of) {
                Some(error) => self.say_why(text, tree, of, error).await,
                None => {
                    say(text, "readable", "yes: made on demand, when a file with a value in it is opened")
                }
            },
            Ok(Known::Held(snapshot)) => {
                let size = match place {
                    Place::Field { field, .. } => snapshot.secret.field(field).map_or(0, |f| f.value.len()),
                    _ => 0,
                };
                if size > self.max_value_size {
                    let failure = Failure::TooLarge { limit: self.max_value_size };
                    say(text, "readable", &format!("no: {} ({failure})", failure.errno().name()));
                } else {
                    say(text, "readable", "yes");
                }
            }
            Err(error) if matches!(place, Place::Directory { .. }) => {
                let listing = self.cache.listing(of).await;
                match listing {
                    Ok(_) => say(text, "readable", "yes, as a folder"),
                    Err(other) => self.say_why(text, tree, of, worse(Some(error), other)).await,
                }
            }
            Err(error) => self.say_why(text, tree, of, error).await,
        }
    }

    async fn say_why(&self, text: &mut String, tree: TreeId, of: &SecretRef, error: Error) {
        let refused = matches!(error, Error::Refused(_));
        let (failure, reason) = if refused && self.is_undeclared(tree, of).await {
            (Failure::NoEntry, self.how_to_declare(of))
        } else {
            let reason = error.to_string();
            (Failure::from(error), reason)
        };
        say(text, "readable", &format!("no: {} ({reason})", failure.errno().name()));
    }

    /// Why a secret that is made on demand is not shown, and what to do.
    fn how_to_declare(&self, of: &SecretRef) -> String {
        let source = self.cache.source(of.source).map_or("", |source| &source.name);
        let path = of.path.to_string();
        format!(
            "made on demand and not declared: declare it with [[secret]], or mount it by name, as `{source}:{path}`"
        )
    }

    fn explain_source(&self, text: &mut String, tree: TreeId, of: &SecretRef) {
        if let Some(tree) = self.trees.get(tree) {
            say(text, "tree", &format!("/{}", tree.at.join("/")));
        }
        say(text, "backend", &self.backend_name(of));
        say(text, "path", &of.path.to_string());
    }
}

fn say(text: &mut String, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key}: {value}");
}
