use std::{
    future::{Ready, ready},
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    Error,
    body::{EitherBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform},
    http::Method,
};
use futures_util::{
    TryFutureExt,
    future::{Either, MapOk},
};

use super::refusal::{NotQuorate, RETRY_AFTER};
use crate::QuorumHandle;

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
///     let gate = QuorumGate::new(quorum).allow_safe_methods().retry_after(Duration::from_secs(5));
///     config.service(web::resource("/records").wrap(gate).get(read).post(write));
/// }
/// ```
#[derive(Clone, Debug)]
pub struct QuorumGate {
    quorum: QuorumHandle,
    allow_safe_methods: bool,
    retry_after: Duration,
}

impl QuorumGate {
    /// Refuses every request unless this node has quorum.
    pub fn new(quorum: QuorumHandle) -> Self {
        Self { quorum, allow_safe_methods: false, retry_after: RETRY_AFTER }
    }

    /// Lets GET, HEAD and OPTIONS through without quorum: what they answer may be stale.
    pub fn allow_safe_methods(self) -> Self {
        Self { allow_safe_methods: true, ..self }
    }

    /// When clients are told to try again, rounded up to seconds and with up to a quarter more at
    /// random. Default 2 s.
    pub fn retry_after(self, retry_after: Duration) -> Self {
        Self { retry_after, ..self }
    }

    fn admits(&self, method: &Method) -> bool {
        let safe = || matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        (self.allow_safe_methods && safe()) || self.quorum.is_quorate()
    }
}

impl<S, B> Transform<S, ServiceRequest> for QuorumGate
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Response = ServiceResponse<EitherBody<B>>;
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

type Passed<F, B> = MapOk<F, fn(ServiceResponse<B>) -> ServiceResponse<EitherBody<B>>>;

impl<S, B> Service<ServiceRequest> for Gated<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Either<Passed<S::Future, B>, Ready<Result<Self::Response, Error>>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        if self.gate.admits(request.method()) {
            let passed: Passed<_, _> =
                self.service.call(request).map_ok(ServiceResponse::map_into_left_body);
            return Either::Left(passed);
        }
        let refusal = NotQuorate::new(&self.gate.quorum, self.gate.retry_after);
        Either::Right(ready(Ok(request.error_response(refusal).map_into_right_body())))
    }
}
