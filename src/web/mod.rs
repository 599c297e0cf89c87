//! What an actix-web service needs to know of quorum. Feature `web`.
//!
//! [`QuorumGate`] is middleware that lets requests through only while this node has quorum, and
//! [`Quorate`] an extractor that does the same for one handler and hands it a
//! [`QuorumGuard`](crate::QuorumGuard). [`routes`] adds health checks for Kubernetes and load
//! balancers, the state as JSON, a stream of its changes, and a page that shows all of it live.
//!
//! All of them read the [`QuorumHandle`]: no request waits for the actor, or for Corosync.
//!
//! ```no_run
//! use actix_quorum::{QuorumActor, web::{QuorumGate, routes}};
//! use actix_web::{App, HttpServer, web};
//! use tokio::signal::unix::{SignalKind, signal};
//!
//! async fn write() -> &'static str {
//!     "written"
//! }
//!
//! #[actix_web::main]
//! async fn main() -> std::io::Result<()> {
//!     let quorum = QuorumActor::builder().start();
//!     let stopping = quorum.clone();
//!     HttpServer::new(move || {
//!         App::new().configure(routes(quorum.clone())).service(
//!             web::resource("/write").wrap(QuorumGate::new(quorum.clone())).post(write),
//!         )
//!     })
//!     .on_connect(actix_quorum::web::drop_stalled_clients)
//!     .shutdown_signal(async move {
//!         // In place of the server's own signals.
//!         let mut terminated = signal(SignalKind::terminate()).expect("there are signals");
//!         tokio::select! { _ = terminated.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
//!         // Ends the event streams, which would be waited for.
//!         stopping.stop().await;
//!     })
//!     .bind(("127.0.0.1", 8080))?
//!     .run()
//!     .await
//! }
//! ```
//!
//! # Who may see it
//!
//! The routes only tell, and carry no secret: node ids and names, the ring, votes, and why there is
//! no connection to Corosync. Where even that is not for everybody, put them behind the
//! application's own authentication, as any route: in a [`scope`](actix_web::web::scope) of its own
//! with the middleware that checks it.
//!
//! ```
//! # use actix_quorum::{QuorumHandle, web::routes};
//! # use actix_web::{App, Error, body::MessageBody, dev::{ServiceRequest, ServiceResponse}, middleware::{Next, from_fn}, web};
//! async fn signed_in(
//!     request: ServiceRequest,
//!     next: Next<impl MessageBody>,
//! ) -> Result<ServiceResponse<impl MessageBody>, Error> {
//!     // Your own check.
//!     next.call(request).await
//! }
//!
//! fn configure(quorum: QuorumHandle) -> impl FnOnce(&mut web::ServiceConfig) {
//!     // At /internal/quorum, /internal/readyz, and so on.
//!     |config| {
//!         let scope = web::scope("/internal").wrap(from_fn(signed_in));
//!         config.service(scope.configure(routes(quorum)));
//!     }
//! }
//! ```

mod events;
mod gate;
mod health;
mod json;
mod live;
mod quorate;
mod refusal;

use std::{any::Any, future::ready, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder, Resource, dev,
    guard::{self, Guard},
    http::{StatusCode, header},
    rt::net::TcpStream,
    web::{self, ServiceConfig},
};

pub use self::{gate::QuorumGate, quorate::Quorate, refusal::NotQuorate};
use crate::actor::QuorumHandle;

