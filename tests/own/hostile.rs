//! Tests with a hostile server in Corosync's place. They connect to it through the real libquorum.
//!
//! A thread that hangs while it connects prevents the process from opening any other connection,
//! and the tests count descriptors and threads. So each test runs in its own process.

use std::{
    io::{ErrorKind, Read},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use actix::{Actor, Arbiter, Context, Handler, System};
use actix_quorum::{
    Cause, Code, Connection, Error, NodeId, Quorum, QuorumActor, QuorumBuilder, QuorumChanged,
    RingState, Snapshot, VoteFlags, Votes,
    libquorum::{Handle, Library, Model, Track},
};

use crate::support::{
    DEADLINE, Hostile, Impostor, Ipc, Message, Netns, Step, Watcher, alone, assert_never_quorate,
    connect_as_other_code, dev_shm_entries, eventually,
    hostile::{
        GETINFO, GETQUORATE, GETTYPE, ITER_INIT, MODEL_GETTYPE, QUORATE, RING, SET_CURRENT_MAP,
        TRACK_ADD, TRACKSTART, TRACKSTOP, info, nodelist_event, quorum_event, tracked, tracked_v0,
    },
    last_quorate, no_thread_waits, open_fds, quick, rss_kib, runs_thread, threads,
};

const NOBODY: u32 = 65534;

/// A namespace without a server.
struct Place {
    netns: Arc<Netns>,
}

impl Place {
    fn new() -> Self {
        Self { netns: Arc::new(Netns::new()) }
    }

    fn server(&self) -> Hostile {
        Hostile::start(&self.netns)
    }

    fn watch(&self) -> Watcher {
        self.watch_with(|builder| builder)
    }

    fn watch_with(&self, settings: impl FnOnce(QuorumBuilder) -> QuorumBuilder + Send) -> Watcher {
        Watcher::start_with(&self.netns, |builder| settings(builder.backoff(quick())))
    }

    /// Returns an actor that believes the server.
    fn believer(&self) -> Watcher {
        let watcher = self.watch();
        watcher.until_settled(Quorum::Quorate, &[1, 2]);
        watcher
    }
}

/// The other tests change the behaviour of this server. They are valid only if the actor believes
/// the unchanged server.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_correct_server_is_believed() {
    own_process!();
    let place = Place::new();
    for ipc in [Ipc::Shm, Ipc::Socket] {
        let server = Hostile::start_as(&place.netns, 0, ipc, &["quorum", "votequorum"]);
        place.netns.run(|| {
            let mut handle = Handle::initialize().unwrap();
            assert_eq!((handle.model(), handle.quorate()), (Model::V1, Ok(true)));
            assert_eq!((handle.track_stop(), handle.finalize()), (Ok(()), Ok(())));
            let library = Library::load().unwrap();
            let mut handle = Handle::model_initialize(library, Model::V0).unwrap();
            assert_eq!(handle.quorate(), Ok(true));
        });
        let watcher = place.believer();
        // The first probe may be sent before the members are reported. Its answer then does not
        // contain the votes of both nodes.
        let now = eventually("the votes of both nodes are known", || {
            let now = watcher.quorum.snapshot();
            let votes = now.votes.as_ref().filter(|votes| votes.members.len() == 2);
            votes.is_some().then_some(now)
        });
        assert_eq!(now.local, Some(NodeId(1)));
        let votes = now.votes.as_ref().unwrap();
        assert_eq!((votes.total, votes.quorum), (2, 2));
        assert_eq!(votes.flags, VoteFlags::from_bits_retain(QUORATE));
        server.now(&[Step::Event(quorum_event(0, RING, 2, &[1, 2]))]);
        watcher.until_settled(Quorum::Inquorate, &[1, 2]);
        server.now(&[Step::Event(quorum_event(1, RING, 2, &[1, 2]))]);
        watcher.until_settled(Quorum::Quorate, &[1, 2]);
        let requests = [MODEL_GETTYPE, GETTYPE, GETQUORATE, TRACKSTART, TRACKSTOP];
        for request in requests {
            let times = server.times(&format!("request quorum {request}"));
            assert!(times > 0, "no request with the number {request} was sent");
        }
    }
}

/// A daemon of Corosync 2.4 dies when it receives a request for model V1 or for the map of
/// statistics, so the crate must send neither.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_server_of_corosync_2_survives_a_thousand_connections() {
    own_process!();
    let place = Place::new();
    let server = Hostile::start_as_corosync_2(&place.netns);
    place.netns.run(|| {
        for _ in 0..900 {
            let mut handle = Handle::initialize().unwrap();
            assert_eq!((handle.model(), handle.quorate()), (Model::V0, Ok(true)));
        }
    });
    // In an actor, the ring watch and the thread that reads names also send requests. The server
    // ends each connection to its quorum service immediately, so the actor connects again and
    // again.
    let [event, answer] = tracked_v0(true);
    server.on("quorum", TRACKSTART, &[event.clone(), answer.clone(), Step::Disconnect]);
    let watcher = place.watch();
    server.wait("accept quorum", 1000);
    server.on("quorum", TRACKSTART, &[event, answer]);
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
    let ring = watcher.quorum.snapshot().ring_id.unwrap();
    assert_eq!((ring.node_id, ring.seq), (NodeId(0), RING.1));
    watcher.stop();
    // The server still accepts instructions, so it is alive.
    server.behave("quorum");
    assert_eq!(server.times(&format!("request quorum {MODEL_GETTYPE}")), 0);
    assert_eq!(server.times(&format!("request cmap {SET_CURRENT_MAP}")), 0);
    assert!(server.times("request cmap 2") >= 1000);
}

/// The server's libqb sends the value that `connection_accept` returns, and the client's
/// libcorosync_common converts this value to CS_ERR_* (`common_lib/error_conversion.c`).
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn the_errno_of_a_refused_connection_becomes_the_matching_error() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    let refusals = [
        (libc::EACCES, Code::ACCESS),
        (libc::EPERM, Code::LIBRARY),
        (libc::EAGAIN, Code::TRY_AGAIN),
        (libc::ENOSPC, Code::NO_SPACE),
        (libc::ENOENT, Code::NOT_EXIST),
        (libc::ENOMEM, Code::NO_MEMORY),
        (libc::EINVAL, Code::INVALID_PARAM),
        (libc::EMFILE, Code::LIBRARY),
        (libc::ENOTCONN, Code::LIBRARY),
        (libc::EBADMSG, Code::MESSAGE_ERROR),
        (4711, Code::LIBRARY),
    ];
    for (errno, code) in refusals {
        server.on("quorum", "accept", &[Step::Refuse(errno)]);
        place.netns.run(|| {
            assert_eq!(Handle::initialize().unwrap_err(), Error::Connect(code), "errno {errno}");
        });
    }
    let watcher = place.watch();
    server.on("quorum", "accept", &[Step::Refuse(libc::EACCES)]);
    let refused = watcher.until("a refusal", |change| {
        let error = Some(Error::Connect(Code::ACCESS));
        matches!(&change.current.connection, Connection::Connecting { error: e, .. } if *e == error)
    });
    server.wait_more("accept quorum", 5);
    assert!(!watcher.quorum.is_quorate());
    server.behave("quorum");
    let changes = watcher.until_quorum(Quorum::Quorate);
    assert_never_quorate(&refused);
    assert_never_quorate(&changes[..changes.len() - 1]);
}

