//! Fail-safe behaviour on the simulated cluster, with a paused clock, so that minutes take no time.

use std::{
    future::pending,
    time::{Duration, SystemTime},
};

use actix::{Arbiter, System, clock};
use actix_quorum::{
    Cause, Connection, NodeId, Quorum, QuorumActor, QuorumBuilder, QuorumHandle, QuorumLost,
    sim::{Cluster, Fault, Recorder},
};

fn run(test: impl Future<Output = ()>) {
    System::new().block_on(async {
        tokio::time::pause();
        test.await;
    });
}

fn start(
    cluster: &Cluster,
    settings: impl FnOnce(QuorumBuilder) -> QuorumBuilder,
) -> (QuorumHandle, Recorder) {
    let builder = settings(QuorumActor::builder().source(cluster.node(1)));
    let quorum = builder.start_in_arbiter(&Arbiter::current());
    let recorder = Recorder::new(&quorum).deadline(Duration::from_secs(3600));
    (quorum, recorder)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_hung_daemon_is_believed_for_at_most_the_lease() {
    run(async {
        let cluster = Cluster::new(3);
        let (quorum, mut recorder) = start(&cluster, |builder| builder.lease(ms(2_000)));
        recorder.expect_gain().await;
        clock::sleep(ms(60_000)).await;
        assert!(quorum.is_quorate(), "quorum was lost although the daemon answers");
        cluster.pause(1).unwrap();
        let since = clock::Instant::now();
        let change = recorder.expect_loss().await;
        // The default probe interval is a quarter of the lease, so the last probe was sent at most
        // 500 ms before the pause.
        assert!(
            (ms(1_400)..ms(2_100)).contains(&since.elapsed()),
            "lost after {:?}",
            since.elapsed()
        );
        assert_eq!(
            (change.cause, &change.current.connection),
            (Cause::Stalled, &Connection::Stalled)
        );
        assert_eq!((quorum.quorum(), quorum.is_quorate()), (Quorum::Unknown, false));
        clock::sleep(ms(60_000)).await;
        cluster.resume(1).unwrap();
        let change = recorder.expect_gain().await;
        assert_eq!(change.current.connection, Connection::Connected);
    });
}

#[test]
fn the_death_of_the_daemon_is_noticed_despite_an_endless_lease() {
    run(async {
        let cluster = Cluster::new(3);
        let (quorum, mut recorder) = start(&cluster, |builder| builder.lease(Duration::MAX));
        recorder.expect_gain().await;
        // By now, the probes that the notifications caused have been answered.
        clock::sleep(ms(60_000)).await;
        cluster.fault(1, Fault::SilentDeath).unwrap();
        cluster.crash(1).unwrap();
        let since = clock::Instant::now();
        recorder.expect_loss().await;
        assert!(
            since.elapsed() < ms(300) && !quorum.is_quorate(),
            "lost after {:?}",
            since.elapsed()
        );
    });
}

#[test]
fn the_lease_expires_on_time_without_any_probe() {
    run(async {
        let cluster = Cluster::new(3);
        let settings = |builder: QuorumBuilder| builder.probe_interval(Duration::MAX);
        let (quorum, mut recorder) = start(&cluster, settings);
        recorder.expect_gain().await;
        let since = clock::Instant::now();
        let change = recorder.expect_loss().await;
        assert_eq!(change.cause, Cause::Stalled);
        assert!(
            since.elapsed() < ms(5_100) && !quorum.is_quorate(),
            "lost after {:?}",
            since.elapsed()
        );
    });
}

/// Each notification causes an early probe, which must not delay a probe that is due sooner.
#[test]
fn frequent_notifications_do_not_let_a_short_lease_expire() {
    run(async {
        let cluster = Cluster::new(3);
        let (quorum, mut recorder) = start(&cluster, |builder| builder.lease(ms(40)));
        recorder.expect_gain().await;
        for _ in 0..20 {
            cluster.partition(&[&[1, 2], &[3]]).unwrap();
            clock::sleep(ms(60)).await;
            cluster.heal();
            clock::sleep(ms(60)).await;
        }
        assert_eq!((quorum.is_quorate(), quorum.snapshot().epoch), (true, 0));
    });
}

#[test]
fn an_old_decision_is_not_believed_after_settle_grace() {
    run(async {
        let cluster = Cluster::new(3);
        let (_, mut recorder) = start(&cluster, |builder| builder.settle_grace(ms(700)));
        recorder.expect_gain().await;
        cluster.hold_sync();
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        let change = recorder.expect("the membership", |change| !change.left.is_empty()).await;
        assert!(change.current.quorum.is_quorate() && !change.current.settled);
        let since = clock::Instant::now();
        let change = recorder.expect_loss().await;
        assert!((ms(690)..ms(800)).contains(&since.elapsed()), "lost after {:?}", since.elapsed());
        assert_eq!(change.current.quorum, Quorum::Unknown);
        cluster.release_sync();
        let change = recorder.expect("the decision", |change| change.current.settled).await;
        assert_eq!(change.current.quorum, Quorum::Inquorate);
    });
}

#[test]
fn a_decision_within_settle_grace_prevents_a_loss() {
    run(async {
        let cluster = Cluster::new(3);
        let (quorum, mut recorder) = start(&cluster, |builder| builder);
        recorder.expect_gain().await;
        let epoch = quorum.snapshot().epoch;
        cluster.hold_sync();
        cluster.crash(3).unwrap();
        recorder.expect("the membership", |change| !change.left.is_empty()).await;
        clock::sleep(ms(500)).await;
        cluster.release_sync();
        recorder.expect("the decision", |change| change.current.settled).await;
        clock::sleep(ms(5_000)).await;
        assert!(quorum.is_quorate());
        assert_eq!(quorum.snapshot().epoch, epoch);
    });
}

#[test]
fn stable_after_delays_a_gain_but_not_a_loss() {
    run(async {
        let cluster = Cluster::new(3);
        let (quorum, mut recorder) = start(&cluster, |builder| builder.stable_after(ms(2_000)));
        let since = clock::Instant::now();
        recorder.expect_gain().await;
        assert!(since.elapsed() >= ms(2_000), "gained after {:?}", since.elapsed());
        for _ in 0..3 {
            cluster.partition(&[&[1], &[2, 3]]).unwrap();
            clock::sleep(ms(1_500)).await;
            assert!(!quorum.is_quorate());
            cluster.heal();
            clock::sleep(ms(1_500)).await;
            assert!(!quorum.is_quorate(), "1.5 s is not long enough");
        }
        // After the last repair of the partition, quorum has lasted for 1.5 s of the 2 s.
        let since = clock::Instant::now();
        recorder.expect_gain().await;
        assert!(
            (ms(400)..ms(700)).contains(&since.elapsed()),
            "gained after {:?}",
            since.elapsed()
        );
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        let since = clock::Instant::now();
        recorder.expect_loss().await;
        assert!(since.elapsed() < ms(100), "a loss is published immediately");
    });
}

#[test]
fn a_guard_is_valid_only_in_its_own_epoch() {
    run(async {
        let cluster = Cluster::new(3);
        let (quorum, mut recorder) = start(&cluster, |builder| builder);
        assert!(quorum.guard().is_none());
        recorder.expect_gain().await;
        let guard = quorum.guard().unwrap();
        let (sleeping, lost) = (guard.clone(), guard.clone());
        let work = actix::spawn(async move { sleeping.run(pending::<()>()).await });
        let losing = actix::spawn(async move { lost.lost().await });
        clock::sleep(ms(60_000)).await;
        assert!(guard.is_valid() && !work.is_finished() && !losing.is_finished());
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        assert_eq!(work.await.unwrap(), Err(QuorumLost));
        losing.await.unwrap();
        cluster.heal();
        recorder.expect_gain().await;
        assert!(quorum.is_quorate() && !guard.is_valid(), "quorum was lost in between");
    });
}

#[test]
fn a_separation_without_a_loss_invalidates_a_guard() {
    run(async {
        let cluster = Cluster::new(3);
        let (quorum, mut recorder) = start(&cluster, |builder| builder);
        recorder.expect_gain().await;
        let guard = quorum.guard().unwrap();
        cluster.pause(1).unwrap();
        cluster.resume(1).unwrap();
        let change =
            recorder.expect("the members rejoin", |change| change.rejoined().count() == 2).await;
        assert!(change.interrupted() && change.current.quorum.is_quorate());
        assert!(change.to_string().contains("; interrupted"), "{change}");
        assert!(!guard.is_valid() && quorum.is_quorate());
    });
}

#[test]
fn the_votes_are_published_with_each_membership() {
    run(async {
        let cluster = Cluster::new(5);
        let (quorum, mut recorder) = start(&cluster, |builder| builder);
        let are_votes = |change: &actix_quorum::QuorumChanged| change.cause == Cause::Votes;
        recorder.expect("the votes", are_votes).await;
        let first = recorder.expect_gain().await.current.clone();
        let votes = first.votes.as_ref().unwrap();
        assert_eq!((votes.expected, votes.total, votes.quorum, votes.margin()), (5, 5, 3, 2));
        assert_eq!(first.local, Some(NodeId(1)));
        assert_eq!(first.quorate_without(&[NodeId(4), NodeId(5)]), Some(true));
        assert_eq!(first.quorate_without(&[NodeId(3), NodeId(4), NodeId(5)]), Some(false));
        cluster.partition(&[&[1, 2, 3], &[4, 5]]).unwrap();
        recorder.expect("other votes", are_votes).await;
        let now = quorum.snapshot();
        assert_eq!(
            (now.votes.as_ref().unwrap().total, now.votes.as_ref().unwrap().margin()),
            (3, 0)
        );
        assert_eq!(now.quorate_without(&[NodeId(4)]), Some(true), "node 4 is not a member");
        assert_eq!(now.quorate_without(&[NodeId(2)]), Some(false));
        assert!(now.changed_at <= SystemTime::now());
    });
}

#[test]
fn quorum_is_unknown_until_a_crashed_daemon_starts_again() {
    run(async {
        let cluster = Cluster::new(3);
        let (quorum, mut recorder) = start(&cluster, |builder| builder);
        recorder.expect_gain().await;
        cluster.crash(1).unwrap();
        recorder.expect_loss().await;
        clock::sleep(ms(30_000)).await;
        assert_eq!(quorum.quorum(), Quorum::Unknown);
        cluster.start(1).unwrap();
        recorder.expect_gain().await;
        quorum.stop().await;
        assert!(!quorum.is_quorate());
    });
}
