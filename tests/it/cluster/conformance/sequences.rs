//! The sequences that a real cluster may produce. The simulated cluster produces the first of each.

/// The steps of a sequence.
pub(crate) type Sequence = Vec<String>;

pub(crate) fn sequence(steps: &[&str]) -> Sequence {
    steps.iter().map(|step| (*step).to_owned()).collect()
}

/// Returns the sequences of a node whose daemon starts, for an actor that knows the members
/// `known`. In the end the node is one of `members`, with this `quorum`.
pub(crate) fn started(id: u32, known: &[u32], members: &[u32], quorum: &str) -> Vec<Sequence> {
    let others = list("; joined", without(members, &[id]));
    let alone = changed(known, &[id]);
    let changed = changed(known, members);
    let members = list("", members.to_vec());
    vec![
        // The actor connects while the daemon is on its own ring of one node.
        sequence(&[
            "unknown: connected",
            &format!("unknown: new ring {id}, unsettled{alone}"),
            &format!("inquorate: ring {id}"),
            &format!("inquorate: new ring{members}, unsettled{others}"),
            &format!("{quorum}: ring{members}"),
        ]),
        // The actor connects after the daemon has found the other nodes.
        sequence(&[
            "unknown: connected",
            &format!("unknown: new ring{members}, unsettled{changed}"),
            &format!("{quorum}: ring{members}"),
        ]),
        // The actor connects while these nodes decide.
        sequence(&[
            "unknown: connected",
            &format!("unknown: new ring{members}, unsettled{changed}"),
            &format!("inquorate: ring{members}, unsettled"),
            &format!("{quorum}: ring{members}"),
        ]),
    ]
}

/// Returns the sequences of a daemon that was paused as one of the members `before` and is resumed.
/// In the end it is one of `members`, and the others have kept quorum.
pub(crate) fn resumed(id: u32, before: &[u32], members: &[u32]) -> Vec<Sequence> {
    let joined = list("; joined", without(members, &[id]));
    let left = list("; left", without(before, &[id]));
    let members = list("", members.to_vec());
    let back = format!("quorate: ring{members}");
    vec![
        // The daemon receives packets of the others before it misses the token.
        sequence(&[
            &format!("quorate: new ring{members}, unsettled{joined}{left}; interrupted"),
            &back,
        ]),
        // The daemon misses the token first.
        sequence(&[
            &format!("quorate: new ring {id}, unsettled{left}; interrupted"),
            &format!("inquorate: ring {id}; interrupted"),
            &format!("inquorate: new ring{members}, unsettled{joined}"),
            &back,
        ]),
        // The daemon misses the token first, and receives packets of the others before it has
        // decided.
        sequence(&[
            &format!("quorate: new ring {id}, unsettled{left}; interrupted"),
            &format!("quorate: new ring{members}, unsettled{joined}; interrupted"),
            &back,
        ]),
    ]
}

fn changed(before: &[u32], after: &[u32]) -> String {
    list("; joined", without(after, before)) + &list("; left", without(before, after))
}

fn without(nodes: &[u32], these: &[u32]) -> Vec<u32> {
    nodes.iter().copied().filter(|node| !these.contains(node)).collect()
}

/// Formats the nodes, or nothing if there are none.
fn list(what: &str, nodes: Vec<u32>) -> String {
    let ids: String = nodes.iter().map(|node| format!(" {node}")).collect();
    if ids.is_empty() { ids } else { format!("{what}{ids}") }
}