/// Returns every number of `cs_error_t`, and some other numbers.
fn codes() -> impl Iterator<Item = u32> {
    (0..=32).chain([77, 100, 101, 1 << 31, u32::MAX])
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn each_error_in_an_answer_becomes_the_error_of_the_call() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    for code in codes().filter(|code| *code != 1) {
        let refusal = |number: i32| [Step::Reply(Message::reply(number).error(code))];
        let refused = Code(code);

        server.on("quorum", MODEL_GETTYPE, &refusal(5));
        server.on("quorum", GETTYPE, &refusal(4));
        let before = server.times(&format!("request quorum {GETTYPE}"));
        place.netns.run(|| {
            assert_eq!(Handle::initialize().unwrap_err(), Error::Connect(refused));
        });
        server.behave("quorum");
        let fallbacks = server.times(&format!("request quorum {GETTYPE}")) - before;
        assert_eq!(
            fallbacks,
            usize::from(refused == Code::INVALID_PARAM),
            "number of requests for model V0 after {refused}"
        );

        server.on("quorum", TRACKSTART, &refusal(1));
        server.on("quorum", TRACKSTOP, &refusal(2));
        server.on("quorum", GETQUORATE, &[Step::Reply(Message::reply(0).error(code).u32(1))]);
        place.netns.run(|| {
            let mut handle = Handle::initialize().unwrap();
            assert_eq!(handle.track_start(Track::CHANGES), Err(Error::TrackStart(refused)));
            assert_eq!(handle.track_stop(), Err(Error::Request(refused)));
            assert_eq!(handle.quorate(), Err(Error::Request(refused)));
        });

        let watcher = place.watch();
        assert_eq!(watcher.attempt_error(), Error::TrackStart(refused));
        server.behave("quorum");
        watcher.until_settled(Quorum::Quorate, &[1, 2]);
    }
}

const SHORT_LEASE: Duration = Duration::from_millis(400);

fn short_lease(builder: QuorumBuilder) -> QuorumBuilder {
    builder.lease(SHORT_LEASE).probe_interval(Duration::from_millis(50))
}

#[track_caller]
fn until_believed(watcher: &Watcher) {
    eventually("the server is believed", || watcher.quorum.is_quorate().then_some(()));
}

/// Waits until the server is no longer believed, because no answer renews the lease. Then checks
/// that the server is not believed again.
#[track_caller]
fn until_not_believed(server: &Hostile, watcher: &Watcher, request: &str) {
    server.wait_more(request, 3);
    eventually("the server is no longer believed", || (!watcher.quorum.is_quorate()).then_some(()));
    watcher.rest();
    server.wait_more(request, 3);
    assert_never_quorate(&watcher.rest());
    assert!(!watcher.quorum.is_quorate());
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn an_error_is_not_accepted_as_an_answer_to_the_probe() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    let watcher = place.watch_with(short_lease);
    watcher.until_quorum(Quorum::Quorate);
    let request = format!("request votequorum {GETINFO}");
    let refuse = |code| {
        server.on("votequorum", GETINFO, &[Step::Reply(info(1, QUORATE).error(code))]);
    };
    refuse(2);
    until_not_believed(&server, &watcher, &request);
    for code in codes().filter(|code| *code != 1) {
        refuse(code);
        server.wait_more(&request, 3);
        assert!(!watcher.quorum.is_quorate(), "quorate despite {}", Code(code));
    }
    assert_never_quorate(&watcher.rest());
    server.behave("votequorum");
    until_believed(&watcher);
}

/// While Corosync is down, any user can listen in its place, accept connections, release the name
/// and never answer. If root does this, the actor can only wait until the listener is gone.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_silent_impostor_does_not_prevent_a_connection_to_corosync() {
    own_process!();
    let place = Place::new();
    for uid in [NOBODY, 0] {
        let mut impostor = Impostor::start(&place.netns, uid, "cmap");
        let others = connect_as_other_code(&place.netns, "cmap");
        let (watcher, second) = (place.watch(), place.watch());
        if uid == NOBODY {
            // The actor refuses this user without waiting, so the impostor delays nothing.
            for watcher in [&watcher, &second] {
                let error = Error::untrusted_server(Some(NOBODY), 0);
                assert_eq!(watcher.attempt_error(), error);
            }
        } else {
            assert_eq!(watcher.error(), Error::Unresponsive);
        }
        impostor.wait_taken(2);
        impostor.stop_listening();
        let server = place.server();
        for watcher in [&watcher, &second] {
            watcher.until_settled(Quorum::Quorate, &[1, 2]);
        }
        // Only the actors' own connections were shut down, not the connection of other code.
        others.set_nonblocking(true).unwrap();
        let error = (&others).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        drop((watcher, second, server, impostor));
    }
}

/// Once the actor has stopped, none of its threads waits for the silent server.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_silent_server_leaves_no_thread_behind() {
    own_process!();
    let place = Place::new();
    let impostor = Impostor::start(&place.netns, 0, "cmap");
    let others = connect_as_other_code(&place.netns, "cmap");
    let watcher = place.watch();
    assert_eq!(watcher.error(), Error::Unresponsive);
    watcher.stops_at_once();
    let gone = || (!runs_thread("quorum-connect")).then_some(());
    eventually("the thread that connects ends", gone);
    others.set_nonblocking(true).unwrap();
    assert_eq!((&others).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(impostor);
}

/// No thread of a dropped actor keeps waiting for a hung server, whichever request the server does
/// not answer.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_dropped_actor_leaves_no_thread_behind() {
    own_process!();
    for (service, when, steps, thread) in [
        ("quorum", "accept", vec![Step::Stop], "quorum-connect"),
        ("quorum", TRACKSTART, vec![], "quorum-connect"),
        ("votequorum", "accept", vec![Step::Stop], "quorum-probe"),
        ("votequorum", GETINFO, vec![], "quorum-probe"),
        ("cmap", TRACK_ADD, vec![], "quorum-ring"),
        ("cmap", SET_CURRENT_MAP, vec![], "quorum-ring"),
        ("cmap", ITER_INIT, vec![], "quorum-ring"),
        #[cfg(feature = "web")]
        ("cmap", ITER_INIT, vec![], "quorum-names"),
    ] {
        let place = Place::new();
        let server = place.server();
        // The ring watch reads the nodelist only if the daemon has counters.
        has_ring(&server);
        server.on(service, when, &steps);
        let before = threads();
        let watcher = place.watch();
        match when {
            "accept" => server.wait(&format!("accept {service}"), 1),
            number => server.wait(&format!("request {service} {number}"), 1),
        }
        eventually(&format!("{thread} is running"), || runs_thread(thread).then_some(()));
        drop(watcher);
        no_thread_waits();
        let all_ended = || (threads() <= before).then_some(());
        eventually("no other thread is left", all_ended);
    }
}

