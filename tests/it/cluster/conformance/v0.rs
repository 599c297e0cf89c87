//! The differences of model V0. The scenarios are written for model V1.
//!
//! - There are no nodelists, so a membership is reported with the decision about it, and not before
//!   it: no state is unsettled.
//! - `joined` and `left` are the difference of two memberships: a node that restarted before the
//!   other nodes noticed is in neither list.
//! - Each ring after the first one of a connection interrupts quorum, because V0 does not report
//!   which nodes were away.

use super::sequences::Sequence;

/// Returns the sequence as model V0 reports it to an actor that knows these members.
pub(crate) fn sequence_with_v0(sequence: &Sequence, known: &[u32]) -> Sequence {
    let mut known = known.to_vec();
    let mut is_first = false;
    let mut is_new = false;
    let mut steps = Sequence::new();
    for step in sequence {
        let Some(members) = members(step) else {
            is_first |= step.ends_with(": connected");
            steps.push(step.clone());
            continue;
        };
        is_new |= step.contains("new ring");
        if step.contains(", unsettled") {
            continue;
        }
        if !is_new {
            steps.push(step.clone());
            continue;
        }
        let (quorum, _) = step.split_once(": ").expect("a step begins with the quorum");
        let mut with_v0 = format!("{quorum}: new ring{}", list(&members));
        for (what, these, others) in [("joined", &members, &known), ("left", &known, &members)] {
            let these: Vec<u32> =
                these.iter().copied().filter(|node| !others.contains(node)).collect();
            if !these.is_empty() {
                with_v0 += &format!("; {what}{}", list(&these));
            }
        }
        if !is_first {
            with_v0 += "; interrupted";
        }
        steps.push(with_v0);
        (known, is_first, is_new) = (members, false, false);
    }
    steps
}

/// Returns the members in a step that has a ring: `quorate: new ring 1 2, unsettled; left 3`.
pub(super) fn members(step: &str) -> Option<Vec<u32>> {
    let (_, ring) = step.split_once("ring")?;
    let list = ring.split([',', ';']).next()?;
    Some(list.split_whitespace().map(|id| id.parse().expect("a step lists node ids")).collect())
}

fn list(nodes: &[u32]) -> String {
    nodes.iter().map(|node| format!(" {node}")).collect()
}

#[test]
fn a_sequence_with_v0_has_one_step_for_each_decision() {
    let v1 = [
        "unknown: connected",
        "unknown: new ring 3, unsettled; left 1 2",
        "inquorate: ring 3",
        "inquorate: new ring 1 2 3, unsettled; joined 1 2",
        "quorate: ring 1 2 3",
        "quorate: new ring 1 2 3, unsettled; joined 2; left 2; interrupted",
        "quorate: ring 1 2 3",
        "inquorate: ring 1 2 3; interrupted",
        "unknown: disconnected; interrupted",
    ];
    let v0 = [
        "unknown: connected",
        "inquorate: new ring 3; left 1 2",
        "quorate: new ring 1 2 3; joined 1 2; interrupted",
        "quorate: new ring 1 2 3; interrupted",
        "inquorate: ring 1 2 3; interrupted",
        "unknown: disconnected; interrupted",
    ];
    assert_eq!(sequence_with_v0(&v1.map(String::from).to_vec(), &[1, 2, 3]), v0);
}
