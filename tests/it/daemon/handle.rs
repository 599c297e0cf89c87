//! Every method of the safe wrapper, on a real daemon.

use std::{
    os::fd::{BorrowedFd, RawFd},
    ptr,
    sync::mpsc,
    thread,
    time::Duration,
};

use actix_quorum::{
    Code, Error, NodeId,
    libquorum::{Dispatch, Handle, Library, Model, Notification, QuorumType, RingId, Track},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{
    DEADLINE, Ipc, Netns, Node, as_user, eventually, fill_dev_shm, small_dev_shm, wait_asleep,
};

/// Returns the ring of a single node's daemon, as corosync-quorumtool shows it.
fn ring(node: &Node, model: Model) -> RingId {
    let shown = node.wait("the node is on a ring", |_| true).ring_id;
    let (node_id, seq) = shown.split_once('.').expect("a ring id has a dot");
    let hex = |digits| u64::from_str_radix(digits, 16).expect("a ring id is hexadecimal");
    // Model V0 does not report the node of a ring id.
    let node_id = if model == Model::V0 { 0 } else { hex(node_id) };
    RingId { node_id: NodeId(node_id.try_into().unwrap()), seq: hex(seq) }
}

fn nodelist(ring_id: RingId) -> Notification {
    let members = vec![NodeId(1)];
    Notification::nodelist(ring_id, members, Vec::new(), Vec::new())
}

fn quorum(ring_id: RingId, quorate: bool) -> Notification {
    Notification::quorum(quorate, ring_id, vec![NodeId(1)])
}

fn connect(model: Model) -> Handle {
    Handle::model_initialize(Library::load().unwrap(), model).unwrap()
}

fn all(handle: &mut Handle) -> Vec<Notification> {
    handle.dispatch(Dispatch::All).collect::<Result<_, _>>().unwrap()
}

/// Waits until notifications have arrived, and returns all of them.
fn waited(handle: &mut Handle) -> Vec<Notification> {
    assert!(readable(handle.fd().unwrap(), DEADLINE), "no notification arrived");
    all(handle)
}

fn readable(fd: RawFd, patience: Duration) -> bool {
    // SAFETY: the handle that returned the descriptor is open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let patience = Timespec { tv_sec: patience.as_secs().try_into().unwrap(), tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)).unwrap() == 1
}

fn library_error<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.unwrap_err().code().expect("the error has a code of libquorum")
}

