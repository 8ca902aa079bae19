//! What the log says when leaders and in-sync replicas change: each change once in the cluster, with its cause.
//!
//! The node that leads the metadata log tells, as it applies the change. The cause is read from the change itself and
//! from what the images before and after it say of the brokers, so that it is the same whoever proposed. What was in the
//! log of this node when its process started was told before. What an earlier leader has written and this one applies
//! may have been told by both, which the line says: nobody knows how far that leader came.

use std::collections::BTreeMap;
use std::fmt;

use chronik_raft::metadata::{Delta, MetadataImage, PartitionChange, PartitionImage};
use chronik_types::{BrokerEpoch, NodeId, Term};
use parking_lot::Mutex;

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
    /// It has registered again after an end that may have taken records (KIP-966).
    MayHaveLost(NodeId),
    /// Of those that may lead none is in service.
    NobodyIsLeft,
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
            Self::MayHaveLost(node) => write!(f, "broker {node} may have lost records"),
            Self::NobodyIsLeft => f.write_str("no replica that may lead is in service"),
            Self::Unclean => f.write_str("unclean election, records may be lost"),
            Self::Preferred => f.write_str("it is the preferred leader"),
            Self::Returned(node) => write!(f, "broker {node} is in service again"),
            Self::CaughtUp(node) => write!(f, "replica {node} has caught up"),
            Self::Lagging(node) => write!(f, "replica {node} has fallen behind"),
            Self::Moved => f.write_str("it was elected"),
        }
    }
}

/// What the image says of a broker, as far as it is a cause of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    epoch: BrokerEpoch,
    is_fenced: bool,
    is_stopping: bool,
}

/// All brokers' standings.
type Standings = BTreeMap<NodeId, Standing>;

/// Tells changes as they are applied.
#[derive(Debug, Default)]
pub(crate) struct ChangeLines {
    /// What the brokers' standings were after the last change.
    standings: Mutex<Standings>,
}

impl ChangeLines {
    /// Tells what an entry of the metadata log changes, where this node leads it and it is news.
    pub(crate) fn tell(&self, broker: &Broker, image: &MetadataImage, delta: &Delta, is_replayed: bool) {
        let before = self.take_standings(image, delta);
        if is_replayed || delta.partitions_changed.iter().all(|change| change.old.is_none()) {
            return;
        }
        let quorum = broker.metadata.quorum();
        let written_in = image.applied_term();
        // The next leader's word of what it has written reaches this node before this node's own that it leads no more.
        if !quorum.is_leader || quorum.term < written_in {
            return;
        }
        let earlier = Earlier((written_in < quorum.term).then_some(written_in));
        let mut told_count = 0;
        let mut others: BTreeMap<(&str, Vec<Cause>), usize> = BTreeMap::new();
        for change in &delta.partitions_changed {
            for (what, line, causes) in lines(&before, image, change) {
                if told_count < LINES_PER_CHANGE_MAX {
                    told_count += 1;
                    tracing::info!("{line}: {}{earlier}", Causes(&causes));
                } else {
                    *others.entry((what, causes)).or_default() += 1;
                }
            }
        }
        for ((what, causes), count) in others {
            tracing::info!("{what} of {count} more partitions changed: {}{earlier}", Causes(&causes));
        }
    }

    /// The brokers' standings before a change, for those after it.
    fn take_standings(&self, image: &MetadataImage, delta: &Delta) -> Standings {
        let mut standings = self.standings.lock();
        if delta.brokers_changed.is_empty() && delta.partitions_changed.is_empty() {
            return Standings::new();
        }
        let before = standings.clone();
        for node in &delta.brokers_changed {
            match standing(image, *node) {
                Some(now) => standings.insert(*node, now),
                None => standings.remove(node),
            };
        }
        before
    }
}

/// Several causes on one line.
struct Causes<'a>(&'a [Cause]);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, cause) in self.0.iter().enumerate() {
            write!(f, "{}{cause}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Says of a change that the leader of an earlier term has written it, and may have told it.
struct Earlier(Option<Term>);

impl fmt::Display for Earlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(term) => write!(f, " (written by the controller of term {term}, which may have told it)"),
            None => Ok(()),
        }
    }
}

fn standing(image: &MetadataImage, node: NodeId) -> Option<Standing> {
    let broker = image.broker(node)?;
    Some(Standing {
        epoch: broker.epoch,
        is_fenced: broker.fenced,
        is_stopping: broker.in_controlled_shutdown,
    })
}

/// The lines for one partition: which of its properties, what it is now, and why.
fn lines(
    before: &Standings,
    image: &MetadataImage,
    change: &PartitionChange,
) -> Vec<(&'static str, String, Vec<Cause>)> {
    let Some(old) = &change.old else { return Vec::new() };
    let (topic, index, new) = (&change.topic, change.partition, &change.new);
    let away = |node: NodeId| why_away(before.get(&node).copied(), standing(image, node), node);
    let mut lines = Vec::new();
    if old.leader != new.leader {
        let line = match new.leader {
            Some(leader) => {
                format!("Leader of {topic}-{index} is now {leader} (leader epoch {})", new.leader_epoch)
            }
            None => format!("{topic}-{index} has no leader (leader epoch {})", new.leader_epoch),
        };
        lines.push(("Leader", line, vec![leader_cause(&away, old, new)]));
    }
    if old.isr != new.isr && !old.isr.is_empty() {
        let line = format!("ISR of {topic}-{index} is now {}", list(&new.isr));
        lines.push(("ISR", line, isr_causes(&away, old, new)));
    }
    lines
}

