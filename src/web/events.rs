//! The changes as server-sent events.

use std::{
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode},
    web::Bytes,
};
use futures_core::Stream;
use futures_util::{
    future::{Either, select},
    stream,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::{STALL_TIMEOUT, no_store_response};
use crate::{
    actor::{QuorumHandle, shared::ChangeSignal},
    json::{Alive, Change, State},
    state::{Cause, Connection, Quorum, QuorumChanged, Snapshot},
};

/// The largest number of streams that are served at a time.
const MAX_CLIENTS: usize = 1024;

/// The longest time without an event.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How often to check whether quorum has become exclusive.
const EXCLUSIVE_CHECK: Duration = Duration::from_secs(1);

/// The delay before a client whose stream has ended reconnects.
const RETRY: Duration = Duration::from_secs(1);

/// The shortest delay before a refused client reconnects. The longest is twice as long.
const RETRY_WHEN_FULL: Duration = Duration::from_secs(10);

/// Answers `GET /quorum/events`.
pub(super) fn stream(quorum: &QuorumHandle, request: &HttpRequest) -> HttpResponse {
    let mut response = no_store_response(StatusCode::OK);
    response
        .content_type("text/event-stream")
        // A proxy that buffers would delay the events.
        .insert_header(("X-Accel-Buffering", "no"));
    if request.method() == Method::HEAD {
        return response.streaming(stream::empty::<Result<Bytes, actix_web::Error>>());
    }
    let clients = quorum.shared.web_state::<EventClients>();
    let Some(slot) = clients.enter() else {
        // A browser reconnects after the end of a stream with status 200, but never after another
        // status.
        let retry = RETRY_WHEN_FULL + RETRY_WHEN_FULL.mul_f64(fastrand::f64());
        let retry = retry.as_millis();
        return response.body(format!("event: full\nretry: {retry}\ndata: {{}}\n\n"));
    };
    let last_seen = request
        .headers()
        .get("last-event-id")
        .and_then(|id| clients.sequence_of(id.to_str().ok()?))
        .and_then(|sequence| quorum.shared.history.snapshot_at(sequence));
    response.streaming(events(quorum.clone(), last_seen, slot))
}

/// Returns the events of one client. The next event is created only when the previous one has been
/// sent, so no events accumulate here for a client that does not read. Once it reads again, it
/// receives the missed changes from the history.
fn events(
    quorum: QuorumHandle,
    last_sent: Option<Arc<Snapshot>>,
    slot: Arc<ClientSlot>,
) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    let latest = quorum.shared.change_signal();
    let last_quorum = (Quorum::Unknown, false);
    let client = Client { quorum, latest, last_sent, last_quorum, slot, has_ended: false };
    stream::unfold(client, |mut client| async {
        let event = client.next().await?;
        Some((Ok(event), client))
    })
}

struct Client {
    quorum: QuorumHandle,
    latest: ChangeSignal,
    /// The state in the last `changed` event.
    last_sent: Option<Arc<Snapshot>>,
    /// The last quorum that was sent, and whether it was exclusive.
    last_quorum: (Quorum, bool),
    slot: Arc<ClientSlot>,
    has_ended: bool,
}

impl Client {
    async fn next(&mut self) -> Option<Bytes> {
        let alive_at = Instant::now() + ALIVE_INTERVAL;
        loop {
            if self.has_ended || !self.slot.touch() {
                return None;
            }
            self.latest.mark_unchanged();
            if let Some(change) = self.quorum.shared.history.next_after(self.last_sent.as_ref()) {
                return Some(self.changed(&change));
            }
            let now = (self.quorum.quorum(), self.quorum.is_exclusive());
            if now != self.last_quorum || Instant::now() >= alive_at {
                self.last_quorum = now;
                return Some(self.alive(now));
            }
            // Wakes at the expiry of the lease, which a stuck actor cannot publish. Wakes regularly
            // to check whether quorum has become exclusive, which is not published as a change.
            let lease = &self.quorum.shared.lease;
            let check_at = match now {
                (Quorum::Quorate, true) => Instant::now() + lease.exclusive_remaining(),
                (Quorum::Quorate, false) => Instant::now() + lease.remaining().min(EXCLUSIVE_CHECK),
                _ => alive_at,
            };
            let changed = pin!(self.latest.changed());
            let woken = pin!(sleep_until(alive_at.min(check_at)));
            if let Either::Left((Err(_), _)) = select(changed, woken).await {
                // The sender is in the handle, so this does not happen.
                return None;
            }
        }
    }

