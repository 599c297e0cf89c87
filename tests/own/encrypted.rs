//! The test harness with a Corosync that requires encryption, as versions after 3.1.10 may do.

use std::{env, fs, os::unix::fs::PermissionsExt};

use actix_quorum::Quorum;

use crate::support::{Cluster, TempDir, Watcher};

/// A script in place of Corosync. If it is asked to check a configuration (`-t`), it refuses one
/// without encryption, as such a Corosync does. Otherwise it runs the installed Corosync.
const REFUSES: &str = r#"#!/bin/sh
if [ "$1" = -t ]; then
    grep -q 'crypto_cipher: none' "$3" || exit 0
    echo 'corosync is compiled to require enabled encryption' >&2
    exit 8
fi
PATH=${PATH#*:}
exec corosync "$@"
"#;

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_test_cluster_uses_encryption_if_corosync_requires_it() {
    own_process!();
    let directory = TempDir::new();
    let program = directory.path().join("corosync");
    fs::write(&program, REFUSES).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = env::var("PATH").unwrap();
    // SAFETY: no other thread of this process reads the environment yet.
    unsafe { env::set_var("PATH", format!("{}:{path}", directory.path().display())) };
    let cluster = Cluster::start(2);
    let node = cluster.node(1);
    let conf = fs::read_to_string(node.corosync.config_dir().join("corosync.conf")).unwrap();
    assert!(conf.contains("crypto_cipher: aes256"), "no encryption: {conf}");
    let watcher = Watcher::start(&node.netns);
    watcher.until_settled(Quorum::Quorate, &[1, 2]);
}
