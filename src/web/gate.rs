use std::{
    any::Any,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    Error,
    body::MessageBody,
    dev::{Service, ServiceRequest, ServiceResponse, Transform},
    http::{Method, header::UPGRADE},
};
use pin_project_lite::pin_project;

use super::refusal::{NotQuorate, RETRY_AFTER};
use crate::actor::QuorumHandle;

/// Middleware that passes a request on only if this node has quorum when the request arrives.
///
/// Other requests are answered with 503, `Retry-After` and `application/problem+json`: see
/// [`NotQuorate`]. The gate checks the lease and never waits.
///
/// A loss of quorum does not stop a request that was passed on, nor a streamed response. A handler
/// that must stop at a loss should do its work under a guard: see [`Quorate`](super::Quorate).
///
/// ```
/// use std::time::Duration;
/// use actix_quorum::{QuorumHandle, web::QuorumGate};
/// use actix_web::web::{self, ServiceConfig};
///
/// async fn read() -> &'static str {
///     "the records"
/// }
///
/// async fn write() -> &'static str {
///     "written"
/// }
///
/// /// Reading is always allowed; writing requires quorum.
/// fn records(config: &mut ServiceConfig, quorum: QuorumHandle) {
///     let gate = QuorumGate::new(quorum).allow_safe_methods(true);
///     let gate = gate.retry_after(Duration::from_secs(5));
///     config.service(web::resource("/records").wrap(gate).get(read).post(write));
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a gate has no effect before it is given to `wrap`"]
pub struct QuorumGate {
    quorum: QuorumHandle,
    allow_safe_methods: bool,
    exclusive: bool,
    retry_after: Duration,
}

impl QuorumGate {
    /// Creates a gate that refuses every request unless this node has quorum.
    pub fn new(quorum: QuorumHandle) -> Self {
        Self { quorum, allow_safe_methods: false, exclusive: false, retry_after: RETRY_AFTER }
    }

    /// Whether to pass on GET, HEAD and OPTIONS without quorum. Their answers may be stale. Default
    /// false.
    ///
    /// A request for an upgrade of the connection, such as a WebSocket's GET, is still refused,
    /// because the gate does not check the messages that follow the upgrade.
    pub fn allow_safe_methods(self, allow_safe_methods: bool) -> Self {
        Self { allow_safe_methods, ..self }
    }

    /// Whether to pass requests on only while this node has quorum and no other partition can have
    /// it. The gate then calls [`QuorumHandle::is_exclusive`] instead of
    /// [`is_quorate`](QuorumHandle::is_quorate). Default false.
    pub fn exclusive(self, exclusive: bool) -> Self {
        Self { exclusive, ..self }
    }

    /// The time in `Retry-After`. It is rounded up to seconds and extended at random by up to a
    /// quarter. Default 2 s.
    pub fn retry_after(self, retry_after: Duration) -> Self {
        Self { retry_after, ..self }
    }

    fn admits(&self, request: &ServiceRequest) -> bool {
        (self.allow_safe_methods && is_safe(request))
            || if self.exclusive { self.quorum.is_exclusive() } else { self.quorum.is_quorate() }
    }
}

fn is_safe(request: &ServiceRequest) -> bool {
    let is_upgrade = || request.headers().contains_key(UPGRADE) || request.head().upgrade();
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) && !is_upgrade()
}

impl<S, B> Transform<S, ServiceRequest> for QuorumGate
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse;
    type Error = Error;
    type InitError = ();
    type Transform = Gated<S>;
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Gated { gate: self.clone(), service }))
    }
}

/// A service behind a [`QuorumGate`].
#[derive(Debug)]
pub struct Gated<S> {
    gate: QuorumGate,
    service: S,
}

pin_project! {
    /// The future of a service behind a [`QuorumGate`].
    #[project = AnswerProjected]
    #[derive(Debug)]
    pub enum Answer<F> {
        Passed { #[pin] answer: F },
        Refused { answer: Option<ServiceResponse> },
    }
}

impl<F, B> Future for Answer<F>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
    B: MessageBody + 'static,
{
    type Output = Result<ServiceResponse, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnswerProjected::Passed { answer } => answer.poll(cx).map_ok(boxed),
            AnswerProjected::Refused { answer } => {
                let answer = answer.take().expect("a future is not polled after it was ready");
                Poll::Ready(Ok(answer))
            }
        }
    }
}

/// Boxes the body. Most bodies are already boxed; mapping them again would double the cost of the
/// gate.
fn boxed<B: MessageBody + 'static>(response: ServiceResponse<B>) -> ServiceResponse {
    let mut response = Some(response);
    let same = (&mut response as &mut dyn Any).downcast_mut::<Option<ServiceResponse>>();
    if let Some(response) = same.and_then(Option::take) {
        return response;
    }
    response.expect("the body is not boxed yet").map_into_boxed_body()
}

impl<S, B> Service<ServiceRequest> for Gated<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse;
    type Error = Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        if self.gate.admits(&request) {
            return Answer::Passed { answer: self.service.call(request) };
        }
        let refusal =
            NotQuorate::new(&self.gate.quorum, self.gate.exclusive, self.gate.retry_after);
        Answer::Refused { answer: Some(request.error_response(refusal)) }
    }
}
