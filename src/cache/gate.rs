//! Owns the door to one backend: so many questions at once, so many a second, and who goes first.
//! Does not know what is asked or whether the backend is well.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use governor::clock::Reference;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::oneshot;

use crate::clock::{Clock, Moment};

/// Who asks, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody typed a command and waits for what the backend says now.
    Operator,
    /// A program waits in open(2) or stat(2).
    Reader,
    /// A credential would end.
    Lease,
    /// Something in use is asked for again ahead of its end.
    Ahead,
    /// Something might be used.
    Prefetch,
}

impl Priority {
    /// Half of the places are kept for those that somebody waits for.
    fn may_wait(self) -> bool {
        self >= Self::Ahead
    }
}

/// The door. Shared: every [`Pass`] knows the way back.
pub(super) struct Gate {
    /// Guards who is inside and who waits; held for a map operation only.
    queue: Mutex<Queue>,
    rate: RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Tick>>,
    clock: Clock,
}

struct Queue {
    free: usize,
    /// Places that those who may wait leave free for others.
    kept: usize,
    next: u64,
    /// In the order in which they are let in.
    waiting: BTreeMap<(Priority, u64), oneshot::Sender<Pass>>,
}

/// Permission to ask one question; given back by dropping it.
pub(super) struct Pass {
    gate: Option<Arc<Gate>>,
}

impl Gate {
    /// A door for `at_once` questions at a time, and `rate` a second (after a rush of as many).
    pub(super) fn new(at_once: usize, rate: u32, clock: Clock) -> Self {
        let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        let at_once = at_once.max(1);
        Self {
            queue: Mutex::new(Queue { free: at_once, kept: at_once / 2, next: 0, waiting: BTreeMap::new() }),
            rate: RateLimiter::direct_with_clock(Quota::per_second(rate), Ticks(clock.clone())),
            clock,
        }
    }

    /// Waits for a place and for its turn in the rate.
    pub(super) async fn enter(self: &Arc<Self>, priority: Priority) -> Pass {
        let waiting = {
            let mut queue = self.queue();
            // Those who wait behind us may lack a place that we have.
            let first = queue.waiting.first_key_value().is_none_or(|((first, _), _)| *first > priority);
            if first && queue.has_place(priority) {
                queue.free -= 1;
                Ok(Pass { gate: Some(self.clone()) })
            } else {
                let (sender, receiver) = oneshot::channel();
                let key = (priority, queue.next);
                queue.next += 1;
                queue.waiting.insert(key, sender);
                Err(Waiting { gate: self, key, receiver })
            }
        };
        let pass = match waiting {
            Ok(pass) => pass,
            // The sender lives in the queue until it has sent.
            Err(mut waiting) => match (&mut waiting.receiver).await {
                Ok(pass) => pass,
                Err(_) => Pass { gate: None },
            },
        };
        while let Err(not_yet) = self.rate.check() {
            let wait = not_yet.wait_time_from(Tick(self.clock.now()));
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
        pass
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// One place has become free: for the most urgent that may have it.
    fn leave(self: &Arc<Self>) {
        self.queue().free += 1;
        loop {
            let next = {
                let mut queue = self.queue();
                let Some((&key, _)) = queue.waiting.first_key_value() else { return };
                if !queue.has_place(key.0) {
                    return;
                }
                queue.free -= 1;
                queue.waiting.remove(&key)
            };
            let Some(sender) = next else { return };
            match sender.send(Pass { gate: Some(self.clone()) }) {
                Ok(()) => return,
                // It does not wait any more. Its pass must not come back through here: that would never end.
                Err(mut pass) => {
                    pass.gate = None;
                    self.queue().free += 1;
                }
            }
        }
    }
}

impl Queue {
    fn has_place(&self, priority: Priority) -> bool {
        self.free > if priority.may_wait() { self.kept } else { 0 }
    }
}

/// A place in the queue; leaves it when dropped.
struct Waiting<'a> {
    gate: &'a Arc<Gate>,
    key: (Priority, u64),
    receiver: oneshot::Receiver<Pass>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // A pass that was sent but not taken comes back when the receiver drops it.
        self.gate.queue().waiting.remove(&self.key);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.leave();
        }
    }
}

