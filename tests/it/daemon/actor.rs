//! The actor on a real daemon of one node.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use actix::{Actor, Arbiter, Context, Handler, Message, System};
use actix_quorum::{
    Backoff, Cause, Code, Connection, Error, GetSnapshot, NodeId, Quorum, QuorumActor,
    QuorumChanged, RingState, Subscribe, Unsubscribe, VoteFlags,
};
use futures_util::{StreamExt, future::join_all, stream};

use crate::support::{
    DEADLINE, Flipper, Forward, Ipc, Netns, Node, Watcher, all_published, as_user, eventually,
    eventually_async, fill_dev_shm, lines, quick, quorate, small_dev_shm,
};

/// Returns a quorate node, and a watcher that has received its state.
fn watched() -> (Node, Watcher) {
    let node = Node::single();
    let watcher = Watcher::start(&node.netns);
    watcher.until_settled(Quorum::Quorate, &[1]);
    all_published(&watcher.quorum);
    (node, watcher)
}

/// If a read is late when the counters are cleared, the next read uses a new connection. Then the
/// actor cannot distinguish the cleared counters from a lost ring, so quorum ends until the actor
/// has connected again. This is rare, so quorum must survive at least one of five clearings.
#[test]
#[ignore = "needs root and corosync: make test"]
fn cleared_counters_of_the_daemon_end_only_exclusivity() {
    let (node, watcher) = watched();
    let continues = (0..5).any(|_| {
        node.corosync.tool_ok("corosync-cmapctl", &["-C", "totem"]);
        eventually("the node is no longer exclusive", || {
            (!watcher.quorum.is_exclusive()).then_some(())
        });
        let mut is_lost = false;
        eventually("the node is exclusive again", || {
            let now = watcher.quorum.snapshot();
            is_lost |= now.ring == RingState::Gather;
            assert!(is_lost || now.quorum.is_quorate(), "quorum ended: {now}");
            watcher.quorum.is_exclusive().then_some(())
        });
        !is_lost
    });
    assert!(continues, "quorum ended at each of five clearings");
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_subscriber_receives_the_current_state_first() {
    let (node, watcher) = watched();
    let (send, received) = mpsc::channel();
    let first = System::new().block_on(async {
        watcher.quorum.subscribe(Forward(send).start().recipient());
        eventually_async("the first message arrives", || received.try_recv().ok()).await
    });
    assert_eq!(first.cause, Cause::Subscribed);
    assert_eq!(first.current, watcher.quorum.snapshot());
    assert!(first.is_gain() && first.missed == 0 && first.left.is_empty());
    assert_eq!(first.joined.iter().map(|node| node.0).collect::<Vec<_>>(), [1]);
    let ring = node.wait_members(true, &[1]).ring_id;
    assert_eq!(first.to_string(), format!("quorate: ring {ring}, members 1"));
}

/// A thousand real changes of quorum arrive complete and in order on another arbiter. Of three more
/// subscribers, the first does not return from its handler, the second panics and the third has
/// already ended.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_thousand_changes_arrive_complete_and_in_order_despite_bad_subscribers() {
    let (node, watcher) = watched();
    let (unblock, stuck) = mpsc::channel::<()>();
    let quorum = watcher.quorum.clone();
    let bad = thread::spawn(move || {
        System::new().block_on(async {
            let never_reads = Actor::start_in_arbiter(&Arbiter::new().handle(), |_| Stuck(stuck));
            quorum.subscribe(never_reads.recipient());
            quorum.subscribe(Panics.start().recipient());
            let died = Panics.start();
            died.send(Die).await.unwrap();
            quorum.subscribe(died.recipient());
            let dropped = || (quorum.subscriber_count() == 2).then_some(());
            eventually_async("the subscriber that has ended is removed", dropped).await;
        });
    });
    bad.join().unwrap();

    let quorate = |n| n % 2 == 1;
    node.run(|| {
        let flipper = Flipper::new();
        (0..1000).for_each(|n| flipper.flip(quorate(n)));
    });
    let mut last: Option<QuorumChanged> = None;
    let mut flips = 0;
    while flips < 1000 {
        let change = watcher.next();
        assert_eq!(change.missed, 0, "flip {flips}: {change}");
        if let Some(last) = last {
            assert_eq!(change.previous, last.current, "flip {flips}");
        }
        // Each flip also changes the votes. How often the votes are published does not matter here.
        if change.cause == Cause::Quorum {
            assert_eq!(change.current.quorum.is_quorate(), quorate(flips), "flip {flips}");
            assert_eq!(change.is_gain(), quorate(flips), "flip {flips}");
            flips += 1;
        }
        last = Some(change);
    }
    assert!(watcher.rest().iter().all(|change| change.cause == Cause::Votes));
    drop(unblock);
}

