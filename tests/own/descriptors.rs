//! Attempts to connect without free file descriptors, and libqb's handling of descriptor 0.

use std::{fs::File, os::fd::OwnedFd};

use actix::{Actor, System};
use actix_quorum::{
    Cause, Connection, Error, Quorum, QuorumActor, QuorumChanged,
    libquorum::{Handle, Library, Model},
};
use rustix::{
    fs::fstat,
    io::{Errno, dup, fcntl_dupfd_cloexec, fcntl_getfd},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    stdio::{dup2_stdin, stdin},
};

use crate::support::{
    FakeLibquorum, Forward, Ipc, Node, Variant, Watcher, eventually_async, open_fds, quick,
};

/// Takes all file descriptors except for a few, until it is dropped.
pub(crate) struct Exhausted {
    held: Vec<OwnedFd>,
    limit: Rlimit,
}

impl Exhausted {
    pub(crate) fn but(free: usize) -> Self {
        let limit = getrlimit(Resource::Nofile);
        let mut exhausted = Self { held: Vec::new(), limit };
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..limit }).unwrap();
        let null = File::open("/dev/null").unwrap();
        exhausted.held.push(null.into());
        loop {
            match fcntl_dupfd_cloexec(&exhausted.held[0], 3) {
                Ok(fd) => exhausted.held.push(fd),
                Err(error) => break assert_eq!(error, Errno::MFILE),
            }
        }
        exhausted.held.truncate(exhausted.held.len().checked_sub(free).unwrap());
        exhausted
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.limit).unwrap();
    }
}

/// Returns the file behind descriptor 0.
#[track_caller]
fn zero() -> (u64, u64, u64) {
    let stat = fstat(stdin()).expect("descriptor 0 is open");
    (stat.st_dev, stat.st_ino, stat.st_rdev)
}

fn has_zero() -> bool {
    fcntl_getfd(stdin()) != Err(Errno::BADF)
}

