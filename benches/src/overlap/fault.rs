//! The faults of node 1.

use std::time::Duration;

use crate::{
    outcome::Totem,
    support::{Cluster, Transport},
};

/// A fault of node 1, of its daemon or its network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Cut,
    LostSends,
    RefusedSends,
    LostReceives,
    LostSendsToOne,
    LostLink,
    Paused,
    Stopped,
    Killed,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::Cut,
        Self::LostSends,
        Self::RefusedSends,
        Self::LostReceives,
        Self::LostSendsToOne,
        Self::LostLink,
        Self::Paused,
        Self::Stopped,
        Self::Killed,
    ];

    /// Returns the name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut both ways",
            Self::LostSends => "lost sends",
            Self::RefusedSends => "refused sends",
            Self::LostReceives => "lost receives",
            Self::LostSendsToOne => "lost sends to node 2",
            Self::LostLink => "lost link to node 2",
            Self::Paused => "daemon paused and resumed",
            Self::Stopped => "daemon stopped in order",
            Self::Killed => "daemon killed",
        }
    }

    /// Returns how long the fault lasts, so that all of its consequences occur.
    pub(crate) fn duration(self, transport: Transport, totem: Totem) -> Duration {
        let seconds = Duration::from_secs;
        let others_form = totem.token + totem.consensus;
        let decided = others_form + seconds(5);
        match self {
            // The node notices at the latest when the others have formed a ring.
            Self::Killed => others_form + seconds(3),
            Self::Stopped => totem.token + seconds(2),
            // Longer than the lease of a handle.
            Self::Paused => decided.max(seconds(14)),
            // Over udpu the node may never notice.
            Self::LostSends
            | Self::RefusedSends
            | Self::LostReceives
            | Self::LostSendsToOne
            | Self::LostLink
                if transport == Transport::Udpu =>
            {
                decided.max(seconds(12))
            }
            _ => decided,
        }
    }

    /// Whether the fault removes node 1, and nothing else, from the cluster.
    pub(crate) fn takes_one_node(self) -> bool {
        matches!(self, Self::Cut | Self::Paused | Self::Stopped | Self::Killed)
    }

    /// Whether the ring may exclude a node other than node 1.
    pub(crate) fn is_of_one_link(self) -> bool {
        matches!(self, Self::LostSendsToOne | Self::LostLink)
    }

    /// Causes the fault.
    pub(crate) fn begin(self, cluster: &Cluster) {
        match self {
            Self::Cut => cluster.cut(1),
            Self::LostSends => cluster.lose_sends(1),
            Self::RefusedSends => cluster.refuse_sends(1),
            Self::LostReceives => cluster.lose_receives(1),
            Self::LostSendsToOne => cluster.lose_sends_to(1, 2),
            Self::LostLink => cluster.lose_link(1, 2),
            Self::Paused => cluster.pause(1),
            Self::Stopped => cluster.stop(1),
            Self::Killed => cluster.kill(1),
        }
    }

    /// Ends the fault.
    pub(crate) fn end(self, cluster: &Cluster) {
        match self {
            Self::Cut
            | Self::LostSends
            | Self::RefusedSends
            | Self::LostReceives
            | Self::LostSendsToOne
            | Self::LostLink => cluster.heal_faults(1),
            Self::Paused => cluster.resume(1),
            Self::Stopped | Self::Killed => cluster.start_node(1),
        }
    }
}
