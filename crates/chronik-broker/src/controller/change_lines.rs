//! What the log says when leaders and in-sync replicas change: each change once in the cluster, with its cause.
//!
//! The node that leads the metadata log tells, as it applies the change. The cause is read from the change itself and
//! from what the images before and after it say of the brokers, so that it is the same whoever proposed. What was in the
//! log of this node when its process started was told before.
//!
//! A leader says that an entry is committed before it applies and tells it, and may die in between. So every other node
//! keeps what it has applied until it hears that the leader has too, and tells it if it is the next to lead. What an
//! earlier leader has written may so be told by both, which the line says: nobody knows how far that leader came.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use chronik_raft::QuorumState;
use chronik_raft::metadata::{Delta, MetadataImage, PartitionChange, PartitionImage};
use chronik_types::{BrokerEpoch, LogIndex, NodeId, PartitionIndex, Term};
use parking_lot::Mutex;

use crate::broker::Broker;

use super::log_lines::list;

/// One entry of the metadata log with more changes than this tells the first of them one by one, and the others together
/// where they have a cause in common: a thread that writes tens of thousands of lines does nothing else meanwhile.
const LINES_PER_CHANGE_MAX: usize = 256;

/// What the names of partitions take of one line at most; what is left goes on another. A line stays readable, and far
/// below what collectors of logs cut off (Docker splits lines at 16 KiB). One name always has room.
const NAMES_PER_LINE_BYTES_MAX: usize = 4 << 10;

/// A node that does not lead keeps at most so many lines, and always those of the last entry. One proposal changes 20,000
/// partitions at most, and the leader's next heartbeat, 100 ms later, says that they were told.
const LINES_KEPT_MAX: usize = 64 << 10;

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
    /// Its leader is the last that is known to have had everything, and may have lost some of it since (KIP-704).
    MayLackRecords,
    /// It was in the ELR, and of the ISR nobody is left (KIP-966).
    Eligible(NodeId),
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
            Self::MayLackRecords => f.write_str("it may lack records"),
            Self::Eligible(node) => write!(f, "replica {node} was eligible to lead"),
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
    /// What the leader is not known to have told, where that is another node.
    kept: Mutex<Kept>,
}

impl ChangeLines {
    /// Tells what an entry of the metadata log changes, where this node leads it and it is news.
    pub(crate) fn tell(&self, broker: &Broker, image: &MetadataImage, delta: &Delta, is_replayed: bool) {
        self.follow(&broker.metadata.quorum(), image, delta, is_replayed, |line| tracing::info!("{line}"));
    }

