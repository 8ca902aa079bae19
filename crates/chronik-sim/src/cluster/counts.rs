//! What histories have seen, for who wants to know that their faults strike.

use std::fmt;
use std::ops::AddAssign;

use super::plan::Fault;

/// What a history has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Records that were acknowledged with `acks=all`.
    pub acknowledged: u64,
    /// Records that consumers have read.
    pub read: u64,
    /// Faults that struck, those of single messages aside.
    pub faults: FaultCounts,
    /// Those of single messages.
    pub messages: MessageCounts,
    /// Topics that were deleted; others were made under their names.
    pub topics_deleted: u64,
    /// Processes that ended, by whatever cause.
    pub ends: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.read += other.read;
        self.faults += other.faults;
        self.messages += other.messages;
        self.topics_deleted += other.topics_deleted;
        self.ends += other.ends;
    }
}

/// How often something happened to a single message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Messages of the metadata quorum that were lost.
    pub lost: u64,
    /// Those that arrived twice.
    pub doubled: u64,
    /// Those that later ones could overtake.
    pub late: u64,
    /// Requests that a node got when whoever had asked had given them up, and could have asked again on another connection.
    pub late_requests: u64,
}

impl AddAssign for MessageCounts {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.late += other.late;
        self.late_requests += other.late_requests;
    }
}

impl fmt::Display for MessageCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lost, {} doubled, {} late, {} requests after they were given up",
            self.lost, self.doubled, self.late, self.late_requests
        )
    }
}

/// How often each kind of fault struck. One that found nothing to strike is not counted: a process that did not run, a
/// disk of which nothing was read, written or synced while it would have failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl FaultCounts {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    pub(super) fn set(&mut self, fault: Fault, count: u64) {
        self.0[fault as usize] = count;
    }

    /// How often one kind struck.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// How often any kind struck.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl AddAssign for FaultCounts {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for fault in Fault::ALL.into_iter().filter(|fault| self.of(*fault) > 0) {
            write!(f, "{separator}{fault:?} {}", self.of(fault))?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_fault_has_a_count_of_its_own() {
        let mut counts = FaultCounts::default();
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index, "{fault:?}");
            counts.add(fault);
        }
        assert!(Fault::ALL.into_iter().all(|fault| counts.of(fault) == 1));
        assert_eq!(counts.total(), Fault::ALL.len() as u64);
    }

    #[test]
    fn the_kinds_that_struck_are_told() {
        let mut counts = FaultCounts::default();
        assert_eq!(counts.to_string(), "");
        counts.add(Fault::PowerLoss);
        let mut sum = counts;
        counts.add(Fault::Crash);
        sum += counts;
        assert_eq!(sum.to_string(), "Crash 1, PowerLoss 2");
    }
}
