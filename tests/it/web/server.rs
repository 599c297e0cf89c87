//! A real server on loopback, on the simulated cluster.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use actix_quorum::{
    Cause, Connection, Quorum,
    json::{Alive, Change},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::support::{Client, Event, Service, all_published, block_on, eventually, hold};

/// A request that is sent while the handle reports no quorum is refused, and a request that is sent
/// while the handle reports quorum is accepted, no matter how many requests are under way when
/// quorum changes.
#[test]
fn no_request_passes_without_quorum() {
    const CLIENTS: usize = 16;
    const FLIPS: u64 = 200;

    let service = Arc::new(Service::start());
    // Zero during a change; otherwise odd while there is quorum, and even while there is none.
    let phase = Arc::new(AtomicU64::new(1));
    let ended = Arc::new(AtomicBool::new(false));
    let [refused, passed] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (phase, ended) = (Arc::clone(&phase), Arc::clone(&ended));
            let (refused, passed) = (Arc::clone(&refused), Arc::clone(&passed));
            let mut client = service.connect();
            thread::spawn(move || {
                while !ended.load(Ordering::Acquire) {
                    let sent_in = phase.load(Ordering::Acquire);
                    client.send("POST", "/write", &[]);
                    let (status, body) = client.response();
                    if sent_in == 0 || phase.load(Ordering::Acquire) != sent_in {
                        continue;
                    }
                    if sent_in % 2 == 0 {
                        assert_eq!(status, 503, "sent without quorum: {body}");
                        refused.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert_eq!(status, 200, "sent with quorum: {body}");
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for flip in 1..FLIPS {
        let (before, counted) = match flip % 2 {
            1 => (passed.load(Ordering::Relaxed), &passed),
            _ => (refused.load(Ordering::Relaxed), &refused),
        };
        eventually("20 more requests are answered", || {
            (counted.load(Ordering::Relaxed) >= before + 20).then_some(())
        });
        phase.store(0, Ordering::Release);
        if flip % 2 == 1 {
            service.lose()
        } else {
            service.regain()
        }
        phase.store(flip + 1, Ordering::Release);
    }
    ended.store(true, Ordering::Release);
    clients.into_iter().for_each(|client| client.join().unwrap());
}

fn json(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

/// Returns the next change of a stream.
fn changed(client: &mut Client) -> Option<Event> {
    loop {
        let event = client.event()?;
        if event.event == "changed" {
            return Some(event);
        }
    }
}

#[test]
fn a_stream_sends_the_state_and_then_each_change() {
    let service = Service::start();
    all_published(&service.quorum);
    let mut client = service.connect();
    client.send("GET", "/quorum/events", &[]);
    let head = client.head();
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.field("cache-control"), Some("no-store"));
    let first = client.event().unwrap();
    assert_eq!(
        (first.event.as_str(), first.id),
        ("changed", Some(service.quorum.snapshot().sequence))
    );
    let change = json(&first);
    assert_eq!(
        (&change["cause"], &change["current"]["quorum"]),
        (&"subscribed".into(), &"quorate".into())
    );
    let keys: Vec<_> = change.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["cause", "current", "is_loss", "joined", "left", "missed", "text"]);

    service.lose();
    let mut sequence = first.id.unwrap();
    let loss = loop {
        let event = changed(&mut client).unwrap();
        sequence += 1;
        assert_eq!(event.id, Some(sequence), "no change is left out");
        // If a change from before the loss is sent late, its quorum is `unknown`, not `quorate`.
        if json(&event)["current"]["quorum"] == "inquorate" {
            break json(&event);
        }
    };
    assert_eq!(loss["text"], "inquorate: ring 1.9, members 1 (was quorate)");
    assert_eq!(loss["is_loss"], true);
}

/// Parses an event as a Rust client does, and serializes it again.
fn read_and_written<T: Serialize + DeserializeOwned>(event: &Event) -> T {
    let read: T = serde_json::from_str(&event.data).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), json(event), "every field is read");
    read
}

#[test]
fn a_rust_client_can_parse_the_stream() {
    let service = Service::start();
    all_published(&service.quorum);
    let mut client = service.connect();
    client.open_events(&[]);
    let (mut was_lost, mut was_alive, mut causes) = (false, false, Vec::new());
    service.lose();
    while !(was_lost && was_alive) {
        let event = client.event().unwrap();
        if event.event == "changed" {
            let change: Change = read_and_written(&event);
            assert_eq!(Some(change.current.sequence), event.id);
            was_lost |= change.is_loss && change.current.quorum == Quorum::Inquorate;
            causes.push(change.cause);
        } else {
            let alive: Alive = read_and_written(&event);
            was_alive |= alive.quorum == Quorum::Inquorate && !alive.exclusive;
        }
    }
    assert_eq!(causes[0], Cause::Subscribed);
    assert!(causes.contains(&Cause::Membership), "the causes are {causes:?}");
}

#[test]
fn the_first_event_of_a_stream_reports_no_quorum_once_the_lease_has_expired() {
    let (service, arbiter) = Service::on_arbiter(Duration::from_secs(2));
    let held = hold(&arbiter);
    service.until(false);
    let now = service.quorum.snapshot();
    assert_eq!(now.connection, Connection::Connected, "the actor was unable to publish anything");
    assert_eq!(now.quorum, Quorum::Unknown);
    let mut client = service.connect();
    client.open_events(&[]);
    let first = json(&client.event().unwrap());
    assert_eq!(
        (&first["cause"], &first["current"]["quorum"]),
        (&"subscribed".into(), &"unknown".into())
    );
    drop(held);
    // The stream reports quorum again in the next change, or in an `alive` event if the actor
    // publishes none.
    loop {
        let change = json(&client.event().unwrap());
        if change["quorum"] == "quorate" || change["current"]["quorum"] == "quorate" {
            break;
        }
    }
}

#[test]
fn a_client_that_reconnects_receives_the_missed_changes() {
    let service = Service::start();
    let mut client = service.connect();
    client.open_events(&[]);
    let first = client.event().unwrap();
    let (seen, id) = (first.id.unwrap(), first.whole_id);
    drop(client);
    service.lose();
    service.regain();
    let now = all_published(&service.quorum);
    let mut client = service.connect();
    client.open_events(&[&format!("Last-Event-ID: {id}")]);
    for expected in seen + 1..=now.sequence {
        assert_eq!(changed(&mut client).unwrap().id, Some(expected));
    }
    // A client that is up to date, or has an id from another process, receives the state.
    let (process, _) = id.split_once('-').unwrap();
    let of_another = Service::start();
    let mut client = of_another.connect();
    client.open_events(&[]);
    let of_another = client.event().unwrap().whole_id;
    let (other_process, _) = of_another.split_once('-').unwrap();
    for id in [
        format!("{process}-{}", now.sequence),
        format!("{process}-999999"),
        format!("{other_process}-{seen}"),
        seen.to_string(),
        "x".into(),
        "-".into(),
    ] {
        let mut client = service.connect();
        client.open_events(&[&format!("Last-Event-ID: {id}")]);
        let first = client.event().unwrap();
        assert_eq!((first.id, &json(&first)["cause"]), (Some(now.sequence), &"subscribed".into()));
    }
}

#[test]
fn a_stream_without_changes_sends_alive_events() {
    let service = Service::start();
    all_published(&service.quorum);
    let mut client = service.connect();
    client.open_events(&[]);
    let first = client.event().unwrap();
    let since = Instant::now();
    let alive = client.event().unwrap();
    let elapsed = since.elapsed();
    assert!(elapsed < Duration::from_secs(15), "the event arrived after {elapsed:?}");
    assert_eq!((alive.event.as_str(), alive.id), ("alive", None));
    let snapshot = json(&alive);
    assert_eq!(snapshot["sequence"], first.id.unwrap());
    assert_eq!((&snapshot["quorum"], &snapshot["names"]["2"]), (&"quorate".into(), &"n2".into()));
}

#[test]
fn a_stream_ends_when_the_actor_stops() {
    let service = Service::start();
    let mut client = service.connect();
    client.open_events(&[]);
    block_on(service.quorum.stop());
    let mut last = None;
    while let Some(event) = client.event() {
        last = Some(event);
    }
    let last = json(&last.unwrap());
    assert_eq!(last["current"]["connection"]["state"], "stopped");
    assert_eq!(last["current"]["quorum"], "unknown");
}

#[test]
fn five_hundred_streams_reach_the_latest_state() {
    const CLIENTS: usize = 500;
    const CHANGES: u64 = 300;

    let service = Service::start();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = service.connect();
            assert_eq!(client.open_events(&[]), 200);
            thread::Builder::new()
                .stack_size(256 << 10)
                .spawn(move || {
                    let mut last: Option<Event> = None;
                    while let Some(event) = changed(&mut client) {
                        let id = event.id.unwrap();
                        if last.is_some_and(|last| id != last.id.unwrap() + 1) {
                            assert_ne!(
                                json(&event)["missed"],
                                0,
                                "`missed` counts the changes that are left out"
                            );
                        }
                        last = Some(event);
                    }
                    last.unwrap()
                })
                .unwrap()
        })
        .collect();
    let first = service.quorum.snapshot().sequence;
    while service.quorum.snapshot().sequence < first + CHANGES {
        service.lose();
        service.regain();
    }
    block_on(service.quorum.stop());
    let end = service.quorum.snapshot();
    for client in clients {
        let last = client.join().unwrap();
        assert_eq!(last.id, Some(end.sequence));
        assert_eq!(json(&last)["current"]["connection"]["state"], "stopped");
    }
}

