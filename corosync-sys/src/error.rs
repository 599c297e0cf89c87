/// The reason why a library of Corosync could not be loaded, or lacks a function.
#[derive(Clone, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The library does not exist, or the dynamic linker cannot open it (for example because no
    /// file descriptor is free) or refuses it.
    #[error("cannot load {library}: {reason}; {}", load_help(library, reason))]
    Library {
        /// The soname of the requested library.
        library: &'static str,
        /// The message of the dynamic linker.
        reason: String,
    },
    /// The file was opened, but lacks a function that every supported version of the library has.
    ///
    /// The file is a different library, or is damaged.
    #[error(
        "{library} has no function {symbol}; check that it is corosync's library, and if it is, \
         reinstall {} (Debian, Ubuntu) or corosynclib (Fedora, RHEL)",
        debian_package(library)
    )]
    Symbol {
        /// The soname of the requested library.
        library: &'static str,
        /// The missing function.
        symbol: &'static str,
    },
    /// The library belongs to a Corosync that is too old.
    #[error(
        "{found} is too old: {library} of {needs} or later is needed; upgrade corosync's libraries"
    )]
    TooOld {
        /// The soname of the requested library.
        library: &'static str,
        /// The library that was found: a soname, a path, or a soname and the function that it
        /// lacks.
        found: String,
        /// The first Corosync whose library can be used.
        needs: &'static str,
    },
}

/// musl's text for a program that is linked statically (`src/ldso/dlopen.c`).
const STATIC_MUSL: &str = "Dynamic loading not supported";

/// Returns what to do about a library that the dynamic linker cannot load for this reason.
fn load_help(library: &str, reason: &str) -> String {
    if reason.contains(STATIC_MUSL) {
        return "this program is linked statically and cannot load libraries: build it for a glibc \
                target, or with `-C target-feature=-crt-static`"
            .to_owned();
    }
    let package =
        format!("{} (Debian, Ubuntu) or corosynclib (Fedora, RHEL)", debian_package(library));
    if reason.contains("No such file") {
        format!("install {package}")
    } else if reason.contains("Too many open files") || reason.contains("No file descriptors") {
        "raise the limit on file descriptors (`ulimit -n`, systemd's LimitNOFILE=)".to_owned()
    } else {
        format!(
            "if the file is damaged or for another architecture, reinstall {package} for the \
             architecture of this program"
        )
    }
}

/// Returns the Debian package of a library: `libquorum5` for `libquorum.so.5`.
fn debian_package(soname: &str) -> String {
    soname.replace(".so.", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_messages_explain_what_to_do_next() {
        let library = "libquorum.so.5";
        assert_eq!(
            LoadError::Library { library, reason: "No such file".to_owned() }.to_string(),
            "cannot load libquorum.so.5: No such file; install libquorum5 (Debian, Ubuntu) or \
             corosynclib (Fedora, RHEL)"
        );
        let reason = "invalid ELF header".to_owned();
        let of_other = LoadError::Library { library, reason }.to_string();
        assert!(of_other.contains("reinstall libquorum5"), "{of_other}");
        let reason = "Too many open files".to_owned();
        let of_limit = LoadError::Library { library, reason }.to_string();
        assert!(of_limit.contains("ulimit -n"), "{of_limit}");
        let reason = "Dynamic loading not supported".to_owned();
        let of_static = LoadError::Library { library, reason }.to_string();
        assert!(of_static.contains("-C target-feature=-crt-static"), "{of_static}");
        assert!(!of_static.contains("install"), "{of_static}");
        assert_eq!(
            LoadError::Symbol { library, symbol: "quorum_dispatch" }.to_string(),
            "libquorum.so.5 has no function quorum_dispatch; check that it is corosync's library, \
             and if it is, reinstall libquorum5 (Debian, Ubuntu) or corosynclib (Fedora, RHEL)"
        );
        let found = "libquorum.so.4".to_owned();
        assert_eq!(
            LoadError::TooOld { library, found, needs: "corosync 2.0.0" }.to_string(),
            "libquorum.so.4 is too old: libquorum.so.5 of corosync 2.0.0 or later is needed; \
             upgrade corosync's libraries"
        );
    }
}
