//! A service on axum, without actix. Reading is always allowed; writing requires exclusive quorum.
//!
//! ```sh
//! cargo run --example axum                 # a simulated cluster
//! cargo run --example axum -- --corosync   # the Corosync of this machine
//!
//! curl -i http://127.0.0.1:8081/value
//! curl -i http://127.0.0.1:8081/value -X PUT -d 42
//! curl -i http://127.0.0.1:8081/readyz
//! curl -N http://127.0.0.1:8081/events
//! ```

use std::{convert::Infallible, env, io, sync::Arc};

use actix_quorum::{QuorumActor, QuorumHandle, sim::Cluster};
use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response, Sse, sse::Event, sse::KeepAlive},
    routing::get,
};
use futures_util::{Stream, StreamExt};
use tokio::{net::TcpListener, sync::Mutex};

#[derive(Clone)]
struct Service {
    quorum: QuorumHandle,
    value: Arc<Mutex<String>>,
}

/// Passes on every request with a safe method, such as GET. Passes on other requests only while
/// this node has quorum and no other partition can have it.
async fn gate(State(quorum): State<QuorumHandle>, request: Request, next: Next) -> Response {
    if request.method().is_safe() || quorum.is_exclusive() {
        return next.run(request).await;
    }
    let retry = [("Retry-After", "1")];
    let reason = format!("not exclusive: {}\n", quorum.snapshot());
    (StatusCode::SERVICE_UNAVAILABLE, retry, reason).into_response()
}

async fn read(State(service): State<Service>) -> String {
    service.value.lock().await.clone() + "\n"
}

async fn write(State(service): State<Service>, new: String) -> &'static str {
    *service.value.lock().await = new;
    "written\n"
}

/// The readiness, for a load balancer. Liveness must not depend on quorum, because a restart does
/// not bring quorum back.
async fn readyz(State(service): State<Service>) -> (StatusCode, String) {
    let status = match service.quorum.is_quorate() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{}\n", service.quorum.snapshot()))
}

/// Streams the current state and then every change.
async fn events(
    State(service): State<Service>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = service.quorum.changes();
    let events =
        changes.map(|change| Ok(Event::default().event("quorum").data(change.to_string())));
    Sse::new(events).keep_alive(KeepAlive::default())
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let builder = QuorumActor::builder();
    let quorum = match env::args().any(|argument| argument == "--corosync") {
        true => builder.start_detached(),
        false => builder.source(Cluster::new(3).node(1)).start_detached(),
    };
    let service = Service { quorum: quorum.clone(), value: Arc::default() };
    let routes = Router::new()
        .route("/value", get(read).put(write))
        .layer(from_fn_with_state(quorum.clone(), gate))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/events", get(events))
        .with_state(service);
    let listener = TcpListener::bind("127.0.0.1:8081").await?;
    println!("http://127.0.0.1:8081/value");
    let stopped = async move {
        let _ = tokio::signal::ctrl_c().await;
        // Also ends the streams of changes.
        quorum.stop().await;
    };
    axum::serve(listener, routes).with_graceful_shutdown(stopped).await
}
