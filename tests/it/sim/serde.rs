//! The names in JSON are for others to rely on.

use actix::{Arbiter, System};
use actix_quorum::{Corosync, NodeId, QuorumActor, RingId};
use serde_json::json;

#[test]
fn a_snapshot_is_told_under_the_names_of_its_fields() {
    System::new().block_on(async {
        let quorum = QuorumActor::builder()
            .source(Corosync::load_from("/nowhere/libquorum.so.5"))
            .start_in_arbiter(&Arbiter::current());
        let snapshot = quorum.wait_for(|snapshot| snapshot.sequence == 1).await.unwrap();
        let told = serde_json::to_value(&*snapshot).unwrap();
        assert_eq!(told["sequence"], 1);
        assert_eq!(told["quorum"], "unknown");
        assert_eq!(told["connection"]["state"], "connecting");
        assert_eq!(told["connection"]["attempt"], 1);
        let error = told["connection"]["error"].as_str().unwrap();
        assert!(error.starts_with("cannot load libquorum"), "{error}");
        assert_eq!((&told["ring_id"], &told["members"]), (&json!(null), &json!([])));
        assert_eq!((&told["settled"], &told["epoch"]), (&json!(false), &json!(0)));
        quorum.stop().await;
        let told = serde_json::to_value(&*quorum.snapshot()).unwrap();
        assert_eq!(told["connection"], json!({ "state": "stopped" }));
    });
}

#[test]
fn ids_are_told_as_they_are_shown() {
    assert_eq!(serde_json::to_value(NodeId(42)).unwrap(), json!(42));
    let ring_id = RingId { node_id: NodeId(1), seq: 0x2a };
    assert_eq!(serde_json::to_value(ring_id).unwrap(), json!("1.2a"));
}
