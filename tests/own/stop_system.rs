//! The policy `StopSystem`, which ends the process. Each case runs in a separate process, on the
//! simulated cluster and in real time.

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, exit},
    sync::mpsc,
    thread,
    time::Duration,
};

use actix::{Arbiter, System, clock::sleep};
use actix_quorum::{QuorumActor, QuorumBuilder, QuorumHandle, policy::StopSystem, sim::Cluster};
use log::{LevelFilter, Log, Metadata, Record};
use rustix::process::Signal;

use crate::support::{Case, hold, run_cases, with_code};

/// The exit code of the policy.
const CODE: i32 = 75;
/// The exit code of a `main` that received the policy's code.
const GRACEFUL: i32 = 10;
/// The exit code of a `main` that the policy did not end.
const ALONE: i32 = 11;

const GRACE: Duration = Duration::from_millis(500);

/// How long a process may take to end: the lease, the grace, and some time for a busy machine.
const BOUND: Duration = Duration::from_secs(30);

#[track_caller]
fn run(test: &str, cases: &[Case], expected: impl Fn(ExitStatus) -> bool) {
    run_cases(&format!("stop_system::{test}"), cases, BOUND, expected);
}

fn builder(cluster: &Cluster) -> QuorumBuilder {
    QuorumActor::builder().source(cluster.node(1)).lease(Duration::from_secs(1))
}

fn policy() -> StopSystem {
    StopSystem::with_code(CODE).grace(GRACE)
}

/// Returns the handle of an actor that has had quorum and is watched by the policy.
async fn watched(cluster: &Cluster, policy: StopSystem) -> QuorumHandle {
    let quorum = builder(cluster).start();
    policy.start(&quorum).unwrap();
    quorum.wait_quorate().await.unwrap();
    quorum
}

/// A `main` that continues when its `System` stops, like those of `#[actix::main]`.
fn main_that_awaits(body: impl AsyncFnOnce()) {
    System::new().block_on(async {
        body().await;
        std::future::pending::<()>().await;
    });
}

#[cfg(feature = "web")]
fn web_main() {
    actix_web::rt::System::new().block_on(async {
        let cluster = Cluster::new(3);
        let _quorum = watched(&cluster, policy()).await;
        let server = actix_web::HttpServer::new(actix_web::App::new).workers(1);
        let server = server.bind(("127.0.0.1", 0)).unwrap().run();
        actix::spawn(async move { cluster.crash(1).unwrap() });
        let _ = server.await;
        exit(ALONE);
    });
}

fn plain_thread() {
    main_that_awaits(async || {
        let cluster = Cluster::new(3);
        let quorum = builder(&cluster).start();
        quorum.wait_quorate().await.unwrap();
        thread::spawn(move || policy().start(&quorum)).join().unwrap().unwrap();
        cluster.crash(1).unwrap();
    });
}

fn actor_dies() {
    main_that_awaits(async || {
        let (cluster, arbiter) = (Cluster::new(3), Arbiter::new());
        let quorum = builder(&cluster).start_in_arbiter(&arbiter.handle());
        policy().start(&quorum).unwrap();
        quorum.wait_quorate().await.unwrap();
        arbiter.stop();
    });
}

fn actor_dies_after_a_loss() {
    main_that_awaits(async || {
        let (cluster, arbiter) = (Cluster::new(3), Arbiter::new());
        let quorum = builder(&cluster).start_in_arbiter(&arbiter.handle());
        policy().after(Duration::from_secs(1)).start(&quorum).unwrap();
        quorum.wait_quorate().await.unwrap();
        cluster.crash(1).unwrap();
        quorum.wait_for(|now| !now.quorum.is_quorate()).await.unwrap();
        arbiter.stop();
    });
}

