//! A server process, and the thread that reaps it.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{ChildStdin, ChildStdout, Command, ExitStatus},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
};

use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};

use super::{
    DEADLINE, Netns, eventually,
    process::{describe_threads, is_stopped},
};

/// The pipes to the standard input and output of a process.
pub(super) type Pipes = (Option<ChildStdin>, Option<ChildStdout>);

/// A daemon's process. Its own thread reaps it immediately, because libqb clients wait for a
/// zombie.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) pid: u32,
    /// Unlike the process id, it never refers to another process.
    pidfd: OwnedFd,
    exit: Mutex<Option<ExitStatus>>,
    exited: Condvar,
}

impl Daemon {
    pub(super) fn start(netns: Arc<Netns>, mut command: Command) -> (Arc<Self>, Pipes) {
        let (sender, receiver) = mpsc::channel();
        let reap = move || {
            netns.enter();
            drop(netns);
            // If this process is killed, so is the daemon: the signal is tied to this thread.
            // SAFETY: `prctl` is a plain system call, allowed between fork and exec.
            unsafe {
                command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
            }
            // Corosync sets the priority of its whole process group.
            command.process_group(0);
            let mut child = command.spawn().expect("the daemon can be run");
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
            let daemon = Arc::new(Self {
                pid: child.id(),
                pidfd: pidfd.expect("the daemon is not reaped"),
                exit: Mutex::new(None),
                exited: Condvar::new(),
            });
            let pipes = (child.stdin.take(), child.stdout.take());
            sender.send((Arc::clone(&daemon), pipes)).expect("the other end waits");
            let status = child.wait().expect("the daemon is our child");
            *daemon.exit.lock().unwrap() = Some(status);
            daemon.exited.notify_all();
        };
        thread::Builder::new().name("reaper".to_owned()).spawn(reap).expect("a thread can start");
        receiver.recv().expect("the daemon could be started")
    }

    pub(super) fn signal(&self, signal: Signal) {
        // The process may have ended by itself.
        let _ = pidfd_send_signal(self.pidfd.as_fd(), signal);
    }

    /// Suspends the process (SIGSTOP), as if it hung.
    pub(super) fn pause(&self) {
        self.signal(Signal::STOP);
        eventually(&format!("process {} stops", self.pid), || is_stopped(self.pid).then_some(()));
    }

    /// Waits until the process has ended and is reaped.
    pub(super) fn wait(&self) {
        let exit = self.exit.lock().unwrap();
        let (exit, _) = self.exited.wait_timeout_while(exit, DEADLINE, |e| e.is_none()).unwrap();
        let has_ended = exit.is_some();
        // A panic poisons a held lock. Drop and the reaping thread need this lock later.
        drop(exit);
        let pid = self.pid;
        assert!(has_ended, "process {pid} does not end; its threads:\n{}", describe_threads(pid));
    }

    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.lock().unwrap()
    }
}