    fn changed(&mut self, change: &QuorumChanged) -> Bytes {
        let (shared, published) = (&self.quorum.shared, &change.current);
        self.last_sent = Some(Arc::clone(published));
        self.has_ended = published.connection == Connection::Stopped;
        // An older change reports the past. The latest reports the present, so the lease applies to
        // it.
        let is_latest = shared.published().sequence == published.sequence;
        let current = match is_latest {
            true => shared.as_of_now(Arc::clone(published)),
            false => Arc::clone(published),
        };
        let now = (current.quorum, is_latest && shared.is_exclusive_as(&current));
        self.last_quorum = now;
        let clients = shared.web_state::<EventClients>();
        clients.rendered(change, now, || {
            let state = State::of(&current, now, &self.quorum.node_names());
            let change = QuorumChanged { current: Arc::clone(&current), ..change.clone() };
            let data = serde_json::to_string(&Change::of(&change, state));
            let data = data.expect("all keys are strings or numbers");
            let (id, retry) = (clients.id_of(current.sequence), RETRY.as_millis());
            format!("event: changed\nid: {id}\nretry: {retry}\ndata: {data}\n\n").into()
        })
    }

    fn alive(&self, (quorum, exclusive): (Quorum, bool)) -> Bytes {
        let sequence = self.last_sent.as_ref().map_or(0, |last_sent| last_sent.sequence);
        // The names are sent with each event, because they are read only after a new connection is
        // published.
        let names = self.quorum.node_names();
        let alive = Alive { sequence, quorum, exclusive, names: (*names).clone() };
        let data = serde_json::to_string(&alive);
        let data = data.expect("all keys are strings or numbers");
        format!("event: alive\ndata: {data}\n\n").into()
    }
}

/// The clients of the event streams.
#[derive(Debug)]
pub(crate) struct EventClients {
    /// A random number that identifies the actor among all processes.
    actor: u64,
    slots: Mutex<Vec<Weak<ClientSlot>>>,
    /// The event of the last rendered change, which most clients receive at about the same time.
    rendered: Mutex<Option<Rendered>>,
}

/// The event of a change, for all clients that receive the change with this quorum.
#[derive(Debug)]
struct Rendered {
    sequence: u64,
    /// The quorum, and whether it was exclusive.
    quorum: (Quorum, bool),
    event: Bytes,
}

/// The slot of one client, for as long as its stream exists.
#[derive(Debug)]
pub(crate) struct ClientSlot {
    /// When the client last read; `None` once the slot has been given to another client.
    read_at: Mutex<Option<Instant>>,
}

impl Default for EventClients {
    fn default() -> Self {
        Self { actor: fastrand::u64(..), slots: Mutex::default(), rendered: Mutex::default() }
    }
}

impl EventClients {
    /// Returns the id of the event for the change with this sequence number.
    fn id_of(&self, sequence: u64) -> String {
        format!("{:016x}-{sequence}", self.actor)
    }

    /// Returns the sequence number in an id, if the id is from this actor.
    fn sequence_of(&self, id: &str) -> Option<u64> {
        let (actor, sequence) = id.split_once('-')?;
        let is_ours = u64::from_str_radix(actor, 16) == Ok(self.actor);
        sequence.parse().ok().filter(|_| is_ours)
    }

    fn enter(&self) -> Option<Arc<ClientSlot>> {
        let mut slots = self.slots.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        if slots.len() >= MAX_CLIENTS {
            slots.retain(|slot| slot.upgrade().is_some_and(|slot| !slot.is_stale()));
        }
        if slots.len() >= MAX_CLIENTS {
            return None;
        }
        let slot = Arc::new(ClientSlot { read_at: Mutex::new(Some(Instant::now())) });
        slots.push(Arc::downgrade(&slot));
        Some(slot)
    }

    /// Returns the event for a change that is sent with this quorum. The event is the same for all
    /// clients, except for a first event and for a merged change.
    fn rendered(
        &self,
        change: &QuorumChanged,
        quorum: (Quorum, bool),
        render: impl FnOnce() -> Bytes,
    ) -> Bytes {
        if change.cause == Cause::Subscribed || change.missed > 0 {
            return render();
        }
        let sequence = change.current.sequence;
        let mut rendered = self.rendered.lock();
        match &*rendered {
            Some(last) if (last.sequence, last.quorum) == (sequence, quorum) => last.event.clone(),
            _ => {
                let event = render();
                *rendered = Some(Rendered { sequence, quorum, event: event.clone() });
                event
            }
        }
    }
}

