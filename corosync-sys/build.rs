//! Finds the C libraries if the feature `linked` is enabled; otherwise does nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "linked")]
    link();
}

/// Finds the three libraries with pkg-config. If one is missing, prints which packages contain it.
#[cfg(feature = "linked")]
fn link() {
    for library in ["libquorum", "libvotequorum", "libcmap"] {
        // 3.1.0 is the first version with `quorum_model_initialize`.
        let found = pkg_config::Config::new().atleast_version("3.1.0").probe(library);
        if let Err(error) = found {
            eprintln!("{error}");
            println!(
                "cargo::error=feature `linked` needs {library} of corosync 3.1.0 or later and \
                 pkg-config; install libquorum-dev, libvotequorum-dev and libcmap-dev (Debian, \
                 Ubuntu) or corosynclib-devel (Fedora, RHEL), or build without the feature"
            );
            std::process::exit(1);
        }
    }
}
