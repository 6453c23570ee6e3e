//! Owns the promises of standing still for a successor, also of more than one of them.
//! Does not know the worker that comes.
#![allow(clippy::unwrap_used, clippy::panic)]

use tokio::sync::{Notify, oneshot};

use super::*;
use crate::backend::mint::{Mint, Role};
use crate::cache::{Limits, SecretRef, Source, SourceId};
use crate::clock::Clock;
use crate::hands;
use crate::path::BackendPath;
use crate::tree::Trees;

const OURS: Fingerprint = [7; 32];

/// What a worker holds of a backend that makes secrets slowly.
fn held(mint: &Arc<Mint>) -> Held {
    let source = Source { name: "made".into(), backend: mint.clone() };
    let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), Clock::System));
    let leases = Arc::new(Leases::plain(cache.clone()));
    let fs = Arc::new(SecretFs::new(Trees::new(vec![]), cache.clone(), 1024).with_leases(leases.clone()));
    let hands = hands::Client::over(UnixStream::pair().unwrap().0, Err("none".to_owned())).unwrap();
    let trees = Trees::new(vec![]);
    let hooks = Hooks::new(vec![], trees, cache.clone(), leases.clone(), "/none".into(), hands).unwrap();
    (cache, leases, fs, Arc::new(hooks))
}

fn role() -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse("role").unwrap())
}

/// Somebody opens the secret, and what is due of it is done; tells when that begins.
async fn opens(leases: Arc<Leases>, begins: Arc<Notify>) {
    let of = role();
    let opening = leases.open(&of);
    tokio::pin!(opening);
    loop {
        tokio::select! {
            biased;
            opened = &mut opening => return drop(opened.unwrap()),
            () = leases.woken() => {}
        }
        for errand in leases.due(Clock::System.now()).0 {
            begins.notify_one();
            leases.act(errand).await;
        }
    }
}

/// Whether nothing can be given back.
async fn stands_still(leases: &Leases) -> bool {
    tokio::time::timeout(Duration::from_millis(200), leases.revoke(&role())).await.is_err()
}

/// What the holder hears next.
async fn heard(holder: &Channel) -> (u64, Handed) {
    let (holder, (tell, told)) = (holder.clone(), oneshot::channel());
    // No thread of the runtime's, whose end would wait for it.
    std::thread::spawn(move || tell.send(holder.receive::<ToHolder>().unwrap()));
    let heard = tokio::time::timeout(Duration::from_secs(30), told).await.unwrap().unwrap();
    match heard.unwrap().0 {
        ToHolder::HandedOver(successor, handed) => (successor, handed),
        other => panic!("{other:?}"),
    }
}

/// Reads all that is sent, and tells how much it was once that is closed.
fn reader() -> (OwnedFd, oneshot::Receiver<usize>) {
    let ((ours, mut theirs), (tell, told)) = (UnixStream::pair().unwrap(), oneshot::channel());
    std::thread::spawn(move || {
        let mut all = Vec::new();
        tell.send(std::io::Read::read_to_end(&mut theirs, &mut all).unwrap())
    });
    (ours.into(), told)
}

#[tokio::test]
async fn an_upgrade_that_was_abandoned_lets_nothing_go_on_that_stands_still_for_the_next() {
    let (holder, worker) = Channel::pair().unwrap();
    let worker = Channel::over(worker);
    let mint = Arc::new(Mint::new(Clock::System));
    mint.role("role", Role::default());
    mint.delay(Duration::from_secs(4));
    let (held, begins) = (held(&mint), Arc::<Notify>::default());
    let opening = tokio::spawn(opens(held.1.clone(), begins.clone()));
    begins.notified().await;
    let mut old = Old::new();
    let ((first, first_read), (second, second_read)) = (reader(), reader());
    old.hand_over(held.clone(), (1, first), OURS, &worker);
    // It waits for the lease that is being made.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    old.go_on();
    old.hand_over(held.clone(), (2, second), OURS, &worker);
    assert_eq!(heard(&holder).await, (2, Handed::All));
    opening.await.unwrap();
    mint.delay(Duration::ZERO);
    // Once nothing more can come of the first.
    assert_eq!(first_read.await.unwrap(), 0);
    assert!(second_read.await.unwrap() > 0);
    assert!(stands_still(&held.1).await && mint.counts().1 == 0);
    old.go_on();
    held.1.revoke(&role()).await.unwrap();
}

#[tokio::test]
async fn a_worker_whose_state_is_not_taken_stands_still_until_it_is_told_what_follows() {
    let (holder, worker) = Channel::pair().unwrap();
    let worker = Channel::over(worker);
    let mint = Arc::new(Mint::new(Clock::System));
    mint.role("role", Role::default());
    let held = held(&mint);
    opens(held.1.clone(), Arc::default()).await;
    let mut old = Old::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    old.hand_over(held.clone(), (3, ours.into()), OURS, &worker);
    let (successor, handed) = heard(&holder).await;
    assert!(successor == 3 && matches!(handed, Handed::Broken(_)), "{handed:?}");
    assert!(stands_still(&held.1).await && mint.counts().1 == 0);
    old.go_on();
    held.1.revoke(&role()).await.unwrap();
}
