//! The page that shows the state live.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
};

use super::no_store_response;
use crate::actor::QuorumHandle;

const PAGE: &str = include_str!("live.html");

/// The content security policy of the page. The page may run its own script, which never turns text
/// into markup, and connect to its own server. The hashes belong to its script and its style; a
/// test checks that.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-BNdps0t0xzb7B0BJDKO7Z/GDO7UqTjP/6ZTvZTicXkE='; \
    style-src 'sha256-JfAk8Xoz6clHbZX8R/NL/3k1yIIJT1yn+ZJlClT+bZY='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// Answers `GET /quorum/live`.
pub(super) fn page(_: &QuorumHandle, _: &HttpRequest) -> HttpResponse {
    no_store_response(StatusCode::OK)
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(PAGE)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_content_security_policy_contains_the_hashes_of_the_page() {
        for tag in ["script", "style"] {
            let (_, rest) = PAGE.split_once(&format!("<{tag}>")).unwrap();
            let (inside, rest) = rest.split_once(&format!("</{tag}>")).unwrap();
            assert!(!rest.contains(&format!("<{tag}")), "the page has one {tag}");
            let hash = BASE64_STANDARD.encode(Sha256::digest(inside));
            let allowed = format!("{tag}-src 'sha256-{hash}'");
            assert!(POLICY.contains(&allowed), "live.rs must contain {allowed}");
        }
    }
}
