//! What the log says when leaders and in-sync replicas change: each change once in the cluster, with its cause.
//!
//! The node that leads the metadata log tells, as it applies the change. The cause is read from the change itself and
//! from what the image says of the brokers, so that it is the same whoever proposed.

use std::collections::BTreeMap;
use std::fmt;

use chronik_raft::metadata::{Delta, MetadataImage, PartitionChange, PartitionImage};
use chronik_types::NodeId;

use crate::broker::Broker;

use super::log_lines::list;

/// One entry of the metadata log with more lines than this tells the first of them one by one, and the others by their
/// causes and numbers: a thread that writes tens of thousands of lines does nothing else meanwhile.
const LINES_PER_CHANGE_MAX: usize = 256;

/// Why a leader or an ISR is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Fenced(NodeId),
    Stopping(NodeId),
    /// A leader from outside the ISR: records may be lost.
    Unclean,
    Preferred,
    Returned(NodeId),
    CaughtUp(NodeId),
    Lagging(NodeId),
    Moved,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced(node) => write!(f, "broker {node} is fenced"),
            Self::Stopping(node) => write!(f, "broker {node} is stopping"),
            Self::Unclean => f.write_str("unclean election, records may be lost"),
            Self::Preferred => f.write_str("it is the preferred leader"),
            Self::Returned(node) => write!(f, "broker {node} is in service again"),
            Self::CaughtUp(node) => write!(f, "replica {node} has caught up"),
            Self::Lagging(node) => write!(f, "replica {node} has fallen behind"),
            Self::Moved => f.write_str("it was elected"),
        }
    }
}

/// Tells what an entry of the metadata log changes, where this node leads it.
pub(crate) fn tell_changes(broker: &Broker, image: &MetadataImage, delta: &Delta) {
    if delta.partitions_changed.iter().all(|change| change.old.is_none()) || !broker.metadata.is_leader() {
        return;
    }
    let mut told_count = 0;
    let mut others: BTreeMap<(&str, Cause), usize> = BTreeMap::new();
    for change in &delta.partitions_changed {
        for (what, line, cause) in lines(image, change) {
            if told_count < LINES_PER_CHANGE_MAX {
                told_count += 1;
                tracing::info!("{line}: {cause}");
            } else {
                *others.entry((what, cause)).or_default() += 1;
            }
        }
    }
    for ((what, cause), count) in others {
        tracing::info!("{what} of {count} more partitions changed: {cause}");
    }
}

/// The lines for one partition: which of its properties, what it is now, and why.
fn lines(image: &MetadataImage, change: &PartitionChange) -> Vec<(&'static str, String, Cause)> {
    let Some(old) = &change.old else { return Vec::new() };
    let (topic, index, new) = (&change.topic, change.partition, &change.new);
    let mut lines = Vec::new();
    if old.leader != new.leader {
        let line = match new.leader {
            Some(leader) => {
                format!("Leader of {topic}-{index} is now {leader} (leader epoch {})", new.leader_epoch)
            }
            None => format!("{topic}-{index} has no leader (leader epoch {})", new.leader_epoch),
        };
        lines.push(("Leader", line, leader_cause(image, old, new)));
    }
    if old.isr != new.isr && !old.isr.is_empty() {
        let line = format!("ISR of {topic}-{index} is now {}", list(&new.isr));
        lines.push(("ISR", line, isr_cause(image, old, new)));
    }
    lines
}

fn leader_cause(image: &MetadataImage, old: &PartitionImage, new: &PartitionImage) -> Cause {
    if let Some(leader) = new.leader
        && !old.isr.is_empty()
        && !old.isr.contains(&leader)
        && !old.elr.contains(&leader)
    {
        return Cause::Unclean;
    }
    let left = old.leader.and_then(|leader| why_away(image, leader));
    match (left, old.leader, new.leader) {
        (Some(cause), _, _) => cause,
        (None, None, Some(leader)) => Cause::Returned(leader),
        (None, Some(_), Some(leader)) if new.replicas.first() == Some(&leader) => Cause::Preferred,
        (None, _, _) => Cause::Moved,
    }
}

fn isr_cause(image: &MetadataImage, old: &PartitionImage, new: &PartitionImage) -> Cause {
    if let Some(left) = old.isr.iter().copied().find(|node| !new.isr.contains(node)) {
        if new.leader.is_some_and(|leader| !old.isr.contains(&leader) && !old.elr.contains(&leader)) {
            return Cause::Unclean;
        }
        return why_away(image, left).unwrap_or(Cause::Lagging(left));
    }
    let joined = new.isr.iter().copied().find(|node| !old.isr.contains(node));
    joined.map_or(Cause::Moved, Cause::CaughtUp)
}

