//! The names in JSON, on which clients rely.

use actix::{Arbiter, System};
use actix_quorum::{
    Cause, Code, Connection, Corosync, Error, FencingToken, NodeId, Nodes, Quorum, QuorumActor,
    RingId, RingState, Snapshot, VoteFlags, Votes,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

#[test]
fn a_snapshot_is_serialized_with_its_field_names() {
    System::new().block_on(async {
        // SAFETY: there is no such file.
        let nowhere = unsafe { Corosync::load_from("/nowhere/libquorum.so.5") };
        let quorum = QuorumActor::builder().source(nowhere).start_in_arbiter(&Arbiter::current());
        let snapshot = quorum.wait_for(|snapshot| snapshot.sequence == 1).await.unwrap();
        let json = serde_json::to_value(&*snapshot).unwrap();
        assert_eq!(json["sequence"], 1);
        assert_eq!(json["quorum"], "unknown");
        assert_eq!(json["connection"]["state"], "connecting");
        assert_eq!(json["connection"]["attempt"], 1);
        let error = json["connection"]["error"].as_str().unwrap();
        assert!(error.starts_with("cannot load libquorum"), "{error}");
        assert_eq!((&json["ring_id"], &json["members"]), (&json!(null), &json!([])));
        assert_eq!((&json["settled"], &json["epoch"]), (&json!(false), &json!(0)));
        quorum.stop().await;
        let json = serde_json::to_value(&*quorum.snapshot()).unwrap();
        assert_eq!(json["connection"], json!({ "state": "stopped" }));
    });
}

#[test]
fn ids_are_serialized_as_they_are_shown() {
    assert_eq!(serde_json::to_value(NodeId(42)).unwrap(), json!(42));
    let ring_id = RingId { node_id: NodeId(1), seq: 0x2a };
    assert_eq!(serde_json::to_value(ring_id).unwrap(), json!("1.2a"));
}

/// Serializes a value to JSON and deserializes it again.
fn through_json<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

#[test]
fn serialized_values_are_deserialized_unchanged() {
    for quorum in [Quorum::Quorate, Quorum::Inquorate, Quorum::Unknown] {
        assert_eq!(through_json(&quorum), quorum);
    }
    for cause in [
        Cause::Subscribed,
        Cause::ConnectFailed,
        Cause::Connected,
        Cause::Membership,
        Cause::Quorum,
        Cause::Votes,
        Cause::Ring,
        Cause::Stalled,
        Cause::Disconnected,
        Cause::Stopped,
    ] {
        assert_eq!(through_json(&cause), cause);
        assert_eq!(serde_json::to_value(cause).unwrap(), json!(cause.to_string()));
    }
    assert_eq!(serde_json::to_value(Cause::ConnectFailed).unwrap(), json!("connect_failed"));
    let rings =
        [RingState::Unknown, RingState::Operational, RingState::Gather, RingState::Unwatched];
    assert_eq!(through_json(&rings), rings);
    assert_eq!(serde_json::to_value(rings).unwrap(), json!(rings.map(|ring| ring.to_string())));
    let nodes: Nodes = [NodeId(3), NodeId(1)].into_iter().collect();
    assert_eq!(serde_json::to_value(&nodes).unwrap(), json!([1, 3]));
    assert_eq!(serde_json::from_value::<Nodes>(json!([3, 1, 3])).unwrap(), nodes);
    assert_eq!(through_json(&(NodeId(7), FencingToken::from(42))), (NodeId(7), 42.into()));
    let ring_id = RingId { node_id: NodeId(26), seq: u64::MAX };
    assert_eq!(through_json(&ring_id), ring_id);
    assert!(serde_json::from_str::<RingId>("\"ring\"").is_err());

    let mut votes = Votes::default();
    (votes.expected, votes.total, votes.quorum, votes.configured) = (5, 4, 3, Some(5));
    votes.members = vec![(NodeId(1), 3), (NodeId(22), 1)];
    votes.flags = VoteFlags::QUORATE | VoteFlags::QDEVICE_CAST_VOTE;
    let json = serde_json::to_value(&votes).unwrap();
    assert_eq!((&json["margin"], &json["members"]), (&json!(1), &json!({ "1": 3, "22": 1 })));
    assert_eq!(through_json(&votes), votes);
    assert_eq!(
        serde_json::from_str::<VoteFlags>(r#"["quorate","new"]"#).unwrap(),
        VoteFlags::QUORATE
    );

    let mut snapshot = Snapshot::new(Quorum::Quorate, ring_id, [1, 22]);
    (snapshot.votes, snapshot.local) = (Some(votes), Some(NodeId(22)));
    let read = through_json(&snapshot);
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&snapshot).unwrap());
    assert!(!read.has_majority(), "whether the votes are current is not in JSON");
}

#[test]
fn a_deserialized_error_keeps_its_text() {
    let error = Error::Connect(Code::ACCESS);
    for connection in [
        Connection::connecting(3, Some(error.clone())),
        Connection::connecting(1, None),
        Connection::disconnected(error.clone()),
        Connection::Connected,
        Connection::Stalled,
        Connection::Stopped,
    ] {
        let read = through_json(&connection);
        assert_eq!(read.to_string(), connection.to_string());
        assert_eq!(through_json(&read), read);
    }
    assert_eq!(through_json(&error), Error::Remote(error.to_string()));
}
