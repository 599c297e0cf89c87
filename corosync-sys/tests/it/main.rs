//! The tests of this crate: its declarations, and the loading of the libraries.

mod abi;
mod load;
mod support;