/// Why a broker is not to be relied on, if so.
fn why_away(image: &MetadataImage, node: NodeId) -> Option<Cause> {
    match image.broker(node) {
        Some(broker) if broker.fenced => Some(Cause::Fenced(node)),
        Some(broker) if broker.in_controlled_shutdown => Some(Cause::Stopping(node)),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chronik_raft::metadata::{
        BeginControlledShutdown, Command, CommandBatch, Endpoint, FenceBroker, RegisterBroker, UnfenceBroker,
    };
    use chronik_raft::{InMemoryMetadata, MetadataLog as _};
    use chronik_types::{LeaderEpoch, PartitionEpoch, PartitionIndex, TopicId};

    use super::*;

    /// Broker 1 is fenced, 2 is stopping, 3 and 4 are in service.
    fn image() -> Arc<MetadataImage> {
        let log = InMemoryMetadata::new(NodeId(1));
        let apply = |commands: Vec<Command>| {
            log.propose(CommandBatch::new(commands), Box::new(|outcome| assert!(outcome.is_ok())));
        };
        for id in 1..=4 {
            let endpoint = Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "h".to_owned(),
                port: 1,
                security_protocol: 0,
            };
            apply(vec![
                RegisterBroker::new(NodeId(id), 1, vec![endpoint]).into(),
                UnfenceBroker::new(NodeId(id), None).into(),
            ]);
        }
        let epoch = log.image().broker(NodeId(2)).unwrap().epoch;
        apply(vec![
            FenceBroker::new(NodeId(1), None).into(),
            BeginControlledShutdown::new(NodeId(2), epoch).into(),
        ]);
        log.image()
    }

    fn state(leader: Option<i32>, isr: &[i32]) -> Arc<PartitionImage> {
        Arc::new(PartitionImage {
            replicas: [3, 1, 2, 4].map(NodeId).into(),
            isr: isr.iter().copied().map(NodeId).collect(),
            elr: [].into(),
            leader: leader.map(NodeId),
            is_recovering: false,
            leader_epoch: LeaderEpoch(7),
            partition_epoch: PartitionEpoch(0),
        })
    }

    fn told(old: (Option<i32>, &[i32]), new: (Option<i32>, &[i32])) -> Vec<String> {
        let change = PartitionChange {
            topic: "orders".into(),
            topic_id: TopicId(1),
            partition: PartitionIndex(0),
            old: Some(state(old.0, old.1)),
            new: state(new.0, new.1),
        };
        lines(&image(), &change).into_iter().map(|(_, line, cause)| format!("{line}: {cause}")).collect()
    }

    #[test]
    fn each_change_is_told_with_its_cause() {
        assert_eq!(
            told((Some(1), &[1, 3]), (Some(3), &[3])),
            [
                "Leader of orders-0 is now 3 (leader epoch 7): broker 1 is fenced",
                "ISR of orders-0 is now [3]: broker 1 is fenced"
            ]
        );
        assert_eq!(
            told((Some(2), &[2, 3]), (Some(3), &[3])),
            [
                "Leader of orders-0 is now 3 (leader epoch 7): broker 2 is stopping",
                "ISR of orders-0 is now [3]: broker 2 is stopping"
            ]
        );
        assert_eq!(
            told((Some(4), &[3, 4]), (Some(3), &[3, 4])),
            ["Leader of orders-0 is now 3 (leader epoch 7): it is the preferred leader"]
        );
        assert_eq!(
            told((Some(1), &[1]), (None, &[1])),
            ["orders-0 has no leader (leader epoch 7): broker 1 is fenced"]
        );
        assert_eq!(
            told((None, &[3]), (Some(3), &[3])),
            ["Leader of orders-0 is now 3 (leader epoch 7): broker 3 is in service again"]
        );
        assert_eq!(
            told((Some(3), &[3, 4]), (Some(3), &[3])),
            ["ISR of orders-0 is now [3]: replica 4 has fallen behind"]
        );
        assert_eq!(
            told((Some(3), &[3]), (Some(3), &[3, 4])),
            ["ISR of orders-0 is now [3, 4]: replica 4 has caught up"]
        );
        assert_eq!(
            told((None, &[1]), (Some(4), &[4])),
            [
                "Leader of orders-0 is now 4 (leader epoch 7): unclean election, records may be lost",
                "ISR of orders-0 is now [4]: unclean election, records may be lost"
            ]
        );
        assert_eq!(told((Some(3), &[]), (Some(3), &[3, 4])), Vec::<String>::new(), "a new partition");
    }
}