fn leader_cause(
    away: &impl Fn(NodeId) -> Option<Cause>,
    old: &PartitionImage,
    new: &PartitionImage,
) -> Cause {
    if let Some(leader) = new.leader
        && !old.isr.is_empty()
        && !old.isr.contains(&leader)
        && !old.elr.contains(&leader)
    {
        return Cause::Unclean;
    }
    let left = old.leader.and_then(away);
    match (left, old.leader, new.leader) {
        (Some(cause), _, _) => cause,
        (None, None, Some(leader)) => Cause::Returned(leader),
        (None, Some(_), Some(leader)) if new.replicas.first() == Some(&leader) => Cause::Preferred,
        (None, _, Some(_)) => Cause::Moved,
        (None, _, None) => Cause::NobodyIsLeft,
    }
}

fn isr_causes(
    away: &impl Fn(NodeId) -> Option<Cause>,
    old: &PartitionImage,
    new: &PartitionImage,
) -> Vec<Cause> {
    let only_in = |one: &PartitionImage, other: &PartitionImage| -> Vec<NodeId> {
        one.isr.iter().copied().filter(|node| !other.isr.contains(node)).collect()
    };
    let (left, joined) = (only_in(old, new), only_in(new, old));
    if !left.is_empty()
        && new.leader.is_some_and(|leader| !old.isr.contains(&leader) && !old.elr.contains(&leader))
    {
        return vec![Cause::Unclean];
    }
    let left = left.into_iter().map(|node| away(node).unwrap_or(Cause::Lagging(node)));
    let causes: Vec<Cause> = left.chain(joined.into_iter().map(Cause::CaughtUp)).collect();
    if causes.is_empty() { vec![Cause::Moved] } else { causes }
}

/// Why a broker is not to be relied on, if so. Who is unfenced by the same entry that takes it from its partitions was
/// fenced until then.
fn why_away(before: Option<Standing>, now: Option<Standing>, node: NodeId) -> Option<Cause> {
    let now = now?;
    if before.is_some_and(|before| before.epoch != now.epoch) {
        Some(Cause::MayHaveLost(node))
    } else if now.is_fenced || before.is_some_and(|before| before.is_fenced) {
        Some(Cause::Fenced(node))
    } else if now.is_stopping {
        Some(Cause::Stopping(node))
    } else {
        None
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

    fn told_after(
        four_was_fenced: bool,
        old: (Option<i32>, &[i32]),
        new: (Option<i32>, &[i32]),
    ) -> Vec<String> {
        let change = PartitionChange {
            topic: "orders".into(),
            topic_id: TopicId(1),
            partition: PartitionIndex(0),
            old: Some(state(old.0, old.1)),
            new: state(new.0, new.1),
        };
        let image = image();
        let before =
            [1, 2, 3, 4].into_iter().filter_map(|id| Some((NodeId(id), standing(&image, NodeId(id))?)));
        let mut before: Standings = before.collect();
        // As it was before an entry that moves its partitions and unfences it.
        if let Some(four) = before.get_mut(&NodeId(4)) {
            four.is_fenced = four_was_fenced;
        }
        let lines = lines(&before, &image, &change).into_iter();
        lines.map(|(_, line, causes)| format!("{line}: {}", Causes(&causes))).collect()
    }

    fn told(old: (Option<i32>, &[i32]), new: (Option<i32>, &[i32])) -> Vec<String> {
        told_after(false, old, new)
    }

    #[test]
    fn who_is_back_with_the_same_entry_was_fenced_until_then() {
        let old = (Some(4), &[3, 4][..]);
        assert_eq!(
            told_after(true, old, (Some(3), &[3])),
            [
                "Leader of orders-0 is now 3 (leader epoch 7): broker 4 is fenced",
                "ISR of orders-0 is now [3]: broker 4 is fenced"
            ]
        );
        assert_eq!(
            told_after(true, (Some(4), &[4]), (None, &[4])),
            ["orders-0 has no leader (leader epoch 7): broker 4 is fenced"]
        );
        assert_eq!(
            told((Some(4), &[4]), (None, &[4])),
            ["orders-0 has no leader (leader epoch 7): no replica that may lead is in service"]
        );
    }

    #[test]
    fn all_causes_of_a_change_are_told() {
        assert_eq!(
            told((Some(3), &[1, 2, 3]), (Some(3), &[3, 4])),
            [
                "ISR of orders-0 is now [3, 4]: broker 1 is fenced, broker 2 is stopping, replica 4 has caught up"
            ]
        );
    }

    #[test]
    fn kip_966_a_broker_that_has_registered_again_may_have_lost_records() {
        let node = NodeId(4);
        let now = standing(&image(), node);
        let before = now.map(|now| Standing { epoch: BrokerEpoch(now.epoch.get() - 1), ..now });
        assert_eq!(why_away(before, now, node), Some(Cause::MayHaveLost(node)));
        assert_eq!(Cause::MayHaveLost(node).to_string(), "broker 4 may have lost records");
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