/// Once the server answers again, the probe repeats its request and quorum returns.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_request_to_votequorum_is_repeated_if_its_answer_is_lost() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    let watcher = place.watch_with(short_lease);
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
    server.on("votequorum", GETINFO, &[]);
    watcher.until_cause(Cause::Stalled);
    server.behave("votequorum");
    let changes = watcher.until_quorum(Quorum::Quorate);
    assert_eq!(changes[changes.len() - 1].current.connection, Connection::Connected);
}

/// The thread that reads the names ends after the read, so the test waits until that thread has
/// ended.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_request_for_the_names_is_repeated_if_its_answer_is_lost() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    server.on("cmap", ITER_INIT, &[]);
    let watcher = place.watch();
    let reads_names = || runs_thread("quorum-names").then_some(());
    eventually("the thread that reads the names is running", reads_names);
    server.wait_more(&format!("request cmap {ITER_INIT}"), 1);
    server.behave("cmap");
    eventually("the names have been read", || (!runs_thread("quorum-names")).then_some(()));
    watcher.stops_at_once();
}

/// In the first case the probe asks votequorum over sockets. In the second case there is no
/// votequorum, so the probe asks the quorum service.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_probe_over_sockets_or_without_votequorum_is_repeated_if_its_answer_is_lost() {
    own_process!();
    for (ipc, services, asked, request) in [
        (Ipc::Socket, &["quorum", "votequorum"][..], "votequorum", GETINFO),
        (Ipc::Shm, &["quorum"][..], "quorum", GETQUORATE),
    ] {
        let place = Place::new();
        let server = Hostile::start_as(&place.netns, 0, ipc, services);
        let watcher = place.watch_with(short_lease);
        until_believed(&watcher);
        server.on(asked, request, &[]);
        server.wait_more(&format!("request {asked} {request}"), 1);
        server.behave(asked);
        watcher.until_cause(Cause::Stalled);
        until_believed(&watcher);
        watcher.stops_at_once();
    }
}

/// Each abandoned connection takes up one of the 128 places in the listen queue of a suspended
/// daemon, so the actor must ask less and less often.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_silent_votequorum_is_asked_on_new_connections_less_and_less_often() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    server.on("votequorum", GETINFO, &[]);
    let watcher = place.watch();
    let accepted = "accept votequorum";
    server.wait(accepted, 2);
    let second_accepted_at = Instant::now();
    server.wait(accepted, 3);
    // The first answer timeout is 10 s, and libqb may take up to 2 s more to notice that the
    // connection was shut down. The second timeout is twice as long.
    let elapsed = second_accepted_at.elapsed();
    assert!(elapsed > Duration::from_secs(15), "asked again after only {elapsed:?}");
    watcher.stops_at_once();
}

/// If the probe interrupts an attempt to connect, the attempt fails. The probe must not conclude
/// from this error that votequorum is not running: it would then ask the quorum service instead.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn the_probe_still_asks_votequorum_after_an_interrupted_attempt_to_connect() {
    own_process!();
    let place = Place::new();
    let server = Hostile::start_as(&place.netns, 0, Ipc::Shm, &["quorum"]);
    let mut impostor = Impostor::start(&place.netns, 0, "votequorum");
    let watcher = place.watch_with(short_lease);
    watcher.until_cause(Cause::Stalled);
    // The second attempt begins after the first one was interrupted.
    impostor.wait_taken(2);
    assert!(!watcher.quorum.is_quorate());
    assert_eq!(server.times(&format!("request quorum {GETQUORATE}")), 0);
    assert_never_quorate(&watcher.rest());
    // The second attempt is interrupted too. The third one asks the quorum service if it begins
    // before votequorum listens.
    impostor.stop_listening();
    let _votequorum = Hostile::start_exactly(&place.netns, 0, Ipc::Shm, &["votequorum"]);
    until_believed(&watcher);
}

/// In each case the server hangs at a different step of the attempt to connect.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_server_that_hangs_while_the_actor_connects_is_reported_and_blocks_nothing() {
    own_process!();
    let place = Place::new();
    let [nodelist, quorum, _] = tracked(true);
    for (when, steps) in [
        ("accept", vec![Step::Stop]),
        (MODEL_GETTYPE, vec![]),
        (MODEL_GETTYPE, vec![Step::Stop]),
        (TRACKSTART, vec![]),
        (TRACKSTART, vec![nodelist.clone(), quorum.clone()]),
        (TRACKSTART, vec![nodelist, quorum, Step::Stop]),
    ] {
        let server = place.server();
        server.on("quorum", when, &steps);
        let watcher = place.watch();
        assert_eq!(watcher.error(), Error::Unresponsive, "{when}: {steps:?}");
        watcher.stops_at_once();
        assert_never_quorate(&watcher.rest());
        let gone = || (!runs_thread("quorum-connect")).then_some(());
        eventually("the thread that connects ends, even though the server hangs", gone);
        server.kill();
        drop((watcher, server));
        let server = place.server();
        place.believer();
        drop(server);
    }
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_server_that_hangs_after_its_notifications_is_believed_for_at_most_the_lease() {
    own_process!();
    let _alone = alone();
    let place = Place::new();
    let server = place.server();
    let watcher = place.watch_with(short_lease);
    for _ in 0..3 {
        watcher.until_settled(Quorum::Quorate, &[1, 2]);
        server.pause();
        let stayed = last_quorate(&watcher.quorum, Instant::now());
        assert!(stayed < SHORT_LEASE + Duration::from_secs(1), "believed for {stayed:?}");
        let is_stalled = || watcher.quorum.snapshot().connection == Connection::Stalled;
        eventually("the stall is published", || is_stalled().then_some(()));
        // On a busy machine the connection may already have stalled before the pause, so these
        // changes are not checked.
        watcher.rest();
        server.resume();
    }
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
    server.pause();
    watcher.stops_at_once();
}

/// The server is alive and sends many notifications of quorum; only the probe receives no answer.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_hung_votequorum_alone_ends_quorum() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    let watcher = place.watch_with(short_lease);
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
    server.on("votequorum", GETINFO, &[]);
    let yes = [Step::Event(quorum_event(1, RING, 2, &[1, 2]))];
    eventually("the server is no longer believed", || {
        server.now(&yes);
        (!watcher.quorum.is_quorate()).then_some(())
    });
    watcher.rest();
    for _ in 0..50 {
        server.now(&yes);
        assert!(!watcher.quorum.is_quorate());
    }
    assert_never_quorate(&watcher.rest());
    watcher.stops_at_once();
    // The probe's thread waits for an answer; killing the server ends the wait.
    server.kill();
}

