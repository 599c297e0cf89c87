//! The examples that need no cluster.

use crate::support::Running;

#[test]
fn storage_that_checks_the_fencing_token_refuses_a_stale_writer() {
    let mut fencing = Running::example(None, "fencing", "");
    for line in ["node 1 with token", "node 2 with token"] {
        assert!(fencing.until(line).ends_with(": written"));
    }
    assert!(fencing.until("node 1 with token").contains(": refused, "));
    fencing.until("stored: by node 2");
    assert!(fencing.child.wait().unwrap().success());
}
