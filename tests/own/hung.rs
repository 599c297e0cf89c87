//! Calls of libquorum that hang. The fake libquorum hangs as scripted.

use std::{
    thread,
    time::{Duration, Instant},
};

use actix_quorum::{Cause, Connection, Error, Quorum};

use crate::support::{
    Fake, assert_never_quorate, block_on, connect, eventually, eventually_within, lines,
    until_connected,
};

/// No thread waits endlessly for the lock around libquorum.
#[test]
#[ignore = "needs a C compiler: make test"]
fn a_hung_initialize_blocks_no_other_thread() {
    own_process!();
    /// The second attempt to connect waits for five seconds. A busy machine may take ten more.
    const SLACK: Duration = Duration::from_secs(15);

    let fake = Fake::new("hung_initialize");
    let library = fake.library;
    let (dropped, finalized) = (fake.connect(), fake.connect());
    fake.block("quorum_model_initialize");
    let hung = thread::spawn(move || connect(library));
    fake.wait_calls("quorum_model_initialize", 3);

    let start = Instant::now();
    let dropping = thread::spawn(move || drop(dropped));
    let finalizing = thread::spawn(move || finalized.finalize());
    let refused = thread::spawn(move || connect(library));
    eventually_within(SLACK, "the second attempt to connect returns", || {
        refused.is_finished().then_some(())
    });
    assert_eq!(refused.join().unwrap().unwrap_err(), Error::ConnectInProgress);
    let elapsed = start.elapsed();
    assert!((Duration::from_secs(4)..SLACK).contains(&elapsed), "refused after {elapsed:?}");
    eventually_within(SLACK, "closing the other handles returns", || {
        (dropping.is_finished() && finalizing.is_finished()).then_some(())
    });
    dropping.join().unwrap();
    assert_eq!(finalizing.join().unwrap(), Ok(()));
    assert!(!hung.is_finished());
    assert_eq!(fake.calls("quorum_model_initialize"), 3);
    assert_eq!(
        fake.calls("quorum_finalize"),
        0,
        "no handle is closed while an attempt to connect hangs"
    );

    fake.unblock("quorum_model_initialize");
    let mut handle = hung.join().unwrap().unwrap();
    fake.wait_calls("quorum_finalize", 2);
    fake.wait_open(1);
    assert_eq!(handle.quorate(), Ok(false), "the delayed connection works");
    drop(handle);
    assert_eq!((fake.open_handles(), fake.calls("quorum_finalize")), (0, 3));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_silent_corosync_is_reported_and_the_actor_waits_for_it() {
    own_process!();
    let fake = Fake::new("unresponsive");
    fake.push_both(true, 9);
    fake.block("quorum_model_initialize");
    let start = Instant::now();
    let watcher = fake.watch();
    assert_eq!(watcher.error(), Error::Unresponsive);
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(1900), "reported after only {elapsed:?}");
    assert_eq!(fake.calls("quorum_model_initialize"), 1);
    fake.unblock("quorum_model_initialize");
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
    assert_eq!((fake.calls("quorum_model_initialize"), fake.tracking_handles()), (1, 1));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn stopping_does_not_wait_for_a_silent_corosync() {
    own_process!();
    let fake = Fake::new("stop_unresponsive");
    fake.push_both(true, 9);
    fake.block("quorum_model_initialize");
    let watcher = fake.watch();
    fake.wait_calls("quorum_model_initialize", 1);
    watcher.stops_at_once();
    let changes = watcher.until_cause(Cause::Stopped);
    assert_never_quorate(&changes);
    drop(watcher);

    fake.unblock("quorum_model_initialize");
    fake.wait_calls("quorum_finalize", 1);
    fake.wait_open(0);
    assert_eq!(fake.calls("quorum_model_initialize"), 1);
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn the_next_attempt_to_connect_waits_until_the_previous_connection_is_closed() {
    own_process!();
    let fake = Fake::new("hung_close");
    let watcher = fake.watch();
    fake.push_both(true, 9);
    watcher.until_quorum(Quorum::Quorate);
    fake.block("quorum_finalize");
    fake.hang_up();
    let changes = watcher.until_lost();
    assert_eq!(changes[changes.len() - 1].current.quorum, Quorum::Unknown);
    // The error is published two seconds after the actor has requested the next connection.
    let changes = watcher.until("the daemon does not answer", |change| {
        let Connection::Connecting { error, .. } = &change.current.connection else { return false };
        *error == Some(Error::Unresponsive)
    });
    assert_eq!(changes.len(), 1, "more than one change: {}", lines(&changes));
    assert_eq!(fake.calls("quorum_finalize"), 1);
    assert_eq!(fake.calls("quorum_model_initialize"), 1);

    fake.unblock("quorum_finalize");
    until_connected(&watcher);
    assert_eq!((fake.calls("quorum_model_initialize"), fake.tracking_handles()), (2, 1));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn stopping_does_not_wait_for_a_connection_that_does_not_close() {
    own_process!();
    let fake = Fake::new("stop_hung_close");
    for lost in [false, true] {
        let before = fake.calls("quorum_finalize");
        let watcher = fake.watch();
        fake.push_both(true, 9);
        watcher.until_quorum(Quorum::Quorate);
        fake.block("quorum_finalize");
        if lost {
            fake.hang_up();
            watcher.until_lost();
            fake.wait_calls("quorum_finalize", before + 1);
        }
        watcher.stops_at_once();
        watcher.until_cause(Cause::Stopped);
        fake.wait_calls("quorum_finalize", before + 1);
        drop(watcher);
        fake.unblock("quorum_finalize");
        // The probe may or may not have connected, so the number of handles varies.
        eventually("each handle is closed once", || {
            let made = fake.calls("quorum_initialize") + fake.calls("quorum_model_initialize");
            (fake.open_handles() == 0 && fake.calls("quorum_finalize") == made).then_some(())
        });
    }
}

/// Readers see no quorum from the call on, even while the connection is still open.
#[test]
#[ignore = "needs a C compiler: make test"]
fn no_reader_sees_quorum_after_stop_is_called() {
    own_process!();
    let fake = Fake::new("stop_at_once");
    let watcher = fake.watch();
    fake.push_both(true, 9);
    watcher.until_quorum(Quorum::Quorate);
    fake.block("quorum_finalize");
    block_on(async {
        let polled_once = tokio::time::timeout(Duration::ZERO, watcher.quorum.stop()).await;
        assert!(polled_once.is_err());
        assert!(!watcher.quorum.is_quorate());
        assert_eq!(watcher.quorum.snapshot().connection, Connection::Stopped);
    });
    assert_never_quorate(&watcher.until_cause(Cause::Stopped));
}
