//! The tests of this crate: its declarations, and how the libraries are loaded.

mod abi;
mod load;
mod support;
