//! The actors on the nodes of a cluster.

use std::{
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use actix_quorum::{QuorumHandle, Snapshot, Votes};

use super::{
    backend::{Backend, Settings},
    observer::Observer,
    sequences::Sequence,
};
use crate::support::eventually;

/// The actors on some nodes of a cluster, by node id.
pub(crate) struct Nodes(BTreeMap<u32, Observer>);

/// Returns a cluster that has formed, and an actor on each node. Each actor has published the ring.
pub(crate) fn formed<B: Backend>(size: u32, settings: Settings) -> (B, Nodes) {
    let backend = B::formed(size, settings);
    let ids: Vec<u32> = (1..=size).collect();
    let nodes = Nodes::watch(&backend, &ids);
    let all: String = ids.iter().map(|id| format!(" {id}")).collect();
    nodes.expect(
        &ids,
        &[
            "unknown: connecting",
            "unknown: connected",
            &format!("unknown: new ring{all}, unsettled; joined{all}"),
            &format!("quorate: ring{all}"),
        ],
    );
    nodes.agree(&backend);
    (backend, nodes)
}

impl Nodes {
    pub(crate) fn watch<B: Backend>(backend: &B, ids: &[u32]) -> Self {
        Self(ids.iter().map(|id| (*id, backend.watch(*id))).collect())
    }

    /// Expects these next steps on each of these nodes.
    #[track_caller]
    pub(crate) fn expect(&self, ids: &[u32], steps: &[&str]) {
        ids.iter().for_each(|id| self.0[id].expect(steps));
    }

    /// Expects one of these sequences on each of these nodes; see [`Observer::expect_one_of`].
    #[track_caller]
    pub(crate) fn expect_one_of(&self, ids: &[u32], sequences: &[Sequence]) {
        ids.iter().for_each(|id| self.0[id].expect_one_of(sequences));
    }

    /// Expects that exactly these nodes report quorum.
    #[track_caller]
    pub(crate) fn expect_quorate(&self, ids: &[u32]) {
        let quorate = self.0.iter().filter(|(_, node)| node.quorum().is_quorate());
        let quorate: Vec<u32> = quorate.map(|(id, _)| *id).collect();
        assert_eq!(quorate, ids);
    }

    /// Waits until votequorum reports the `wanted` votes on these nodes.
    #[track_caller]
    pub(crate) fn know_votes(&self, ids: &[u32], wanted: impl Fn(&Votes) -> bool) {
        for id in ids {
            eventually("the votes are known", || {
                let now = self.0[id].quorum().snapshot();
                now.votes.as_ref().filter(|votes| wanted(votes)).map(|_| ())
            });
        }
    }

    pub(crate) fn quorum(&self, id: u32) -> &QuorumHandle {
        self.0[&id].quorum()
    }

    /// Waits until nodes with the same members have the same ring and the same quorum, and
    /// corosync-quorumtool shows the same.
    #[track_caller]
    pub(crate) fn agree<B: Backend>(&self, backend: &B) {
        let mut settled: Vec<(u32, Arc<Snapshot>)> = Vec::new();
        let agree = || {
            let snapshots = self.0.iter().map(|(id, node)| (*id, node.quorum().snapshot()));
            settled = snapshots.filter(|(_, snapshot)| snapshot.settled).collect();
            let mut pairs =
                settled.iter().flat_map(|one| settled.iter().map(move |two| (one, two)));
            let same = pairs.all(|((_, one), (_, two))| Self::same(one, two));
            let shown = || settled.iter().all(|(id, snapshot)| backend.is_shown(*id, snapshot));
            (same && shown()).then_some(())
        };
        let agreed = panic::catch_unwind(AssertUnwindSafe(|| {
            eventually("the nodes and corosync-quorumtool agree", agree);
        }));
        assert!(agreed.is_ok(), "the nodes report {settled:#?}");
    }

    /// Whether two nodes report the same ring and quorum, or have different members.
    fn same(one: &Snapshot, two: &Snapshot) -> bool {
        let state = |of: &Snapshot| (of.quorum, of.ring_id);
        one.members != two.members || state(one) == state(two)
    }
}