/// Waits in its handler until the other end of the channel is dropped.
struct Stuck(mpsc::Receiver<()>);

impl Actor for Stuck {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Stuck {
    type Result = ();

    fn handle(&mut self, _: QuorumChanged, _: &mut Context<Self>) {
        let _ = self.0.recv();
    }
}

struct Panics;

impl Actor for Panics {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Panics {
    type Result = ();

    fn handle(&mut self, _: QuorumChanged, _: &mut Context<Self>) {
        panic!("on purpose");
    }
}

struct Die;

impl Message for Die {
    type Result = ();
}

impl Handler<Die> for Panics {
    type Result = ();

    fn handle(&mut self, _: Die, ctx: &mut Context<Self>) {
        actix::ActorContext::terminate(ctx);
    }
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_actor_accepts_messages_instead_of_handle_methods() {
    let (_node, watcher) = watched();
    let addr = watcher.quorum.addr();
    let (send, _received) = mpsc::channel();
    System::new().block_on(async {
        let late = Forward(send).start();
        let before = watcher.quorum.snapshot().sequence;
        let snapshot = addr.send(GetSnapshot).await.unwrap();
        assert!((before..=watcher.quorum.snapshot().sequence).contains(&snapshot.sequence));
        let id = addr.send(Subscribe::new(late.clone().recipient())).await.unwrap();
        let weak = addr.send(Subscribe::new(late.downgrade().recipient())).await.unwrap();
        assert_ne!(id, weak);
        assert_eq!(watcher.quorum.subscriber_count(), 3);
        assert_eq!(addr.send(Unsubscribe(id)).await, Ok(true));
        assert_eq!(addr.send(Unsubscribe(id)).await, Ok(false));
        assert!(watcher.quorum.unsubscribe(weak));
        assert_eq!(watcher.quorum.subscriber_count(), 1);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn code_outside_actors_can_wait_for_a_state_and_read_the_stream() {
    let node = Node::single();
    let quorum = Watcher::start(&node.netns);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let handle = quorum.quorum.clone();
        tokio::time::timeout(DEADLINE, handle.wait_quorate()).await.unwrap().unwrap();
        assert!(handle.is_quorate());
        assert_eq!(handle.quorum(), Quorum::Quorate);

        // Many readers on many threads, each from its first change to the end.
        let mut readers = Vec::new();
        for _ in 0..8 {
            let mut changes = handle.changes();
            // Reading the first change starts the stream. A spawned task might do so much later.
            let first = changes.next().await.unwrap();
            readers.push(tokio::spawn(stream::iter([first]).chain(changes).collect::<Vec<_>>()));
        }
        let waiting = handle.wait_for(|snapshot| snapshot.quorum == Quorum::Inquorate);
        let (waiting, ()) = tokio::join!(tokio::time::timeout(DEADLINE, waiting), async {
            node.corosync.expected_votes(3);
        });
        assert_eq!(waiting.unwrap().unwrap().quorum, Quorum::Inquorate);
        handle.stop().await;
        for changes in join_all(readers).await {
            let changes = changes.unwrap();
            let causes: Vec<Cause> = changes.iter().map(|change| change.cause).collect();
            assert_eq!(causes[0], Cause::Subscribed);
            assert_eq!(
                *causes.last().unwrap(),
                Cause::Stopped,
                "the last change: {}",
                lines(&changes)
            );
            for pair in changes.windows(2) {
                assert_eq!(pair[0].current, pair[1].previous);
            }
        }
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn stopping_publishes_stopped_and_closes_the_connection() {
    let (node, watcher) = watched();
    // Whether this process has a connection to the quorum service, and one to votequorum.
    let connected = || {
        let stats = node.corosync.tool_ok("corosync-cmapctl", &["-m", "stats"]);
        [3, 5].map(|service| {
            let ours = format!("stats.ipcs.service{service}.{}.", std::process::id());
            stats.lines().any(|line| line.starts_with(&ours))
        })
    };
    assert_eq!(connected(), [true; 2], "the actor and its probe are connected");
    watcher.stop();
    assert_eq!(watcher.quorum.snapshot().connection, Connection::Stopped);
    assert!(!watcher.quorum.is_quorate());
    eventually("both connections are closed", || (connected() == [false; 2]).then_some(()));
    let changes = watcher.until_cause(Cause::Stopped);
    assert!(changes.last().unwrap().is_loss());
    eventually("the actor ends", || (!watcher.quorum.addr().connected()).then_some(()));
    // A later subscriber receives the same state.
    System::new().block_on(async {
        let changes: Vec<_> = watcher.quorum.changes().collect().await;
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].current.connection, Connection::Stopped);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn stopping_the_actix_system_ends_quorum() {
    let node = Node::single();
    let quorum = node.run(|| {
        let system = System::new();
        let quorum = system.block_on(async {
            let quorum = QuorumActor::builder().start();
            quorate(&quorum).await;
            quorum
        });
        System::current().stop();
        system.run().unwrap();
        quorum
    });
    eventually("the actor is published as stopped", || {
        (quorum.snapshot().connection == Connection::Stopped).then_some(())
    });
    assert!(!quorum.is_quorate());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_actor_runs_on_the_callers_arbiter() {
    let node = Node::single();
    node.run(|| {
        System::new().block_on(async {
            let quorum = QuorumActor::builder().start_in_arbiter(&Arbiter::current());
            quorate(&quorum).await;
            quorum.stop().await;
            assert_eq!(quorum.snapshot().connection, Connection::Stopped);
            let addr = quorum.addr();
            assert_eq!(
                addr.send(GetSnapshot).await.unwrap(),
                quorum.snapshot(),
                "the stopped actor still answers"
            );

            // On an arbiter that has stopped, the actor does not start.
            let dead = Arbiter::new();
            dead.stop();
            let handle = dead.handle();
            dead.join().unwrap();
            let quorum = QuorumActor::builder().start_in_arbiter(&handle);
            assert_eq!(quorum.snapshot().connection, Connection::Stopped);
        });
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_actor_waits_for_a_daemon_that_is_not_running() {
    let node = Node::single();
    node.corosync.stop();
    let watcher = Watcher::start(&node.netns);
    let error = watcher.attempt_error();
    assert_eq!(error, Error::Connect(Code::LIBRARY));
    assert!(error.to_string().contains("systemctl start corosync"), "{error}");
    node.corosync.start();
    watcher.until_settled(Quorum::Quorate, &[1]);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_daemon_in_another_network_namespace_is_not_found() {
    let node = Node::single();
    let elsewhere = Netns::new();
    let watcher = Watcher::start(&elsewhere);
    let error = watcher.attempt_error();
    assert_eq!(error, Error::Connect(Code::LIBRARY));
    assert!(error.to_string().contains("different network namespace"), "{error}");
    drop(node);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_error_for_a_refused_user_names_a_remedy_that_works() {
    let node = Node::single();
    let watcher =
        node.run(|| as_user(65534, 65534, || Watcher::here(|builder| builder.backoff(quick()))));
    let error = watcher.attempt_error();
    assert_eq!(error, Error::Connect(Code::ACCESS));
    let text = error.to_string();
    assert!(text.contains("uidgid.d") && text.contains("corosync-cfgtool -R"), "{text}");
    node.corosync.let_in("nobody");
    watcher.until_settled(Quorum::Quorate, &[1]);
    // The permission survives a restart of the daemon.
    node.corosync.restart();
    watcher.until_lost();
    watcher.until_settled(Quorum::Quorate, &[1]);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn refused_attempts_are_rare_by_default() {
    let node = Node::single();
    let watcher = node.run(|| as_user(65534, 65534, || Watcher::here(|builder| builder)));
    watcher.attempt_error();
    let since = Instant::now();
    // The next attempt follows after 30 s or more. In the meantime the actor answers messages.
    let snapshot = System::new().block_on(watcher.quorum.addr().send(GetSnapshot)).unwrap();
    assert_eq!(snapshot, watcher.quorum.snapshot());
    eventually("a second has passed", || (since.elapsed() > Duration::from_secs(1)).then_some(()));
    let denied = node.corosync.log().matches("Denied connection").count();
    assert_eq!(denied, 1, "corosync logs each attempt");
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_full_dev_shm_is_reported_and_the_actor_recovers() {
    small_dev_shm("64m", || {
        let node = Node::single();
        let filler = fill_dev_shm();
        let watcher = Watcher::start_with(&node.netns, |builder| builder.backoff(quick()));
        let error = watcher.attempt_error();
        assert_eq!(error, Error::Connect(Code::NO_SPACE));
        assert!(error.to_string().contains("/dev/shm is full"), "{error}");
        std::fs::remove_file(filler).unwrap();
        watcher.until_settled(Quorum::Quorate, &[1]);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_separate_dev_shm_is_reported() {
    let node = Node::single();
    let error = small_dev_shm("64m", || {
        node.netns.enter();
        Watcher::here(|builder| builder).attempt_error()
    });
    assert_eq!(error, Error::Connect(Code::NOT_EXIST));
    assert!(error.to_string().contains("share /dev/shm"), "{error}");
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_corosync_without_a_provider_is_refused_unless_allowed() {
    let node = Node::single_with(|config| config.provider = None);
    let watcher = Watcher::start(&node.netns);
    // Another error may be published first, if this process is waiting for a daemon that another
    // test has paused.
    watcher.until("Corosync has no provider", |change| {
        let Connection::Connecting { error, .. } = &change.current.connection else { return false };
        *error == Some(Error::NoProvider)
    });
    let error = Error::NoProvider;
    assert!(error.to_string().contains("provider: corosync_votequorum"), "{error}");
    assert!(!watcher.quorum.is_quorate());
    let watcher = Watcher::start_with(&node.netns, |builder| builder.require_provider(false));
    watcher.until_settled(Quorum::Quorate, &[1]);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn only_a_server_of_the_expected_user_is_trusted() {
    for ipc in [Ipc::Shm, Ipc::Socket] {
        let node = Node::single_with(|config| config.ipc = ipc);
        let watcher = Watcher::start_with(&node.netns, |builder| builder.server_uid(Some(4711)));
        assert_eq!(watcher.attempt_error(), Error::untrusted_server(Some(0), 4711), "{ipc:?}");
        assert!(!watcher.quorum.is_quorate());
        let watcher = Watcher::start_with(&node.netns, |builder| builder.server_uid(Some(0)));
        watcher.until_settled(Quorum::Quorate, &[1]);
        let watcher = Watcher::start_with(&node.netns, |builder| builder.server_uid(None));
        watcher.until_settled(Quorum::Quorate, &[1]);
    }
}

/// Kills the daemon repeatedly, at moments spread over its start and the actor's attempt to
/// connect.
#[test]
#[ignore = "needs root and corosync: make test"]
fn the_actor_survives_the_death_of_the_daemon_at_any_moment() {
    let node = Node::single();
    let watcher = Watcher::start_with(&node.netns, |builder| {
        let delays = Duration::from_micros(100)..=Duration::from_millis(2);
        builder.backoff(Backoff::default().not_running(delays.clone()).disconnected(delays))
    });
    watcher.until_settled(Quorum::Quorate, &[1]);
    let start = Instant::now();
    node.corosync.restart();
    watcher.until_lost();
    watcher.until_settled(Quorum::Quorate, &[1]);
    let whole = start.elapsed();
    let connections = |changes: &[QuorumChanged]| {
        changes.iter().filter(|change| change.cause == Cause::Connected).count()
    };
    let mut changes = Vec::new();
    // On a busy machine a start may take longer than the measured one. Rounds are added until the
    // daemon has also died while the actor was connected.
    for round in 0.. {
        if round >= 30 && connections(&changes) > 1 {
            break;
        }
        let start = Instant::now();
        node.corosync.restart();
        // The first kill comes after half of the time that the measured start and connection took.
        // Each later kill comes a little later.
        let percent = if round < 30 { 50 + 2 * round } else { 100 * (round - 28) };
        let until = whole * percent / 100;
        eventually("the time is reached", || (start.elapsed() >= until).then_some(()));
        node.corosync.kill();
        eventually("the node is not quorate", || (!watcher.quorum.is_quorate()).then_some(()));
        changes.extend(watcher.rest());
    }
    node.corosync.start();
    node.corosync.wait_ready();
    eventually("the node is quorate again", || watcher.quorum.is_quorate().then_some(()));
    changes.extend(watcher.rest());
    for pair in changes.windows(2) {
        assert_eq!(pair[0].current, pair[1].previous);
    }
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_stack_that_is_too_small_is_published_as_the_connection_error() {
    let node = Node::single();
    node.run(|| {
        let small = thread::Builder::new().stack_size(256 * 1024);
        let ended = small.spawn(|| {
            System::new().block_on(async {
                let quorum = QuorumActor::builder().start_in_arbiter(&Arbiter::current());
                let disconnected = quorum.wait_for(|snapshot| {
                    matches!(
                        &snapshot.connection,
                        Connection::Disconnected { error: Error::StackTooSmall { .. }, .. }
                    )
                });
                let snapshot =
                    actix::clock::timeout(DEADLINE, disconnected).await.unwrap().unwrap();
                assert!(snapshot.connection.to_string().contains("RUST_MIN_STACK"));
                assert_eq!(snapshot.quorum, Quorum::Unknown);
                quorum.stop().await;
            });
        });
        ended.unwrap().join().unwrap();
        let watcher = Watcher::here(|builder| builder);
        watcher.until_settled(Quorum::Quorate, &[1]);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_actor_outlives_its_handles() {
    let node = &Node::single();
    let (send, received) = mpsc::channel();
    node.run(move || {
        System::new().block_on(async {
            let late = Forward(send).start();
            drop(QuorumActor::builder().subscribe(late.recipient()).start());
            let gain = || received.try_iter().find(|change| change.is_gain());
            eventually_async("the node is quorate", gain).await;
            node.corosync.restart();
            eventually_async("the node is quorate again", gain).await;
        });
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_votes_are_published() {
    let node = Node::single();
    let watcher = Watcher::start(&node.netns);
    watcher.until("the votes", |change| {
        let now = &change.current;
        now.quorum.is_quorate() && now.votes.as_ref().is_some_and(|votes| !votes.members.is_empty())
    });
    let snapshot = watcher.quorum.snapshot();
    let votes = snapshot.votes.as_ref().unwrap();
    assert_eq!((votes.expected, votes.total, votes.quorum), (1, 1, 1));
    assert_eq!((votes.margin(), votes.of(NodeId(1))), (0, Some(1)));
    assert!(votes.flags.contains(VoteFlags::QUORATE) && !votes.flags.contains(VoteFlags::TWO_NODE));
    assert_eq!(snapshot.local, Some(NodeId(1)));
    assert_eq!(snapshot.quorate_without(&[NodeId(1)]), Some(false));
    assert_eq!(snapshot.quorate_without(&[]), Some(true));
    node.corosync.expected_votes(3);
    let changes = watcher.until("other votes", |change| {
        change.current.votes.as_ref().is_some_and(|votes| votes.expected == 3)
    });
    let votes = changes.last().unwrap().current.votes.clone().unwrap();
    assert_eq!((votes.total, votes.quorum, votes.margin()), (1, 2, 0));
}
