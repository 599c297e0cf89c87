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

use super::{STALLED, no_store_response};
use crate::{
    actor::{QuorumHandle, shared::ChangeSignal},
    json::{Alive, Change, State},
    state::{Cause, Connection, Quorum, QuorumChanged, Snapshot},
};

/// How many streams there may be at a time.
const CLIENTS: usize = 1024;

/// The longest silence.
const ALIVE: Duration = Duration::from_secs(10);

/// How often to see whether quorum has become exclusive.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client whose stream has ended is to wait before it comes again.
const RETRY: Duration = Duration::from_secs(1);

/// How long one that found no place is to wait, and up to as long again.
const RETRY_WHEN_FULL: Duration = Duration::from_secs(10);

/// `GET /quorum/events`
pub(super) fn stream(quorum: &QuorumHandle, request: &HttpRequest) -> HttpResponse {
    let mut response = no_store_response(StatusCode::OK);
    response
        .content_type("text/event-stream")
        // A proxy that buffers would keep the news to itself.
        .insert_header(("X-Accel-Buffering", "no"));
    if request.method() == Method::HEAD {
        return response.streaming(stream::empty::<Result<Bytes, actix_web::Error>>());
    }
    let clients = quorum.shared.web_state::<EventClients>();
    let Some(slot) = clients.enter() else {
        // A browser comes again after a stream that has ended, and never after another status.
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

/// The events of one client. It is asked for the next one when the last is on its way, so a client
/// that does not read takes no memory here; what it misses meanwhile it finds in the history.
fn events(
    quorum: QuorumHandle,
    seen: Option<Arc<Snapshot>>,
    slot: Arc<ClientSlot>,
) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    let latest = quorum.shared.watch();
    let client =
        Client { quorum, latest, seen, told: (Quorum::Unknown, false), slot, has_ended: false };
    stream::unfold(client, |mut client| async {
        let event = client.next().await?;
        Some((Ok(event), client))
    })
}

struct Client {
    quorum: QuorumHandle,
    latest: ChangeSignal,
    /// What it was told last.
    seen: Option<Arc<Snapshot>>,
    /// The quorum that it was told last, and whether that was exclusive.
    told: (Quorum, bool),
    slot: Arc<ClientSlot>,
    has_ended: bool,
}

impl Client {
    async fn next(&mut self) -> Option<Bytes> {
        let silent = Instant::now() + ALIVE;
        loop {
            if self.has_ended || !self.slot.touch() {
                return None;
            }
            self.latest.mark_unchanged();
            if let Some(change) = self.quorum.shared.history.next_after(self.seen.as_ref()) {
                return Some(self.changed(&change));
            }
            let now = (self.quorum.quorum(), self.quorum.is_exclusive());
            if now != self.told || Instant::now() >= silent {
                self.told = now;
                return Some(self.alive(now));
            }
            // The lease may run out without anybody to publish that, and nobody publishes when
            // quorum becomes exclusive.
            let lease = &self.quorum.shared.lease;
            let lease = match now {
                (Quorum::Quorate, true) => Instant::now() + lease.exclusive_remaining(),
                (Quorum::Quorate, false) => Instant::now() + lease.remaining().min(LOOK),
                _ => silent,
            };
            let changed = pin!(self.latest.changed());
            let woken = pin!(sleep_until(silent.min(lease)));
            if let Either::Left((Err(_), _)) = select(changed, woken).await {
                // The sender is in the handle, so this cannot be.
                return None;
            }
        }
    }

    fn changed(&mut self, change: &QuorumChanged) -> Bytes {
        let current = &change.current;
        self.seen = Some(Arc::clone(current));
        // The others tell what was, the latest what is: it goes by the lease.
        let is_latest = self.quorum.snapshot().sequence == current.sequence;
        let ran_out = is_latest && current.quorum.is_quorate() && !self.quorum.is_quorate();
        let quorum = if ran_out { Quorum::Unknown } else { current.quorum };
        let exclusive = is_latest && self.quorum.is_exclusive();
        self.told = (quorum, exclusive);
        self.has_ended = current.connection == Connection::Stopped;
        self.quorum.shared.web_state::<EventClients>().rendered(change, ran_out, || {
            let names = self.quorum.node_names();
            let state = State::of(current, (quorum, exclusive), &names);
            let data = serde_json::to_string(&Change::of(change, state));
            let data = data.expect("all keys are strings or numbers");
            let retry = RETRY.as_millis();
            let id = self.quorum.shared.web_state::<EventClients>().id_of(current.sequence);
            format!("event: changed\nid: {id}\nretry: {retry}\ndata: {data}\n\n").into()
        })
    }

    fn alive(&self, (quorum, exclusive): (Quorum, bool)) -> Bytes {
        let sequence = self.seen.as_ref().map_or(0, |seen| seen.sequence);
        // They are read after a connection was told of.
        let names = self.quorum.node_names();
        let alive = Alive { sequence, quorum, exclusive, names: (*names).clone() };
        let data = serde_json::to_string(&alive);
        let data = data.expect("all keys are strings or numbers");
        format!("event: alive\ndata: {data}\n\n").into()
    }
}

/// Those who read the events.
#[derive(Debug)]
pub(crate) struct EventClients {
    /// Which actor this is, of all processes.
    actor: u64,
    slots: Mutex<Vec<Weak<ClientSlot>>>,
    /// The event of one change, which most of them are told at about the same time.
    rendered: Mutex<Option<(u64, Bytes)>>,
}

/// The place of one of them, for as long as it is there.
#[derive(Debug)]
pub(crate) struct ClientSlot {
    /// When it last took something; `None` once the place was given to somebody else.
    read_at: Mutex<Option<Instant>>,
}

impl Default for EventClients {
    fn default() -> Self {
        Self { actor: fastrand::u64(..), slots: Mutex::default(), rendered: Mutex::default() }
    }
}

impl EventClients {
    /// The id of the event that tells the change with this sequence.
    fn id_of(&self, sequence: u64) -> String {
        format!("{:016x}-{sequence}", self.actor)
    }

    /// The sequence in an id, if it is one of this actor's.
    fn sequence_of(&self, id: &str) -> Option<u64> {
        let (actor, sequence) = id.split_once('-')?;
        let is_ours = u64::from_str_radix(actor, 16) == Ok(self.actor);
        sequence.parse().ok().filter(|_| is_ours)
    }

    fn enter(&self) -> Option<Arc<ClientSlot>> {
        let mut slots = self.slots.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        if slots.len() >= CLIENTS {
            slots.retain(|slot| slot.upgrade().is_some_and(|slot| !slot.is_stale()));
        }
        if slots.len() >= CLIENTS {
            return None;
        }
        let slot = Arc::new(ClientSlot { read_at: Mutex::new(Some(Instant::now())) });
        slots.push(Arc::downgrade(&slot));
        Some(slot)
    }

    /// The event that tells a change. It is the same for all, but for who is told it as the first
    /// or in place of others, or when the lease has run out.
    fn rendered(
        &self,
        change: &QuorumChanged,
        ran_out: bool,
        render: impl FnOnce() -> Bytes,
    ) -> Bytes {
        if change.cause == Cause::Subscribed || change.missed > 0 || ran_out {
            return render();
        }
        let mut rendered = self.rendered.lock();
        match &*rendered {
            Some((sequence, event)) if *sequence == change.current.sequence => event.clone(),
            _ => {
                let event = render();
                *rendered = Some((change.current.sequence, event.clone()));
                event
            }
        }
    }
}

impl ClientSlot {
    /// Takes the place from who has not read for long. Who reads is asked at least every [`ALIVE`].
    fn is_stale(&self) -> bool {
        let mut read_at = self.read_at.lock();
        *read_at = read_at.filter(|read_at| read_at.elapsed() < STALLED);
        read_at.is_none()
    }

    /// Whether it still has its place, now that it reads.
    fn touch(&self) -> bool {
        let mut read_at = self.read_at.lock();
        *read_at = read_at.map(|_| Instant::now());
        read_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_read_for_long_loses_its_place_to_who_comes() {
        actix::System::new().block_on(async {
            tokio::time::pause();
            let clients = EventClients::default();
            let slots: Vec<_> = (0..CLIENTS).map(|_| clients.enter().unwrap()).collect();
            assert!(clients.enter().is_none());
            tokio::time::advance(STALLED - ALIVE).await;
            let (reader, stuck) = slots.split_first().unwrap();
            assert!(reader.touch() && clients.enter().is_none());
            tokio::time::advance(ALIVE).await;
            let _new = clients.enter().unwrap();
            assert!(reader.touch(), "it has read meanwhile");
            assert!(stuck.iter().all(|stuck| !stuck.touch()), "their streams end when they read");
        });
    }
}
