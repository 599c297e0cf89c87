//! Middleware, an extractor and routes for actix-web services. Feature `web`.
//!
//! [`QuorumGate`] is middleware that passes requests on only while this node has quorum.
//! [`Quorate`] is an extractor that does the same for one handler and gives the handler a
//! [`QuorumGuard`](crate::QuorumGuard). [`routes`] adds health checks for Kubernetes and load
//! balancers, the state as JSON, a stream of its changes, and a page that shows all of it live.
//!
//! All of them read the [`QuorumHandle`]: no request waits for the actor or for Corosync.
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
//!         // Replaces the server's own signal handling.
//!         let mut terminated = signal(SignalKind::terminate()).expect("signals are supported");
//!         tokio::select! { _ = terminated.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
//!         // Ends the event streams, for which the server would otherwise wait.
//!         stopping.stop().await;
//!     })
//!     .bind(("127.0.0.1", 8080))?
//!     .run()
//!     .await
//! }
//! ```
//!
//! # Access
//!
//! The routes only report, and contain no secrets: node ids and names, the ring, votes, and the
//! reason why there is no connection to Corosync. To restrict access, put them behind your
//! application's own authentication, like any other route: in a separate
//! [`scope`](actix_web::web::scope) with the middleware that checks it.
//!
//! ```
//! # use actix_quorum::{QuorumHandle, web::routes};
//! # use actix_web::dev::{ServiceRequest, ServiceResponse};
//! # use actix_web::{App, Error, body::MessageBody, middleware::{Next, from_fn}, web};
//! async fn signed_in(
//!     request: ServiceRequest,
//!     next: Next<impl MessageBody>,
//! ) -> Result<ServiceResponse<impl MessageBody>, Error> {
//!     // Your own check.
//!     next.call(request).await
//! }
//!
//! fn configure(quorum: QuorumHandle) -> impl FnOnce(&mut web::ServiceConfig) {
//!     // The paths are /internal/quorum, /internal/readyz, and so on.
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

/// Mounts the routes that report about quorum:
///
/// | `GET` or `HEAD` | answers |
/// |---|---|
/// | `/quorum` | the current state, as JSON |
/// | `/quorum/events` | the state as server-sent events: now, and at each change |
/// | `/quorum/history` | the last 100 changes as JSON; `?last=N` sets the number, up to 1024 |
/// | `/quorum/live` | a page that shows the state live |
/// | `/livez` | whether this process works; never depends on quorum |
/// | `/readyz` | whether this node has quorum |
///
/// # `/quorum`
///
/// | field | |
/// |---|---|
/// | `quorum` | `quorate`, `inquorate` or `unknown`; like [`QuorumHandle::quorum`] it obeys the lease |
/// | `connection` | `state` is `connecting`, `connected`, `stalled`, `disconnected` or `stopped`; some states have `attempt` and `error` |
/// | `ring_id` | in Corosync's form, `1.2a`; `null` if no ring is known |
/// | `members` | node ids, ascending |
/// | `names` | the names of nodes by their ids, if `corosync.conf` has any: [`QuorumHandle::node_names`] |
/// | `settled` | whether the decision is about this membership |
/// | `ring` | whether there is recent evidence that the ring is alive: `operational`, `gather` (it is re-forming), `unknown`, or `unwatched` if its counters cannot be read |
/// | `exclusive` | whether this node has quorum and no other partition can have it: [`QuorumHandle::is_exclusive`] |
/// | `fencing_token` | [`Snapshot::fencing_token`](crate::Snapshot::fencing_token); `null` if the ring has none |
/// | `epoch` | grows whenever quorum was, or may have been, interrupted |
/// | `votes` | `expected`, `highest_expected`, `total`, `quorum`, `qdevice`, `configured` (votes of all nodes in the nodelist; `null` if not known), `margin`, `members` (votes by node id), `qdevices` (flags of the quorum device by the node that has it), `flags`; `null` if not known |
/// | `shortage` | why this node has no quorum, if the votes show the reason: `2 of 4 votes, 3 required`, or `4 of 5 votes, waits for all nodes`; otherwise `null` |
/// | `local` | the id of this node; `null` if not known |
/// | `sequence` | grows by one with each change |
/// | `changed_at` | the time of the last change, RFC 3339 |
///
/// # `/quorum/events`
///
/// Each `changed` event has an `id`, which contains a random number of this actor and the
/// `sequence`. Its data contains `cause`, `text` (one line for an operator), `joined`, `left`,
/// `missed`, `is_loss`, and in `current` the fields of `/quorum` at that time. The first event is
/// the current state, with the cause `subscribed`. A client that reconnects with a `Last-Event-ID`
/// among the last 1024 receives the changes after that event instead, if there are any.
///
/// Between the changes, an `alive` event with `sequence`, `quorum`, `exclusive` and `names` is sent
/// every ten seconds, when the lease expires, and within a second of a change of `exclusive`. The
/// live page treats a stream as dead after 15 seconds without an event; other clients can do the
/// same.
///
/// The stream ends when the actor is stopped. At most 1024 streams are served at a time. Beyond
/// that, the answer is a stream that ends after one `full` event, whose `retry` makes a browser
/// reconnect in 10 to 20 seconds; after a 503 a browser would not reconnect. If a client has not
/// read for 30 seconds, a new client may get its slot. With [`drop_stalled_clients`], the system
/// also closes a connection on which sending has been blocked for 30 seconds. A client that
/// reconnects with an id from another actor, for example from the process before a restart,
/// receives the current state first.
///
/// # `/quorum/history`
///
/// `changes` lists the last changes, oldest first, each with its `sequence`, `changed_at`,
/// `seconds` (how long the state lasted; `null` for the latest), `quorum`, `ring_id`, `members`,
/// `joined`, `left`, `epoch`, `cause` and `text`. If `last` is not a number from 1 to 1024, the
/// answer is 400.
///
/// # `/livez` and `/readyz`
///
/// These routes answer 200 or 503, as in Kubernetes and etcd. If a check fails, the answer lists
/// the checks. With `?verbose` the answer always lists the checks, with the reason for each
/// failure. `?exclude=quorum` skips that check, and `/readyz/quorum` runs one check alone; the
/// answer for an unknown check is 404. The checks of `/livez` are `ping` and `actor` (the quorum
/// actor has not ended, and has run in the last 10 seconds: a restart helps if the actor is stuck).
/// The checks of `/readyz` are `connection` (Corosync has accepted the connection, and answers) and
/// `quorum`.
///
/// They also answer OPTIONS, which HAProxy's `option httpchk` sends by default.
///
/// No route accepts a request body or allows caching. Each path works with and without a trailing
/// slash, with any setting of `NormalizePath`.
///
/// # The extractor
///
/// The routes also add the handle as `web::Data<QuorumHandle>` for [`Quorate`], in the `App` or
/// [`scope`](actix_web::web::scope) that they configure. If you add another handle there yourself,
/// the one added last is used. With two handles, use a [`QuorumGate`], which has its own handle.
pub fn routes(quorum: QuorumHandle) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        config
            .app_data(web::Data::new(quorum.clone()))
            .service(resource("/quorum", &quorum, json::now))
            .service(resource("/quorum/events", &quorum, events::stream))
            .service(resource("/quorum/history", &quorum, json::history))
            .service(resource("/quorum/live", &quorum, live::page))
            .service(health_resource("/livez", &quorum, health::livez))
            .service(health_resource("/readyz", &quorum, health::readyz));
    }
}

