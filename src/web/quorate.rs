use std::{
    future::{Ready, ready},
    ops::Deref,
};

use actix_web::{
    Error, FromRequest, HttpRequest, dev::Payload, error::ErrorInternalServerError, web::Data,
};

use super::refusal::{NotQuorate, RETRY_AFTER};
use crate::actor::{QuorumGuard, QuorumHandle};

/// Extractor that lets a handler run only if this node has quorum when the request arrives. It
/// contains a [`QuorumGuard`], which reports the end of quorum.
///
/// It takes the handle from [`web::Data<QuorumHandle>`](actix_web::web::Data), which
/// [`routes`](super::routes) adds to the `App` or scope that it configures. Without quorum the
/// answer is the same as from a [`QuorumGate`](super::QuorumGate) with default settings:
/// [`NotQuorate`].
///
/// ```
/// use actix_quorum::{QuorumHandle, QuorumLost, web::Quorate};
/// use actix_web::{HttpResponse, Responder, web};
///
/// /// Many writes, which must stop when quorum is lost.
/// async fn import(quorate: Quorate) -> impl Responder {
///     match quorate.run(async { /* one write after another */ }).await {
///         Ok(()) => HttpResponse::Ok().body("all written"),
///         Err(QuorumLost) => HttpResponse::ServiceUnavailable().body("some may be written"),
///     }
/// }
///
/// fn configure(config: &mut web::ServiceConfig, quorum: &QuorumHandle) {
///     // Not needed beside `routes(quorum)`.
///     config.app_data(web::Data::new(quorum.clone()));
///     config.route("/import", web::post().to(import));
/// }
/// ```
///
/// # Errors
///
/// [`NotQuorate`] without quorum. 500 without a `web::Data<QuorumHandle>`; a log line explains what
/// to add.
#[derive(Clone, Debug)]
#[must_use = "it proves quorum: work under its guard"]
pub struct Quorate(QuorumGuard);

impl Quorate {
    /// Returns the guard, which is valid in the epoch in which the request was accepted.
    pub fn into_guard(self) -> QuorumGuard {
        self.0
    }
}

impl Deref for Quorate {
    type Target = QuorumGuard;

    fn deref(&self) -> &QuorumGuard {
        &self.0
    }
}

impl FromRequest for Quorate {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(quorum) = request.app_data::<Data<QuorumHandle>>() else {
            crate::foreign::log!(
                log::Level::Error,
                "cannot check quorum for {} {}: the `App` has no `web::Data<QuorumHandle>`. Add \
                 `.app_data(web::Data::new(quorum.clone()))` or \
                 `.configure(routes(quorum.clone()))`, where `quorum` is a `QuorumHandle`",
                request.method(),
                request.path(),
            );
            return ready(Err(ErrorInternalServerError("the service is not set up\n")));
        };
        let refusal = || NotQuorate::new(quorum, false, RETRY_AFTER).into();
        ready(quorum.guard().map(Self).ok_or_else(refusal))
    }
}