/// Without votequorum, the probe calls `quorum_getquorate`.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn an_invalid_or_negative_answer_from_the_quorum_service_to_the_probe_ends_quorum() {
    own_process!();
    let place = Place::new();
    let server = Hostile::start_as(&place.netns, 0, Ipc::Shm, &["quorum"]);
    let watcher = place.watch_with(short_lease);
    let request = format!("request quorum {GETQUORATE}");
    let answers = [
        Message::reply(0).error(6).u32(1),
        Message::reply(0).u32(2),
        Message::reply(0).u32(u32::MAX),
        Message::reply(0).u32(1).cut(4096),
    ];
    for answer in answers {
        watcher.until_quorum(Quorum::Quorate);
        server.on("quorum", GETQUORATE, &[Step::Reply(answer)]);
        until_not_believed(&server, &watcher, &request);
        server.behave("quorum");
    }
    watcher.until_quorum(Quorum::Quorate);
    server.on("quorum", GETQUORATE, &[Step::Reply(Message::reply(0).u32(0))]);
    watcher.until_quorum(Quorum::Inquorate);
}

/// Returns a server that reports no quorum, and an actor that has received this report. No
/// malformed message may make the actor report quorum.
fn inquorate(place: &Place, ipc: Ipc) -> (Hostile, Watcher) {
    let server = Hostile::start_as(&place.netns, 0, ipc, &["quorum", "votequorum"]);
    server.on("quorum", TRACKSTART, &tracked(false));
    server.on("votequorum", GETINFO, &[Step::Reply(info(1, 0))]);
    let watcher = place.watch_with(|b| b.probe_interval(Duration::from_millis(50)));
    watcher.until_settled(Quorum::Inquorate, &[1, 2]);
    (server, watcher)
}

