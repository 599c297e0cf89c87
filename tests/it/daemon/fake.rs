//! Tests with a fake libquorum, for cases that a real daemon cannot cause.

use std::{
    fs,
    path::Path,
    ptr,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use actix_quorum::{
    Cause, Code, Connection, Error, NodeId, Quorum,
    libquorum::{Dispatch, Handle, Library, Model, Notification, QuorumType, RingId, Track},
};

use crate::support::{
    DEADLINE, FUNCTIONS, Fake, FakeLibquorum, THREE, Variant, Watcher, assert_never_quorate,
    connect, fake_libquorum, fake_source, ids, lines, quick, until_connected,
};

/// The errors in the manual pages, and a number without a name.
const CODES: [Code; 9] = [
    Code::TRY_AGAIN,
    Code::INVALID_PARAM,
    Code::ACCESS,
    Code::LIBRARY,
    Code::INTERRUPT,
    Code::NOT_SUPPORTED,
    Code::MESSAGE_ERROR,
    Code::NO_MEMORY,
    Code(77),
];

const FLAGS: [Dispatch; 4] =
    [Dispatch::One, Dispatch::All, Dispatch::Blocking, Dispatch::OneNonblocking];

/// The longest list that Corosync can send (`PROCESSOR_COUNT_MAX`).
const MAX_NODES: u32 = 384;

fn ring(node_id: u32, seq: u64) -> RingId {
    RingId { node_id: NodeId(node_id), seq }
}

fn quorum(quorate: bool, seq: u64) -> Notification {
    Notification::quorum(quorate, ring(1, seq), ids(&[1, 2, 3]))
}

fn all(handle: &mut Handle) -> Vec<Result<Notification, Error>> {
    handle.dispatch(Dispatch::All).collect()
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn each_error_of_initialize_becomes_error_connect() {
    let fake = Fake::new("error_initialize");
    for (model, function) in
        [(Model::V1, "quorum_model_initialize"), (Model::V0, "quorum_initialize")]
    {
        for code in CODES {
            fake.refuse(function, code);
            let error = Handle::model_initialize(fake.library, model).unwrap_err();
            assert_eq!(error, Error::Connect(code), "{function}");
        }
        let handle = Handle::model_initialize(fake.library, model).unwrap();
        assert_eq!(handle.model(), model);
    }
    assert_eq!(fake.open_handles(), 0);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn only_invalid_param_from_model_initialize_causes_a_fallback_to_model_v0() {
    let fake = Fake::new("fallback");
    for code in CODES {
        let before = (fake.calls("quorum_initialize"), fake.calls("quorum_model_initialize"));
        fake.refuse("quorum_model_initialize", code);
        // The probe of an actor also connects with model V0. So the first probe must be sent after
        // the calls are counted.
        let watcher =
            fake.watch_with(|builder| builder.lease(DEADLINE).probe_interval(DEADLINE / 2));
        if code == Code::INVALID_PARAM {
            until_connected(&watcher);
        } else {
            assert_eq!(watcher.attempt_error(), Error::Connect(code));
            until_connected(&watcher);
        }
        let calls = (fake.calls("quorum_initialize"), fake.calls("quorum_model_initialize"));
        let fallen_back = code == Code::INVALID_PARAM;
        let expected = if fallen_back { (1, 1) } else { (0, 2) };
        assert_eq!((calls.0 - before.0, calls.1 - before.1), expected, "calls after {code}");
    }
    fake.fail("quorum_model_initialize", 7, 1);
    fake.fail("quorum_initialize", 11, 1);
    let watcher = fake.watch();
    let error = watcher.attempt_error();
    assert_eq!(error, Error::Connect(Code::ACCESS), "the error of model V0 is published");
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn each_error_of_trackstart_becomes_error_track_start() {
    let fake = Fake::new("error_trackstart");
    let mut handle = fake.connect();
    for code in CODES {
        fake.refuse("quorum_trackstart", code);
        assert_eq!(handle.track_start(Track::CHANGES), Err(Error::TrackStart(code)));
    }
    assert_eq!(handle.track_start(Track::CHANGES), Ok(()));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn each_error_of_any_other_request_becomes_error_request() {
    let fake = Fake::new("error_request");
    let mut handle = fake.connect();
    for code in CODES {
        let fail = |function| fake.refuse(function, code);
        let refused = Error::Request(code);

        fail("quorum_fd_get");
        assert_eq!(handle.fd(), Err(refused.clone()));
        fail("quorum_getquorate");
        assert_eq!(handle.quorate(), Err(refused.clone()));
        fail("quorum_trackstop");
        assert_eq!(handle.track_stop(), Err(refused.clone()));
        fail("quorum_context_set");
        assert_eq!(handle.context_set(ptr::null()), Err(refused.clone()));
        fail("quorum_context_get");
        assert_eq!(handle.context_get(), Err(refused.clone()));

        let given_up = fake.connect();
        fail("quorum_finalize");
        assert_eq!(given_up.finalize(), Err(refused));
    }
    assert!(handle.fd().is_ok() && handle.context_get().is_ok());
    assert_eq!((handle.quorate(), handle.track_stop()), (Ok(false), Ok(())));
    fake.quorate(1);
    assert_eq!(handle.quorate(), Ok(true));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn each_error_of_dispatch_becomes_error_dispatch() {
    let fake = Fake::new("error_dispatch");
    let mut handle = fake.connect();
    for code in CODES.into_iter().filter(|code| *code != Code::TRY_AGAIN) {
        for flag in FLAGS {
            fake.refuse("quorum_dispatch", code);
            let taken: Vec<_> = handle.dispatch(flag).collect();
            assert_eq!(taken, [Err(Error::Dispatch(code))], "{flag:?}");
        }
        fake.refuse("quorum_dispatch", code);
        assert_eq!(handle.try_dispatch(), Err(Error::Dispatch(code)));
    }
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn try_again_from_a_dispatch_means_an_empty_queue() {
    let fake = Fake::new("try_again");
    let mut handle = fake.connect();
    let nothing = [Err(Error::Dispatch(Code::TRY_AGAIN))];
    for (flag, expected) in [
        (Dispatch::OneNonblocking, &nothing[..]),
        (Dispatch::All, &[]),
        // libquorum does not return TRY_AGAIN to a blocking call. If it did, the result must not
        // look like the end of the notifications.
        (Dispatch::One, &nothing),
        (Dispatch::Blocking, &nothing),
    ] {
        fake.fail("quorum_dispatch", 6, 1);
        assert_eq!(handle.dispatch(flag).collect::<Vec<_>>(), expected, "{flag:?}");
    }
    fake.fail("quorum_dispatch", 6, 1);
    assert_eq!(handle.try_dispatch(), Ok(None));
    fake.push(true, 9);
    assert_eq!(handle.try_dispatch(), Ok(Some(quorum(true, 9))), "the handle still works");
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_successful_dispatch_without_a_callback_becomes_bad_handle() {
    let fake = Fake::new("no_callback");
    let mut handle = fake.connect();
    for flag in FLAGS {
        fake.fail("quorum_dispatch", 1, 1);
        let taken: Vec<_> = handle.dispatch(flag).collect();
        assert_eq!(taken, [Err(Error::Dispatch(Code::BAD_HANDLE))], "{flag:?}");
    }
    fake.fail("quorum_dispatch", 1, 1);
    assert_eq!(handle.try_dispatch(), Err(Error::Dispatch(Code::BAD_HANDLE)));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_library_without_models_is_used_with_model_v0() {
    let fake = Fake::variant("no_model", Variant::NoModel);
    let mut handle = fake.connect();
    assert_eq!((handle.model(), handle.quorum_type()), (Model::V0, QuorumType::Set));

    fake.push_both(true, 42);
    let notification = Notification::quorum(true, ring(0, 42), ids(&[1, 2, 3]));
    assert_eq!(all(&mut handle), [Ok(notification)]);

    let watcher = fake.watch();
    fake.push(true, 42);
    let changes = watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
    assert_eq!(changes[changes.len() - 1].current.ring_id, Some(ring(0, 42)));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_library_without_models_is_too_old_for_model_v1() {
    let fake = Fake::variant("too_old", Variant::NoModel);
    let error = Handle::model_initialize(fake.library, Model::V1).unwrap_err();
    assert!(error.is_permanent() && matches!(error, Error::Load(_)), "{error:?}");
    let parts = ["too old", "without quorum_model_initialize", "corosync 3.1.0"];
    assert_says(&error.to_string(), &parts);
    assert_eq!(fake.calls("quorum_initialize"), 0);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn the_handle_that_a_failed_initialize_leaves_open_is_finalized() {
    let fake = Fake::variant("keeps_handle", Variant::FailKeepsHandle);
    for (model, function) in
        [(Model::V1, "quorum_model_initialize"), (Model::V0, "quorum_initialize")]
    {
        fake.fail(function, 11, 1);
        let error = Handle::model_initialize(fake.library, model).unwrap_err();
        assert_eq!((error, fake.open_handles()), (Error::Connect(Code::ACCESS), 0));
    }
    assert_eq!(fake.calls("quorum_finalize"), 2);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn the_handle_that_the_fallback_to_model_v0_leaves_behind_is_finalized() {
    let fake = Fake::variant("keeps_fallback", Variant::FailKeepsHandle);
    fake.fail("quorum_model_initialize", 7, 1);
    let watcher = fake.watch_with(|builder| builder.lease(DEADLINE).probe_interval(DEADLINE / 2));
    until_connected(&watcher);
    assert_eq!((fake.calls("quorum_initialize"), fake.open_handles()), (1, 1));
    watcher.stop();
    assert_eq!((fake.open_handles(), fake.calls("quorum_finalize")), (0, 2));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn null_lists_and_lists_of_length_zero_are_empty() {
    let fake = Fake::new("empty_lists");
    let mut handle = fake.connect();
    let quorum = Notification::quorum(true, ring(1, 9), vec![]);
    let nodelist = Notification::nodelist(ring(1, 9), vec![], vec![], vec![]);
    for list in [None, Some(&[][..])] {
        fake.push_quorum(1, (1, 9), list);
        fake.push_nodelist((1, 9), list, list, list);
        assert_eq!(all(&mut handle), [Ok(quorum.clone()), Ok(nodelist.clone())]);
    }
    // A null list is empty, whatever length is claimed.
    for entries in [1, MAX_NODES, u32::MAX] {
        fake.push_quorum(1, (1, 9), None);
        fake.claim(entries, 0, 0);
        fake.push_nodelist((1, 9), None, None, None);
        fake.claim(entries, entries, entries);
        assert_eq!(all(&mut handle), [Ok(quorum.clone()), Ok(nodelist.clone())]);
    }
    // A list with a claimed length of zero is also empty.
    fake.push_quorum(1, (1, 9), THREE);
    fake.claim(0, 0, 0);
    assert_eq!(all(&mut handle), [Ok(quorum)]);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_list_of_384_nodes_is_accepted() {
    let fake = Fake::new("longest_list");
    let mut handle = fake.connect();
    let longest: Vec<u32> = (1..=MAX_NODES).collect();
    let list = Some(&longest[..]);
    fake.push_quorum(1, (1, 9), list);
    fake.push_nodelist((1, 9), list, list, list);
    let members = ids(&longest);
    let (joined, left) = (members.clone(), members.clone());
    assert_eq!(
        all(&mut handle),
        [
            Ok(Notification::quorum(true, ring(1, 9), members.clone())),
            Ok(Notification::nodelist(ring(1, 9), members, joined, left)),
        ]
    );
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_list_that_is_too_long_ends_the_connection_with_message_error() {
    let fake = Fake::new("long_lists");
    let old = FakeLibquorum::variant("fake_long_lists_v0", Variant::NoModel);
    // SAFETY: the file has the functions of libquorum.
    let old_library = unsafe { Library::load_from(old.path()) }.unwrap();
    let mut tried = 0;
    let too_long: Vec<u32> = (0..=MAX_NODES).collect();
    let (list, short) = (Some(&too_long[..]), Some(&too_long[..1]));
    type Push<'a> = &'a dyn Fn(&FakeLibquorum);
    let pushes: &[Push<'_>] = &[
        &|fake| fake.push_quorum(1, (1, 9), list),
        &|fake| {
            fake.push_quorum(1, (1, 9), short);
            fake.claim(MAX_NODES + 1, 0, 0);
        },
        &|fake| {
            fake.push_quorum(1, (1, 9), short);
            fake.claim(u32::MAX, 0, 0);
        },
        &|fake| fake.push_nodelist((1, 9), list, short, short),
        &|fake| fake.push_nodelist((1, 9), short, list, short),
        &|fake| fake.push_nodelist((1, 9), short, short, list),
        &|fake| {
            fake.push_nodelist((1, 9), short, short, short);
            fake.claim(u32::MAX, u32::MAX, u32::MAX);
        },
        &|fake| {
            fake.push_nodelist((1, 9), short, short, short);
            fake.claim(1, 1 << 31, 1);
        },
        &|fake| {
            fake.push_nodelist((1, 9), short, short, short);
            fake.claim(0, 0, u32::MAX);
        },
    ];
    let mut check = |fake: &FakeLibquorum, library, push: Push<'_>, flag| {
        tried += 1;
        let malformed = [Err(Error::Dispatch(Code::MESSAGE_ERROR))];
        let mut handle = connect(library).unwrap();
        push(fake);
        fake.push_quorum(1, (1, 9), THREE);
        assert_eq!(handle.dispatch(flag).collect::<Vec<_>>(), malformed, "case {tried}");
        // The next notification is well formed, but its sender can no longer be trusted.
        assert_eq!(all(&mut handle), malformed, "case {tried}");
        assert_eq!(
            handle.try_dispatch(),
            Err(Error::Dispatch(Code::MESSAGE_ERROR)),
            "case {tried}"
        );
        fake.hang_up();
    };
    for (push, flag) in pushes.iter().zip(FLAGS.iter().cycle()) {
        check(&fake, fake.library, push, *flag);
    }
    // Model V0 has no nodelists.
    for push in &pushes[..3] {
        check(&old, old_library, push, Dispatch::All);
    }
    assert_eq!((fake.open_handles(), old.open_handles()), (0, 0));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_decision_that_is_neither_0_nor_1_becomes_message_error() {
    let fake = Fake::new("decisions");
    let malformed = Error::Dispatch(Code::MESSAGE_ERROR);
    for model in [Model::V0, Model::V1] {
        for quorate in [2, 256, 1 << 31, u32::MAX] {
            let mut handle = Handle::model_initialize(fake.library, model).unwrap();
            fake.push_quorum(quorate, (1, 9), THREE);
            assert_eq!(handle.try_dispatch(), Err(malformed.clone()), "{model:?}: {quorate}");
        }
        for quorate in [2, 256, i32::MIN, -1] {
            let mut handle = Handle::model_initialize(fake.library, model).unwrap();
            fake.quorate(quorate);
            assert_eq!(
                handle.quorate(),
                Err(Error::Request(Code::MESSAGE_ERROR)),
                "the answer {quorate}"
            );
        }
    }
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn dispatch_all_returns_everything_and_ends() {
    let fake = Fake::new("dispatch_all");
    let mut handle = fake.connect();
    assert_eq!(all(&mut handle), []);
    (0..100).for_each(|seq| fake.push(seq % 2 == 0, seq));
    let expected: Vec<_> = (0..100).map(|seq| Ok(quorum(seq % 2 == 0, seq))).collect();
    assert_eq!(all(&mut handle), expected);
    assert_eq!(all(&mut handle), []);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn dispatch_one_returns_one_of_many() {
    let fake = Fake::new("dispatch_one");
    let mut handle = fake.connect();
    (0..3).for_each(|seq| fake.push(true, seq));
    for seq in 0..3 {
        let mut taking = handle.dispatch(Dispatch::One);
        assert_eq!(taking.next(), Some(Ok(quorum(true, seq))));
        assert_eq!((taking.next(), taking.next()), (None, None));
    }
    assert_eq!(fake.calls("quorum_dispatch"), 3);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn dispatch_one_nonblocking_returns_one_of_many_or_try_again() {
    let fake = Fake::new("dispatch_nonblocking");
    let mut handle = fake.connect();
    (0..2).for_each(|seq| fake.push(true, seq));
    let nothing = Err(Error::Dispatch(Code::TRY_AGAIN));
    for expected in [Ok(quorum(true, 0)), Ok(quorum(true, 1)), nothing.clone(), nothing] {
        let mut taking = handle.dispatch(Dispatch::OneNonblocking);
        assert_eq!(taking.next(), Some(expected));
        assert_eq!((taking.next(), taking.next()), (None, None));
    }
    assert_eq!(fake.calls("quorum_dispatch"), 4);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn dispatch_blocking_returns_everything_until_the_connection_ends() {
    let fake = Fake::new("dispatch_blocking");
    let mut handle = fake.connect();
    (0..50).for_each(|seq| fake.push(true, seq));
    let (send, received) = mpsc::channel();
    let dispatching = thread::spawn(move || {
        for taken in handle.dispatch(Dispatch::Blocking) {
            send.send(taken).unwrap();
        }
    });
    for seq in 0..100 {
        if seq == 50 {
            // All queued notifications were returned, so the dispatch waits.
            fake.wait_calls("quorum_dispatch", 51);
            (50..100).for_each(|seq| fake.push(true, seq));
        }
        assert_eq!(received.recv_timeout(DEADLINE).unwrap(), Ok(quorum(true, seq)));
    }
    fake.wait_calls("quorum_dispatch", 101);
    fake.hang_up();
    let last = received.recv_timeout(DEADLINE).unwrap();
    assert_eq!(last, Err(Error::Dispatch(Code::LIBRARY)));
    assert_eq!(received.recv_timeout(DEADLINE), Err(mpsc::RecvTimeoutError::Disconnected));
    dispatching.join().unwrap();
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn nothing_is_dispatched_until_the_iterator_is_used() {
    let fake = Fake::new("lazy");
    let mut handle = fake.connect();
    fake.push(true, 9);
    for flag in FLAGS {
        drop(handle.dispatch(flag));
    }
    assert_eq!(fake.calls("quorum_dispatch"), 0);
    // Stopping an iteration early loses no notification.
    fake.push(false, 9);
    assert_eq!(handle.dispatch(Dispatch::All).next(), Some(Ok(quorum(true, 9))));
    assert_eq!(handle.dispatch(Dispatch::Blocking).next(), Some(Ok(quorum(false, 9))));
    assert_eq!(fake.calls("quorum_dispatch"), 2);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn the_last_call_of_a_handle_is_its_only_finalize() {
    let fake = Fake::new("finalize_once");
    let calls = || FUNCTIONS.map(|function| fake.calls(function)).iter().sum::<usize>();
    let end = |what: &str, handle: Handle, end: &dyn Fn(Handle)| {
        let (before, finalized) = (calls(), fake.calls("quorum_finalize"));
        end(handle);
        assert_eq!(fake.calls("quorum_finalize"), finalized + 1, "{what}");
        assert_eq!(calls(), before + 1, "{what}");
    };

    end("drop", fake.connect(), &drop);
    end("finalize", fake.connect(), &|handle| assert_eq!(handle.finalize(), Ok(())));

    let mut lost = [fake.connect(), fake.connect()];
    fake.hang_up();
    for handle in &mut lost {
        assert_eq!(handle.try_dispatch(), Err(Error::Dispatch(Code::LIBRARY)));
        assert_eq!(handle.quorate(), Err(Error::Request(Code::LIBRARY)));
    }
    let [dropped, finalized] = lost;
    end("drop after a hang-up", dropped, &drop);
    end("finalize after a hang-up", finalized, &|handle| assert_eq!(handle.finalize(), Ok(())));
    assert_eq!(fake.open_handles(), 0);

    let handle = fake.connect();
    fake.hang_up();
    end("drop after an unnoticed hang-up", handle, &drop);

    fake.fail("quorum_finalize", 2, 1);
    let refused = Err(Error::Request(Code::LIBRARY));
    end("finalize fails", fake.connect(), &|handle| assert_eq!(handle.finalize(), refused));
}

fn load_error(path: &Path) -> String {
    // SAFETY: the file is refused, and none of its code runs.
    let error = unsafe { Library::load_from(path) }.unwrap_err();
    assert!(error.is_permanent() && matches!(error, Error::Load(_)), "{error:?}");
    error.to_string()
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text}: lacks {part:?}");
    }
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn the_error_for_an_unusable_library_gives_the_reason() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));

    let missing = directory.join("fake_is_not_there.so");
    let path = missing.to_str().unwrap();
    assert_says(&load_error(&missing), &["No such file", path, "install libquorum5"]);

    let text = directory.join("fake_is_text.so");
    fs::write(&text, "This is not a library, no matter how long it is. ".repeat(40)).unwrap();
    let path = text.to_str().unwrap();
    assert_says(&load_error(&text), &["invalid ELF header", path, "reinstall libquorum5"]);

    let other = fake_libquorum("fake_other", "int quorum_finalize(void) { return 1; }");
    assert_says(
        &load_error(&other),
        &["has no function quorum_initialize", "check that it is corosync's"],
    );
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_library_that_appears_while_the_actor_is_running_is_used() {
    let fake = Fake::new("appears");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake_appeared.so");
    let _ = fs::remove_file(&path);
    let watcher = fake.watch_with(|builder| fake_source(builder, &path));
    let error = watcher.attempt_error();
    assert!(
        matches!(&error, Error::Load(why) if why.to_string().contains("No such file")),
        "{error}"
    );
    assert_eq!(fake.open_handles(), 0);

    fs::rename(fake.path(), &path).unwrap();
    until_connected(&watcher);
    fake.push_both(true, 9);
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
    assert_eq!(fake.calls("quorum_model_initialize"), 1);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_corosync_without_a_provider_is_refused_until_it_has_one() {
    let fake = Fake::new("no_provider");
    fake.quorum_type(0);
    fake.quorate(1);
    fake.push_both(true, 9);
    let watcher = fake.watch();
    assert_eq!(watcher.attempt_error(), Error::NoProvider);
    fake.wait_calls("quorum_model_initialize", 5);
    assert!(!watcher.quorum.is_quorate());
    assert_eq!((fake.calls("quorum_dispatch"), fake.calls("quorum_trackstart")), (0, 0));

    fake.quorum_type(1);
    let seen = until_connected(&watcher);
    assert_never_quorate(&seen);
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
    assert_eq!(fake.tracking_handles(), 1, "the refused connections are closed");
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_corosync_without_a_provider_is_accepted_if_allowed() {
    let fake = Fake::new("free");
    fake.quorum_type(0);
    // As with a real daemon, the decision has no ring.
    fake.push_nodelist((1, 9), THREE, Some(&[]), Some(&[]));
    fake.push_quorum(1, (0, 0), Some(&[]));
    let watcher = fake.watch_with(|builder| builder.require_provider(false));
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
    assert!(watcher.quorum.is_quorate());
}

/// Asserts that the connection is refused with this error repeatedly, and closed each time.
fn assert_refused(fake: &Fake, watcher: &Watcher, error: &Error) {
    assert_eq!(watcher.attempt_error(), *error);
    fake.wait_calls("quorum_model_initialize", 5);
    assert_never_quorate(&watcher.rest());
    assert!(!watcher.quorum.is_quorate());
    assert_eq!((fake.calls("quorum_dispatch"), fake.calls("quorum_trackstart")), (0, 0));
    watcher.stops_at_once();
    fake.wait_open(0);
    assert_eq!(fake.calls("quorum_finalize"), fake.calls("quorum_model_initialize"));
    assert_never_quorate(&watcher.rest());
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_server_that_cannot_be_identified_is_refused() {
    let fake = Fake::variant("unknown_server", Variant::Datagram);
    fake.push_both(true, 9);
    assert_eq!(fake.connect().server(), None);
    fake.wait_open(0);
    let before = fake.calls("quorum_model_initialize");
    assert_eq!((before, fake.calls("quorum_finalize")), (1, 1));
    // By default, only a server that runs as root is accepted.
    let watcher = Watcher::here(|builder| fake_source(builder, fake.path()).backoff(quick()));
    assert_refused(&fake, &watcher, &Error::untrusted_server(None, 0));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_server_of_another_user_is_refused() {
    let fake = Fake::new("other_user");
    fake.push_both(true, 9);
    // The fake's connections lead to this process.
    let own = rustix::process::getuid().as_raw();
    let other = own + 1;
    let watcher = fake.watch_with(|builder| builder.server_uid(Some(other)));
    assert_refused(&fake, &watcher, &Error::untrusted_server(Some(own), other));

    let watcher = fake.watch_with(|builder| builder.server_uid(Some(own)));
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_failure_after_initialize_is_published_and_the_actor_connects_again() {
    let fake = Fake::new("half_connected");
    for (function, error) in [
        ("quorum_trackstart", Error::TrackStart(Code::MESSAGE_ERROR)),
        ("quorum_fd_get", Error::Request(Code::MESSAGE_ERROR)),
    ] {
        fake.fail_always(function, 22);
        let before = fake.calls("quorum_model_initialize");
        let watcher = fake.watch();
        assert_eq!(watcher.attempt_error(), error);
        fake.wait_calls("quorum_model_initialize", before + 5);
        fake.succeed(function);
        until_connected(&watcher);
        assert_eq!(fake.tracking_handles(), 1, "{function}");
        fake.push_both(true, 9);
        watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
        watcher.stop();
        fake.wait_open(0);
    }
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_lost_connection_makes_quorum_unknown_and_is_reopened() {
    let fake = Fake::new("hang_up");
    let watcher = fake.watch();
    for (round, silently) in [(0, false), (1, true), (2, false)] {
        fake.push_both(true, 9 + round);
        watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
        let start = Instant::now();
        if silently {
            fake.hang_up_silently()
        } else {
            fake.hang_up()
        }
        let changes = watcher.until_lost();
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(5), "published after {elapsed:?}");
        let lost = &changes[changes.len() - 1].current;
        assert_eq!(lost.quorum, Quorum::Unknown);
        let error = Error::Dispatch(Code::LIBRARY);
        assert_eq!(lost.connection, Connection::disconnected(error));
        let changes = until_connected(&watcher);
        assert_never_quorate(&changes);
        assert_eq!(fake.tracking_handles(), 1);
    }
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_malformed_notification_ends_the_connection() {
    let fake = Fake::new("malformed");
    let watcher = fake.watch();
    let too_long: Vec<u32> = (0..=MAX_NODES).collect();
    let list = Some(&too_long[..]);
    type Push<'a> = &'a dyn Fn();
    let pushes: [Push<'_>; 4] = [
        &|| fake.push_quorum(1, (1, 9), list),
        &|| fake.push_nodelist((1, 13), list, None, None),
        &|| fake.push_nodelist((1, 13), THREE, list, None),
        &|| fake.push_nodelist((1, 13), THREE, None, list),
    ];
    until_connected(&watcher);
    for push in pushes {
        fake.push_both(false, 9);
        watcher.until_settled(Quorum::Inquorate, &[1, 2, 3]);
        push();
        let mut changes = watcher.until_lost();
        let error = Error::Dispatch(Code::MESSAGE_ERROR);
        let lost = &changes[changes.len() - 1].current;
        assert_eq!(lost.connection, Connection::disconnected(error));
        assert_eq!(lost.members, ids(&[1, 2, 3]));
        changes.extend(until_connected(&watcher));
        assert_never_quorate(&changes);
        assert_eq!(fake.tracking_handles(), 1);
    }
    fake.push_both(true, 17);
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
}

/// A spuriously readable descriptor costs at most two dispatches, and each tick costs one. A tick
/// happens every 625 ms, twice in each probe interval.
#[test]
#[ignore = "needs a C compiler: make test"]
fn a_spurious_wake_up_has_no_effect() {
    let fake = Fake::new("wake");
    let watcher = fake.watch();
    fake.push_both(true, 9);
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
    let (start, before) = (Instant::now(), fake.calls("quorum_dispatch"));
    for _ in 0..100 {
        fake.wake();
    }
    fake.push(false, 9);
    let changes = watcher.until_quorum(Quorum::Inquorate);
    assert_eq!(changes.len(), 1, "more than one change: {}", lines(&changes));

    // A spinning actor would make these calls immediately.
    let (idle, calls) = (Instant::now(), fake.calls("quorum_dispatch"));
    fake.wait_calls("quorum_dispatch", calls + 8);
    let elapsed = idle.elapsed();
    assert!(elapsed >= Duration::from_millis(500), "8 dispatches in {elapsed:?}");
    let ticks = usize::try_from(start.elapsed().as_millis() / 625).unwrap() + 2;
    let calls = fake.calls("quorum_dispatch") - before;
    assert!(calls <= 2 * 101 + ticks, "{calls} calls, {ticks} ticks");
    assert!(watcher.rest().is_empty());
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_flood_of_notifications_arrives_complete_and_in_order() {
    const FLIPS: u64 = 5_000;

    let fake = Fake::new("flood");
    let watcher = fake.watch();
    fake.push_both(false, 9);
    let changes = watcher.until_settled(Quorum::Inquorate, &[1, 2, 3]);
    let mut seen = std::sync::Arc::clone(&changes[changes.len() - 1].current);
    let base = seen.sequence;
    (1..=FLIPS).for_each(|n| fake.push(n % 2 == 1, 9));
    let changes = watcher.until("the last flip", |change| change.current.sequence == base + FLIPS);
    for change in changes {
        assert_eq!(*change.previous, *seen);
        seen = change.current;
        assert_eq!(seen.sequence, change.previous.sequence + 1 + change.missed);
        assert_eq!(seen.quorum.is_quorate(), (seen.sequence - base) % 2 == 1);
    }
    assert!(!watcher.quorum.is_quorate());
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn the_actor_stops_during_a_flood_of_notifications() {
    let fake = Fake::new("stop_in_flood");
    let watcher = fake.watch();
    fake.push_both(false, 9);
    watcher.until_settled(Quorum::Inquorate, &[1, 2, 3]);
    (0..5_000).for_each(|n| fake.push(n % 2 == 0, 9));
    let stopped = AtomicBool::new(false);
    let took = thread::scope(|scope| {
        scope.spawn(|| {
            // The flood lasts ten seconds, unless the actor stops.
            for n in 0..1_000_000 {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                fake.push(n % 2 == 0, 9);
            }
        });
        let start = Instant::now();
        watcher.stop();
        stopped.store(true, Ordering::Release);
        start.elapsed()
    });
    // The flood holds the fake's lock most of the time, so stopping may take a few seconds.
    assert!(took < Duration::from_secs(5), "stopping took {took:?}");
    assert!(!watcher.quorum.is_quorate());
    let changes = watcher.until_cause(Cause::Stopped);
    assert_eq!(changes[changes.len() - 1].current.quorum, Quorum::Unknown);
    fake.wait_open(0);
    assert!(watcher.rest().is_empty(), "nothing is published after the stop");
}
