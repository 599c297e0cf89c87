//! The rings, decisions and readings of a node over time.

/// A value and the times of its changes.
#[derive(Clone, Debug)]
pub(crate) struct Steps<T>(Vec<(u64, T)>);

impl<T> Default for Steps<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Steps<T> {
    /// Adds a change.
    pub(crate) fn push(&mut self, at: u64, value: T) {
        self.0.push((at, value));
    }

    /// Returns the value at this time, and the time of its change.
    pub(crate) fn at(&self, time: u64) -> Option<&(u64, T)> {
        let after = self.0.partition_point(|(at, _)| *at <= time);
        self.0.get(after.checked_sub(1)?)
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.0.last().map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(u64, T)> {
        self.0.iter()
    }

    fn forget_old(&mut self) {
        let keep = self.0.len().saturating_sub(1);
        self.0.drain(..keep);
    }
}

/// A membership, as Corosync reported it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ring {
    pub(crate) node: u32,
    pub(crate) seq: u64,
    pub(crate) members: Vec<u32>,
}

/// The known value of a reading. Between two samples that differ it is not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Known {
    True,
    False,
    Unknown,
}

impl From<bool> for Known {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// The readings that are compared.
pub(crate) const READINGS: usize = 3;
pub(crate) const C_CLIENT: usize = 0;
pub(crate) const QUORATE: usize = 1;
pub(crate) const EXCLUSIVE: usize = 2;

/// The reports of the clients on one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    pub(crate) readings: [Steps<Known>; READINGS],
    /// The ring of the last nodelist notification.
    pub(crate) ring: Steps<Ring>,
    /// The quorum notifications, and the members that each was about.
    pub(crate) decisions: Steps<(bool, Vec<u32>)>,
    /// How many times the daemon has entered GATHER and OPERATIONAL, from totem's counters.
    pub(crate) counters: Steps<(u64, u64)>,
    /// The times at which the reader of the counters lost its connection.
    counters_lost: Vec<u64>,
    /// The pairs of successive samples with more time between them than usual.
    late: Vec<[u64; 2]>,
    /// All lines of the clients, for the log.
    pub(crate) lines: Vec<(u64, String)>,
}

impl Timeline {
    /// Adds a line of a client; `client.c` and `reading.rs` describe the lines.
    pub(crate) fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &&str| -> u64 { word.parse().expect("a number") };
        let members = |words: &[&str]| -> Vec<u32> {
            let mut members: Vec<u32> =
                words.iter().map(|word| word.parse().expect("a node id")).collect();
            members.sort_unstable();
            members
        };
        let at = number(&words[0]);
        match &words[1..] {
            ["nodelist", node, seq, list @ ..] => {
                let node = node.parse().expect("a node id");
                self.ring.push(at, Ring { node, seq: number(seq), members: members(list) });
            }
            ["quorum", quorate, _, _, list @ ..] => {
                let quorate = *quorate == "1";
                self.readings[C_CLIENT].push(at, quorate.into());
                self.decisions.push(at, (quorate, members(list)));
            }
            ["lost"] => self.readings[C_CLIENT].push(at, Known::False),
            ["counters", gather, operational] => {
                self.counters.push(at, (number(gather), number(operational)));
            }
            ["counters", "lost"] => self.counters_lost.push(at),
            [next, "late"] => self.late.push([at, number(next)]),
            [after, reading, value] => {
                let steps = match *reading {
                    "quorate" => &mut self.readings[QUORATE],
                    "exclusive" => &mut self.readings[EXCLUSIVE],
                    _ => panic!("not a reading: {line}"),
                };
                let after = number(after);
                if at < after {
                    steps.push(at + 1, Known::Unknown);
                }
                steps.push(after, (*value == "true").into());
            }
            _ => panic!("not a line of a client: {line}"),
        }
        self.lines.push((at, line.to_owned()));
    }

    /// Removes everything but the last value of each kind.
    pub(crate) fn forget_old(&mut self) {
        self.readings.iter_mut().for_each(Steps::forget_old);
        self.ring.forget_old();
        self.decisions.forget_old();
        self.counters.forget_old();
        self.counters_lost.clear();
        self.late.clear();
        self.lines.clear();
    }

    /// Returns the longest time between two samples, or 0 if it was never longer than usual.
    pub(crate) fn longest_gap(&self) -> u64 {
        self.late.iter().map(|[last, next]| next - last).max().unwrap_or(0)
    }

    /// Whether a value of this reading was reported.
    pub(crate) fn exists(&self, reading: usize) -> bool {
        self.readings[reading].last().is_some()
    }

    /// Whether the reading is known to be true at this time.
    pub(crate) fn is_true(&self, reading: usize, at: u64) -> bool {
        matches!(self.readings[reading].at(at), Some((_, Known::True)))
    }

    /// Whether the reading is known to be false at this time.
    pub(crate) fn is_false(&self, reading: usize, at: u64) -> bool {
        matches!(self.readings[reading].at(at), Some((_, Known::False)))
    }

    /// Returns each time after `time` at which the daemon entered GATHER. If the same read also
    /// shows a new ring, that GATHER has ended and is not returned.
    pub(crate) fn gathers_after(&self, time: u64) -> impl Iterator<Item = u64> {
        let counters: Vec<&(u64, (u64, u64))> = self.counters.iter().collect();
        let moved: Vec<u64> = counters
            .windows(2)
            .filter(|pair| pair[1].0 >= time)
            .filter(|pair| pair[1].1.0 > pair[0].1.0 && pair[1].1.1 == pair[0].1.1)
            .map(|pair| pair[1].0)
            .collect();
        moved.into_iter()
    }

    /// Whether the reader of the counters was disconnected while the daemon entered GATHER, so
    /// the time at which it entered GATHER is unknown.
    pub(crate) fn missed_gather(&self, [from, to]: [u64; 2]) -> bool {
        let counters: Vec<&(u64, (u64, u64))> = self.counters.iter().collect();
        counters.windows(2).any(|pair| {
            let [(before, (gather, _)), (after, (gather_after, _))] = [pair[0], pair[1]];
            let lost = self.counters_lost.iter().any(|lost| (*before..=*after).contains(lost));
            lost && gather_after > gather && (from..to).contains(after)
        })
    }
}

/// Returns how long a condition holds in `[from, to)`. It may change only at the times `changes`.
pub(crate) fn total(
    [from, to]: [u64; 2],
    changes: impl IntoIterator<Item = u64>,
    holds: impl Fn(u64) -> bool,
) -> u64 {
    let mut changes: Vec<u64> = changes.into_iter().filter(|at| (from..to).contains(at)).collect();
    changes.extend([from, to]);
    changes.sort_unstable();
    changes.windows(2).filter(|pair| holds(pair[0])).map(|pair| pair[1] - pair[0]).sum()
}