#[test]
fn a_stream_beyond_the_limit_ends_immediately_until_a_slot_is_free() {
    let service = Service::start();
    let mut clients = Vec::new();
    for _ in 0..1024 {
        let mut client = service.connect();
        assert_eq!(client.open_events(&[]), 200);
        clients.push(client);
    }
    // A browser reconnects after the status 200, and not after another status.
    let mut client = service.connect();
    assert_eq!(client.open_events(&[]), 200);
    let full = client.event().unwrap();
    assert_eq!(full.event, "full");
    assert!((10_000..20_000).contains(&full.retry.unwrap()), "{full:?}");
    assert!(client.event().is_none());
    let mut other = service.connect();
    other.send("GET", "/readyz", &[]);
    assert_eq!(other.response().0, 200, "other requests are answered");
    drop(clients.pop());
    eventually("a slot is free", || {
        let mut client = service.connect();
        client.open_events(&[]);
        (client.event()?.event == "changed").then_some(())
    });
}

/// A client that reads nothing is disconnected, and clients that read are not.
#[test]
#[ignore = "takes half a minute: make test"]
fn a_client_that_does_not_read_is_disconnected() {
    let service = Service::start();
    let mut stuck = service.connect();
    stuck.send("GET", "/quorum/events", &[]);
    let mut reads = service.connect();
    reads.open_events(&[]);
    let reader = thread::spawn(move || while reads.event().is_some() {});
    // The kernel drops the connection once its buffer for this client has been full for half a
    // minute.
    eventually("the client is disconnected", || {
        for _ in 0..10 {
            service.cluster.partition(&[&[1], &[2, 3]]).unwrap();
            service.cluster.heal();
        }
        // The client's end does not notice this, because its own buffer is full too.
        (!has_connection(service.server, stuck.stream().local_addr().unwrap())).then_some(())
    });
    let mut other = service.connect();
    other.send("GET", "/livez", &[]);
    assert_eq!(other.response().0, 200);
    assert!(!reader.is_finished(), "a client that reads is not disconnected");
    drop(service);
    reader.join().unwrap();
}

/// Returns whether the server's end of a connection exists, according to the system.
fn has_connection(server: SocketAddr, client: SocketAddr) -> bool {
    let [server, client] = [server, client].map(|end| format!(":{:04X} ", end.port()));
    let listed = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    listed.lines().any(|line| {
        line.find(&server).zip(line.find(&client)).is_some_and(|(server, client)| server < client)
    })
}