/// Checks that this event ends the connection with this code, and that the next connection works
/// like the first.
#[track_caller]
fn assert_ends(server: &Hostile, watcher: &Watcher, event: &Message, code: Code) {
    server.now(&[Step::Event(event.clone())]);
    let mut changes = watcher.until_lost();
    let lost = &changes[changes.len() - 1].current.connection;
    assert_eq!(*lost, Connection::disconnected(Error::Dispatch(code)), "after {event}");
    changes.extend(watcher.until_settled(Quorum::Inquorate, &[1, 2]));
    assert_never_quorate(&changes);
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn an_unknown_notification_ends_the_connection() {
    own_process!();
    let place = Place::new();
    let (server, watcher) = inquorate(&place, Ipc::Shm);
    // The number 3 is valid only in model V0.
    for number in [0, 1, 2, 3, 4, 5, 8, 99, -1, i32::MIN, i32::MAX] {
        let event = quorum_event(1, RING, 2, &[1, 2]).numbered(number);
        assert_ends(&server, &watcher, &event, Code::LIBRARY);
    }
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_decision_that_is_neither_true_nor_false_ends_the_connection() {
    own_process!();
    let place = Place::new();
    let (server, watcher) = inquorate(&place, Ipc::Shm);
    for quorate in [2, 3, 255, 256, 1 << 16, 1 << 31, u32::MAX] {
        let event = quorum_event(quorate, RING, 2, &[1, 2]);
        assert_ends(&server, &watcher, &event, Code::MESSAGE_ERROR);
        server.on("quorum", GETQUORATE, &[Step::Reply(Message::reply(0).u32(quorate))]);
        place.netns.run(|| {
            let library = Library::load().unwrap();
            for model in [Model::V0, Model::V1] {
                let mut handle = Handle::model_initialize(library, model).unwrap();
                assert_eq!(handle.quorate(), Err(Error::Request(Code::MESSAGE_ERROR)));
            }
        });
    }
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_list_with_a_wrong_length_never_makes_the_node_quorate() {
    own_process!();
    let place = Place::new();
    let (server, watcher) = inquorate(&place, Ipc::Shm);
    let two = &[1, 2];
    // libquorum does not check the lengths: it passes them on, and computes from them where each
    // list begins.
    let with = |entries| {
        [
            quorum_event(0, RING, entries, two),
            nodelist_event(RING, [entries, 0, 0], two),
            nodelist_event(RING, [2, entries, 0], two),
            nodelist_event(RING, [2, 0, entries], two),
            nodelist_event(RING, [entries; 3], two),
        ]
    };
    for entries in [385, 1000, 100_000, 1 << 18, 1 << 30, 1 << 31, u32::MAX - 1, u32::MAX] {
        for event in with(entries) {
            assert_ends(&server, &watcher, &event, Code::MESSAGE_ERROR);
        }
    }
    for entries in [0, 1, 3, 384] {
        for event in with(entries) {
            server.now(&[Step::Event(event)]);
            server.now(&[Step::Event(nodelist_event((1, 13), [1, 0, 0], &[1]))]);
            server.now(&[Step::Event(quorum_event(0, (1, 13), 1, &[1]))]);
            let mut changes = watcher.until_settled(Quorum::Inquorate, &[1]);
            server.now(&[Step::Event(nodelist_event(RING, [2, 0, 0], two))]);
            server.now(&[Step::Event(quorum_event(0, RING, 2, two))]);
            changes.extend(watcher.until_settled(Quorum::Inquorate, two));
            assert_never_quorate(&changes);
            let connected = |change: &QuorumChanged| change.current.connection.clone();
            assert!(changes.iter().map(connected).all(|now| now == Connection::Connected));
        }
    }
}

/// If a message is truncated, libquorum reads the missing part from old contents of its stack. The
/// result may look like a decision, but votequorum has a veto.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_notification_with_a_wrong_size_has_no_lasting_effect() {
    own_process!();
    const BUFFER: usize = 1 << 20; // the size of the buffer in `quorum_dispatch`
    let place = Place::new();
    let asked = format!("request votequorum {GETINFO}");
    let no = quorum_event(0, RING, 2, &[1, 2]);
    for ipc in [Ipc::Shm, Ipc::Socket] {
        let (server, watcher) = inquorate(&place, ipc);
        let claims = [i32::MIN, -1, 0, 1, 23, 24, 59, 61, 1 << 16, 1 << 20, i32::MAX];
        let claims = claims.into_iter().map(|size| no.clone().claiming(size));
        let sizes = [1, 4, 8, 23, 24, 28, 48, 52, 59, 61, 4096, 1 << 16, BUFFER - 64];
        // A message that does not fit into a datagram is not sent.
        let sizes = sizes.into_iter().filter(|size| ipc == Ipc::Shm || *size <= 1 << 16);
        let cut = sizes.map(|size| no.clone().cut(size));
        for event in claims.chain(cut) {
            server.now(&[Step::Event(event)]);
            server.wait_more(&asked, 3);
            eventually("the decision or the veto ends quorum", || {
                (!watcher.quorum.is_quorate()).then_some(())
            });
            server.now(&[Step::Event(nodelist_event((1, 13), [1, 0, 0], &[1]))]);
            server.now(&[Step::Event(quorum_event(0, (1, 13), 1, &[1]))]);
            server.now(&[Step::Event(nodelist_event(RING, [2, 0, 0], &[1, 2]))]);
            server.now(&[Step::Event(no.clone())]);
            // If the message ended the connection, the next connection reports the same state.
            watcher.until_settled(Quorum::Inquorate, &[1, 2]);
        }
    }
}

/// After such a notification, libquorum cannot dispatch any other message of the connection.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_notification_that_is_too_large_ends_the_connection() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    server.enlarge();
    let watcher = place.believer();
    for size in [(1 << 20) + 1, 2 << 20] {
        server.on("quorum", TRACKSTART, &tracked(false));
        server.now(&[Step::Event(quorum_event(1, RING, 2, &[1, 2]).cut(size))]);
        server.now(&[Step::Event(quorum_event(0, RING, 2, &[1, 2]))]);
        let changes = watcher.until_lost();
        let lost = &changes[changes.len() - 1].current.connection;
        assert_eq!(*lost, Connection::disconnected(Error::Dispatch(Code::MESSAGE_ERROR)));
        watcher.until_settled(Quorum::Inquorate, &[1, 2]);
        server.behave("quorum");
        server.now(&[Step::Disconnect]);
        watcher.until_settled(Quorum::Quorate, &[1, 2]);
    }
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_decision_about_another_ring_counts_only_for_settle_grace() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    let [_, decision, reply] = tracked(true);
    let newer = Step::Event(nodelist_event((1, 13), [2, 0, 0], &[1, 2]));
    let watcher = place.watch_with(|b| b.settle_grace(Duration::from_millis(200)));
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
    server.now(std::slice::from_ref(&newer));
    watcher.until_quorum(Quorum::Unknown);
    assert!(!watcher.quorum.is_quorate());
    // The old decision does not count, however often the server sends it and votequorum confirms
    // it.
    for _ in 0..3 {
        server.now(std::slice::from_ref(&decision));
        server.wait_more(&format!("request votequorum {GETINFO}"), 1);
    }
    assert_never_quorate(&watcher.rest());
    server.now(&[Step::Event(quorum_event(1, (1, 13), 2, &[1, 2]))]);
    let changes = watcher.until_settled(Quorum::Quorate, &[1, 2]);
    assert_never_quorate(&changes[..changes.len() - 1]);

    // On a new connection the age of the decision is unknown, so the decision does not count at
    // all.
    server.on("quorum", TRACKSTART, &[newer, decision, reply]);
    server.now(&[Step::Disconnect]);
    watcher.until_lost();
    server.wait_more(&format!("request votequorum {GETINFO}"), 3);
    server.now(&[Step::Event(quorum_event(1, (1, 13), 2, &[1, 2]))]);
    let changes = watcher.until_settled(Quorum::Quorate, &[1, 2]);
    assert_never_quorate(&changes[..changes.len() - 1]);
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn an_invalid_answer_from_votequorum_has_no_lasting_effect() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    let watcher = place.watch_with(short_lease);
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
    let good = info(1, QUORATE);
    let request = format!("request votequorum {GETINFO}");

    // libvotequorum does not check the message number and the size of an answer, and a name in the
    // answer may lack its final NUL.
    let unread = [0, 2, 99, -1].map(|number| good.clone().numbered(number));
    let sizes = [i32::MIN, -1, 0, 24, 1 << 20, i32::MAX].map(|size| good.clone().claiming(size));
    let endless = good.clone().cut(60).cut(320);
    for answer in unread.into_iter().chain(sizes).chain([endless]) {
        server.on("votequorum", GETINFO, &[Step::Reply(answer)]);
        // These requests take longer than the lease.
        server.wait_more(&request, 15);
        until_believed(&watcher);
    }
    // An answer that is too long for libvotequorum is not accepted.
    for size in [321, 4096] {
        server.on("votequorum", GETINFO, &[Step::Reply(good.clone().cut(size))]);
        until_not_believed(&server, &watcher, &request);
        server.behave("votequorum");
        until_believed(&watcher);
    }
    // If an answer is too short, libvotequorum reads the missing part from old contents of its
    // stack. The result is undefined, but it does not last.
    for size in [0, 1, 4, 24, 28, 56, 60, 100, 319] {
        server.on("votequorum", GETINFO, &[Step::Reply(good.clone().cut(size))]);
        server.wait_more(&request, 6);
        server.behave("votequorum");
        until_believed(&watcher);
    }

    let garbage = Message::reply(1).cut(60).cut(320);
    server.on("votequorum", GETINFO, &[Step::Reply(garbage.error(1))]);
    watcher.rest();
    let changes = watcher.until("the invalid votes are published", |change| {
        change.current.votes.as_ref().is_some_and(|votes| votes.total == u32::MAX)
    });
    let now = &changes[changes.len() - 1].current;
    assert_eq!(now.votes.as_ref().unwrap().margin(), 0);
    assert_eq!(now.quorate_without(&now.members), Some(false));
    assert!(now.to_string().contains("members 1 2"), "{now}");

    server.on("votequorum", GETINFO, &[Step::Reply(info(1, !QUORATE))]);
    watcher.until_quorum(Quorum::Inquorate);
    assert!(!watcher.quorum.is_quorate(), "votequorum has a veto");
}

/// In each case the server dies at a different step of an exchange.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn the_actor_survives_a_server_that_dies_during_an_exchange() {
    own_process!();
    let place = Place::new();
    let [nodelist, quorum, tracking] = tracked(true);
    let accepted = Step::Reply(Message::reply(5).u32(1));
    let answer = Step::Reply(info(1, QUORATE));
    let die = || Step::Die;
    for (service, when, steps) in [
        ("quorum", "accept", vec![die()]),
        ("quorum", MODEL_GETTYPE, vec![die()]),
        ("quorum", MODEL_GETTYPE, vec![accepted, die()]),
        ("quorum", TRACKSTART, vec![die()]),
        ("quorum", TRACKSTART, vec![nodelist.clone(), die()]),
        ("quorum", TRACKSTART, vec![nodelist.clone(), quorum.clone(), die()]),
        ("quorum", TRACKSTART, vec![Step::Disconnect, die()]),
        ("quorum", TRACKSTART, vec![tracking.clone(), die()]),
        ("quorum", TRACKSTART, vec![nodelist.clone(), tracking.clone(), die()]),
        ("quorum", TRACKSTART, vec![nodelist, quorum, tracking, die()]),
        ("votequorum", "accept", vec![die()]),
        ("votequorum", GETINFO, vec![die()]),
        ("votequorum", GETINFO, vec![answer, die()]),
    ] {
        let server = place.server();
        server.on(service, when, &steps);
        let watcher = place.watch();
        server.wait_dead();
        eventually("the actor does not report quorum", || {
            (!watcher.quorum.is_quorate()).then_some(())
        });
        let has_no_listener = |change: &QuorumChanged| {
            let connect = Error::Connect(Code::LIBRARY);
            let now = &change.current.connection;
            matches!(now, Connection::Connecting { error: Some(e), .. } if *e == connect)
        };
        watcher.until("no server listens", has_no_listener);
        assert_never_quorate(&watcher.rest());
        let server = place.server();
        watcher.until_settled(Quorum::Quorate, &[1, 2]);
        drop((watcher, server));
    }
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn the_actor_survives_a_server_that_dies_while_a_connection_closes() {
    own_process!();
    let place = Place::new();
    for service in ["quorum", "votequorum"] {
        let server = place.server();
        server.on(service, "closed", &[Step::Die]);
        let watcher = place.believer();
        server.wait(&format!("request votequorum {GETINFO}"), 1);
        watcher.stops_at_once();
        server.wait_dead();
        drop((watcher, server));
        let server = place.server();
        place.believer();
        drop(server);
    }
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_server_of_another_user_is_never_believed() {
    own_process!();
    let place = Place::new();
    for ipc in [Ipc::Shm, Ipc::Socket] {
        let server = Hostile::start_as(&place.netns, NOBODY, ipc, &["quorum", "votequorum"]);
        place.netns.run(|| {
            let handle = Handle::initialize().unwrap();
            assert_eq!(handle.server().map(|server| server.uid), Some(NOBODY));
        });
        let watcher = place.watch();
        assert_eq!(watcher.attempt_error(), Error::untrusted_server(Some(NOBODY), 0));
        let refused = watcher.until("the actor has tried several times", |change| {
            matches!(change.current.connection, Connection::Connecting { attempt: 8.., .. })
        });
        watcher.stops_at_once();
        assert_never_quorate(&refused);
        assert_never_quorate(&watcher.rest());
        // The server has accepted only the connection of the handle above, and none of the actor.
        for (unasked, times) in [("accept quorum", 1), ("accept votequorum", 0)] {
            assert_eq!(server.times(unasked), times, "how often the server logged {unasked:?}");
        }
        for uid in [Some(NOBODY), None] {
            let watcher = place.watch_with(|builder| builder.server_uid(uid));
            watcher.until_settled(Quorum::Quorate, &[1, 2]);
        }
    }
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_votequorum_of_another_user_is_not_believed() {
    own_process!();
    let place = Place::new();
    for ipc in [Ipc::Shm, Ipc::Socket] {
        let quorum = Hostile::start_as(&place.netns, 0, ipc, &["quorum"]);
        let votequorum = Hostile::start_as(&place.netns, NOBODY, ipc, &["votequorum"]);
        let watcher = place.watch_with(short_lease);
        watcher.until_cause(Cause::Stalled);
        for _ in 0..50 {
            quorum.now(&[Step::Event(quorum_event(1, RING, 2, &[1, 2]))]);
            assert!(!watcher.quorum.is_quorate());
        }
        assert_never_quorate(&watcher.rest());
        assert_eq!(votequorum.times(&format!("request votequorum {GETINFO}")), 0);
        drop(watcher);
        let watcher = place.watch_with(|builder| short_lease(builder).server_uid(None));
        watcher.until("the votes", |change| change.current.votes.is_some());
        until_believed(&watcher);
    }
}

/// The changes that a subscriber received.
#[derive(Default)]
struct Tally {
    first: Option<Arc<Snapshot>>,
    last: Option<Arc<Snapshot>>,
    received: u64,
    missed: u64,
}

struct Counter(Arc<Mutex<Tally>>);

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Counter {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        let mut tally = self.0.lock().unwrap();
        match &tally.last {
            None => tally.first = Some(Arc::clone(&change.current)),
            Some(last) => {
                assert_eq!(*last, change.previous, "no change is left out");
                tally.received += 1;
                tally.missed += change.missed;
            }
        }
        tally.last = Some(change.current);
    }
}

struct Echo;

impl Actor for Echo {
    type Context = Context<Self>;
}

struct Call;

impl actix::Message for Call {
    type Result = ();
}

impl Handler<Call> for Echo {
    type Result = ();

    fn handle(&mut self, _: Call, _: &mut Context<Self>) {}
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn every_change_in_a_flood_is_delivered_or_counted_and_the_arbiter_responds() {
    own_process!();
    const EVENTS: u32 = 100_000;
    let place = Place::new();
    let server = place.server();
    let (no, yes) = (quorum_event(0, RING, 2, &[1, 2]), quorum_event(1, RING, 2, &[1, 2]));
    let tally: Arc<Mutex<Tally>> = Arc::default();
    place.netns.run(|| {
        System::new().block_on(async {
            let counter = Counter(Arc::clone(&tally));
            let counter = Actor::start_in_arbiter(&Arbiter::new().handle(), |_| counter);
            let arbiter = Arbiter::new();
            let quorum = QuorumActor::builder()
                .lease(Duration::from_secs(600))
                .probe_interval(Duration::from_millis(50))
                .subscribe(counter.recipient())
                .start_in_arbiter(&arbiter.handle());
            let counted = |votes: &Votes| votes.members.len() == 2;
            // This server has no counters, so the ring is not watched.
            let is_known = move |now: &Snapshot| {
                now.votes.as_ref().is_some_and(counted) && now.ring == RingState::Unwatched
            };
            quorum.wait_for(is_known).await.unwrap();
            let echo = Actor::start_in_arbiter(&arbiter.handle(), |_| Echo);
            let (rss, base) = (rss_kib(), quorum.snapshot().sequence);
            server.now(&[Step::Flood(EVENTS, no.clone(), yes)]);
            let mut served = 0;
            while server.times("flooded") == 0 {
                actix::clock::timeout(DEADLINE, echo.send(Call))
                    .await
                    .expect("a call is handled")
                    .unwrap();
                served += 1;
            }
            server.now(&[Step::Event(no)]);
            let last = base + u64::from(EVENTS) + 1;
            let finished = quorum.wait_for(move |snapshot| snapshot.sequence >= last);
            let finished = actix::clock::timeout(DEADLINE, finished).await;
            let snapshot = finished.expect("every event is published").unwrap();
            assert_eq!(snapshot.quorum, Quorum::Inquorate);
            assert!(
                served >= 100,
                "the actor's arbiter handled only {served} calls during the flood"
            );
            let grown = rss_kib().saturating_sub(rss);
            assert!(grown < 32 * 1024, "memory has grown by {grown} KiB");
            eventually("the subscriber has received the last change", || {
                let tally = tally.lock().unwrap();
                (tally.last.as_ref()?.sequence >= last).then_some(())
            });
            quorum.stop().await;
        });
    });
    let tally = tally.lock().unwrap();
    let (first, last) = (tally.first.as_ref().unwrap(), tally.last.as_ref().unwrap());
    assert_eq!(tally.received + tally.missed, last.sequence - first.sequence);
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn hundreds_of_bad_connections_leave_nothing_behind() {
    own_process!();
    let place = Place::new();
    let (server, watcher) = inquorate(&place, Ipc::Shm);
    let bad = quorum_event(1, RING, 2, &[1, 2]);
    let request = format!("request votequorum {GETINFO}");
    let refusals = [
        ("accept", vec![Step::Refuse(libc::EACCES)]),
        (MODEL_GETTYPE, vec![Step::Reply(Message::reply(5).error(6))]),
        (TRACKSTART, vec![Step::Reply(Message::reply(1).error(6))]),
    ];
    let behave = || {
        server.behave("quorum");
        server.on("quorum", TRACKSTART, &tracked(false));
    };
    let round = || {
        for event in [bad.clone().numbered(99), quorum_event(1, RING, 385, &[1, 2])] {
            server.now(&[Step::Event(event)]);
            watcher.until_lost();
            watcher.until_settled(Quorum::Inquorate, &[1, 2]);
        }
        for (when, steps) in &refusals {
            server.on("quorum", when, steps);
            server.now(&[Step::Disconnect]);
            watcher.until_lost();
            server.wait_more("accept quorum", 2);
            behave();
            watcher.until_settled(Quorum::Inquorate, &[1, 2]);
        }
        server.on("votequorum", GETINFO, &[Step::Reply(info(1, 0).error(6))]);
        server.wait_more(&request, 4);
        server.on("votequorum", GETINFO, &[Step::Reply(info(1, 0))]);
        server.wait_more(&request, 3);
        // Makes more connections that fail, without an actor.
        place.netns.run(|| {
            for (when, steps) in refusals.iter().cycle().take(21) {
                server.on("quorum", when, steps);
                let tracking =
                    Handle::initialize().and_then(|mut handle| handle.track_start(Track::CHANGES));
                tracking.unwrap_err();
                behave();
            }
        });
    };
    let client = std::process::id();
    let held = || (open_fds(), threads(), dev_shm_entries(client).len());
    round();
    // The thread that connects ends, and frees what it holds, once it has no more jobs.
    let before = eventually("only the connections of the actor and of its probe are open", || {
        let held = held();
        (held.2 == 2).then_some(held)
    });
    let accepted = server.times("accept quorum") + server.times("accept votequorum");
    for _ in 0..10 {
        round();
    }
    let accepted = server.times("accept quorum") + server.times("accept votequorum") - accepted;
    assert!(accepted >= 300, "only {accepted} connections were accepted");
    eventually("no more descriptors, threads or files are held than before", || {
        let (fds, threads, files) = held();
        (fds <= before.0 && threads <= before.1 && files == before.2).then_some(())
    });
    watcher.stop();
    eventually("no files are left", || dev_shm_entries(client).is_empty().then_some(()));
}

/// The server refuses access to its counters several times. This does not end the ring watch.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_refused_connection_to_the_counters_is_tried_again() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    let library = 2;
    server.on("cmap", SET_CURRENT_MAP, &[Step::Reply(Message::reply(10).error(library))]);
    let watcher = place.watch();
    server.wait_more(&format!("request cmap {SET_CURRENT_MAP}"), 5);
    let refused = watcher.rest();
    assert!(refused.iter().any(|change| change.current.connection == Connection::Connected));
    assert_never_quorate(&refused);
    // This server reports that it has no counters. The actor does not treat this as a refusal.
    server.behave("cmap");
    watcher.until_quorum(Quorum::Quorate);
    assert_eq!(watcher.quorum.snapshot().ring, RingState::Unwatched);
    // The counters may appear later, so the ring watch keeps asking for them.
    server.wait_more(&format!("request cmap {SET_CURRENT_MAP}"), 1);
}

/// All counters of the ring, in the safe order. The counter that a new ring changes is read before
/// those that the end of the old ring has changed. In another order a read could show a new ring
/// and not the end of the old one.
const FULL: [&str; 6] = [
    OPERATIONAL,
    GATHER,
    "stats.srp.operational_token_lost",
    "stats.srp.recovery_token_lost",
    RECOVERY,
    TOKENS,
];
/// The counters of a short read, which is enough while the ring is steady.
const SHORT: [&str; 2] = [GATHER, TOKENS];
const OPERATIONAL: &str = "stats.srp.operational_entered";
const GATHER: &str = "stats.srp.gather_entered";
const RECOVERY: &str = "stats.srp.recovery_entered";
const TOKENS: &str = "stats.srp.orf_token_rx";
const TOKEN_TIMEOUT: &str = "runtime.config.totem.token";

/// Returns, for each finished read of the counters, whether it was a short one. On a busy machine a
/// read may be so late that it is cancelled. The next read then uses a new connection and is a full
/// one.
#[track_caller]
fn reads(server: &Hostile) -> Vec<bool> {
    let mut new_connections = server.times(&format!("request cmap {SET_CURRENT_MAP}"));
    let keys = server.keys();
    let counters: Vec<_> = keys.iter().filter(|key| key.starts_with("stats.srp.")).collect();
    let mut rest = &counters[..];
    let mut reads = Vec::new();
    while let Some(first) = rest.first() {
        let is_short = *first == GATHER;
        let order = if is_short { &SHORT[..] } else { &FULL };
        let in_order = rest.iter().zip(order).take_while(|(key, wanted)| key == wanted).count();
        rest = &rest[in_order..];
        if in_order == order.len() {
            reads.push(is_short);
        } else if let Some(next) = rest.first() {
            let was_cancelled = in_order > 0 && *next == OPERATIONAL && new_connections > 1;
            assert!(was_cancelled, "{next} follows {:?}", &order[..in_order]);
            new_connections -= 1;
        }
    }
    reads
}

fn has_ring(server: &Hostile) {
    FULL.iter().for_each(|key| server.has_u64(key, 3));
    server.has_u32(TOKEN_TIMEOUT, 1000);
    server.has_u32("runtime.config.totem.consensus", 1200);
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn the_counters_of_the_ring_are_read_in_the_safe_order() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    has_ring(&server);
    let watcher = place.watch();
    server.wait(&format!("key {TOKENS}"), 3);
    watcher.stop();
    let reads = reads(&server);
    assert!(reads.len() >= 3);
    assert!(!reads.contains(&true), "a ring whose token has not moved is not steady");
}

#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn all_counters_are_read_until_the_ring_is_steady_and_again_when_one_has_changed() {
    own_process!();
    all_counters_are_read(1000);
}

/// With timeouts as long as these, the ring watch passes on three readings at a time. It passes on
/// a reading that shows a change immediately.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn all_counters_are_read_until_a_ring_with_long_timeouts_is_steady_and_again_when_one_has_changed()
{
    own_process!();
    all_counters_are_read(3000);
}

/// `token` is the token timeout, in milliseconds.
#[track_caller]
fn all_counters_are_read(token: u32) {
    let place = Place::new();
    let server = place.server();
    has_ring(&server);
    server.has_u32(TOKEN_TIMEOUT, token);
    server.has_u32("runtime.config.totem.consensus", token * 6 / 5);
    let watcher = place.watch();
    let mut tokens = 3;
    let mut until = |what: &str, condition: &dyn Fn(&[bool]) -> bool| {
        eventually(what, || {
            tokens += 1;
            server.has_u64(TOKENS, tokens);
            let reads = reads(&server);
            condition(&reads).then_some(reads)
        })
    };
    let steady = until("the ring is steady", &|reads| reads.ends_with(&[true; 4]));
    let first = steady.iter().position(|is_short| *is_short).unwrap();
    // At most a seventh of the token timeout lies between two reads, and the ring is steady only
    // after the sum of both timeouts.
    assert!(first >= 10, "whether each read was short: {steady:?}");
    let now = steady.len();
    let again = until("all counters are read again", &|reads| reads[now..].contains(&false));
    assert_eq!(watcher.quorum.snapshot().ring, RingState::Operational, "reads: {again:?}");

    // The daemon enters the state GATHER. Only this counter changes.
    server.has_u64(GATHER, 4);
    let now = reads(&server).len();
    let changed =
        until("the ring is re-forming", &|_| watcher.quorum.snapshot().ring == RingState::Gather);
    assert!(changed[now..].contains(&false), "whether each read was short: {changed:?}");
    let now = changed.len();
    let reads = until("more than five reads have followed", &|reads| reads.len() > now + 5);
    let short = reads[now + 1..].iter().filter(|is_short| **is_short).count();
    assert_eq!(short, 0, "short reads although the ring is re-forming: {reads:?}");
}

/// The counters show a ring that no notification announces. The actor cannot tell whether Corosync
/// has announced it: if two rings form between two reads, only one of them may be announced. So the
/// actor connects again, because the first notifications of a connection are about the current
/// ring.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_ring_that_seems_unannounced_ends_the_connection_and_the_next_connection_restores_quorum() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    has_ring(&server);
    let watcher = place.watch();
    let mut tokens = 3;
    let mut until = |what: &str, is_quorate: bool| {
        eventually(what, || {
            tokens += 1;
            server.has_u64(TOKENS, tokens);
            (watcher.quorum.is_quorate() == is_quorate).then_some(())
        });
    };
    until("the node is quorate", true);
    [GATHER, RECOVERY, OPERATIONAL].iter().for_each(|key| server.has_u64(key, 4));
    until("the old decision is no longer believed", false);
    until("quorum returns", true);
    assert_eq!(watcher.error(), Error::NotAnnounced);
    watcher.stop();
}

/// While a thread opens a connection through libcmap, no other thread of the process can open one.
/// So the ring watch must give up its attempt to connect to a silent server, even while the daemon
/// hangs.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_ring_watch_that_waits_for_a_hung_daemon_does_not_block_the_ring_watch_of_another_daemon() {
    own_process!();
    let [hung, other] = [Place::new(), Place::new()];
    let start = |services| Hostile::start_exactly(&hung.netns, 0, Ipc::Shm, services);
    let (daemon, cmap) = (start(&["quorum", "votequorum"]), start(&["cmap"]));
    let with_model = |place: &Place| place.watch_with(|builder| builder.model(Model::V1));
    let watcher = with_model(&hung);
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
    eventually("the names have been read", || (!runs_thread("quorum-names")).then_some(()));
    cmap.kill();
    let impostor = Impostor::start(&hung.netns, 0, "cmap");
    impostor.wait_taken(1);
    daemon.on("votequorum", GETINFO, &[Step::Stop]);

    let server = other.server();
    has_ring(&server);
    let second = with_model(&other);
    let mut tokens = 3;
    eventually("the ring of the other daemon is watched", || {
        tokens += 1;
        server.has_u64(TOKENS, tokens);
        (second.quorum.snapshot().ring == RingState::Operational).then_some(())
    });
    watcher.stops_at_once();
    second.stop();
}

