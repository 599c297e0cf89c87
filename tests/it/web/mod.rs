//! Tests of what the feature `web` serves.

mod browser;
mod requests;
mod server;
