//! Whatever could come from Corosync, through the real callbacks, into the tracker.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| actix_quorum::fuzz_driver::play(bytes));
