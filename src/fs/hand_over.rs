//! Owns the handover of what is open: who opens or closes meanwhile waits, and does it in the next worker.
//! Does not know the way it takes, or what else goes.
//!
//! A file that were closed after it was sent would stay open in the next worker for ever, with its bytes. So the kernel has no answer
//! to a close until it is known who gives it; what is not answered it sends again to the next worker.

use std::sync::Arc;

use super::{CarriedFiles, Handle, HandleNo, SecretFs};

impl SecretFs {
    /// From now on nothing is opened or closed here: who wants that waits.
    pub fn pause(&self) {
        self.handles.stand_still();
    }

    /// Ends [`Self::pause`]: there is no next worker.
    pub fn resume(&self) {
        self.handles.go_on();
    }

    /// Every open file.
    pub fn export(&self) -> CarriedFiles {
        self.handles.export()
    }

    /// Has open what another worker had open, under the same handles.
    pub fn import(&self, files: CarriedFiles) {
        self.handles.import(files);
    }

    /// As [`Self::release`], once that is ours to do.
    pub async fn release_in_time(&self, number: HandleNo) -> Option<Arc<Handle>> {
        loop {
            self.handles.going_on().await;
            if let Some(closed) = self.handles.remove(number) {
                return closed;
            }
        }
    }

    /// Closes a file, when that needs no wait.
    pub fn release_at_once(&self, number: HandleNo) -> Option<Option<Arc<Handle>>> {
        self.handles.remove(number)
    }
}
