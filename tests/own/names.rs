//! The names of nodes, from a real daemon's configuration.

use std::fs;

use actix_quorum::{NodeId, Quorum, RingState};

use crate::support::{Cluster, Node, TempDir, Watcher, command, eventually, runs_thread};

fn names(watcher: &Watcher) -> Vec<(u32, String)> {
    let names = watcher.quorum.node_names();
    names.iter().map(|(NodeId(id), name)| (*id, name.clone())).collect()
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_node_names_are_read_from_the_configuration() {
    own_process!();
    let cluster = Cluster::start(3);
    let watcher = Watcher::start(&cluster.node(2).netns);
    watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
    let expected = [(1, "n1".into()), (2, "n2".into()), (3, "n3".into())];
    eventually("the names are read", || (names(&watcher) == expected).then_some(()));
}

/// Pacemaker and corosync-quorumtool name such a node in the same way.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_node_without_a_name_gets_the_host_name_in_its_address() {
    own_process!();
    let node = Node::single_with(|config| {
        config.names = false;
        config.nodes = vec![(1, "localhost".to_owned())];
    });
    let watcher = Watcher::start(&node.netns);
    watcher.until_settled(Quorum::Quorate, &[1]);
    let named = || (names(&watcher) == [(1, "localhost".to_owned())]).then_some(());
    eventually("the node has the name localhost", named);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_node_without_any_name_has_none_until_a_reload_adds_one() {
    own_process!();
    let node = Node::single_with(|config| config.names = false);
    let watcher = Watcher::start(&node.netns);
    watcher.until_settled(Quorum::Quorate, &[1]);
    eventually("the read of the names has ended", || (!runs_thread("quorum-names")).then_some(()));
    assert_eq!(names(&watcher), []);
    node.corosync.configure(|config| config.names = true);
    node.corosync.reload();
    let named = || (names(&watcher) == [(1, "n1".to_owned())]).then_some(());
    eventually("the name is read", named);
}

/// The test imitates the libcmap of Corosync 2: in a copy of the installed libcmap, it renames the
/// function that only Corosync 3 has.
#[test]
#[ignore = "needs root, corosync and a C compiler: make test"]
fn the_names_are_read_through_a_libcmap_of_corosync_2() {
    own_process!();
    let installed = command("cc", &["-print-file-name=libcmap.so.4"]);
    let mut library = fs::read(installed.trim()).unwrap();
    let name = b"\0cmap_initialize_map\0";
    let place = library.windows(name.len()).position(|bytes| bytes == name).unwrap();
    // A lookup of the original name then finds nothing.
    library[place + name.len() - 2] = b'_';
    let directory = TempDir::new();
    let path = directory.path().join("libcmap.so.4");
    fs::write(&path, library).unwrap();
    // From now on, this process uses the copy when it loads `libcmap.so.4`. SAFETY: the copy has
    // the code of the installed library, whose initializers do not matter here.
    let library = unsafe { libloading::Library::new(&path) }.unwrap();
    // SAFETY: the function is not called.
    let missing = unsafe { library.get::<extern "C" fn()>("cmap_initialize_map") };
    assert!(missing.is_err());

    let node = Node::single();
    let watcher = Watcher::start(&node.netns);
    watcher.until_settled(Quorum::Quorate, &[1]);
    let named = || (names(&watcher) == [(1, "n1".to_owned())]).then_some(());
    eventually("the names are read", named);
    // The counters of a daemon of Corosync 3 cannot be read with this libcmap.
    assert_eq!(watcher.quorum.snapshot().ring, RingState::Unwatched);
    assert!(watcher.quorum.is_quorate());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let cmaps = maps.lines().filter(|line| line.contains("libcmap.so.4"));
    assert!(cmaps.map(|line| line.rsplit(' ').next()).all(|loaded| loaded == path.to_str()));
}