/// The timeouts and the nodelist are tracked, so that each read of the ring needs only the
/// counters.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn the_configuration_is_read_again_only_when_it_has_changed() {
    own_process!();
    let place = Place::new();
    let server = place.server();
    has_ring(&server);
    let watcher = place.watch();
    // A busy machine may delay a read so much that the ring watch connects again. It then reads the
    // configuration once more.
    let connections = || server.times(&format!("request cmap {SET_CURRENT_MAP}"));
    let read_again = || {
        let keys = server.keys();
        let reads = keys.iter().filter(|key| *key == TOKEN_TIMEOUT).count();
        reads.saturating_sub(connections())
    };
    let nodelists = || server.times(&format!("request cmap {ITER_INIT}"));
    server.wait(&format!("key {TOKENS}"), 60);
    assert_eq!(read_again(), 0);
    let nodelists_before = nodelists();
    eventually("the configuration is read again", || {
        server.change_configuration();
        (read_again() > 0).then_some(())
    });
    // After 30 more reads, the last report of a change has arrived.
    server.wait_more(&format!("key {TOKENS}"), 30);
    let read = read_again();
    server.wait_more(&format!("key {TOKENS}"), 30);
    assert_eq!(read_again(), read);
    assert!(nodelists() > nodelists_before);
    watcher.stop();
}

