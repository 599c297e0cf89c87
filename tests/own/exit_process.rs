//! The policy `ExitProcess`, which ends any process. Each case runs in a separate process, on the
//! simulated cluster and in real time. `stop_system` tests what this policy shares with
//! `StopSystem`.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, exit},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use actix_quorum::{Error, QuorumActor, QuorumHandle, policy::ExitProcess, sim::Cluster};
use rustix::{
    param::page_size,
    process::{Resource, Rlimit, Signal, setrlimit},
};
use tokio::{runtime::Builder, sync::oneshot};

use crate::support::{Case, block_on, run_cases, with_code};

/// The exit code of the policy.
const CODE: i32 = 75;
/// The exit code of a `main` that ended by itself.
const GRACEFUL: i32 = 10;
/// The exit code of a `main` that the policy did not end.
const ALONE: i32 = 11;

const GRACE: Duration = Duration::from_millis(500);

/// How long a process may take to end: the lease, the grace, and some time for a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// Longer than a test waits.
const NEVER: Duration = Duration::from_secs(3600);

#[track_caller]
fn run(test: &str, cases: &[Case], expected: impl Fn(ExitStatus) -> bool) {
    run_cases(&format!("exit_process::{test}"), cases, BOUND, expected);
}

fn start(cluster: &Cluster) -> QuorumHandle {
    let builder = QuorumActor::builder().source(cluster.node(1));
    builder.lease(Duration::from_secs(1)).start_detached()
}

/// Starts an actor on node 1 and the policy, and lets node 1 lose quorum.
fn lose(policy: ExitProcess) -> QuorumHandle {
    let cluster = Cluster::new(3);
    let quorum = start(&cluster);
    policy.start(&quorum).unwrap();
    block_on(quorum.wait_quorate()).unwrap();
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    quorum
}

fn policy() -> ExitProcess {
    ExitProcess::with_code(CODE).grace(GRACE)
}

fn wait_for_ever() -> ! {
    loop {
        thread::park();
    }
}

/// The policy calls all stop functions, and the program exits by itself before `grace` has passed.
#[test]
fn the_policy_calls_all_stop_functions_and_the_program_ends_normally() {
    let case = || {
        let (stop, stopped) = oneshot::channel();
        let first_called = Arc::new(AtomicBool::new(false));
        let called = Arc::clone(&first_called);
        let policy = ExitProcess::with_code(CODE)
            .grace(NEVER)
            .stop(move || called.store(true, Ordering::Release))
            .stop(move || stop.send(()).unwrap());
        let _quorum = lose(policy);
        block_on(stopped).unwrap();
        while !first_called.load(Ordering::Acquire) {
            thread::yield_now();
        }
        exit(GRACEFUL);
    };
    let cases: &[Case] = &[("ends_in_time", case)];
    run(
        "the_policy_calls_all_stop_functions_and_the_program_ends_normally",
        cases,
        with_code(GRACEFUL),
    );
}

fn every_worker_is_stuck() {
    const WORKERS: usize = 2;
    let runtime = Builder::new_multi_thread().worker_threads(WORKERS).build().unwrap();
    let stuck = Arc::new(Barrier::new(WORKERS + 1));
    for _ in 0..WORKERS {
        let stuck = Arc::clone(&stuck);
        runtime.spawn(async move {
            stuck.wait();
            wait_for_ever();
        });
    }
    stuck.wait();
    let handle = runtime.handle().clone();
    let _quorum = lose(policy().stop(move || drop(handle.spawn(async { exit(GRACEFUL) }))));
    wait_for_ever();
}

/// The function that stops a part of the program blocks.
fn a_part_blocks() {
    let _quorum = lose(policy().stop(|| wait_for_ever()));
    wait_for_ever();
}

fn a_part_panics() {
    let _quorum = lose(policy().stop(|| panic!("this part cannot be stopped")));
    wait_for_ever();
}

/// The function that blocks comes first; the other function is still called.
fn a_part_blocks_and_another_is_called() {
    let (called, stopped) = mpsc::channel();
    let policy = policy().grace(NEVER).stop(|| wait_for_ever()).stop(move || drop(called));
    let _quorum = lose(policy);
    let _: Result<(), _> = stopped.recv();
    exit(CODE);
}

