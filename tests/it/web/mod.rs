//! Tests of the feature `web`.

mod browser;
mod requests;
mod server;
