//! The connections of a simulated cluster's nodes, and the task that advances the cluster's time.

use std::{collections::HashMap, pin::pin, sync::Arc};

use futures_util::future::{Either, select};

use super::{cluster::Cluster, connection::Client, world::World};
use crate::{error::Code, libquorum::NodeId};

#[derive(Debug)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) nodes: HashMap<NodeId, Clients>,
}

/// The clients of a node, and the node's faults.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) connected: Vec<Client>,
    /// The number of sources whose actor may connect.
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

    /// Ends a node's connections, as the death of its daemon does.
    pub(super) fn disconnect(&mut self, id: NodeId) {
        let clients = self.clients(id);
        let silent = clients.faults.silent;
        clients.connected.drain(..).for_each(|client| client.hang_up(silent));
    }

    /// Delivers the notifications that the nodes have sent.
    pub(super) fn deliver(&mut self) {
        for node in &mut self.world.nodes {
            let sent = std::mem::take(&mut node.sent);
            if let Some(clients) = self.nodes.get_mut(&node.id) {
                clients.connected.retain(|client| client.is_open());
                for client in &clients.connected {
                    sent.iter().for_each(|notification| client.send(notification.clone()));
                }
            }
        }
    }
}

/// A fault between a node's daemon and its clients.
///
/// ```
/// use actix_quorum::{Code, Connection, QuorumActor, sim::{Cluster, Fault}};
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Cluster::new(3);
/// cluster.fault(1, Fault::Connect(Code::ACCESS))?;
/// let quorum = QuorumActor::builder().source(cluster.node(1)).start();
/// let refused = |connection: &Connection| {
///     matches!(connection, Connection::Connecting { error: Some(_), .. })
/// };
/// let now = quorum.wait_for(|now| refused(&now.connection)).await?;
/// assert!(now.to_string().contains("CS_ERR_ACCESS (11)"));
/// # quorum.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Connecting fails with this code.
    Connect(Code),
    /// `quorum_trackstart` fails with this code.
    TrackStart(Code),
    /// `quorum_dispatch` fails with this code on each current connection, which ends it. Later
    /// connections are not affected.
    Dispatch(Code),
    /// The server runs as this user. Current connections are not affected.
    ServerUid(u32),
    /// The descriptor does not report the daemon's death, as with `qb_ipc_type: socket`.
    SilentDeath,
}

impl Cluster {
    /// Called when a client has received everything. A daemon that has just started stays alone
    /// until all of its clients have received everything, and then joins the other nodes.
    pub(super) fn drained(&self, id: NodeId) {
        let joins = |state: &mut State| {
            let clients = state.clients(id);
            let up_to_date = clients.connected.iter().filter(|client| client.is_drained()).count();
            up_to_date >= clients.sources
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

    /// Advances the cluster's time for as long as the cluster exists.
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
