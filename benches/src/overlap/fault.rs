//! What is done to node 1.

use std::time::Duration;

use crate::{
    outcome::Totem,
    support::{Cluster, Transport},
};

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

    /// How long it lasts: until everything has happened that it leads to.
    pub(crate) fn lasts(self, transport: Transport, totem: Totem) -> Duration {
        let seconds = Duration::from_secs;
        let others_form = totem.token + totem.consensus;
        let decided = others_form + seconds(5);
        match self {
            // The node finds out at the latest when the others have formed.
            Self::Killed => others_form + seconds(3),
            Self::Stopped => totem.token + seconds(2),
            // Longer than the lease of a handle.
            Self::Paused => decided.max(seconds(14)),
            // Over udpu the node may never find out.
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

    /// Whether it takes node 1, and nothing else, from the cluster.
    pub(crate) fn takes_one_node(self) -> bool {
        matches!(self, Self::Cut | Self::Paused | Self::Stopped | Self::Killed)
    }

    /// Whether another node than node 1 may be the one that is left out.
    pub(crate) fn is_of_one_link(self) -> bool {
        matches!(self, Self::LostSendsToOne | Self::LostLink)
    }

    pub(crate) fn begin(self, cluster: &Cluster) {
        match self {
            Self::Cut => cluster.cut(1),
            Self::LostSends => cluster.lose_sends(1),
            Self::RefusedSends => cluster.refuse_sends(1),
            Self::LostReceives => cluster.lose_receives(1),
            Self::LostSendsToOne => cluster.lose_sends_to(1, 2),
            Self::LostLink => cluster.lose_link(1, 2),
            Self::Paused => cluster.pause(1),
            Self::Stopped => cluster.terminate(1),
            Self::Killed => cluster.kill(1),
        }
    }

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
