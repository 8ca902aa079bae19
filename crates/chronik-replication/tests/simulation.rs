//! One partition on three brokers over a network that loses, delays, repeats and reorders, with brokers that crash,
//! lose their unsynced tail, and hear of the metadata late. What was acknowledged with `acks=all` must stay.
//!
//! `CHRONIK_SIM_SEED=n` runs one seed and prints its trace; `CHRONIK_SIM_SEEDS=n` says how many seeds to run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chronik_replication::follower::{Answer, EpochEnd, OwnLog, Step, high_watermark, next_step};
use chronik_replication::{Effects, FollowerFetch, IsrProposal, Leader, LeaderSettings, LeaderTerm};
use chronik_types::{BrokerEpoch, ErrorCode, LeaderEpoch, MonotonicMs, NodeId, Offset, PartitionEpoch};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const NODES: [i32; 3] = [1, 2, 3];
const SETTINGS: LeaderSettings = LeaderSettings { min_insync: 2, lag_ms_max: 200 };
const STEPS_MAX: usize = 600;
/// After the faults end, this many rounds must bring everybody to the same state.
const HEALING_ROUNDS_MAX: usize = 400;
/// The most records that one answer carries.
const RECORDS_PER_ANSWER_MAX: usize = 3;
/// Seeds in an ordinary run.
const SEEDS: u64 = 3_000;
/// Seeds in which a broken rule must show.
const MUTATED_SEEDS_MAX: u64 = 30_000;

/// A rule that is broken on purpose, to see that the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    None,
    /// The leader's own log end is taken for the high watermark.
    CommitAlone,
    /// A follower cuts its log to its high watermark when the leader changes (what KIP-101 mended).
    TruncateToHighWatermark,
    /// The controller elects whoever lives.
    ElectAnyone,
    /// A replica that lost data is let back without looking at its registration (what KIP-903 mended).
    IgnoreBrokerEpochs,
    /// A proposal whose outcome is unknown is taken for refused.
    ForgetProposals,
    /// A broker that lost its tail keeps its place in the ISR.
    TrustUncleanRestart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    epoch: i32,
    value: u64,
}

#[derive(Clone, Debug)]
struct Image {
    leader: Option<i32>,
    leader_epoch: i32,
    partition_epoch: i32,
    isr: Vec<i32>,
    live: BTreeMap<i32, i64>,
}

#[derive(Clone, Debug)]
enum Message {
    Fetch {
        from: i32,
        to: i32,
        leader_epoch: i32,
        offset: i64,
        last_epoch: i32,
        broker_epoch: i64,
    },
    Answer {
        to: i32,
        leader_epoch: i32,
        fetched_from: i64,
        answer: Answer,
        records: Vec<Entry>,
        leaders_hw: i64,
    },
    Propose {
        from: i32,
        proposal: IsrProposal,
    },
    Refused {
        to: i32,
        leader_epoch: i32,
        partition_epoch: PartitionEpoch,
    },
}

struct Waiting {
    offset: i64,
    value: u64,
}

struct Node {
    is_up: bool,
    log: Vec<Entry>,
    /// What a power loss leaves.
    synced: usize,
    hw: i64,
    image_version: usize,
    broker_epoch: i64,
    leader: Option<Leader>,
    follows: Option<(i32, i32)>,
    waiting: Vec<Waiting>,
    proposed: Option<PartitionEpoch>,
}

impl OwnLog for Node {
    fn log_end_offset(&self) -> Offset {
        Offset(i64::try_from(self.log.len()).expect("short"))
    }

    fn log_start_offset(&self) -> Offset {
        Offset(0)
    }

    fn epoch_end(&self, leader_epoch: LeaderEpoch) -> Option<EpochEnd> {
        let end = self.log.iter().take_while(|entry| entry.epoch <= leader_epoch.get()).count();
        let last = self.log[..end].last()?;
        Some(EpochEnd {
            leader_epoch: LeaderEpoch(last.epoch),
            end_offset: Offset(i64::try_from(end).expect("short")),
        })
    }

    fn last_record_epoch(&self) -> Option<LeaderEpoch> {
        self.log.last().map(|entry| LeaderEpoch(entry.epoch))
    }
}

