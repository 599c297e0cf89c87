//! The connections of the nodes of a simulated cluster, and the passing of its time.

use std::{collections::HashMap, pin::pin, sync::Arc};

use futures_util::future::{Either, select};

use super::{cluster::Cluster, connection::Client, world::World};
use crate::{error::Code, libquorum::NodeId};

#[derive(Debug)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) nodes: HashMap<NodeId, Clients>,
}

/// Who is connected to a node, and how that goes wrong.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) connected: Vec<Client>,
    /// How many sources there are whose actor may connect.
    pub(super) sources: usize,
    pub(super) faults: Faults,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) connect: Option<Code>,
    pub(super) track_start: Option<Code>,
    pub(super) server_uid: u32,
    pub(super) silent: bool,
}

impl State {
    pub(super) fn clients(&mut self, id: NodeId) -> &mut Clients {
        self.nodes.entry(id).or_default()
    }

    pub(super) fn start(&mut self, id: NodeId, restarted: bool) {
        let alone = self.clients(id).sources > 0;
        self.world.start(id, alone, restarted);
    }

    /// Ends a node's connections as the death of its daemon does.
    pub(super) fn disconnect(&mut self, id: NodeId) {
        let clients = self.clients(id);
        let silent = clients.faults.silent;
        clients.connected.drain(..).for_each(|client| client.hang_up(silent));
    }

    /// Passes on what the nodes have told.
    pub(super) fn tell(&mut self) {
        for node in &mut self.world.nodes {
            let told = std::mem::take(&mut node.told);
            if let Some(clients) = self.nodes.get_mut(&node.id) {
                clients.connected.retain(|client| client.is_open());
                for client in &clients.connected {
                    told.iter().for_each(|notification| client.tell(notification.clone()));
                }
            }
        }
    }
}

/// Something that goes wrong between a node's daemon and its clients.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Connecting fails with this code.
    Connect(Code),
    /// `quorum_trackstart` fails with this code.
    TrackStart(Code),
    /// `quorum_dispatch` fails with this code, once, on each connection that there is.
    Dispatch(Code),
    /// The server is run by this user. Connections that there are keep what they know.
    ServerUid(u32),
    /// When the daemon dies the descriptor does not tell, as with `qb_ipc_type: socket`.
    SilentDeath,
}

impl Cluster {
    /// A client has been told everything. A daemon that was alone for its sake joins the others
    /// when all have.
    pub(super) fn drained(&self, id: NodeId) {
        let joins = |state: &mut State| {
            let clients = state.clients(id);
            let told = clients.connected.iter().filter(|client| client.is_drained()).count();
            told >= clients.sources
        };
        let alone = self.state.lock().world.node(id).is_some_and(|node| node.alone);
        if alone {
            self.change_all(|state| {
                if joins(state) {
                    state.world.join(id);
                }
            });
        }
    }

    /// Lets time have its effect for as long as the cluster is there.
    pub(super) async fn drive(self) {
        let (state, sender, made_at) =
            (Arc::downgrade(&self.state), Arc::downgrade(&self.changed), self.made_at);
        let mut changed = self.changed.subscribe();
        drop(self);
        loop {
            let next = match state.upgrade() {
                Some(state) => state.lock().world.totem.next_due(),
                None => return,
            };
            let due = async {
                match next {
                    Some(due) => tokio::time::sleep_until(made_at + due).await,
                    None => std::future::pending().await,
                }
            };
            match select(pin!(due), pin!(changed.changed())).await {
                Either::Right((Ok(()), _)) => {}
                Either::Right((Err(_), _)) => return,
                Either::Left(_) => {
                    let (Some(state), Some(changed)) = (state.upgrade(), sender.upgrade()) else {
                        return;
                    };
                    Self { state, changed, made_at }.change(|_| {});
                }
            }
        }
    }
}
