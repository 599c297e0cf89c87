use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{Error, connection::sealed::Tracked, connector::Connector, libquorum::Notification};

/// The notifications of one connection, in order, one dispatch each; last, the error that ended it.
///
/// The connection is handed to the connector to be closed when the error has been taken, or when
/// this is dropped; its descriptor has left the reactor by then.
pub(crate) struct Notifications {
    /// `None` once the connection is over.
    connection: Option<AsyncFd<Watched>>,
    tick: Interval,
    connector: Connector,
    ended: bool,
}

impl Notifications {
    /// Watches `connection` on the reactor of the current runtime.
    pub(crate) fn new(connection: Box<dyn Tracked>, connector: Connector) -> Result<Self, Error> {
        // SAFETY: the descriptor of a `Tracked`, a sealed trait, is open and the same until it is
        // dropped, and it is dropped only after it was taken out of the `AsyncFd`.
        let registered =
            unsafe { AsyncFd::register_with_interest(Watched(connection), Interest::READABLE) };
        match registered {
            Ok(connection) => {
                let mut tick = interval(TICK);
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                Ok(Self { connection: Some(connection), tick, connector, ended: false })
            }
            Err(error) => {
                let (connection, error) = error.into_parts();
                connection.0.close(&connector);
                Err(Error::Register(error.to_string()))
            }
        }
    }

    fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.into_inner().0.close(&self.connector);
        }
    }
}

impl Stream for Notifications {
    type Item = Result<Notification, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            this.close();
        }
        let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
        let item = ready!(poll_dispatch(connection, &mut this.tick, cx));
        this.ended = item.is_err();
        Poll::Ready(Some(item))
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits until the descriptor is readable or the tick is due, and dispatches once.
fn poll_dispatch(
    connection: &mut AsyncFd<Watched>,
    tick: &mut Interval,
    cx: &mut Context<'_>,
) -> Poll<Result<Notification, Error>> {
    loop {
        let due = tick.poll_tick(cx).is_ready();
        match connection.poll_read_ready_mut(cx) {
            Poll::Ready(Ok(mut guard)) => match guard.get_inner_mut().0.dispatch() {
                // There may be more, of which the reactor will not tell again: stay ready.
                Ok(Some(notification)) => return Poll::Ready(Ok(notification)),
                Ok(None) => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            },
            Poll::Ready(Err(error)) => return Poll::Ready(Err(unwatched(&error))),
            // Over libqb's transport `socket` the descriptor does not tell that Corosync died;
            // only a dispatch does.
            Poll::Pending if due => match connection.get_mut().0.dispatch() {
                Ok(Some(notification)) => return Poll::Ready(Ok(notification)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error)),
            },
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// A connection in the reactor.
struct Watched(Box<dyn Tracked>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn unwatched(error: &io::Error) -> Error {
    Error::Register(error.to_string())
}

/// How often a dispatch is tried that nothing asked for.
const TICK: Duration = Duration::from_millis(250);