struct World {
    rng: StdRng,
    now: u64,
    mutation: Mutation,
    images: Vec<Image>,
    nodes: BTreeMap<i32, Node>,
    network: Vec<Message>,
    next_value: u64,
    next_broker_epoch: i64,
    /// What clients were told, and what was ever committed.
    acknowledged: BTreeMap<i64, u64>,
    committed: BTreeMap<i64, Entry>,
    trace: String,
    violation: Option<String>,
}

impl World {
    fn new(seed: u64, mutation: Mutation) -> Self {
        let live = NODES.iter().map(|id| (*id, i64::from(*id))).collect();
        let image = Image { leader: Some(1), leader_epoch: 0, partition_epoch: 0, isr: NODES.to_vec(), live };
        let nodes = NODES
            .iter()
            .map(|id| {
                let node = Node {
                    is_up: true,
                    log: Vec::new(),
                    synced: 0,
                    hw: 0,
                    image_version: 0,
                    broker_epoch: i64::from(*id),
                    leader: None,
                    follows: None,
                    waiting: Vec::new(),
                    proposed: None,
                };
                (*id, node)
            })
            .collect();
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            mutation,
            images: vec![image],
            nodes,
            network: Vec::new(),
            next_value: 1,
            next_broker_epoch: 10,
            acknowledged: BTreeMap::new(),
            committed: BTreeMap::new(),
            trace: String::new(),
            violation: None,
        };
        for id in NODES {
            world.take_role(id);
        }
        world
    }

    fn note(&mut self, line: &str) {
        writeln!(self.trace, "{:>6} {line}", self.now).expect("a String takes everything");
    }

    fn violate(&mut self, line: String) {
        self.note(&format!("VIOLATION {line}"));
        self.violation.get_or_insert(line);
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick(&mut self) -> i32 {
        NODES[self.rng.random_range(0..NODES.len())]
    }

    fn newest(&self) -> &Image {
        self.images.last().expect("there is a first image")
    }

    /// The node acts on the image that it has applied.
    fn take_role(&mut self, id: i32) {
        let now = MonotonicMs(self.now);
        let mutation = self.mutation;
        let node = self.nodes.get_mut(&id).expect("known");
        let image = &self.images[node.image_version];
        let live = image.live.clone();
        let membership = move |node: NodeId| live.get(&node.get()).copied().map(BrokerEpoch);
        let epoch = LeaderEpoch(image.leader_epoch);
        let isr: Vec<NodeId> = image.isr.iter().copied().map(NodeId).collect();
        let term = LeaderTerm {
            replicas: NODES.iter().copied().map(NodeId).collect(),
            isr,
            elr: Vec::new(),
            is_recovering: false,
            leader_epoch: epoch,
            partition_epoch: PartitionEpoch(image.partition_epoch),
        };
        let effects = if image.leader == Some(id) {
            match &mut node.leader {
                Some(leader) if leader.leader_epoch() == epoch => {
                    let mut effects = leader.changed(now, &term);
                    let more = leader.membership_changed(now, &membership);
                    effects.high_watermark = more.high_watermark.or(effects.high_watermark);
                    effects
                }
                Some(_) | None => {
                    let end = node.log_end_offset();
                    let hw = Offset(node.hw);
                    node.waiting.clear();
                    node.follows = None;
                    node.leader = Some(Leader::new(now, NodeId(id), &term, &membership, end, hw, SETTINGS));
                    Effects::default()
                }
            }
        } else {
            // KIP-101: waiters of a deposed leader are failed.
            node.leader = None;
            node.waiting.clear();
            let follows = image.leader.map(|leader| (leader, image.leader_epoch));
            if follows != node.follows && mutation == Mutation::TruncateToHighWatermark {
                node.log.truncate(usize::try_from(node.hw).expect("small"));
                node.synced = node.synced.min(node.log.len());
            }
            node.follows = follows;
            Effects::default()
        };
        self.follow_up(id, effects);
    }

    /// Does what a leader's event asks for.
    fn follow_up(&mut self, id: i32, effects: Effects) {
        if let Some(hw) = effects.high_watermark {
            self.advance(id, hw.get());
        }
        if let Some(proposal) = effects.propose {
            self.nodes.get_mut(&id).expect("known").proposed = Some(proposal.partition_epoch);
            self.network.push(Message::Propose { from: id, proposal });
        }
    }

    fn advance(&mut self, id: i32, hw: i64) {
        let node = self.nodes.get_mut(&id).expect("known");
        if hw < node.hw && node.leader.is_some() {
            let line =
                format!("REPL-1: the high watermark of leader {id} goes back from {} to {hw}", node.hw);
            self.violate(line);
            return;
        }
        let node = self.nodes.get_mut(&id).expect("known");
        let from = node.hw;
        node.hw = hw;
        let below: Vec<(i64, Entry)> = (from..hw)
            .filter_map(|offset| Some((offset, *node.log.get(usize::try_from(offset).ok()?)?)))
            .collect();
        let enough = node.leader.as_ref().is_some_and(Leader::has_enough_in_sync);
        let waiting = std::mem::take(&mut node.waiting);
        let (done, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| waiting.offset < hw);
        node.waiting = rest;
        self.note(&format!("node {id} high watermark {hw}"));
        for (offset, entry) in below {
            let known = *self.committed.entry(offset).or_insert(entry);
            if known != entry {
                self.violate(format!("REPL-3: offset {offset} was committed as {known:?} and as {entry:?}"));
            }
        }
        for Waiting { offset, value } in done {
            // Point 8: the minimum is looked at again when the records are there.
            if enough && let Some(other) = self.acknowledged.insert(offset, value) {
                self.violate(format!("REPL-5: offset {offset} was acknowledged as {other} and as {value}"));
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Fetch { from, to, leader_epoch, offset, last_epoch, broker_epoch } => {
                self.serve(from, to, leader_epoch, offset, last_epoch, broker_epoch);
            }
            Message::Answer { to, leader_epoch, fetched_from, answer, records, leaders_hw } => {
                self.take_answer(to, leader_epoch, fetched_from, &answer, records, leaders_hw);
            }
            Message::Propose { from, proposal } => self.decide(from, &proposal),
            Message::Refused { to, leader_epoch, partition_epoch } => {
                let now = MonotonicMs(self.now);
                let node = self.nodes.get_mut(&to).expect("known");
                let Some(leader) = node
                    .leader
                    .as_mut()
                    .filter(|leader| node.is_up && leader.leader_epoch() == LeaderEpoch(leader_epoch))
                else {
                    return;
                };
                let effects = leader.refused(now, partition_epoch);
                self.follow_up(to, effects);
            }
        }
    }

    fn serve(
        &mut self,
        from: i32,
        to: i32,
        leader_epoch: i32,
        offset: i64,
        last_epoch: i32,
        broker_epoch: i64,
    ) {
        let now = MonotonicMs(self.now);
        let mutation = self.mutation;
        let node = self.nodes.get_mut(&to).expect("known");
        if !node.is_up {
            return;
        }
        let end = i64::try_from(node.log.len()).expect("short");
        let is_current =
            node.leader.as_ref().is_some_and(|leader| leader.leader_epoch() == LeaderEpoch(leader_epoch));
        let refuse = |error| Answer { error, log_start_offset: Offset(0), diverging: None };
        if !is_current {
            let answer = refuse(ErrorCode::NotLeaderOrFollower);
            self.network.push(Message::Answer {
                to: from,
                leader_epoch,
                fetched_from: offset,
                answer,
                records: vec![],
                leaders_hw: -1,
            });
            return;
        }
        let ours = node.epoch_end(LeaderEpoch(last_epoch));
        let diverging = (last_epoch >= 0)
            .then(|| ours.unwrap_or(EpochEnd { leader_epoch: LeaderEpoch(-1), end_offset: Offset(0) }))
            .filter(|ours| ours.leader_epoch.get() != last_epoch || ours.end_offset.get() < offset);
        let mut answer = refuse(ErrorCode::None);
        let mut records = Vec::new();
        let mut effects = Effects::default();
        let leader = node.leader.as_mut().expect("it leads");
        if let Some(diverging) = diverging {
            answer.diverging = Some(diverging);
        } else if offset > end {
            answer.error = ErrorCode::OffsetOutOfRange;
        } else {
            let start = usize::try_from(offset).expect("small");
            records = node.log[start..].iter().take(RECORDS_PER_ANSWER_MAX).copied().collect();
            let broker_epoch =
                (mutation != Mutation::IgnoreBrokerEpochs).then_some(BrokerEpoch(broker_epoch));
            let fetch = FollowerFetch {
                node: NodeId(from),
                broker_epoch,
                fetch_offset: Offset(offset),
                log_start_offset: Offset(0),
            };
            effects = leader.fetched(now, fetch);
        }
        self.follow_up(to, effects);
        let leaders_hw = self.nodes[&to].hw;
        self.network.push(Message::Answer {
            to: from,
            leader_epoch,
            fetched_from: offset,
            answer,
            records,
            leaders_hw,
        });
    }

    fn take_answer(
        &mut self,
        to: i32,
        leader_epoch: i32,
        fetched_from: i64,
        answer: &Answer,
        records: Vec<Entry>,
        leaders_hw: i64,
    ) {
        let node = self.nodes.get_mut(&to).expect("known");
        if !node.is_up || node.follows.is_none_or(|(_, epoch)| epoch != leader_epoch) {
            return;
        }
        match next_step(node, Offset(fetched_from), answer) {
            Step::Append => {
                node.log.extend(records);
                let end = node.log_end_offset();
                let hw = high_watermark(Offset(leaders_hw), end).get();
                if hw > node.hw {
                    self.advance(to, hw);
                }
            }
            Step::TruncateTo(offset) | Step::StartAt(offset) => {
                let end = usize::try_from(offset.get()).expect("small");
                node.log.truncate(end);
                node.synced = node.synced.min(end);
                node.hw = node.hw.min(offset.get());
                self.note(&format!("node {to} cut to {offset}"));
            }
            Step::Wait { .. } => {}
        }
    }

    /// The controller takes a change of the ISR if it meets the epochs that it was decided in.
    fn decide(&mut self, from: i32, proposal: &IsrProposal) {
        let image = self.newest();
        let is_live = proposal.isr.iter().zip(&proposal.broker_epochs).all(|(node, told)| {
            let live = image.live.get(&node.get()).copied().map(BrokerEpoch);
            live.is_some_and(|live| told.is_none_or(|told| told == live))
        });
        if image.partition_epoch != proposal.partition_epoch.get()
            || image.leader_epoch != proposal.leader_epoch.get()
            || !is_live && self.mutation != Mutation::IgnoreBrokerEpochs
        {
            if !self.chance(20) {
                self.network.push(Message::Refused {
                    to: from,
                    leader_epoch: proposal.leader_epoch.get(),
                    partition_epoch: proposal.partition_epoch,
                });
            }
            return;
        }
        let isr = proposal.isr.iter().map(|node| node.get()).collect();
        let image = Image { isr, partition_epoch: image.partition_epoch + 1, ..image.clone() };
        self.publish(image);
    }

    fn publish(&mut self, image: Image) {
        self.note(&format!("{image:?}"));
        self.images.push(image);
    }

    /// Fences a broker, takes it out of the ISR unless it is the last one there, and elects.
    fn fence(&mut self, id: i32, keep_in_isr: bool) {
        let mut image = self.newest().clone();
        image.live.remove(&id);
        if image.isr.contains(&id) && image.isr.len() > 1 && !keep_in_isr {
            image.isr.retain(|node| *node != id);
            image.partition_epoch += 1;
        }
        if image.leader == Some(id) {
            image.leader = None;
            image.leader_epoch += 1;
            image.partition_epoch += 1;
        }
        self.elect(&mut image);
        self.publish(image);
    }

    fn elect(&self, image: &mut Image) {
        if image.leader.is_some() {
            return;
        }
        let candidates: Vec<i32> = if self.mutation == Mutation::ElectAnyone {
            image
                .live
                .keys()
                .copied()
                .filter(|node| !image.isr.contains(node))
                .chain(image.isr.clone())
                .collect()
        } else {
            image.isr.clone()
        };
        let Some(leader) = candidates.into_iter().find(|node| image.live.contains_key(node)) else { return };
        if !image.isr.contains(&leader) {
            image.isr = vec![leader];
        }
        image.leader = Some(leader);
        image.leader_epoch += 1;
        image.partition_epoch += 1;
    }

    fn crash(&mut self, id: i32, loses_tail: bool) {
        let synced = self.nodes[&id].synced;
        let len = self.nodes[&id].log.len();
        let kept = if loses_tail { self.rng.random_range(synced..=len) } else { len };
        self.note(&format!("node {id} crashes and keeps {kept} of {len}"));
        let node = self.nodes.get_mut(&id).expect("known");
        node.is_up = false;
        node.leader = None;
        node.follows = None;
        node.waiting.clear();
        if kept < len {
            node.log.truncate(kept);
            node.hw = node.hw.min(i64::try_from(kept).expect("short"));
            // Point 6: whoever lost data leaves the ISR before anything else. The last one there stays: it alone
            // knows what was committed, and an operator must decide.
            let alone = self.newest().isr == [id];
            let trust = self.mutation == Mutation::TrustUncleanRestart;
            self.fence(id, trust && !alone);
        }
        // A process that merely died is fenced when somebody notices.
    }

    fn restart(&mut self, id: i32) {
        self.next_broker_epoch += 1;
        let epoch = self.next_broker_epoch;
        let mut image = self.newest().clone();
        if image.leader == Some(id) {
            image.leader = None;
            image.leader_epoch += 1;
            image.partition_epoch += 1;
        }
        image.live.insert(id, epoch);
        self.elect(&mut image);
        self.publish(image);
        let version = self.images.len() - 1;
        let node = self.nodes.get_mut(&id).expect("known");
        node.is_up = true;
        node.broker_epoch = epoch;
        node.image_version = version;
        self.take_role(id);
    }

    fn produce(&mut self, id: i32) {
        let now = MonotonicMs(self.now);
        let value = self.next_value;
        let node = self.nodes.get_mut(&id).expect("known");
        let offset = i64::try_from(node.log.len()).expect("short");
        let Some(leader) = node.leader.as_mut().filter(|leader| node.is_up && leader.has_enough_in_sync())
        else {
            return;
        };
        self.next_value += 1;
        node.log.push(Entry { epoch: leader.leader_epoch().get(), value });
        node.waiting.push(Waiting { offset, value });
        let mut effects = leader.appended(now, Offset(offset + 1));
        if self.mutation == Mutation::CommitAlone {
            effects.high_watermark = Some(Offset(offset + 1));
        }
        self.follow_up(id, effects);
    }

    fn fetch(&mut self, id: i32) {
        let node = &self.nodes[&id];
        let Some((leader, leader_epoch)) = node.follows.filter(|_| node.is_up) else { return };
        let message = Message::Fetch {
            from: id,
            to: leader,
            leader_epoch,
            offset: i64::try_from(node.log.len()).expect("short"),
            last_epoch: node.log.last().map_or(-1, |entry| entry.epoch),
            broker_epoch: node.broker_epoch,
        };
        self.network.push(message);
    }

    fn check_isr(&mut self, id: i32) {
        let now = MonotonicMs(self.now);
        let mutation = self.mutation;
        let node = self.nodes.get_mut(&id).expect("known");
        let proposed = node.proposed;
        let Some(leader) = node.leader.as_mut().filter(|_| node.is_up) else { return };
        // A proposal that nobody answered is made again.
        let again = proposed.and_then(|epoch| leader.again(epoch));
        let mut effects = leader.check(now);
        if let Some(again) = again {
            if mutation == Mutation::ForgetProposals {
                effects = leader.refused(now, again.partition_epoch);
            } else {
                effects.propose = Some(again);
            }
        }
        self.follow_up(id, effects);
    }

    fn catch_up_with_metadata(&mut self, id: i32) {
        let newest = self.images.len() - 1;
        let node = self.nodes.get_mut(&id).expect("known");
        if node.is_up && node.image_version < newest {
            node.image_version += 1;
            self.take_role(id);
        }
    }

    fn some_message(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.network.len());
        let message = self.network.swap_remove(at);
        if self.chance(10) {
            return;
        }
        if self.chance(8) {
            // It will come once more, perhaps much later.
            self.network.push(message.clone());
        }
        self.deliver(message);
    }

    fn step(&mut self) {
        self.now += self.rng.random_range(0..8);
        let id = self.pick();
        match self.rng.random_range(0..100) {
            0..22 => self.produce(id),
            22..45 => self.fetch(id),
            45..78 => {
                self.some_message();
                self.some_message();
            }
            78..84 => self.check_isr(id),
            84..92 => self.catch_up_with_metadata(id),
            92..94 => {
                let node = self.nodes.get_mut(&id).expect("known");
                node.synced = node.log.len();
            }
            94..96 => {
                // At most one broker loses its memory at a time: the others' copies are what saves the data.
                let all_up = self.nodes.values().all(|node| node.is_up);
                let loses_tail = all_up && self.newest().isr.len() > 1 && self.chance(60);
                if self.nodes[&id].is_up {
                    self.crash(id, loses_tail);
                }
            }
            96..98 => {
                if self.nodes[&id].is_up {
                    // A pause or a partition: fenced, though it lives.
                    if self.newest().live.contains_key(&id) && self.chance(30) {
                        self.fence(id, false);
                    }
                } else if self.newest().live.contains_key(&id) {
                    self.fence(id, false);
                }
            }
            _ => {
                let is_live = self.newest().live.contains_key(&id);
                if !self.nodes[&id].is_up || !is_live {
                    self.restart(id);
                }
            }
        }
    }

    /// Everything works again; all must agree, and hold what was acknowledged.
    fn heal(&mut self) {
        self.note("healing");
        for id in NODES {
            if !self.nodes[&id].is_up || !self.newest().live.contains_key(&id) {
                self.restart(id);
            }
        }
        for _ in 0..HEALING_ROUNDS_MAX {
            if self.violation.is_some() || self.has_converged() {
                break;
            }
            self.now += 5;
            for id in NODES {
                for _ in 0..4 {
                    self.catch_up_with_metadata(id);
                }
                self.fetch(id);
                self.check_isr(id);
            }
            for message in std::mem::take(&mut self.network) {
                self.deliver(message);
            }
        }
        if self.violation.is_some() {
            return;
        }
        if !self.has_converged() {
            let state = self.newest().clone();
            self.violate(format!("no convergence: {state:?}"));
            return;
        }
        let log = self.nodes[&1].log.clone();
        for (offset, value) in self.acknowledged.clone() {
            let found = usize::try_from(offset).ok().and_then(|at| log.get(at)).map(|entry| entry.value);
            if found != Some(value) {
                self.violate(format!(
                    "REPL-5: {value} was acknowledged at {offset}, where there is {found:?}"
                ));
            }
        }
    }

    fn has_converged(&self) -> bool {
        let first = &self.nodes[&1];
        self.newest().isr.len() == NODES.len()
            && self.newest().leader.is_some()
            && self.nodes.values().all(|node| {
                node.image_version + 1 == self.images.len()
                    && node.log == first.log
                    && node.hw == i64::try_from(node.log.len()).expect("short")
            })
    }
}