/// The ring watch has its own connection, so it may be the only part of the actor that connects to
/// a silent server. Its attempt to connect must be cancelled too.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_silent_server_does_not_end_the_ring_watch() {
    own_process!();
    let place = Place::new();
    let _server = Hostile::start_exactly(&place.netns, 0, Ipc::Shm, &["quorum", "votequorum"]);
    let cmap = || Hostile::start_exactly(&place.netns, 0, Ipc::Shm, &["cmap"]);
    let first = cmap();
    // If the model is set, only the ring watch and the thread that reads names connect to cmap.
    let watcher = place.watch_with(|builder| builder.model(Model::V1));
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
    eventually("the names have been read", || (!runs_thread("quorum-names")).then_some(()));
    first.kill();
    let mut impostor = Impostor::start(&place.netns, 0, "cmap");
    impostor.wait_taken(1);
    impostor.stop_listening();
    let second = cmap();
    second.wait(&format!("request cmap {SET_CURRENT_MAP}"), 1);
    watcher.stops_at_once();
}

/// After its server has died, the ring watch connects to any server that is listening. If the actor
/// also loses its connection to Corosync, its attempts to connect wait until the attempt of the
/// ring watch has ended.
#[test]
#[ignore = "needs root, libqb's development files and a C compiler: make test"]
fn a_ring_watch_that_waits_for_a_silent_server_does_not_prevent_a_connection() {
    own_process!();
    let place = Place::new();
    let daemon = || Hostile::start_exactly(&place.netns, 0, Ipc::Shm, &["quorum", "votequorum"]);
    let cmap = || Hostile::start_exactly(&place.netns, 0, Ipc::Shm, &["cmap"]);
    let first = (daemon(), cmap());
    let watcher = place.believer();
    eventually("the names have been read", || (!runs_thread("quorum-names")).then_some(()));
    first.1.kill();
    let mut impostor = Impostor::start(&place.netns, 0, "cmap");
    impostor.wait_taken(1);
    first.0.kill();
    watcher.until_lost();
    impostor.stop_listening();
    let _second = (daemon(), cmap());
    until_believed(&watcher);
    watcher.stops_at_once();
}
