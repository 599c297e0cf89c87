//! The error for a server that runs as an unmapped user, which is how the host's root appears in a
//! separate user namespace.

use std::{env, process::Command};

use actix_quorum::Error;

#[test]
#[ignore = "needs root: make test"]
fn the_error_for_an_unmapped_user_explains_the_namespace() {
    let error = Error::untrusted_server(Some(65534), 0).to_string();
    if env::var_os("IN_NAMESPACE").is_some() {
        assert!(error.contains("/proc/self/uid_map") && !error.contains("ss -xlp"), "{error}");
        return;
    }
    assert!(error.contains("ss -xlp") && !error.contains("uid_map"), "{error}");
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "user_namespace::the_error_for_an_unmapped_user_explains_the_namespace"])
        .args(["--include-ignored", "--nocapture"])
        .env("IN_NAMESPACE", "1")
        .output()
        .expect("unshare can be run");
    let output = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && output.contains("1 passed"), "{output}");
}