/// Lets the system drop a connection on which sending has been blocked for 30 seconds because the
/// client does not read. Otherwise a client that stops reading an event stream keeps its connection
/// for as long as the client lives.
///
/// Pass it to [`HttpServer::on_connect`](actix_web::HttpServer::on_connect). It works for
/// connections without TLS, on Linux. For other connections set the option `TCP_USER_TIMEOUT` on
/// the listening socket.
pub fn drop_stalled_clients(connection: &dyn Any, _: &mut dev::Extensions) {
    #[cfg(target_os = "linux")]
    if let Some(stream) = connection.downcast_ref::<TcpStream>() {
        let millis = u32::try_from(STALL_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        // This fails if the client has already closed the connection.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
    }
}

/// How long a client may stop reading.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns a route that answers GET and HEAD, and refuses other methods and every request with a
/// body.
fn resource(
    path: &str,
    quorum: &QuorumHandle,
    answer: fn(&QuorumHandle, &HttpRequest) -> HttpResponse,
) -> Resource {
    let methods = guard::Any(guard::Get()).or(guard::Head());
    answering(&[path], quorum, answer, methods, "GET, HEAD")
}

/// Returns a route that also answers OPTIONS, as it answers HEAD: load balancers send OPTIONS to
/// check a server (HAProxy's `option httpchk`).
fn health_resource(
    path: &str,
    quorum: &QuorumHandle,
    answer: fn(&QuorumHandle, &HttpRequest) -> HttpResponse,
) -> Resource {
    let methods = guard::Any(guard::Get()).or(guard::Head()).or(guard::Options());
    let check = format!("{path}/{{check}}");
    answering(&[path, &check], quorum, answer, methods, "GET, HEAD, OPTIONS")
}

/// Returns a resource that matches each path with and without a trailing slash: middleware may add
/// or remove the slash (`NormalizePath`).
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
                .body("a request body is not accepted here\n"),
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

/// Starts a response that must not be cached, because it is true only now.
fn no_store_response(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    response
}