impl ClientSlot {
    /// Whether the client has not read for `STALL_TIMEOUT`. Such a client loses its slot. A client
    /// that reads does so at least every [`ALIVE_INTERVAL`].
    fn is_stale(&self) -> bool {
        let mut read_at = self.read_at.lock();
        *read_at = read_at.filter(|read_at| read_at.elapsed() < STALL_TIMEOUT);
        read_at.is_none()
    }

    /// Records that the client has just read. Returns whether the client still has its slot.
    fn touch(&self) -> bool {
        let mut read_at = self.read_at.lock();
        *read_at = read_at.map(|_| Instant::now());
        read_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link::clock::Moment, testing::ScriptedQuorum};

    /// Returns a handle whose last change is a gain of quorum, and the state before that change.
    fn gained() -> (QuorumHandle, Arc<Snapshot>) {
        let state = |quorum| Snapshot::new(quorum, "1.9".parse().unwrap(), [1]);
        let script = ScriptedQuorum::new(state(Quorum::Inquorate));
        let before = script.handle().snapshot();
        script.publish(state(Quorum::Quorate));
        (script.handle(), before)
    }

    /// Returns the next event of a new client whose last event was `last_sent`.
    async fn next_event(quorum: &QuorumHandle, last_sent: Option<&Arc<Snapshot>>) -> Change {
        let slot = quorum.shared.web_state::<EventClients>().enter().unwrap();
        let events = std::pin::pin!(events(quorum.clone(), last_sent.cloned(), slot));
        let (event, _) = futures_util::StreamExt::into_future(events).await;
        let event = String::from_utf8(event.unwrap().unwrap().to_vec()).unwrap();
        let (_, data) = event.split_once("\ndata: ").unwrap();
        serde_json::from_str(data).unwrap()
    }

    /// Exclusive quorum may begin and end without a published change.
    #[test]
    fn a_late_client_receives_the_last_change_with_the_current_exclusivity() {
        actix::System::new().block_on(async {
            let (quorum, before) = gained();
            let (lease, epoch) = (&quorum.shared.lease, quorum.snapshot().epoch);
            for exclusive_until in [Some(Moment::NEVER), None, Some(Moment::NEVER)] {
                lease.grant(Moment::NEVER, exclusive_until, epoch);
                let event = next_event(&quorum, Some(&before)).await;
                assert_eq!(event.cause, Cause::Quorum);
                assert_eq!(event.current.exclusive, exclusive_until.is_some());
            }
        });
    }

    /// The lease may belong to a later change, which this client has not received yet.
    #[test]
    fn an_event_from_an_earlier_epoch_is_not_exclusive() {
        actix::System::new().block_on(async {
            let (quorum, before) = gained();
            let later = quorum.snapshot().epoch + 1;
            quorum.shared.lease.grant(Moment::NEVER, Some(Moment::NEVER), later);
            assert!(quorum.is_exclusive());
            assert!(!next_event(&quorum, Some(&before)).await.current.exclusive);
        });
    }

    #[test]
    fn the_text_of_an_event_reports_unknown_once_the_lease_has_expired() {
        actix::System::new().block_on(async {
            let (quorum, before) = gained();
            let text = async |last_sent| next_event(&quorum, last_sent).await.text;
            assert_eq!(text(Some(&before)).await, "quorate: ring 1.9, members 1 (was inquorate)");
            quorum.shared.lease.grant(Moment(1), None, quorum.snapshot().epoch);
            assert_eq!(text(None).await, "unknown: ring 1.9, members 1");
            assert_eq!(text(Some(&before)).await, "unknown: ring 1.9, members 1 (was inquorate)");
        });
    }

    #[test]
    fn a_client_that_has_not_read_for_a_long_time_loses_its_slot_to_a_new_client() {
        actix::System::new().block_on(async {
            tokio::time::pause();
            let clients = EventClients::default();
            let slots: Vec<_> = (0..MAX_CLIENTS).map(|_| clients.enter().unwrap()).collect();
            assert!(clients.enter().is_none());
            tokio::time::advance(STALL_TIMEOUT - ALIVE_INTERVAL).await;
            let (reader, stuck) = slots.split_first().unwrap();
            assert!(reader.touch() && clients.enter().is_none());
            tokio::time::advance(ALIVE_INTERVAL).await;
            let _new = clients.enter().unwrap();
            assert!(reader.touch(), "the client has read in the meantime");
            assert!(
                stuck.iter().all(|stuck| !stuck.touch()),
                "the streams of stuck clients end when they read"
            );
        });
    }
}