/// Runs `f` with this process's descriptor 0 closed, and restores it.
fn without_zero<T>(f: impl FnOnce() -> T) -> T {
    let before = dup(stdin()).unwrap();
    // SAFETY: no code reads from the standard input of a test, and the caller runs alone.
    assert_eq!(unsafe { libc::close(0) }, 0);
    let result = f();
    dup2_stdin(&before).unwrap();
    result
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn without_free_descriptors_an_attempt_to_connect_fails_and_leaks_nothing() {
    own_process!();
    let node = Node::single();
    node.run(|| {
        // The first connection loads libraries and caches values, so it is made before the
        // descriptors are taken.
        Handle::initialize().unwrap().finalize().unwrap();
        let (before, open) = (zero(), open_fds());
        let exhausted = Exhausted::but(0);
        for _ in 0..3 {
            assert_eq!(Handle::initialize().unwrap_err(), Error::NoDescriptors);
            assert_eq!(zero(), before);
        }
        drop(exhausted);
        assert_eq!(open_fds(), open);
        let mut handle = Handle::initialize().unwrap();
        assert_eq!(handle.quorate(), Ok(true));
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn with_few_free_descriptors_an_attempt_to_connect_succeeds_or_fails_but_leaks_nothing() {
    own_process!();
    for ipc in [Ipc::Shm, Ipc::Socket] {
        let node = Node::single_with(|config| config.ipc = ipc);
        node.run(|| {
            Handle::initialize().unwrap().finalize().unwrap();
            let (before, open) = (zero(), open_fds());
            let mut worked = Vec::new();
            for free in 1..=12 {
                let exhausted = Exhausted::but(free);
                let result = Handle::initialize().and_then(|mut handle| {
                    let quorate = handle.quorate();
                    assert_ne!(handle.fd(), Ok(0));
                    let server = handle.server().map(|server| server.uid);
                    handle.finalize()?;
                    Ok((quorate?, server))
                });
                assert_eq!(zero(), before, "{free} were free: {result:?}");
                drop(exhausted);
                assert_eq!(open_fds(), open, "{free} were free: {result:?}");
                match result {
                    Ok(result) => worked.push(result),
                    Err(error) => {
                        assert_eq!(error, Error::NoDescriptors, "{free} were free");
                        assert!(worked.is_empty(), "{free} were free, and fewer were enough");
                    }
                }
            }
            assert!((1..12).contains(&worked.len()), "the attempts that succeeded: {worked:?}");
            assert!(worked.into_iter().all(|result| result == (true, Some(0))));
        });
    }
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_closed_descriptor_0_is_not_given_to_libquorum() {
    own_process!();
    let node = Node::single();
    node.run(|| {
        let before = zero();
        without_zero(|| {
            assert!(!has_zero());
            let mut handle = Handle::initialize().unwrap();
            assert_ne!(handle.fd().unwrap(), 0);
            let stat = fstat(stdin()).expect("descriptor 0 is open");
            assert_eq!(stat.st_rdev, fstat(File::open("/dev/null").unwrap()).unwrap().st_rdev);
            assert_eq!(handle.quorate(), Ok(true));
            handle.finalize().unwrap();
            assert!(has_zero(), "descriptor 0 stays open when the handle is closed");
        });
        assert_eq!(zero(), before);
    });
}

/// The fake libquorum closes descriptor 0 in a failed attempt, as libqb does if it has not opened a
/// socket.
#[test]
#[ignore = "needs a C compiler: make test"]
fn a_descriptor_0_that_a_failed_attempt_closes_is_restored() {
    own_process!();
    let fake = FakeLibquorum::variant("descriptors_closes_zero", Variant::FailClosesZero);
    // SAFETY: the file has the functions of libquorum.
    let library = unsafe { Library::load_from(fake.path()) }.unwrap();
    let (before, open) = (zero(), open_fds());
    for (model, function) in
        [(Model::V0, "quorum_initialize"), (Model::V1, "quorum_model_initialize")]
    {
        fake.fail(function, 2, 3);
        for _ in 0..3 {
            let error = Handle::model_initialize(library, model).unwrap_err();
            assert_eq!(error, Error::Connect(actix_quorum::Code::LIBRARY));
            assert_eq!((zero(), open_fds()), (before, open));
        }
    }
    without_zero(|| {
        fake.fail("quorum_model_initialize", 2, 1);
        Handle::model_initialize(library, Model::V1).unwrap_err();
        assert!(has_zero());
    });
    assert_eq!((zero(), open_fds(), fake.open_handles()), (before, open, 0));
}

/// Loading a library also needs a descriptor.
#[test]
#[ignore = "needs a C compiler: make test"]
fn a_lack_of_descriptors_is_not_reported_as_a_missing_library() {
    own_process!();
    let source = "int quorum_answer(void) { return 42; }";
    let path = crate::support::fake_libquorum("descriptors_not_loaded", source);
    let exhausted = Exhausted::but(0);
    // SAFETY: no code of the file runs while it is loaded.
    let load = || unsafe { Library::load_from(&path) };
    let error = load().unwrap_err();
    drop(exhausted);
    assert_eq!(error, Error::NoDescriptors);
    // With free descriptors, the error is about the file itself, which is not a libquorum.
    assert!(matches!(load(), Err(Error::Load(_))));
}

fn lacks_descriptors(change: &QuorumChanged) -> bool {
    let now = &change.current;
    assert!(!now.quorum.is_quorate(), "quorate without a connection: {change}");
    matches!(&now.connection, Connection::Connecting { error: Some(Error::NoDescriptors), .. })
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn an_actor_connects_once_descriptors_are_free_again() {
    own_process!();
    let node = Node::single();
    node.run(|| Handle::initialize().unwrap().finalize().unwrap());
    let before = zero();

    // The actor has never connected.
    node.corosync.kill();
    let watcher = Watcher::start_with(&node.netns, |builder| builder.backoff(quick()));
    assert!(matches!(watcher.attempt_error(), Error::Connect(_)));
    let exhausted = Exhausted::but(0);
    watcher.until("the process has no free descriptors", lacks_descriptors);
    assert_eq!(zero(), before);
    drop(exhausted);
    node.corosync.start();
    watcher.until_settled(Quorum::Quorate, &[1]);
    assert_eq!(zero(), before);

    // The actor loses its connection, which frees one descriptor.
    let exhausted = Exhausted::but(0);
    node.corosync.kill();
    watcher.until_lost();
    watcher.until("the process has no free descriptors", lacks_descriptors);
    assert_eq!(zero(), before);
    drop(exhausted);
    node.corosync.start();
    watcher.until_settled(Quorum::Quorate, &[1]);
    assert_eq!(zero(), before);
    watcher.stop();
    watcher.until_cause(Cause::Stopped);
}

/// With `qb_ipc_type: socket` the server's process is looked up among the sockets of this process.
/// If this process were also connected to another daemon, the process id could not be determined.
#[test]
#[ignore = "needs root and corosync: make test"]
fn the_server_process_is_identified_over_sockets_too() {
    own_process!();
    let node = Node::single_with(|config| config.ipc = Ipc::Socket);
    node.run(|| {
        let handle = Handle::initialize().unwrap();
        let server = handle.server().expect("the kernel reports the server");
        assert_eq!((server.uid, server.pid), (0, Some(node.corosync.pid().try_into().unwrap())));
    });
}

/// The arbiter cannot be started, because no descriptors are free.
#[test]
fn an_actor_without_an_arbiter_publishes_an_error_and_ends() {
    own_process!();
    System::new().block_on(async {
        let exhausted = Exhausted::but(0);
        let quorum = QuorumActor::builder().start();
        drop(exhausted);
        assert_eq!(quorum.snapshot().connection, Connection::Stopped);
        assert!(!quorum.is_quorate() && !quorum.addr().connected());
        let exhausted = Exhausted::but(0);
        let quorum = QuorumActor::builder().start_detached();
        drop(exhausted);
        assert_eq!(quorum.snapshot().connection, Connection::Stopped);
        assert!(!quorum.is_quorate() && !quorum.addr().connected());
        let mut changes = Vec::new();
        let (sender, receiver) = std::sync::mpsc::channel();
        let quorum = {
            let _exhausted = Exhausted::but(0);
            QuorumActor::builder().subscribe(Forward(sender).start().recipient()).start()
        };
        eventually_async("the end is published", || {
            changes.extend(receiver.try_iter());
            changes
                .iter()
                .any(|change| change.current.connection == Connection::Stopped)
                .then_some(())
        })
        .await;
        assert!(changes.iter().any(|change| matches!(
            &change.current.connection,
            Connection::Connecting { attempt: 1, error: Some(Error::NoDescriptors), .. }
        )));
        quorum.stop().await;
    });
}