/// Sets the expected votes and waits until the daemon has decided.
fn flip(node: &Node, quorate: bool) {
    node.corosync.expected_votes(if quorate { 1 } else { 3 });
    node.wait_members(quorate, &[1]);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn initialize_connects_with_model_v1() {
    let node = Node::single();
    node.run(|| {
        let mut handle = Handle::initialize().unwrap();
        assert_eq!((handle.model(), handle.quorum_type()), (Model::V1, QuorumType::Set));
        let server = handle.server().expect("the kernel reports the server");
        assert_eq!((server.uid, server.pid), (0, Some(node.corosync.pid().try_into().unwrap())));
        assert_eq!(handle.quorate(), Ok(true));
        assert_eq!(handle.finalize(), Ok(()));
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn quorate_returns_the_daemons_answer() {
    let node = Node::single();
    node.run(|| {
        for model in [Model::V0, Model::V1] {
            let mut handle = connect(model);
            flip(&node, false);
            assert_eq!(handle.quorate(), Ok(false));
            flip(&node, true);
            assert_eq!(handle.quorate(), Ok(true));
        }
    });
}

/// The notifications that `quorum_trackstart` delivers for each combination of flags.
#[test]
#[ignore = "needs root and corosync: make test"]
fn track_start_delivers_what_the_flags_request() {
    let (current, changes, only) = (Track::CURRENT, Track::CHANGES, Track::CHANGES_ONLY);
    let node = Node::single();
    node.run(|| {
        for model in [Model::V0, Model::V1] {
            let ring = ring(&node, model);
            for (flags, delivers_now, tracks) in [
                (Track::empty(), false, false),
                (current, true, false),
                (changes, true, true),
                (current | changes, true, true),
                (only, false, true),
                (current | only, true, true),
                (changes | only, true, true),
                (current | changes | only, true, true),
            ] {
                let mut handle = connect(model);
                handle.track_start(flags).unwrap();
                // The daemon queues the current state before its answer, so the state has arrived.
                let now = match (delivers_now, model) {
                    (false, _) => vec![],
                    (true, Model::V0) => vec![quorum(ring, true)],
                    (true, _) => vec![nodelist(ring), quorum(ring, true)],
                };
                assert_eq!(all(&mut handle), now, "{model:?} {flags:?}");
                flip(&node, false);
                flip(&node, true);
                // The answer to a request follows the notifications that were queued before it.
                assert_eq!(handle.quorate(), Ok(true));
                let later =
                    if tracks { vec![quorum(ring, false), quorum(ring, true)] } else { vec![] };
                assert_eq!(all(&mut handle), later, "{model:?} {flags:?}");
            }
        }
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_second_track_start_fails_but_delivers_the_state_again() {
    let node = Node::single();
    node.run(|| {
        let ring = ring(&node, Model::V1);
        let mut handle = connect(Model::V1);
        handle.track_start(Track::CHANGES).unwrap();
        assert_eq!(all(&mut handle), [nodelist(ring), quorum(ring, true)]);
        assert_eq!(handle.track_start(Track::CURRENT), Err(Error::TrackStart(Code::EXIST)));
        assert_eq!(all(&mut handle), [nodelist(ring), quorum(ring, true)]);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn after_track_stop_only_queued_notifications_arrive() {
    let node = Node::single();
    node.run(|| {
        let ring = ring(&node, Model::V1);
        let mut handle = connect(Model::V1);
        handle.track_start(Track::CHANGES).unwrap();
        flip(&node, false);
        assert_eq!(handle.track_stop(), Ok(()));
        flip(&node, true);
        assert_eq!(handle.quorate(), Ok(true));
        assert_eq!(all(&mut handle), [nodelist(ring), quorum(ring, true), quorum(ring, false)]);
        assert_eq!(handle.track_stop(), Ok(()), "stopping twice is not an error");
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_descriptor_is_readable_while_notifications_are_waiting() {
    let node = Node::single();
    node.run(|| {
        let mut handle = connect(Model::V1);
        let fd = handle.fd().unwrap();
        assert!(fd > 2 && fd == handle.fd().unwrap());
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        assert!(link.to_str().unwrap().starts_with("socket:"), "{link:?}");
        assert!(!readable(fd, Duration::ZERO));
        handle.track_start(Track::CHANGES).unwrap();
        assert!(readable(fd, Duration::ZERO));
        assert_eq!(handle.try_dispatch().unwrap().into_iter().count(), 1);
        assert!(readable(fd, Duration::ZERO), "one of two notifications is still waiting");
        all(&mut handle);
        assert!(!readable(fd, Duration::ZERO));
        flip(&node, false);
        assert!(readable(fd, DEADLINE));
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn each_handle_keeps_its_own_context() {
    let node = Node::single();
    node.run(|| {
        for model in [Model::V0, Model::V1] {
            let (mut handle, mut other) = (connect(model), connect(model));
            let (mine, its) = (1, 2);
            assert_eq!(handle.context_get(), Ok(ptr::null()));
            handle.context_set((&raw const mine).cast()).unwrap();
            other.context_set((&raw const its).cast()).unwrap();
            assert_eq!(handle.context_get(), Ok((&raw const mine).cast()));
            assert_eq!(other.context_get(), Ok((&raw const its).cast()));
            // A dispatch does not use the context.
            handle.track_start(Track::CURRENT).unwrap();
            assert!(!all(&mut handle).is_empty());
        }
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn dispatch_one_nonblocking_returns_one_or_try_again() {
    let node = Node::single();
    node.run(|| {
        let ring = ring(&node, Model::V1);
        let mut handle = connect(Model::V1);
        let one = |handle: &mut Handle| {
            let mut taken: Vec<_> = handle.dispatch(Dispatch::OneNonblocking).collect();
            assert_eq!(taken.len(), 1);
            taken.remove(0)
        };
        let none_waits = Err(Error::Dispatch(Code::TRY_AGAIN));
        assert_eq!(one(&mut handle), none_waits);
        handle.track_start(Track::CURRENT).unwrap();
        assert_eq!(one(&mut handle), Ok(nodelist(ring)));
        assert_eq!(one(&mut handle), Ok(quorum(ring, true)));
        assert_eq!(one(&mut handle), none_waits, "the handle still works");
        assert_eq!(handle.quorate(), Ok(true));
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn dispatch_all_returns_all_waiting_notifications_without_blocking() {
    let node = Node::single();
    node.run(|| {
        let ring = ring(&node, Model::V1);
        let mut handle = connect(Model::V1);
        assert_eq!(all(&mut handle), []);
        handle.track_start(Track::CHANGES).unwrap();
        flip(&node, false);
        flip(&node, true);
        assert_eq!(handle.quorate(), Ok(true));
        let notifications =
            [nodelist(ring), quorum(ring, true), quorum(ring, false), quorum(ring, true)];
        assert_eq!(all(&mut handle), notifications);
        assert_eq!(all(&mut handle), []);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn dispatch_one_blocks_until_a_notification_arrives() {
    let node = Node::single();
    node.run(|| {
        let ring = ring(&node, Model::V1);
        let mut handle = connect(Model::V1);
        handle.track_start(Track::CHANGES_ONLY).unwrap();
        let (send, received) = mpsc::channel();
        thread::spawn(move || {
            send.send((rustix::thread::gettid(), None)).unwrap();
            let taken: Vec<_> = handle.dispatch(Dispatch::One).collect();
            send.send((rustix::thread::gettid(), Some(taken))).unwrap();
        });
        let (dispatching, _) = received.recv().unwrap();
        wait_asleep(dispatching.as_raw_nonzero().get());
        assert!(received.try_recv().is_err(), "the dispatch returned without a notification");
        flip(&node, false);
        let (_, taken) = received.recv_timeout(DEADLINE).unwrap();
        assert_eq!(taken.unwrap(), [Ok(quorum(ring, false))]);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn dispatch_blocking_continues_until_the_iteration_stops() {
    let node = Node::single();
    node.run(|| {
        let ring = ring(&node, Model::V1);
        let mut handle = connect(Model::V1);
        handle.track_start(Track::CHANGES_ONLY).unwrap();
        let (send, received) = mpsc::channel();
        thread::spawn(move || {
            let notifications: Vec<_> = handle.dispatch(Dispatch::Blocking).take(3).collect();
            send.send((notifications, handle)).unwrap();
        });
        (0..3).for_each(|n| flip(&node, n % 2 == 1));
        let (notifications, mut handle) = received.recv_timeout(DEADLINE).unwrap();
        let notifications: Vec<_> = notifications.into_iter().map(Result::unwrap).collect();
        assert_eq!(notifications, [quorum(ring, false), quorum(ring, true), quorum(ring, false)]);
        assert_eq!(handle.quorate(), Ok(false), "the handle still works");
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn dispatch_blocking_ends_with_the_connection() {
    for ipc in [Ipc::Shm, Ipc::Socket] {
        let node = Node::single_with(|config| config.ipc = ipc);
        node.run(|| {
            let mut handle = connect(Model::V1);
            handle.track_start(Track::CHANGES).unwrap();
            let (send, received) = mpsc::channel();
            thread::spawn(move || {
                send.send((rustix::thread::gettid(), None)).unwrap();
                let taken: Vec<_> = handle.dispatch(Dispatch::Blocking).collect();
                send.send((rustix::thread::gettid(), Some(taken))).unwrap();
            });
            let (dispatching, _) = received.recv().unwrap();
            wait_asleep(dispatching.as_raw_nonzero().get());
            node.corosync.kill();
            let (_, taken) = received.recv_timeout(DEADLINE).unwrap();
            let taken = taken.unwrap();
            assert_eq!(taken.len(), 3, "two notifications and the error");
            assert_eq!(taken[2], Err(Error::Dispatch(Code::LIBRARY)));
        });
    }
}

/// `quorum_dispatch` accepts the flags of the C header and no others.
#[test]
#[ignore = "needs root and corosync: make test"]
fn the_raw_functions_return_the_codes_of_libquorum() {
    let node = Node::single();
    node.run(|| {
        // SAFETY: the system's libquorum.
        let library = unsafe { corosync_sys::Quorum::load() }.unwrap();
        let mut handle = 0;
        let mut quorum_type = 99;
        let mut callbacks = corosync_sys::quorum_callbacks_t { quorum_notify_fn: None };
        // SAFETY: all pointers are to locals.
        let code =
            unsafe { (library.quorum_initialize)(&mut handle, &mut callbacks, &mut quorum_type) };
        assert_eq!((Code(code), quorum_type), (Code::OK, corosync_sys::QUORUM_SET));
        // SAFETY: the handle is open, and only this thread uses it.
        let dispatch = |how| Code(unsafe { (library.quorum_dispatch)(handle, how) });
        assert_eq!(dispatch(corosync_sys::CS_DISPATCH_ONE_NONBLOCKING), Code::TRY_AGAIN);
        assert_eq!(dispatch(corosync_sys::CS_DISPATCH_ALL), Code::OK);
        assert_eq!(dispatch(0), Code::INVALID_PARAM);
        assert_eq!(dispatch(5), Code::INVALID_PARAM);
        // SAFETY: the handle is open and is not used again.
        assert_eq!(Code(unsafe { (library.quorum_finalize)(handle) }), Code::OK);
        // SAFETY: libquorum accepts a closed handle.
        assert_eq!(Code(unsafe { (library.quorum_finalize)(handle) }), Code::BAD_HANDLE);
        assert_eq!(dispatch(corosync_sys::CS_DISPATCH_ALL), Code::BAD_HANDLE);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn finalize_closes_the_connection() {
    let node = Node::single();
    node.run(|| {
        for close in [|handle: Handle| handle.finalize().unwrap(), drop] {
            let handle = connect(Model::V1);
            let fd = handle.fd().unwrap();
            // Another thread may reuse the number of a closed descriptor, so the files are
            // compared.
            let behind = || std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
            let socket = behind();
            close(handle);
            assert!(socket.is_some() && behind() != socket);
        }
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn every_request_fails_after_the_daemon_has_died() {
    let node = Node::single();
    node.run(|| {
        let mut handle = connect(Model::V1);
        handle.track_start(Track::CHANGES).unwrap();
        node.corosync.kill();
        // The queued notifications are lost with the connection.
        assert_eq!(
            handle.dispatch(Dispatch::All).collect::<Vec<_>>(),
            [Err(Error::Dispatch(Code::LIBRARY))]
        );
        assert_eq!(handle.try_dispatch(), Err(Error::Dispatch(Code::LIBRARY)));
        assert_eq!(handle.quorate(), Err(Error::Request(Code::LIBRARY)));
        assert_eq!(handle.track_start(Track::CHANGES), Err(Error::TrackStart(Code::LIBRARY)));
        assert_eq!(handle.track_stop(), Err(Error::Request(Code::LIBRARY)));
        assert!(handle.fd().is_ok(), "the descriptor stays open until the handle is finalized");
        assert_eq!(handle.finalize(), Ok(()));
        assert_eq!(library_error(Handle::initialize()), Code::LIBRARY);
    });
}

/// A client's libqb removes the files of a connection only if the server's process has ended.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_connection_to_a_dead_daemon_leaves_no_files() {
    let node = Node::single();
    node.run(|| {
        let handle = connect(Model::V1);
        let pid = node.corosync.pid();
        let files = || {
            let ours = format!("qb-{pid}-{}-", std::process::id());
            let entries = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap());
            entries
                .filter(|entry| entry.file_name().to_str().unwrap().starts_with(&ours))
                .flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten())
                .count()
        };
        assert!(files() > 0);
        let mut handle = handle;
        node.corosync.kill();
        assert_eq!(handle.quorate(), Err(Error::Request(Code::LIBRARY)));
        drop(handle);
        assert_eq!(files(), 0);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn connecting_without_a_daemon_returns_err_library() {
    Netns::new().run(|| assert_eq!(library_error(Handle::initialize()), Code::LIBRARY));
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn connecting_as_a_refused_user_returns_err_access() {
    let node = Node::single();
    let try_as_nobody = || node.run(|| as_user(65534, 65534, || Handle::initialize().map(drop)));
    assert_eq!(library_error(try_as_nobody()), Code::ACCESS);
    node.corosync.let_in("nobody");
    assert_eq!(try_as_nobody(), Ok(()));
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn connecting_with_a_full_dev_shm_returns_err_no_space() {
    small_dev_shm("64m", || {
        let node = Node::single();
        let filler = fill_dev_shm();
        node.run(|| assert_eq!(library_error(Handle::initialize()), Code::NO_SPACE));
        std::fs::remove_file(filler).unwrap();
        // The daemon must notice the free space, and clean up after the failed attempt.
        let room = || node.run(|| Handle::initialize().ok().map(drop));
        eventually("/dev/shm has free space for a connection", room);
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn connecting_from_a_separate_dev_shm_returns_err_not_exist() {
    let node = Node::single();
    let code = small_dev_shm("64m", || {
        node.netns.enter();
        library_error(Handle::initialize())
    });
    assert_eq!(code, Code::NOT_EXIST);
}

/// libqb does not lock its handle table, so the wrapper must lock it.
#[test]
#[ignore = "needs root and corosync: make test"]
fn many_threads_can_connect_at_the_same_time() {
    let node = Node::single();
    node.run(|| {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..30 {
                        let mut handle = Handle::initialize().unwrap();
                        assert_eq!(handle.quorate(), Ok(true));
                        handle.track_start(Track::CURRENT).unwrap();
                        assert_eq!(all(&mut handle).len(), 2);
                        handle.finalize().unwrap();
                    }
                });
            }
        });
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_handle_works_after_a_move_to_another_thread() {
    let node = Node::single();
    node.run(|| {
        let mut handle = connect(Model::V1);
        thread::scope(|scope| {
            scope.spawn(move || {
                handle.track_start(Track::CHANGES).unwrap();
                assert_eq!(waited(&mut handle).len(), 2);
            });
        });
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_dispatch_on_a_small_stack_is_refused_and_loses_nothing() {
    let node = Node::single();
    node.run(|| {
        let mut handle = connect(Model::V1);
        handle.track_start(Track::CHANGES).unwrap();
        // For a new thread, the C library may reuse an old stack of up to four times this size.
        // Such a stack is also too small.
        let small = thread::Builder::new().stack_size(256 * 1024);
        let dispatching = small.spawn(move || (handle.try_dispatch(), handle)).unwrap();
        let (refused, mut handle) = dispatching.join().unwrap();
        assert!(matches!(refused, Err(Error::StackTooSmall { .. })), "{refused:?}");
        assert_eq!(all(&mut handle).len(), 2, "nothing was lost");
    });
}
