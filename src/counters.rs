//! Owns the numbers that say what a mount has done since it began; a metrics endpoint can show them as they are.
//! Does not know who counts or who reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$about:meta])* $name:ident { $($(#[doc = $meaning:literal])* $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[doc = $meaning])* pub $field: Counter,)*
        }

        impl $name {
            /// Name, meaning and number of each.
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($field), concat!($($meaning),*).trim_ascii(), self.$field.get()),)*]
            }
        }
    };
}

counters! {
    /// What the cache of a mount has done.
    Counters {
        /// Questions answered from memory, fresh.
        hits,
        /// Questions that had to ask a backend.
        misses,
        /// Values and listings asked for again ahead of their time.
        refreshes,
        /// Questions answered from memory with a stale answer.
        stale_serves,
        /// Answers that the bound on memory pushed out.
        evictions,
        /// Values and listings erased, for whatever reason.
        wipes,
        /// New versions found of secrets that were held.
        changes,
        /// Secrets made on demand.
        leases_made,
        /// Leases made longer.
        leases_renewed,
        /// Leases given back before their end.
        leases_revoked,
        /// Leases that could not be made, renewed or given back when it was tried.
        leases_failed,
        /// Calls of a backend that gave what was asked for.
        calls_ok,
        /// Calls answered with "no such secret".
        calls_not_found,
        /// Calls answered with "forbidden".
        calls_forbidden,
        /// Calls without an answer: unreachable, late, or a status that is no answer.
        calls_failed,
        /// Calls that were not made because the backend did not answer of late.
        calls_withheld,
    }
}

counters! {
    /// What the hooks of a mount have done.
    HookCounters {
        /// Changes that a hook was told of.
        hook_changes,
        /// Runs of hooks.
        hook_runs,
        /// Runs of hooks that failed, for whatever reason.
        hook_failures,
        /// Runs of hooks that were ended because their time was up.
        hook_timeouts,
    }
}
