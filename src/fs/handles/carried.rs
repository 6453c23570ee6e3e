//! Owns the handover of open files: none is opened or closed meanwhile, and each goes to the next worker as it is.
//! Does not know the way it takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Content, Handle, HandleNo, Handles};
use crate::cache::Snapshot;
use crate::carried::Carried;
use crate::clock::Moment;
use crate::secret::{Secret, SecretBytes};
use crate::tree::inode::INodeNo;

/// An open file. Which secret it is of is a number in a list that goes with it: many files may be open of one.
#[derive(Debug, Serialize, Deserialize)]
pub struct CarriedHandle {
    number: u64,
    ino: u64,
    secret: u32,
    fetched: Carried<SystemTime>,
    expires: Carried<SystemTime>,
    fresh_until: Moment,
    served_until: Moment,
    content: CarriedContent,
    paged: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum CarriedContent {
    /// The field at this place.
    Field(u32),
    Rendered(Carried<SecretBytes>),
}

/// All open files.
#[derive(Debug, Default)]
pub struct CarriedFiles {
    /// What they were opened in.
    pub secrets: Vec<Carried<Arc<Secret>>>,
    /// Each of them.
    pub handles: Vec<CarriedHandle>,
}

impl CarriedHandle {
    /// Whether it is of one of these secrets, and of a field that is there.
    pub fn is_sound(&self, secrets: &[Carried<Arc<Secret>>]) -> bool {
        let secret = usize::try_from(self.secret).ok().and_then(|at| secrets.get(at));
        secret.is_some_and(|secret| match self.content {
            CarriedContent::Field(at) => usize::try_from(at).is_ok_and(|at| at < secret.0.fields.len()),
            CarriedContent::Rendered(_) => true,
        })
    }
}

impl Handles {
    /// From now on nothing is opened or closed.
    pub(in crate::fs) fn stand_still(&self) {
        self.change_stillness(true);
    }

    /// Ends [`Self::stand_still`].
    pub(in crate::fs) fn go_on(&self) {
        self.change_stillness(false);
    }

    fn change_stillness(&self, still: bool) {
        // Under the lock under which files are opened and closed, so that none is after this.
        let mut open = self.open.write().unwrap_or_else(|e| e.into_inner());
        open.still = still;
        self.still.send_replace(still);
    }

    /// Waits while they stand still.
    pub(in crate::fs) async fn going_on(&self) {
        // The sender is ours.
        let _ = self.still.subscribe().wait_for(|still| !still).await;
    }

    /// All of them.
    pub(in crate::fs) fn export(&self) -> CarriedFiles {
        let open = self.open.read().unwrap_or_else(|e| e.into_inner());
        let (mut files, mut places) = (CarriedFiles::default(), HashMap::new());
        for (number, handle) in &open.files {
            let Snapshot { secret, fetched, expires, fresh_until, served_until } = &*handle.snapshot;
            let secret = *places.entry(Arc::as_ptr(secret).addr()).or_insert_with(|| {
                files.secrets.push(Carried(secret.clone()));
                files.secrets.len() - 1
            });
            let short = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let content = match &handle.content {
                Content::Field(at) => CarriedContent::Field(short(*at)),
                Content::Rendered(bytes) => {
                    CarriedContent::Rendered(Carried(SecretBytes::new(bytes.expose().to_vec())))
                }
            };
            files.handles.push(CarriedHandle {
                number: number.0,
                ino: handle.ino.0,
                secret: short(secret),
                fetched: Carried(*fetched),
                expires: Carried(*expires),
                fresh_until: *fresh_until,
                served_until: *served_until,
                content,
                paged: handle.was_paged(),
            });
        }
        files
    }

    /// Has open what another worker had open.
    pub(in crate::fs) fn import(&self, files: CarriedFiles) {
        for handle in files.handles {
            let at = usize::try_from(handle.secret).unwrap_or(usize::MAX);
            let Some(Carried(secret)) = files.secrets.get(at) else { continue };
            let snapshot = Arc::new(Snapshot {
                secret: secret.clone(),
                fetched: handle.fetched.0,
                expires: handle.expires.0,
                fresh_until: handle.fresh_until,
                served_until: handle.served_until,
            });
            let content = match handle.content {
                CarriedContent::Field(at) => Content::Field(usize::try_from(at).unwrap_or(usize::MAX)),
                CarriedContent::Rendered(bytes) => Content::Rendered(bytes.0),
            };
            let (ino, paged) = (INodeNo(handle.ino), AtomicBool::new(false));
            paged.store(handle.paged, Ordering::Relaxed);
            self.keep(HandleNo(handle.number), Handle { ino, snapshot, content, paged });
        }
    }
}
