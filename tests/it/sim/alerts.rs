//! The alerting rules for Prometheus.

use crate::support::promtool;

#[test]
#[ignore = "needs promtool: make test"]
fn the_alert_rules_are_valid_and_pass_their_tests() {
    let alerts = concat!(env!("CARGO_MANIFEST_DIR"), "/alerts");
    promtool(&["check", "rules", &format!("{alerts}/quorum.rules.yml")], "");
    promtool(&["test", "rules", &format!("{alerts}/quorum.test.yml")], "");
}
