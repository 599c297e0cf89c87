use std::{
    collections::VecDeque,
    fmt,
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    error::{Code, Error},
    libquorum::Notification,
    link::{blocking_worker::BlockingWorker, clock::Moment, connection::sealed::QuorumConnection},
};

/// The daemon's end of a connection.
#[derive(Debug)]
pub(super) struct Client {
    queue: Arc<Mutex<Queue>>,
    /// A byte in it reports that a notification is waiting.
    doorbell: UnixStream,
}

/// The client's end.
pub(super) struct Simulated {
    queue: Arc<Mutex<Queue>>,
    doorbell: UnixStream,
    has_provider: bool,
    asked_at: Moment,
    /// Called when a dispatch finds the queue empty.
    drained: Box<dyn Fn() + Send>,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Notification>,
    /// The code with which every further dispatch fails.
    failed: Option<Code>,
    /// Whether the client has found the queue empty since the last notification.
    drained: bool,
    /// Whether the client still exists.
    open: bool,
    /// The daemon's end of the socket, if it stays open after the connection has failed.
    kept: Option<UnixStream>,
}

impl Client {
    /// Opens a connection in which `snapshot` is already waiting.
    pub(super) fn connect(
        has_provider: bool,
        asked_at: Moment,
        snapshot: Vec<Notification>,
        drained: Box<dyn Fn() + Send>,
    ) -> Result<(Self, Simulated), Error> {
        let pair = || {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            theirs.set_nonblocking(true)?;
            Ok::<_, std::io::Error>((ours, theirs))
        };
        let (ours, theirs) = pair().map_err(|_| Error::NoDescriptors)?;
        let queue = Arc::new(Mutex::new(Queue {
            waiting: VecDeque::new(),
            failed: None,
            drained: false,
            open: true,
            kept: None,
        }));
        let client = Self { queue: Arc::clone(&queue), doorbell: ours };
        snapshot.into_iter().for_each(|notification| client.send(notification));
        Ok((client, Simulated { queue, doorbell: theirs, has_provider, asked_at, drained }))
    }

    pub(super) fn send(&self, notification: Notification) {
        let mut queue = self.queue.lock();
        queue.waiting.push_back(notification);
        queue.drained = false;
        self.ring();
    }

    /// Ends the connection. The notifications in it are lost.
    pub(super) fn hang_up(self, silently: bool) {
        let mut queue = self.queue.lock();
        queue.failed = Some(Code::LIBRARY);
        if silently {
            queue.kept = Some(self.doorbell);
        } else {
            // A process that is being started has a copy of the descriptor until it runs, so
            // closing our descriptor could be noticed late.
            let _ = self.doorbell.shutdown(Shutdown::Both);
        }
    }

    /// Makes dispatching fail with this code.
    pub(super) fn fail(self, code: Code) {
        let mut queue = self.queue.lock();
        queue.failed = Some(code);
        self.ring();
        queue.kept = Some(self.doorbell);
    }

    pub(super) fn is_open(&self) -> bool {
        self.queue.lock().open
    }

    pub(super) fn is_drained(&self) -> bool {
        let queue = self.queue.lock();
        queue.drained && queue.open
    }

    /// Wakes the client. If the socket is full, the client is already awake.
    fn ring(&self) {
        let _ = (&self.doorbell).write(&[0]);
    }
}

impl AsRawFd for Simulated {
    fn as_raw_fd(&self) -> RawFd {
        self.doorbell.as_raw_fd()
    }
}

impl QuorumConnection for Simulated {
    fn dispatch(&mut self) -> Result<Option<Notification>, Error> {
        let mut queue = self.queue.lock();
        if let Some(code) = queue.failed {
            return Err(Error::Dispatch(code));
        }
        if let Some(notification) = queue.waiting.pop_front() {
            return Ok(Some(notification));
        }
        // While the queue is locked no notification arrives; a later one rings again.
        silence(&self.doorbell);
        queue.drained = true;
        drop(queue);
        (self.drained)();
        Ok(None)
    }

    fn has_provider(&self) -> bool {
        self.has_provider
    }

    /// Returns `false`, because [`Fault::SilentDeath`](super::Fault) may be set later.
    fn hangs_up(&self) -> bool {
        false
    }

    fn asked_at(&self) -> Moment {
        self.asked_at
    }

    fn close(self: Box<Self>, _: &BlockingWorker) {}
}

fn silence(mut doorbell: &UnixStream) {
    let mut bytes = [0; 64];
    loop {
        match doorbell.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.queue.lock().open = false;
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("queue", &self.queue).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hang_up_is_noticed_even_while_a_copy_of_the_descriptor_is_open() {
        let (client, simulated) =
            Client::connect(true, Moment::default(), Vec::new(), Box::new(|| {})).unwrap();
        let copy = client.doorbell.try_clone().unwrap();
        client.hang_up(false);
        assert_eq!((&simulated.doorbell).read(&mut [0]).unwrap(), 0);
        drop(copy);
    }
}
