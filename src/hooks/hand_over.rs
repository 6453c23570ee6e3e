//! Owns the handover of hooks: no run begins meanwhile, and what waits for one waits on in the next worker.
//! Does not know the way it takes. A run that has begun is the hands' own, who outlive a worker.

use tokio::time::Instant;

use super::Hooks;
use crate::handover::{CarriedHooks, CarriedWait};

impl Hooks {
    /// From now on no run begins. What hooks know, with all that the cache has told by now.
    pub fn stand_still(&self) -> CarriedHooks {
        // First: what begins later is not on its way any more.
        self.surroundings.still.send_replace(true);
        if let Some(changes) = self.changes().as_mut() {
            while let Ok(changed) = changes.try_recv() {
                self.notice(&changed);
            }
        }
        // Kept for all of it: what was seen as news is with those who wait by then.
        let seen = self.seen();
        let now = Instant::now();
        CarriedHooks {
            seen: seen.export(),
            waiting: self.tasks.iter().filter_map(|task| task.carried(now)).collect(),
        }
    }

    /// Ends [`Self::stand_still`]: there is no next worker.
    pub fn go_on(&self) {
        self.surroundings.still.send_replace(false);
    }

    /// Knows what the hooks of another worker knew. For hooks that do not run yet.
    pub fn import(&self, CarriedHooks { seen, waiting }: CarriedHooks) {
        self.seen().import(seen);
        let now = Instant::now();
        for wait in waiting {
            let number = usize::try_from(wait.hook).unwrap_or(usize::MAX);
            if let Some(task) = self.tasks.get(number) {
                task.take_over(wait, now);
            }
        }
    }
}

impl super::task::Task {
    /// What waits for its next run; none where nothing does and it never ran.
    fn carried(&self, now: Instant) -> Option<CarriedWait> {
        let notes = self.notes();
        let [waits, ran] = notes.schedule.ages(now);
        waits.or(ran)?;
        let (paths, truncated) = notes.news.clone().into_paths();
        Some(CarriedWait { hook: u32::try_from(self.number).ok()?, waits, ran, paths, truncated })
    }

    /// Waits for what its hook waited for in another worker.
    fn take_over(&self, CarriedWait { waits, ran, paths, truncated, .. }: CarriedWait, now: Instant) {
        {
            let mut notes = self.notes();
            notes.schedule.go_on_from([waits, ran], now);
            for path in self.about(&paths) {
                notes.news.add(path, &self.surroundings.mountpoint);
            }
            if truncated {
                notes.news.truncate();
            }
        }
        self.told.notify_one();
    }
}
