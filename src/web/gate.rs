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

/// Middleware that lets a request through only if this node has quorum when it comes.
///
/// Others are answered 503 with `Retry-After` and `application/problem+json`, see [`NotQuorate`].
/// It looks at the lease and waits for nothing.
///
/// What was let through is not called back when quorum is lost meanwhile, and a response that is
/// being streamed is not cut: a handler that has to stop runs under a guard, see [`Quorate`](super::Quorate).
///
/// ```
/// use std::time::Duration;
/// use actix_quorum::{QuorumHandle, web::QuorumGate};
/// use actix_web::web::{self, ServiceConfig};
///
/// async fn read() -> &'static str {
///     "what is there"
/// }
///
/// async fn write() -> &'static str {
///     "written"
/// }
///
/// /// Anybody may read; writing takes quorum.
/// fn records(config: &mut ServiceConfig, quorum: QuorumHandle) {
///     let gate = QuorumGate::new(quorum).allow_safe_methods(true).retry_after(Duration::from_secs(5));
///     config.service(web::resource("/records").wrap(gate).get(read).post(write));
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a gate keeps nobody out before it is given to `wrap`"]
pub struct QuorumGate {
    quorum: QuorumHandle,
    allow_safe_methods: bool,
    exclusive: bool,
    retry_after: Duration,
}

impl QuorumGate {
    /// Refuses every request unless this node has quorum.
    pub fn new(quorum: QuorumHandle) -> Self {
        Self { quorum, allow_safe_methods: false, exclusive: false, retry_after: RETRY_AFTER }
    }

    /// Whether to let GET, HEAD and OPTIONS through without quorum: what they answer may be stale.
    /// Default false.
    ///
    /// Not if they ask for an upgrade of the connection, as a WebSocket does with a GET: what follows
    /// would not be asked for quorum.
    pub fn allow_safe_methods(self, allow_safe_methods: bool) -> Self {
        Self { allow_safe_methods, ..self }
    }

    /// Whether to let requests through only while no other partition can have quorum: asks
    /// [`QuorumHandle::is_exclusive`] in place of [`is_quorate`](QuorumHandle::is_quorate). Default
    /// false.
    pub fn exclusive(self, exclusive: bool) -> Self {
        Self { exclusive, ..self }
    }

    /// When clients are told to try again, rounded up to seconds and with up to a quarter more at
    /// random. Default 2 s.
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
    /// The answer of a service behind a [`QuorumGate`].
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
                let answer = answer.take().expect("it is polled until it is ready, and no more");
                Poll::Ready(Ok(answer))
            }
        }
    }
}

/// Boxes the body. Most are boxed already: to map such a response to itself would double what the
/// gate costs.
fn boxed<B: MessageBody + 'static>(response: ServiceResponse<B>) -> ServiceResponse {
    let mut response = Some(response);
    let same = (&mut response as &mut dyn Any).downcast_mut::<Option<ServiceResponse>>();
    if let Some(response) = same.and_then(Option::take) {
        return response;
    }
    response.expect("it is of another type").map_into_boxed_body()
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