fn actor_is_stuck() {
    main_that_awaits(async || {
        let (cluster, arbiter) = (Cluster::new(3), Arbiter::new());
        let quorum = builder(&cluster).start_in_arbiter(&arbiter.handle());
        policy().start(&quorum).unwrap();
        quorum.wait_quorate().await.unwrap();
        std::mem::forget(hold(&arbiter));
    });
}

fn main_is_stuck() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        let _quorum = watched(&cluster, policy()).await;
        cluster.crash(1).unwrap();
        loop {
            thread::park();
        }
    });
}

/// A logger that blocks for ever at the first error. The policy logs the loss as an error.
struct Blocked;

impl Log for Blocked {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &Record<'_>) {
        let (_keep, blocked) = mpsc::channel::<()>();
        let _ = blocked.recv();
    }

    fn flush(&self) {}
}

fn logger_blocks() {
    log::set_logger(&Blocked).unwrap();
    log::set_max_level(LevelFilter::Error);
    main_that_awaits(async || {
        let cluster = Cluster::new(3);
        let _quorum = watched(&cluster, policy()).await;
        cluster.crash(1).unwrap();
    });
}

#[test]
fn the_process_ends_with_the_code_even_if_everything_is_stuck() {
    let cases: &[Case] = &[
        #[cfg(feature = "web")]
        ("web_main", web_main),
        ("plain_thread", plain_thread),
        ("actor_dies", actor_dies),
        ("actor_dies_after_a_loss", actor_dies_after_a_loss),
        ("actor_is_stuck", actor_is_stuck),
        ("main_is_stuck", main_is_stuck),
        ("logger_blocks", logger_blocks),
    ];
    run("the_process_ends_with_the_code_even_if_everything_is_stuck", cases, with_code(CODE));
}

#[test]
fn a_main_that_receives_the_code_ends_normally() {
    let case = || {
        let runner = System::new();
        let cluster = Cluster::new(3);
        // The grace is longer than the test waits.
        let policy = policy().grace(BOUND * 10);
        let _quorum = runner.block_on(watched(&cluster, policy));
        runner.block_on(async { cluster.crash(1).unwrap() });
        let code = runner.run_with_code().unwrap();
        exit(if code == CODE { GRACEFUL } else { code });
    };
    run("a_main_that_receives_the_code_ends_normally", &[("in order", case)], with_code(GRACEFUL));
}

#[test]
fn an_exit_that_hangs_is_aborted() {
    extern "C" fn hang() {
        loop {
            thread::park();
        }
    }
    let case = || {
        // SAFETY: the function exists as long as the process.
        unsafe { libc::atexit(hang) };
        main_is_stuck();
    };
    let aborted = |status: ExitStatus| status.signal() == Some(Signal::ABORT.as_raw());
    run("an_exit_that_hangs_is_aborted", &[("hangs", case)], aborted);
}

fn regained_in_time() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        let after = Duration::from_secs(4);
        let quorum = watched(&cluster, policy().after(after)).await;
        cluster.crash(1).unwrap();
        quorum.wait_for(|now| !now.quorum.is_quorate()).await.unwrap();
        cluster.start(1).unwrap();
        quorum.wait_quorate().await.unwrap();
        sleep(after + GRACE * 2).await;
        exit(ALONE);
    });
}

fn stopped_by_user() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        let quorum = watched(&cluster, policy()).await;
        quorum.stop().await;
        sleep(GRACE * 4).await;
        exit(ALONE);
    });
}

fn never_quorate() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        cluster.crash(1).unwrap();
        let quorum = builder(&cluster).start();
        policy().start(&quorum).unwrap();
        sleep(GRACE * 4).await;
        exit(ALONE);
    });
}

#[test]
fn a_process_without_a_lasting_loss_continues() {
    let cases: &[Case] = &[
        ("regained_in_time", regained_in_time),
        ("stopped_by_user", stopped_by_user),
        ("never_quorate", never_quorate),
    ];
    run("a_process_without_a_lasting_loss_continues", cases, with_code(ALONE));
}
