//! The names of nodes, from a real daemon's configuration.

use actix_quorum::{NodeId, Quorum};

use crate::support::{Cluster, Node, Watcher, eventually, runs_thread};

fn names(watcher: &Watcher) -> Vec<(u32, String)> {
    let names = watcher.quorum.node_names();
    names.iter().map(|(NodeId(id), name)| (*id, name.clone())).collect()
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_names_are_those_of_the_configuration() {
    own_process!();
    let cluster = Cluster::start(3);
    let watcher = Watcher::start(&cluster.node(2).netns);
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
    let expected = [(1, "n1".into()), (2, "n2".into()), (3, "n3".into())];
    eventually("the names are read", || (names(&watcher) == expected).then_some(()));
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_node_without_a_name_has_none_and_a_new_name_is_read() {
    own_process!();
    let node = Node::single_with(|config| config.names = false);
    let watcher = Watcher::start(&node.netns);
    watcher.until_settled(Quorum::Quorate, &[1]);
    eventually("what there was to read is read", || (!runs_thread("quorum-names")).then_some(()));
    assert_eq!(names(&watcher), []);
    node.corosync.configure(|config| config.names = true);
    node.corosync.reload();
    let named = || (names(&watcher) == [(1, "n1".to_owned())]).then_some(());
    eventually("the name is read", named);
}