fn the_actor_is_dead() {
    let cluster = Cluster::new(3);
    let arbiter = actix::System::new();
    let quorum = arbiter.block_on(async {
        let quorum = QuorumActor::builder().source(cluster.node(1)).start();
        policy().stop(|| ()).start(&quorum).unwrap();
        quorum.wait_quorate().await.unwrap();
        actix::System::current().stop();
        quorum
    });
    arbiter.run().unwrap();
    let _quorum = quorum;
    wait_for_ever();
}

/// Without a function to call, the policy does not wait until the grace has passed.
fn nothing_to_stop() {
    let _quorum = lose(policy().grace(NEVER));
    wait_for_ever();
}

#[test]
fn the_process_ends_with_the_code_even_if_everything_is_stuck() {
    let cases: &[Case] = &[
        ("every_worker_is_stuck", every_worker_is_stuck),
        ("a_part_blocks", a_part_blocks),
        ("a_part_panics", a_part_panics),
        ("a_part_blocks_and_another_is_called", a_part_blocks_and_another_is_called),
        ("the_actor_is_dead", the_actor_is_dead),
        ("nothing_to_stop", nothing_to_stop),
    ];
    run("the_process_ends_with_the_code_even_if_everything_is_stuck", cases, with_code(CODE));
}

/// Loses quorum when no more threads can be started.
fn lose_without_threads(policy: ExitProcess) -> ! {
    let cluster = Cluster::new(3);
    let quorum = start(&cluster);
    policy.start(&quorum).unwrap();
    block_on(quorum.wait_quorate()).unwrap();
    use_up_threads();
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    wait_for_ever();
}

/// Limits the address space so that the stack of one more thread does not fit, because a limit on
/// tasks does not apply to root. Then uses up the stacks of ended threads, which the C library
/// keeps.
fn use_up_threads() {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let limit = Some(pages * u64::try_from(page_size()).unwrap() + (3 << 19));
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    while thread::Builder::new().spawn(|| wait_for_ever()).is_ok() {}
}

/// The policy has started its threads in advance, so it needs no new thread.
#[test]
fn the_process_ends_even_if_no_thread_can_be_started() {
    let a_part_is_stopped = || lose_without_threads(policy().grace(NEVER).stop(|| exit(CODE)));
    let a_part_blocks = || lose_without_threads(policy().stop(|| wait_for_ever()));
    let cases: &[Case] =
        &[("a_part_is_stopped", a_part_is_stopped), ("a_part_blocks", a_part_blocks)];
    run("the_process_ends_even_if_no_thread_can_be_started", cases, with_code(CODE));
}

#[test]
fn an_exit_that_hangs_is_aborted_even_if_no_thread_can_be_started() {
    extern "C" fn hang() {
        wait_for_ever();
    }
    let case = || {
        // SAFETY: the function exists as long as the process.
        unsafe { libc::atexit(hang) };
        lose_without_threads(policy());
    };
    let aborted = |status: ExitStatus| status.signal() == Some(Signal::ABORT.as_raw());
    let test = "an_exit_that_hangs_is_aborted_even_if_no_thread_can_be_started";
    run(test, &[("hangs", case)], aborted);
}

#[test]
fn starting_a_policy_when_no_thread_can_be_started_returns_an_error() {
    let case = || {
        let cluster = Cluster::new(3);
        let quorum = start(&cluster);
        block_on(quorum.wait_quorate()).unwrap();
        use_up_threads();
        let error = policy().stop(|| ()).start(&quorum).unwrap_err();
        assert!(matches!(error, Error::Thread(_)), "{error:?}");
        assert!(error.to_string().contains("check whether a limit on tasks"), "{error}");
        exit(ALONE);
    };
    let test = "starting_a_policy_when_no_thread_can_be_started_returns_an_error";
    run(test, &[("refused", case)], with_code(ALONE));
}

#[test]
fn the_policy_does_not_end_a_program_that_stops_its_actor() {
    let case = || {
        let cluster = Cluster::new(3);
        let quorum = start(&cluster);
        policy().stop(|| exit(CODE)).start(&quorum).unwrap();
        block_on(quorum.wait_quorate()).unwrap();
        block_on(quorum.stop());
        thread::sleep(GRACE * 4);
        exit(ALONE);
    };
    let cases: &[Case] = &[("stopped", case)];
    run("the_policy_does_not_end_a_program_that_stops_its_actor", cases, with_code(ALONE));
}