/// Mounts everything that tells about quorum:
///
/// | `GET` or `HEAD` | answers |
/// |---|---|
/// | `/quorum` | what is true now, as JSON |
/// | `/quorum/events` | the same as server-sent events: now, and at each change |
/// | `/quorum/history` | the last changes, as JSON; `?last=20` for fewer than 100, or up to 1024 |
/// | `/quorum/live` | a page that shows it as it happens |
/// | `/livez` | whether this process is fit to go on; never depends on quorum |
/// | `/readyz` | whether this node has quorum |
///
/// # `/quorum`
///
/// | field | |
/// |---|---|
/// | `quorum` | `quorate`, `inquorate` or `unknown`; as [`QuorumHandle::quorum`] it applies the lease |
/// | `connection` | `state` is `connecting`, `connected`, `stalled`, `disconnected` or `stopped`; `attempt` and `error` with some |
/// | `ring_id` | as Corosync shows it, `1.2a`; `null` if none is known |
/// | `members` | node ids, ascending |
/// | `names` | the names of nodes by their ids, where `corosync.conf` has any: [`QuorumHandle::node_names`] |
/// | `settled` | whether the decision is about this membership |
/// | `ring` | whether the ring is known to live: `operational`, `gather` (it is re-forming), `unknown`, or `unwatched` where it cannot be read |
/// | `exclusive` | whether no other partition can be quorate: [`QuorumHandle::is_exclusive`] |
/// | `fencing_token` | [`Snapshot::fencing_token`](crate::Snapshot::fencing_token); `null` if the ring has none |
/// | `epoch` | grows whenever quorum was, or may have been, interrupted |
/// | `votes` | `expected`, `highest_expected`, `total`, `quorum`, `qdevice`, `configured` (votes of all nodes in the nodelist; `null` if not known), `margin`, `members` (votes by node id), `flags`; `null` if not known |
/// | `shortage` | why there is no quorum, where the votes tell: `2 of 4 votes, 3 required`, or `4 of 5 votes, waits for all nodes`; else `null` |
/// | `local` | the id of this node; `null` if not known |
/// | `sequence` | grows by one with each change |
/// | `changed_at` | when the last change was, RFC 3339 |
///
/// # `/quorum/events`
///
/// Each `changed` event has an `id` of this process and the `sequence`, and in its data `cause`, `text` (one line for
/// an operator), `joined`, `left`, `missed`, `is_loss`, and as `current` all that `/quorum` told then.
/// The first one is the current state, with the cause `subscribed`. Who reconnects with a
/// `Last-Event-ID` that is among those kept (1024) gets what came after it first.
///
/// In between, every ten seconds, whenever the lease runs out and when `exclusive` changes, comes an
/// `alive` event with `sequence`, `quorum`, `exclusive` and `names`: who hears nothing for longer knows that the stream is dead.
///
/// The stream ends when the actor is stopped. At most 1024 are served at a time. Beyond that the answer
/// is a stream that ends after one `full` event, whose `retry` has a browser come again in 10 to 20
/// seconds: after a 503 it would not. One whose connection has been full for 30 seconds, as it does not
/// read, loses its place, and the connection with [`drop_stalled_clients`]. A client that comes with an
/// id of another process receives the current state first.
///
/// # `/quorum/history`
///
/// `changes` are the last ones, the latest last, each with its `sequence`, `changed_at`, `seconds`
/// (how long it was so; `null` for the latest), `quorum`, `ring_id`, `members`, `joined`, `left`,
/// `epoch`, `cause` and `text`. A `last` that is no number from 1 to 1024 is answered 400.
///
/// # `/livez` and `/readyz`
///
/// Answer 200 or 503 and list the checks, as those of Kubernetes and etcd do: `?verbose` lists them
/// also when all is well, and tells why one fails; `?exclude=quorum` leaves one out; `/readyz/quorum`
/// is one check alone. The checks of `/livez` are `ping` and `actor` (the quorum actor has not
/// ended, and its arbiter has run in the last 10 seconds: if it is stuck, a restart helps); those of `/readyz` are `connection` (Corosync has accepted us, and answers) and `quorum`.
///
/// They answer OPTIONS as well, as HAProxy's `option httpchk` asks by default.
///
/// None of the routes takes a request body, or is ever cached. Each is there with and without a slash
/// behind its path, whatever `NormalizePath` makes of it.
pub fn routes(quorum: QuorumHandle) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        config
            .service(resource("/quorum", &quorum, json::now))
            .service(resource("/quorum/events", &quorum, events::stream))
            .service(resource("/quorum/history", &quorum, json::history))
            .service(resource("/quorum/live", &quorum, live::page))
            .service(health_resource("/livez", &quorum, health::livez))
            .service(health_resource("/readyz", &quorum, health::readyz));
    }
}

/// Has the system drop a connection that has been full for 30 seconds, as its client does not read.
/// Without, one that stops reading an event stream keeps its connection for as long as it lives.
///
/// For [`HttpServer::on_connect`](actix_web::HttpServer::on_connect). It is about connections
/// without TLS, on Linux; for others set the option `TCP_USER_TIMEOUT` on the listening socket.
pub fn drop_stalled_clients(connection: &dyn Any, _: &mut dev::Extensions) {
    #[cfg(target_os = "linux")]
    if let Some(stream) = connection.downcast_ref::<TcpStream>() {
        let millis = u32::try_from(STALLED.as_millis()).unwrap_or(u32::MAX);
        // It has hung up again, if this fails.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
    }
}

/// How long a client may not read.
const STALLED: Duration = Duration::from_secs(30);

/// Answers GET and HEAD without a body, and nothing else.
fn resource(
    path: &str,
    quorum: &QuorumHandle,
    answer: fn(&QuorumHandle, &HttpRequest) -> HttpResponse,
) -> Resource {
    let methods = guard::Any(guard::Get()).or(guard::Head());
    answering(&[path], quorum, answer, methods, "GET, HEAD")
}

/// Answers OPTIONS as well, as it answers HEAD: load balancers ask so whether a server is well
/// (HAProxy's `option httpchk`).
fn health_resource(
    path: &str,
    quorum: &QuorumHandle,
    answer: fn(&QuorumHandle, &HttpRequest) -> HttpResponse,
) -> Resource {
    let methods = guard::Any(guard::Get()).or(guard::Head()).or(guard::Options());
    let check = format!("{path}/{{check}}");
    answering(&[path, &check], quorum, answer, methods, "GET, HEAD, OPTIONS")
}

/// Each path is there with and without a slash behind it: middleware may add one, or take it away
/// (`NormalizePath`).
fn answering(
    paths: &[&str],
    quorum: &QuorumHandle,
    answer: fn(&QuorumHandle, &HttpRequest) -> HttpResponse,
    methods: impl Guard + 'static,
    allowed: &'static str,
) -> Resource {
    let quorum = quorum.clone();
    let answer = move |request: HttpRequest| {
        ready(match has_body(&request) {
            true => no_store_response(StatusCode::PAYLOAD_TOO_LARGE)
                .body("no request body is taken here\n"),
            false => answer(&quorum, &request),
        })
    };
    let not_allowed = move || {
        let mut response = no_store_response(StatusCode::METHOD_NOT_ALLOWED);
        ready(response.insert_header((header::ALLOW, allowed)).finish())
    };
    let both = |path: &&str| [(*path).to_owned(), format!("{path}/")];
    let paths: Vec<String> = paths.iter().flat_map(both).collect();
    web::resource(paths)
        .route(web::route().guard(methods).to(answer))
        .default_service(web::to(not_allowed))
}

fn has_body(request: &HttpRequest) -> bool {
    let length = request.headers().get(header::CONTENT_LENGTH);
    length.is_some_and(|length| length != "0")
        || request.headers().contains_key(header::TRANSFER_ENCODING)
}

/// An answer that is true only now.
fn no_store_response(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    response
}