/// Our clock as governor wants it: so the rate counts suspend, and tests move it.
#[derive(Clone)]
struct Ticks(Clock);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(Moment);

impl governor::clock::Clock for Ticks {
    type Instant = Tick;

    fn now(&self) -> Tick {
        Tick(self.0.now())
    }
}

impl Add<Nanos> for Tick {
    type Output = Self;

    fn add(self, nanos: Nanos) -> Self {
        Self(self.0.plus(nanos.into()))
    }
}

impl Reference for Tick {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.minus(duration.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn gate(at_once: usize, rate: u32) -> (Clock, Arc<Gate>) {
        let clock = Clock::manual();
        (clock.clone(), Arc::new(Gate::new(at_once, rate, clock)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_goes_first_however_late_it_came() {
        let (_, gate) = gate(1, 1000);
        let inside = gate.enter(Priority::Reader).await;
        let order = Arc::new(Mutex::new(vec![]));
        let mut tasks = vec![];
        for priority in [Priority::Lease, Priority::Reader, Priority::Operator, Priority::Reader] {
            let (gate, order) = (gate.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _pass = gate.enter(priority).await;
                order.lock().unwrap_or_else(|e| e.into_inner()).push(priority);
            }));
            tokio::task::yield_now().await;
        }
        drop(inside);
        for task in tasks {
            assert!(task.await.is_ok());
        }
        let order = order.lock().unwrap_or_else(|e| e.into_inner()).clone();
        assert_eq!(order, [Priority::Operator, Priority::Reader, Priority::Reader, Priority::Lease]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_may_wait_leave_room_for_readers() {
        let (_, gate) = gate(4, 1000);
        let _two = (gate.enter(Priority::Ahead).await, gate.enter(Priority::Ahead).await);
        let third = tokio::spawn({
            let gate = gate.clone();
            async move { drop(gate.enter(Priority::Ahead).await) }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!third.is_finished());
        let _readers = (gate.enter(Priority::Reader).await, gate.enter(Priority::Reader).await);
        let fifth = tokio::time::timeout(Duration::from_secs(1), gate.enter(Priority::Reader)).await;
        assert!(fifth.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_costs_nobody_a_place() {
        let (_, gate) = gate(2, 100_000);
        let inside = Arc::new(AtomicUsize::new(0));
        let mut tasks = vec![];
        for turn in 0..500_u64 {
            let (gate, inside) = (gate.clone(), inside.clone());
            tasks.push(tokio::spawn(async move {
                let visit = async {
                    let _pass =
                        gate.enter(if turn % 3 == 0 { Priority::Ahead } else { Priority::Reader }).await;
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                    tokio::time::sleep(Duration::from_millis(turn % 7)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                };
                if turn % 5 == 0 {
                    // Given up in the queue or inside: neither may be lost.
                    let given_up =
                        tokio::time::timeout(Duration::from_millis(turn % 11), gate.enter(Priority::Reader));
                    drop(given_up.await);
                } else {
                    visit.await;
                }
            }));
        }
        for task in tasks {
            assert!(task.await.is_ok());
        }
        assert_eq!(gate.queue().free, 2);
        assert!(gate.queue().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_rate_after_the_first_rush() {
        let (clock, gate) = gate(64, 10);
        let ticking = tokio::spawn({
            let clock = clock.clone();
            async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    clock.advance(Duration::from_millis(10));
                }
            }
        });
        let mut let_in = vec![];
        for _ in 0..60 {
            drop(gate.enter(Priority::Reader).await);
            let_in.push(clock.now());
        }
        ticking.abort();
        for (at, begin) in let_in.iter().enumerate().skip(10) {
            let within =
                let_in.iter().skip(at).filter(|end| end.since(*begin) < Duration::from_secs(1)).count();
            assert!(within <= 11, "{within} in the second after {begin:?}");
        }
        assert!(clock.now().since(Moment::START) >= Duration::from_millis(4900));
    }
}