struct Outcome {
    violation: Option<String>,
    trace: String,
    acknowledged: usize,
}

fn run(seed: u64, mutation: Mutation) -> Outcome {
    let mut world = World::new(seed, mutation);
    for _ in 0..STEPS_MAX {
        world.step();
        if world.violation.is_some() {
            break;
        }
    }
    world.heal();
    Outcome { violation: world.violation, trace: world.trace, acknowledged: world.acknowledged.len() }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_was_acknowledged_stays() {
    if let Some(seed) = setting("CHRONIK_SIM_SEED") {
        let outcome = run(seed, Mutation::None);
        println!("{}", outcome.trace);
        assert_eq!(outcome.violation, None, "seed {seed}");
        return;
    }
    let mut acknowledged = 0;
    for seed in 0..setting("CHRONIK_SIM_SEEDS").unwrap_or(SEEDS) {
        let outcome = run(seed, Mutation::None);
        assert_eq!(outcome.violation, None, "CHRONIK_SIM_SEED={seed} shows how");
        acknowledged += outcome.acknowledged;
    }
    println!("{acknowledged} records acknowledged");
    assert!(acknowledged > 10_000, "the simulation must get something done: {acknowledged}");
}

#[test]
fn a_seed_runs_the_same_twice() {
    for seed in 0..50 {
        assert_eq!(run(seed, Mutation::None).trace, run(seed, Mutation::None).trace);
    }
}

#[test]
fn every_broken_rule_is_found() {
    let mutations = [
        Mutation::CommitAlone,
        Mutation::TruncateToHighWatermark,
        Mutation::ElectAnyone,
        Mutation::IgnoreBrokerEpochs,
        Mutation::ForgetProposals,
        Mutation::TrustUncleanRestart,
    ];
    for mutation in mutations {
        let found =
            (0..MUTATED_SEEDS_MAX).find_map(|seed| run(seed, mutation).violation.map(|what| (seed, what)));
        println!("{mutation:?}: {found:?}");
        assert!(found.is_some(), "{mutation:?} is never noticed");
    }
}
