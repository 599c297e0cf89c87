//! Passes arbitrary calls, answers and reads through the real callbacks to the tracker.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| actix_quorum::fuzz_driver::play(bytes));