    fn follow(
        &self,
        quorum: &QuorumState,
        image: &MetadataImage,
        delta: &Delta,
        is_replayed: bool,
        mut tell: impl FnMut(fmt::Arguments<'_>),
    ) {
        let before = self.take_standings(image, delta);
        let lines: Vec<Line> = if is_replayed {
            Vec::new()
        } else {
            delta.partitions_changed.iter().flat_map(|change| lines(&before, image, change)).collect()
        };
        let mut kept = self.kept.lock();
        kept.push(Entry { index: image.applied_index(), term: image.applied_term(), lines });
        kept.forget(quorum.leader_applied_index);
        // The next leader's word of what it has written reaches this node before this node's own that it leads no more.
        if !quorum.is_leader || quorum.term < image.applied_term() {
            return;
        }
        for Entry { term, lines, .. } in kept.entries.drain(..) {
            let earlier = Earlier((term < quorum.term).then_some(term));
            tell_lines(lines, |line| tell(format_args!("{line}{earlier}")));
        }
        kept.line_count = 0;
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

/// What one entry of the metadata log has changed.
#[derive(Debug)]
struct Entry {
    index: LogIndex,
    term: Term,
    lines: Vec<Line>,
}

/// Entries that nobody is known to have told, in order.
#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    line_count: usize,
}

impl Kept {
    fn push(&mut self, entry: Entry) {
        if entry.lines.is_empty() {
            return;
        }
        self.line_count += entry.lines.len();
        self.entries.push_back(entry);
        while LINES_KEPT_MAX < self.line_count && 1 < self.entries.len() {
            self.pop();
        }
    }

    /// The leader has told everything up to here.
    fn forget(&mut self, told_index: LogIndex) {
        while self.entries.front().is_some_and(|entry| entry.index <= told_index) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let count = self.entries.pop_front().map_or(0, |entry| entry.lines.len());
        self.line_count = self.line_count.saturating_sub(count);
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

/// What has changed of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Leader(Option<NodeId>),
    Isr,
}

/// One change of one partition.
#[derive(Debug)]
struct Line {
    topic: Arc<str>,
    partition: PartitionIndex,
    new: Arc<PartitionImage>,
    what: What,
    causes: Vec<Cause>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, new, .. } = self;
        let (leader_epoch, partition_epoch) = (new.leader_epoch, new.partition_epoch);
        match self.what {
            What::Leader(Some(leader)) => {
                write!(f, "Leader of {topic}-{partition} is now {leader} (leader epoch {leader_epoch})")?;
            }
            What::Leader(None) => {
                write!(f, "{topic}-{partition} has no leader (leader epoch {leader_epoch})")?;
            }
            What::Isr => {
                let isr = list(&new.isr);
                write!(f, "ISR of {topic}-{partition} is now {isr} (partition epoch {partition_epoch})")?;
            }
        }
        write!(f, ": {}", Causes(&self.causes))
    }
}

/// A partition by its topic's name.
type Place = (Arc<str>, PartitionIndex);

/// Tells the first lines one by one, and the others together: which partitions have changed in the same way for the same
/// causes.
fn tell_lines(lines: Vec<Line>, mut tell: impl FnMut(fmt::Arguments<'_>)) {
    let mut others: BTreeMap<(What, Vec<Cause>), Vec<Place>> = BTreeMap::new();
    for (number, line) in lines.into_iter().enumerate() {
        if number < LINES_PER_CHANGE_MAX {
            tell(format_args!("{line}"));
        } else {
            others.entry((line.what, line.causes)).or_default().push((line.topic, line.partition));
        }
    }
    for ((what, causes), places) in &others {
        let causes = Causes(causes);
        for names in names(places) {
            match what {
                What::Leader(Some(leader)) => {
                    tell(format_args!("Leader of {names} is now {leader}: {causes}"));
                }
                What::Leader(None) => tell(format_args!("{names} have no leader: {causes}")),
                What::Isr => tell(format_args!("ISR of {names} has changed: {causes}")),
            }
        }
    }
}

/// Names partitions, which come topic by topic and by their numbers, as `orders-[0,3,7-12], payments-[1]`, in as many
/// lines as they need.
fn names(places: &[Place]) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for of_topic in places.chunk_by(|one, other| one.0 == other.0) {
        let mut is_open = false;
        for run in of_topic.chunk_by(|one, other| one.1.get().checked_add(1) == Some(other.1.get())) {
            let ([(topic, first), ..], [.., (_, last)]) = (run, run) else { continue };
            let run = if first == last { first.to_string() } else { format!("{first}-{last}") };
            let taken = [line.len(), topic.len(), run.len(), ", -[]".len()].iter().sum::<usize>();
            if !line.is_empty() && NAMES_PER_LINE_BYTES_MAX < taken {
                if std::mem::take(&mut is_open) {
                    line.push(']');
                }
                lines.push(std::mem::take(&mut line));
            }
            if std::mem::replace(&mut is_open, true) {
                line.push(',');
            } else {
                line.push_str(if line.is_empty() { "" } else { ", " });
                line.push_str(topic);
                line.push_str("-[");
            }
            line.push_str(&run);
        }
        line.push(']');
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// The changes of one partition: of its leader, and of its ISR.
fn lines(before: &Standings, image: &MetadataImage, change: &PartitionChange) -> impl Iterator<Item = Line> {
    let away = |node: NodeId| why_away(before.get(&node).copied(), standing(image, node), node);
    let line = |what, causes| {
        let (topic, new) = (Arc::clone(&change.topic), Arc::clone(&change.new));
        Line { topic, partition: change.partition, new, what, causes }
    };
    let (old, new) = (change.old.as_deref(), &*change.new);
    let leader = old.filter(|old| old.leader != new.leader);
    let leader = leader.map(|old| line(What::Leader(new.leader), leader_causes(&away, old, new)));
    let isr = old.filter(|old| old.isr != new.isr && !old.isr.is_empty());
    let isr = isr.map(|old| line(What::Isr, isr_causes(&away, old, new)));
    leader.into_iter().chain(isr)
}

fn leader_causes(
    away: &impl Fn(NodeId) -> Option<Cause>,
    old: &PartitionImage,
    new: &PartitionImage,
) -> Vec<Cause> {
    let cause = leader_cause(away, old, new);
    let may_lack = new.is_recovering && new.leader.is_some() && cause != Cause::Unclean;
    [cause].into_iter().chain(may_lack.then_some(Cause::MayLackRecords)).collect()
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
    let nobody_stays = left.len() == old.isr.len();
    let why_joined = |node: NodeId| {
        if nobody_stays && old.elr.contains(&node) { Cause::Eligible(node) } else { Cause::CaughtUp(node) }
    };
    let left = left.into_iter().map(|node| away(node).unwrap_or(Cause::Lagging(node)));
    let causes: Vec<Cause> = left.chain(joined.into_iter().map(why_joined)).collect();
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

    fn nodes(ids: &[i32]) -> Arc<[NodeId]> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn state(leader: Option<i32>, isr: &[i32]) -> PartitionImage {
        PartitionImage {
            replicas: [3, 1, 2, 4].map(NodeId).into(),
            isr: nodes(isr),
            elr: [].into(),
            leader: leader.map(NodeId),
            is_recovering: false,
            leader_epoch: LeaderEpoch(7),
            partition_epoch: PartitionEpoch(5),
        }
    }

    fn change(topic: &str, index: i32, old: PartitionImage, new: PartitionImage) -> PartitionChange {
        PartitionChange {
            topic: topic.into(),
            topic_id: TopicId(1),
            partition: PartitionIndex(index),
            old: Some(Arc::new(old)),
            new: Arc::new(new),
        }
    }

    fn standings(image: &MetadataImage) -> Standings {
        image.brokers().filter_map(|broker| Some((broker.id, standing(image, broker.id)?))).collect()
    }

    /// What is told of changes of one entry.
    fn told_of(before: &Standings, image: &MetadataImage, changes: &[PartitionChange]) -> Vec<String> {
        let mut told = Vec::new();
        let lines = changes.iter().flat_map(|change| lines(before, image, change));
        tell_lines(lines.collect(), |line| told.push(line.to_string()));
        told
    }

    fn told_after(
        four_was_fenced: bool,
        old: (Option<i32>, &[i32]),
        new: (Option<i32>, &[i32]),
    ) -> Vec<String> {
        let image = image();
        let mut before = standings(&image);
        // As it was before an entry that moves its partitions and unfences it.
        if let Some(four) = before.get_mut(&NodeId(4)) {
            four.is_fenced = four_was_fenced;
        }
        told_of(&before, &image, &[change("orders", 0, state(old.0, old.1), state(new.0, new.1))])
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
                "ISR of orders-0 is now [3] (partition epoch 5): broker 4 is fenced"
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
                "ISR of orders-0 is now [3, 4] (partition epoch 5): broker 1 is fenced, broker 2 is stopping, replica 4 has caught up"
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

    /// Applies an entry that makes the ISR of as many partitions smaller, as a node that leads in a term or follows, and
    /// gives what is told.
    fn follow(
        lines: &ChangeLines,
        entry: (u64, u64),
        count: i32,
        leads_in: Option<u64>,
        leader_applied_index: u64,
    ) -> Vec<String> {
        let quorum = QuorumState {
            is_leader: leads_in.is_some(),
            term: Term(leads_in.unwrap_or(entry.1)),
            leader_applied_index: LogIndex(leader_applied_index),
            ..QuorumState::default()
        };
        let topic = format!("of-entry-{}", entry.0);
        let shrunk = |index| change(&topic, index, state(Some(3), &[3, 4]), state(Some(3), &[3]));
        let delta = Delta { partitions_changed: (0..count).map(shrunk).collect(), ..Delta::default() };
        let image = MetadataImage::default().skip(LogIndex(entry.0), Term(entry.1));
        let mut told = Vec::new();
        lines.follow(&quorum, &image, &delta, false, |line| told.push(line.to_string()));
        told
    }

    #[test]
    fn what_a_leader_may_not_have_told_the_next_one_tells() {
        let line = |index: u64, earlier: &str| {
            format!(
                "ISR of of-entry-{index}-0 is now [3] (partition epoch 5): replica 4 has fallen behind{earlier}"
            )
        };
        let nothing = Vec::<String>::new();
        let lines = ChangeLines::default();
        for index in 1..=4 {
            assert_eq!(follow(&lines, (index, 1), 1, None, 0), nothing, "others lead");
        }
        let by_one = " (written by the controller of term 1, which may have told it)";
        assert_eq!(
            follow(&lines, (5, 2), 0, Some(2), 2),
            [line(3, by_one), line(4, by_one)],
            "it begins to lead, and the leader before had applied 2 entries for all that it knows"
        );
        assert_eq!(follow(&lines, (6, 2), 1, Some(2), 2), [line(6, "")]);
        assert_eq!(
            follow(&lines, (7, 3), 1, Some(2), 2),
            nothing,
            "it leads no more, and does not know it yet"
        );
        assert_eq!(follow(&lines, (8, 3), 0, None, 6), nothing);
        let by_three = " (written by the controller of term 3, which may have told it)";
        assert_eq!(follow(&lines, (9, 4), 0, Some(4), 6), [line(7, by_three)]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = |lines: &ChangeLines| {
            let kept = lines.kept.lock();
            (kept.line_count, kept.entries.len())
        };
        let lines = ChangeLines::default();
        for index in 1..=70 {
            follow(&lines, (index, 1), 1_000, None, 0);
        }
        assert_eq!(kept(&lines), (65_000, 65));
        follow(&lines, (71, 1), 70_000, None, 0);
        assert_eq!(kept(&lines), (70_000, 1));
        follow(&lines, (72, 1), 0, None, 71);
        assert_eq!(kept(&lines), (0, 0));
    }

    #[test]
    fn kip_966_who_comes_from_the_elr_has_not_caught_up() {
        let image = image();
        let told = |old: PartitionImage, elr: &[i32], new: PartitionImage| {
            let old = PartitionImage { elr: nodes(elr), ..old };
            told_of(&standings(&image), &image, &[change("orders", 0, old, new)])
        };
        assert_eq!(
            told(state(Some(1), &[1]), &[3], state(Some(3), &[3])),
            [
                "Leader of orders-0 is now 3 (leader epoch 7): broker 1 is fenced",
                "ISR of orders-0 is now [3] (partition epoch 5): broker 1 is fenced, replica 3 was eligible to lead"
            ]
        );
        assert_eq!(
            told(state(None, &[1]), &[3, 4], state(None, &[3, 4])),
            ["ISR of orders-0 is now [3, 4] (partition epoch 5): \
                 broker 1 is fenced, replica 3 was eligible to lead, replica 4 was eligible to lead"],
            "the last of the ISR has lost records"
        );
        assert_eq!(
            told(state(Some(3), &[1, 3]), &[4], state(Some(3), &[3, 4])),
            [
                "ISR of orders-0 is now [3, 4] (partition epoch 5): broker 1 is fenced, replica 4 has caught up"
            ],
            "it joins one that stays"
        );
    }

    #[test]
    fn kip_704_a_leader_that_may_lack_records_is_told_as_such() {
        let image = image();
        let recovering = |leader| PartitionImage { is_recovering: true, ..state(leader, &[3]) };
        let told = |old, new| told_of(&standings(&image), &image, &[change("orders", 0, old, new)]);
        assert_eq!(
            told(recovering(None), recovering(Some(3))),
            [
                "Leader of orders-0 is now 3 (leader epoch 7): broker 3 is in service again, it may lack records"
            ]
        );
        assert_eq!(
            told(state(None, &[1]), recovering(Some(3))),
            [
                "Leader of orders-0 is now 3 (leader epoch 7): unclean election, records may be lost",
                "ISR of orders-0 is now [3] (partition epoch 5): unclean election, records may be lost"
            ]
        );
    }

    /// The topics and numbers of the partitions that a line names together, as `t-[0,2-4]`.
    fn named(names: &str) -> Vec<(String, i32)> {
        let mut found = Vec::new();
        for of_topic in names.split_inclusive(']') {
            let (topic, runs) = of_topic.trim_start_matches(", ").rsplit_once("-[").unwrap();
            for run in runs.trim_end_matches(']').split(',') {
                let (first, last) = run.split_once('-').unwrap_or((run, run));
                let run = first.parse::<i32>().unwrap()..=last.parse().unwrap();
                found.extend(run.map(|index| (topic.to_owned(), index)));
            }
        }
        found
    }

    #[test]
    fn every_partition_of_a_large_change_is_named_once() {
        // Broker 1 led every other partition of some topics, and of others each that has left no leader.
        let topics = ["long".repeat(62), "orders".to_owned(), "a-1".to_owned()];
        let mut changes = Vec::new();
        for topic in &topics {
            for index in 0..4_000 {
                let (leader, new) =
                    if index % 2 == 0 { (1, state(Some(3), &[3])) } else { (3, state(Some(3), &[3])) };
                changes.push(change(topic, index, state(Some(leader), &[1, 3]), new));
            }
            for index in 4_000..4_100 {
                changes.push(change(topic, index, state(Some(1), &[1]), state(None, &[1])));
            }
        }
        let image = image();
        let told = told_of(&standings(&image), &image, &changes);
        let (first, others) = told.split_at(LINES_PER_CHANGE_MAX);
        assert!(first.iter().all(|line| line.contains(" epoch ")), "one by one");

        let mut found: BTreeMap<&str, Vec<(String, i32)>> = BTreeMap::new();
        for line in others {
            assert!(line.len() < NAMES_PER_LINE_BYTES_MAX + 100, "{} bytes", line.len());
            let line = line.strip_suffix(": broker 1 is fenced").unwrap();
            let (what, names) = if let Some(names) = line.strip_suffix(" have no leader") {
                ("none", names)
            } else if let Some(names) = line.strip_suffix(" has changed") {
                ("isr", names.strip_prefix("ISR of ").unwrap())
            } else {
                ("led", line.strip_suffix(" is now 3").unwrap().strip_prefix("Leader of ").unwrap())
            };
            found.entry(what).or_default().extend(named(names));
        }
        for line in first {
            let (what, name) = if let Some(rest) = line.strip_prefix("ISR of ") {
                ("isr", rest)
            } else {
                ("led", line.strip_prefix("Leader of ").unwrap())
            };
            let (topic, index) = name.split_once(' ').unwrap().0.rsplit_once('-').unwrap();
            found.entry(what).or_default().push((topic.to_owned(), index.parse().unwrap()));
        }
        let mut wanted: BTreeMap<&str, Vec<(String, i32)>> = BTreeMap::new();
        for topic in &topics {
            let place = |index| (topic.clone(), index);
            wanted.entry("isr").or_default().extend((0..4_000).map(place));
            wanted.entry("led").or_default().extend((0..4_000).step_by(2).map(place));
            wanted.entry("none").or_default().extend((4_000..4_100).map(place));
        }
        for places in found.values_mut().chain(wanted.values_mut()) {
            places.sort();
        }
        assert!(found == wanted, "every partition, once");
        assert!(others.len() < 20, "{} lines", others.len());
    }

    #[test]
    fn partitions_are_named_compactly() {
        let check = |places: &[(&str, i32)], wanted: &[&str]| {
            let places: Vec<_> =
                places.iter().map(|(topic, index)| ((*topic).into(), PartitionIndex(*index))).collect();
            assert_eq!(names(&places), wanted);
        };
        check(&[], &[]);
        check(&[("orders", 3)], &["orders-[3]"]);
        let orders = [0, 3, 7, 8, 9, 10, 11, 12].map(|index| ("orders", index));
        check(&orders, &["orders-[0,3,7-12]"]);
        check(&[("a", 0), ("a", 1), ("b-1", 2)], &["a-[0-1], b-1-[2]"]);
    }

    #[test]
    fn each_change_is_told_with_its_cause() {
        assert_eq!(
            told((Some(1), &[1, 3]), (Some(3), &[3])),
            [
                "Leader of orders-0 is now 3 (leader epoch 7): broker 1 is fenced",
                "ISR of orders-0 is now [3] (partition epoch 5): broker 1 is fenced"
            ]
        );
        assert_eq!(
            told((Some(2), &[2, 3]), (Some(3), &[3])),
            [
                "Leader of orders-0 is now 3 (leader epoch 7): broker 2 is stopping",
                "ISR of orders-0 is now [3] (partition epoch 5): broker 2 is stopping"
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
            ["ISR of orders-0 is now [3] (partition epoch 5): replica 4 has fallen behind"]
        );
        assert_eq!(
            told((Some(3), &[3]), (Some(3), &[3, 4])),
            ["ISR of orders-0 is now [3, 4] (partition epoch 5): replica 4 has caught up"]
        );
        assert_eq!(
            told((None, &[1]), (Some(4), &[4])),
            [
                "Leader of orders-0 is now 4 (leader epoch 7): unclean election, records may be lost",
                "ISR of orders-0 is now [4] (partition epoch 5): unclean election, records may be lost"
            ]
        );
        assert_eq!(told((Some(3), &[]), (Some(3), &[3, 4])), Vec::<String>::new(), "a new partition");
    }
}
