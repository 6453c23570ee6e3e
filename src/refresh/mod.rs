//! Owns the one background loop: erases what has ended, asks again for what is in use before it ends, notices changes.
//! Does not know how a backend is asked, or who is told of a change: the cache does both.
//!
//! It sleeps to the next deadline. What is due waits in a queue for each backend, which lets go at a pace that keeps
//! everything in use fresh and no more, so that ten thousand due at once (after an outage, after sleep) are a flow.

mod queue;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::backend::Error;
use crate::cache::{Job, SecretCache, SecretRef, SourceId};
use crate::leases::Leases;
use queue::{Queue, Work};

/// The loop, to be spawned by the daemon.
pub struct Refresher {
    cache: Arc<SecretCache>,
    leases: Arc<Leases>,
    queues: Vec<Queue>,
    running: FuturesUnordered<Running>,
}

type Running = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// What something that ran in the background came to.
enum Finished {
    /// A job: whatever came of it, the cache (or the book of leases) has noted.
    Job,
    /// What secrets of a backend were made with may have ended.
    Parents(SourceId),
    /// The versions of a folder.
    Versions(SecretRef, Vec<Job>, Result<Option<(Vec<Job>, u32)>, Error>),
    /// A backend has counted a change, and this is behind now.
    Changed(SourceId, Vec<Job>),
}

impl Refresher {
    /// Over all backends of a cache, and all leases over it.
    pub fn new(cache: Arc<SecretCache>, leases: Arc<Leases>) -> Self {
        let sources = cache.source_states().len();
        let queues = (0..sources).map(|source| Queue::new(SourceId::new(source))).collect();
        Self { cache, leases, queues, running: FuturesUnordered::new() }
    }

    /// Runs until dropped. Nothing in it waits for a backend but what is in flight.
    pub async fn run(mut self) {
        for source in (0..self.queues.len()).map(SourceId::new) {
            if self.cache.counts_changes(source) {
                self.running.push(Box::pin(changed(self.cache.clone(), source)));
            }
            self.running.push(Box::pin(parents_changed(self.cache.clone(), source)));
        }
        loop {
            let now = self.cache.clock().now();
            let mut next = self.cache.sweep(now);
            self.cache.drop_emptied().await;
            for job in self.cache.take_jobs() {
                self.enqueue(job);
            }
            let (errands, look) = self.leases.due(now);
            next = [next, look].into_iter().flatten().min();
            for errand in errands {
                let leases = self.leases.clone();
                self.running.push(Box::pin(async move {
                    leases.act(errand).await;
                    Finished::Job
                }));
            }
            for queue in &mut self.queues {
                loop {
                    match queue.next(now, &self.cache) {
                        Ok(work) => self.running.push(start(self.cache.clone(), work)),
                        Err(later) => {
                            next = [next, later].into_iter().flatten().min();
                            break;
                        }
                    }
                }
            }
            let wait = next.map_or(LOOK, |next| self.cache.clock().wait_until(next).min(LOOK));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.cache.woken() => {}
                () = self.leases.woken() => {}
                Some(finished) = self.running.next() => self.take(finished),
            }
        }
    }

    fn take(&mut self, finished: Finished) {
        match finished {
            Finished::Job => {}
            Finished::Parents(source) => {
                self.leases.look_again();
                self.running.push(Box::pin(parents_changed(self.cache.clone(), source)));
            }
            Finished::Versions(folder, due, answer) => {
                let now = self.cache.clock().now();
                if let Some(queue) = self.queues.get_mut(folder.source.index()) {
                    queue.answered(now, folder, due, answer);
                }
            }
            Finished::Changed(source, jobs) => {
                jobs.into_iter().for_each(|job| self.enqueue(job));
                self.running.push(Box::pin(changed(self.cache.clone(), source)));
            }
        }
    }

    fn enqueue(&mut self, job: Job) {
        if let Some(queue) = self.queues.get_mut(job.source().index()) {
            queue.push(job);
        }
    }
}

/// The timers stand still while the machine sleeps, the deadlines do not: look at least this often.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);

fn start(cache: Arc<SecretCache>, work: Work) -> Running {
    Box::pin(async move {
        match work {
            Work::One(job) => {
                cache.refresh_ahead(&job).await;
                Finished::Job
            }
            Work::Together(folder, due) => {
                let answer = cache.ask_versions(&folder).await;
                Finished::Versions(folder, due, answer)
            }
        }
    })
}

async fn parents_changed(cache: Arc<SecretCache>, source: SourceId) -> Finished {
    match cache.source(source).and_then(|found| found.backend.issuer()) {
        Some(issuer) => issuer.parents_changed().await,
        None => std::future::pending().await,
    }
    Finished::Parents(source)
}

async fn changed(cache: Arc<SecretCache>, source: SourceId) -> Finished {
    cache.source_changed(source).await;
    let jobs = cache.catch_up(source).await;
    Finished::Changed(source, jobs)
}

#[cfg(test)]
mod tests;
