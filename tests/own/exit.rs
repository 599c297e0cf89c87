//! A process ends even while a call to a hung daemon blocks. Each case runs in its own process,
//! with the real libquorum and a real daemon that is suspended.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use actix::System;
use actix_quorum::{
    Connection, Corosync, Error, QuorumActor, QuorumBuilder, QuorumHandle, Snapshot,
};

use crate::support::{Node, StagedLibquorum, eventually_within, pause_process};

/// When the daemon is suspended: before the actor starts, immediately before one of these calls, or
/// while the actor is connected. The process then ends.
const STAGES: [&str; 5] =
    ["before", "quorum_model_initialize", "quorum_trackstart", "tracking", "quorum_finalize"];
const ENDINGS: [&str; 2] = ["stop", "system"];

/// How long ending may take: a second, and two more for a busy machine.
const BOUND: Duration = Duration::from_secs(3);

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_process_ends_wherever_the_daemon_hangs() {
    if let Ok(stage) = env::var("STAGE") {
        return end_in(&stage);
    }
    let node = Node::single();
    let pid = node.corosync.pid();
    for stage in STAGES {
        for ending in ENDINGS {
            let mut process = node.run(|| {
                Command::new(env::current_exe().unwrap())
                    .args(["--exact", "exit::a_process_ends_wherever_the_daemon_hangs"])
                    .args(["--ignored", "--nocapture"])
                    .env("STAGE", stage)
                    .env("ENDING", ending)
                    .env("DAEMON", pid.to_string())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap()
            });
            let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
            let ends = lines.find(|line| line.as_ref().unwrap().ends_with("ends now"));
            let what =
                format!("the process ends: daemon suspended at {stage:?}, ended by {ending:?}");
            let status = eventually_within(BOUND, &what, || process.try_wait().unwrap());
            assert!(status.success() && ends.is_some(), "{what}: {status}");
            node.corosync.resume();
            node.corosync.wait_ready();
        }
    }
}

/// The code that each of these processes runs.
fn end_in(stage: &str) {
    let daemon = env::var("DAEMON").unwrap().parse().unwrap();
    let library = StagedLibquorum::new("exit");
    let (sender, paused) = mpsc::channel();
    let pause = move || {
        pause_process(daemon);
        let _ = sender.send(());
    };
    System::new().block_on(async {
        // SAFETY: the file calls the real libquorum.
        let source = unsafe { Corosync::load_from(library.path()) };
        let builder: QuorumBuilder = QuorumActor::builder().source(source);
        let quorum = match stage {
            "before" => {
                pause();
                let quorum = builder.start();
                // The actor's thread is connecting or about to connect.
                assert!(!quorum.is_quorate());
                quorum
            }
            "tracking" | "quorum_finalize" => {
                let quorum = builder.start();
                quorum.wait_quorate().await.unwrap();
                match stage {
                    "tracking" => pause(),
                    finalize => library.before(finalize, pause),
                }
                quorum
            }
            connecting => {
                library.before(connecting, pause);
                let quorum = builder.start();
                quorum.wait_for(hangs).await.unwrap();
                assert_eq!(paused.try_recv(), Ok(()), "the daemon was suspended before this call");
                quorum
            }
        };
        println!("ends now");
        end(&quorum).await;
        if stage == "quorum_finalize" && env::var("ENDING").unwrap() == "stop" {
            assert_eq!(
                paused.try_recv(),
                Ok(()),
                "the daemon was suspended before the connection was closed"
            );
        }
    });
}

fn hangs(snapshot: &Snapshot) -> bool {
    matches!(&snapshot.connection, Connection::Connecting { error: Some(Error::Unresponsive), .. })
}

async fn end(quorum: &QuorumHandle) {
    if env::var("ENDING").unwrap() == "stop" {
        quorum.stop().await;
        assert!(!quorum.is_quorate());
        assert_eq!(quorum.snapshot().connection, Connection::Stopped);
    } else {
        System::current().stop();
    }
}
