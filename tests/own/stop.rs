//! The actor ends and releases everything, however it is stopped. The fake libquorum can be made to
//! hang, which blocks every other connection of the process. So each test runs in its own process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Arbiter, Context, Handler, System, WeakAddr, clock::timeout};
use actix_quorum::{
    Backoff, Connection, QuorumActor, QuorumBuilder, QuorumChanged, QuorumHandle, Snapshot,
};

use crate::support::{
    DEADLINE, FakeLibquorum, connected, eventually, eventually_async, fake_source, hold, quick,
};

fn builder(fake: &FakeLibquorum) -> QuorumBuilder {
    fake_source(QuorumActor::builder(), fake.path()).server_uid(None).backoff(quick())
}

/// Loses the connection and waits for the next one. The state in between may be too short to see.
async fn reconnected(fake: &FakeLibquorum, quorum: &QuorumHandle) {
    let before = quorum.snapshot().sequence;
    fake.hang_up();
    let again = |snapshot: &Snapshot| {
        snapshot.sequence > before && snapshot.connection == Connection::Connected
    };
    timeout(DEADLINE, quorum.wait_for(again)).await.expect("the actor is connected again").unwrap();
}

async fn wait(what: &str, condition: impl Fn() -> bool) {
    eventually_async(what, || condition().then_some(())).await;
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_stop_returns_while_the_arbiter_is_busy_and_closes_the_connection_later() {
    own_process!();
    let fake = FakeLibquorum::new("stop_busy");
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let quorum = builder(&fake).start_in_arbiter(&arbiter.handle());
        connected(&quorum).await;
        assert_eq!(fake.tracking_handles(), 1);
        let held = hold(&arbiter);
        let start = Instant::now();
        quorum.stop().await;
        assert!(start.elapsed() < Duration::from_secs(3), "stopping does not wait for the arbiter");
        drop(held);
        wait("the connection is closed", || fake.open_handles() == 0).await;
    });
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_stop_takes_effect_without_being_awaited() {
    own_process!();
    let fake = FakeLibquorum::new("stop_dropped");
    System::new().block_on(async {
        let quorum = builder(&fake).start();
        connected(&quorum).await;
        drop(quorum.stop());
        wait("the connection is closed", || fake.open_handles() == 0).await;
    });
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_stop_during_the_delay_before_a_restart_ends_the_actor() {
    own_process!();
    let fake = FakeLibquorum::new("stop_delay");
    System::new().block_on(async {
        let mut addresses = Vec::new();
        for _ in 0..5 {
            let quorum = builder(&fake).start();
            connected(&quorum).await;
            fake.block("quorum_finalize");
            fake.hang_up();
            let lost = |now: &Snapshot| matches!(now.connection, Connection::Disconnected { .. });
            timeout(DEADLINE, quorum.wait_for(lost))
                .await
                .expect("the connection is lost")
                .unwrap();
            quorum.stop().await;
            fake.unblock("quorum_finalize");
            addresses.push(quorum.addr());
        }
        let ended = || addresses.iter().all(|addr: &Addr<_>| !addr.connected());
        wait("every actor has ended", ended).await;
    });
    eventually("no handle is open", || (fake.open_handles() == 0).then_some(()));
}

struct Subscriber(Arc<AtomicBool>);

impl Actor for Subscriber {
    type Context = Context<Self>;
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Handler<QuorumChanged> for Subscriber {
    type Result = ();

    fn handle(&mut self, _: QuorumChanged, _: &mut Context<Self>) {}
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_stop_leaves_nothing_on_the_callers_arbiter() {
    own_process!();
    let fake = FakeLibquorum::new("stop_shared");
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let dropped = Arc::new(AtomicBool::new(false));
        let quorum = builder(&fake).start_in_arbiter(&arbiter.handle());
        quorum.subscribe(Subscriber(Arc::clone(&dropped)).start().recipient());
        connected(&quorum).await;
        quorum.stop().await;
        assert_eq!(fake.open_handles(), 0);
        wait("the subscriber ends", || dropped.load(Ordering::Acquire)).await;
        let weak: WeakAddr<_> = quorum.addr().downgrade();
        drop(quorum);
        wait("the actor ends", || weak.upgrade().is_none()).await;
        assert!(arbiter.handle().alive());
    });
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn the_actor_stops_when_its_arbiter_stops() {
    own_process!();
    let fake = FakeLibquorum::new("stop_arbiter");
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let quorum = builder(&fake).start_in_arbiter(&arbiter.handle());
        connected(&quorum).await;
        arbiter.stop();
        let stopped = |now: &Snapshot| now.connection == Connection::Stopped;
        timeout(DEADLINE, quorum.wait_for(stopped)).await.expect("the actor is stopped").unwrap();
        assert!(!quorum.is_quorate());
        wait("the connection is closed", || fake.open_handles() == 0).await;
    });
}

/// `wait_for` calls its condition without a lock, even while changes are being published.
#[test]
#[ignore = "needs a C compiler: make test"]
fn the_condition_of_wait_for_may_call_the_handle() {
    own_process!();
    let fake = Arc::new(FakeLibquorum::new("stop_wait"));
    System::new().block_on(async {
        let quorum = builder(&fake).start();
        connected(&quorum).await;
        let (flipping, ended) = (Arc::clone(&fake), Arc::new(AtomicBool::new(false)));
        let end = Arc::clone(&ended);
        let flipper = thread::spawn(move || {
            let mut n = 0;
            while !end.load(Ordering::Acquire) {
                n += 1;
                flipping.push_quorum(n % 2, (1, 9), Some(&[1]));
                thread::yield_now();
            }
        });
        let asked = AtomicUsize::new(0);
        let enough = quorum.wait_for(|_| {
            assert!(quorum.snapshot().sequence > 0);
            asked.fetch_add(1, Ordering::Relaxed) == 200
        });
        timeout(DEADLINE, enough).await.expect("the condition is checked often enough").unwrap();
        ended.store(true, Ordering::Release);
        flipper.join().unwrap();
        quorum.stop().await;
    });
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn the_delays_start_over_after_a_connection_that_lasted_long_enough() {
    own_process!();
    let fake = FakeLibquorum::new("stop_backoff");
    System::new().block_on(async {
        let minute = Duration::from_secs(60);
        let backoff = Backoff::default()
            .disconnected(Duration::from_millis(1)..=minute)
            .reset_after(Duration::from_millis(300));
        let quorum = builder(&fake).backoff(backoff).start();
        connected(&quorum).await;
        for _ in 0..11 {
            reconnected(&fake, &quorum).await;
        }
        let since = Instant::now();
        wait("the connection has lasted for 400 ms", || {
            since.elapsed() > Duration::from_millis(400)
        })
        .await;
        let start = Instant::now();
        reconnected(&fake, &quorum).await;
        // The eleven disconnects have repeatedly doubled the delay, to two seconds or more. It is
        // shorter only if the delays have started over.
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(2), "connected again only after {elapsed:?}");
        quorum.stop().await;
    });
}
