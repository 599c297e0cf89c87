//! The declarations of `corosync/corotypes.h` that the three libraries use.

use std::ffi::c_uint;

/// The result of every call: [`CS_OK`] or one of `CS_ERR_*`.
///
/// An enum in C, and a number here, because a newer library may return a value without a name in
/// this crate.
pub type cs_error_t = c_uint;

/// How much a dispatch call does: one of `CS_DISPATCH_*`. An enum in C.
pub type cs_dispatch_flags_t = c_uint;

/// Waits for one event, and dispatches it.
pub const CS_DISPATCH_ONE: cs_dispatch_flags_t = 1;
/// Dispatches all queued events, and does not wait.
pub const CS_DISPATCH_ALL: cs_dispatch_flags_t = 2;
/// Dispatches events, and waits for more, until the connection ends.
pub const CS_DISPATCH_BLOCKING: cs_dispatch_flags_t = 3;
/// Dispatches one event if one is queued, otherwise returns [`CS_ERR_TRY_AGAIN`].
pub const CS_DISPATCH_ONE_NONBLOCKING: cs_dispatch_flags_t = 4;

/// Asks for the current state, once.
pub const CS_TRACK_CURRENT: c_uint = 0x01;
/// Asks for the current state and every change.
pub const CS_TRACK_CHANGES: c_uint = 0x02;
/// Asks for every change, without the current state.
pub const CS_TRACK_CHANGES_ONLY: c_uint = 0x04;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        $(
            $(#[$doc])*
            pub const $name: cs_error_t = $value;
        )*

        /// Returns the C name of a result: `error_name(2)` is `Some("CS_ERR_LIBRARY")`.
        ///
        /// Does the same as `cs_strerror`, which is in another library.
        #[must_use]
        pub const fn error_name(code: cs_error_t) -> Option<&'static str> {
            match code {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }

        #[cfg(test)]
        const CODES: &[(&str, cs_error_t)] = &[$((stringify!($name), $name)),*];
    };
}

codes! {
    /// The call succeeded.
    CS_OK = 1,
    /// The daemon is not running, or the connection to it is lost.
    CS_ERR_LIBRARY = 2,
    /// The client and the daemon use different versions of the protocol.
    CS_ERR_VERSION = 3,
    /// The service could not be initialized.
    CS_ERR_INIT = 4,
    /// The call has timed out.
    CS_ERR_TIMEOUT = 5,
    /// From a dispatch: nothing is queued. From other calls: the daemon is busy.
    CS_ERR_TRY_AGAIN = 6,
    /// A parameter is wrong.
    CS_ERR_INVALID_PARAM = 7,
    /// Out of memory.
    CS_ERR_NO_MEMORY = 8,
    /// There is no such handle.
    CS_ERR_BAD_HANDLE = 9,
    /// The resource is in use.
    CS_ERR_BUSY = 10,
    /// The daemon refuses this user.
    CS_ERR_ACCESS = 11,
    /// The node, the key or another object does not exist.
    CS_ERR_NOT_EXIST = 12,
    /// The name is too long.
    CS_ERR_NAME_TOO_LONG = 13,
    /// The object exists already. From a track start: tracking was already started.
    CS_ERR_EXIST = 14,
    /// There is not enough space, for example in `/dev/shm`.
    CS_ERR_NO_SPACE = 15,
    /// A signal interrupted the call.
    CS_ERR_INTERRUPT = 16,
    /// The name is not known.
    CS_ERR_NAME_NOT_FOUND = 17,
    /// There are not enough resources, for example file descriptors.
    CS_ERR_NO_RESOURCES = 18,
    /// The call is not supported.
    CS_ERR_NOT_SUPPORTED = 19,
    /// The operation is not allowed now.
    CS_ERR_BAD_OPERATION = 20,
    /// The operation failed.
    CS_ERR_FAILED_OPERATION = 21,
    /// A message was damaged.
    CS_ERR_MESSAGE_ERROR = 22,
    /// A queue is full.
    CS_ERR_QUEUE_FULL = 23,
    /// A queue is not available.
    CS_ERR_QUEUE_NOT_AVAILABLE = 24,
    /// The flags are wrong.
    CS_ERR_BAD_FLAGS = 25,
    /// The value is too big.
    CS_ERR_TOO_BIG = 26,
    /// There are no more sections; ends an iteration of the cmap.
    CS_ERR_NO_SECTIONS = 27,
    /// There is no such context.
    CS_ERR_CONTEXT_NOT_FOUND = 28,
    /// There are too many groups.
    CS_ERR_TOO_MANY_GROUPS = 30,
    /// The call is refused for security reasons.
    CS_ERR_SECURITY = 100,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name() {
        for &(name, code) in CODES {
            assert_eq!(error_name(code), Some(name));
        }
        let named = (0..=1000).filter_map(error_name).count();
        assert_eq!(named, CODES.len());
    }

    #[test]
    fn numbers_that_are_not_error_codes_have_no_name() {
        for code in [0, 29, 31, 99, 101, cs_error_t::MAX] {
            assert_eq!(error_name(code), None, "{code}");
        }
    }
}
