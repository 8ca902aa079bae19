//! Three nodes that reach one another at once, as far as a test lets them: one behaviour at a time. What many faults
//! do together is for the simulation.

mod contact;
mod faults;
mod liveness;
mod points;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::{Disk, SimDisk};
use chronik_types::{LogIndex, MonotonicMs, NodeId, TopicId};
use parking_lot::Mutex;

use super::*;
use crate::driver::TICK_MS;
use crate::inspect::{MessageKind, summarize_message};
use crate::log::{Applied, ProposeError};
use crate::metadata::{Command, CreateTopic, Endpoint, RegisterBroker, UnfenceBroker};
use crate::transport::Dropped;

const DIR: &str = "/data/raft";

/// Messages that have left nodes: sender, receiver, message.
type Wires = Arc<Mutex<Vec<(usize, usize, PeerMessage)>>>;

/// Takes every message, but for those to peers whose queue is full.
struct Wire {
    from: usize,
    wires: Wires,
    full_queues: Arc<Mutex<BTreeSet<(usize, usize)>>>,
}

impl Transport for Wire {
    fn send(&mut self, to: NodeId, message: PeerMessage) -> Result<(), Dropped> {
        let to = place(to);
        if self.full_queues.lock().contains(&(self.from, to)) {
            return Err(Dropped);
        }
        self.wires.lock().push((self.from, to, message));
        Ok(())
    }
}

struct Ignored;

impl Observer for Ignored {
    fn image_changed(&mut self, _image: &Arc<MetadataImage>, _delta: &Delta) {}
}

fn place(node: NodeId) -> usize {
    usize::try_from(node.get()).unwrap()
}

fn node(place: usize) -> NodeId {
    NodeId(i32::try_from(place).unwrap())
}

/// What a proposal or a barrier was answered, once it was.
type Answer<T> = Arc<Mutex<Option<Result<T, ProposeError>>>>;

struct Cluster {
    nodes: Vec<Option<RaftNode>>,
    disks: Vec<SimDisk>,
    now: MonotonicMs,
    wires: Wires,
    full_queues: Arc<Mutex<BTreeSet<(usize, usize)>>>,
    /// Directions that carry nothing.
    cut: BTreeSet<(usize, usize)>,
    /// Kinds of message that are lost everywhere.
    lost_kinds: Vec<MessageKind>,
    /// What was carried since the test looked last.
    carried: Vec<(usize, usize, MessageKind)>,
    incarnations: u64,
    config: fn(&mut RaftConfig),
    /// Why a node has stopped.
    stopped: Vec<Option<RaftError>>,
}

impl Cluster {
    /// Three nodes that have started, none of which leads.
    fn new() -> Self {
        Self::with_config(|_| {})
    }

    fn with_config(config: fn(&mut RaftConfig)) -> Self {
        let mut cluster = Self {
            nodes: vec![None, None, None],
            disks: (0..3).map(|_| SimDisk::new()).collect(),
            now: MonotonicMs(0),
            wires: Wires::default(),
            full_queues: Arc::default(),
            cut: BTreeSet::new(),
            lost_kinds: Vec::new(),
            carried: Vec::new(),
            incarnations: 0,
            config,
            stopped: vec![None, None, None],
        };
        for at in 0..3 {
            cluster.disks[at].create_dir_all(Path::new("/data")).unwrap();
            cluster.disks[at].sync_dir(Path::new("/")).unwrap();
            cluster.start(at).unwrap();
        }
        cluster
    }

    /// Three nodes, of which 0 leads term 1 and all have applied its first entry.
    fn led() -> Self {
        Self::new().elect_first()
    }

    fn elect_first(mut self) -> Self {
        self.pass_ms(1_000);
        assert_eq!(self.leaders(), [0], "the first voter's timeout is the shortest");
        self
    }

    fn start(&mut self, at: usize) -> Result<(), RaftError> {
        self.incarnations += 1;
        let mut config = RaftConfig::new(node(at), (0..3).map(node).collect(), self.incarnations);
        (self.config)(&mut config);
        let wire =
            Wire { from: at, wires: Arc::clone(&self.wires), full_queues: Arc::clone(&self.full_queues) };
        let disk: Arc<dyn Disk> = Arc::new(self.disks[at].clone());
        let node = RaftNode::open(config, disk, Path::new(DIR), Box::new(wire), Box::new(Ignored))?;
        self.nodes[at] = Some(node);
        self.stopped[at] = None;
        Ok(())
    }

    /// The process ends; what it wrote stays.
    fn stop(&mut self, at: usize) {
        self.nodes[at] = None;
        self.wires.lock().retain(|(from, to, _)| *from != at && *to != at);
    }

    fn isolate(&mut self, at: usize) {
        for other in (0..3).filter(|other| *other != at) {
            self.cut.insert((at, other));
            self.cut.insert((other, at));
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
        self.lost_kinds.clear();
        self.full_queues.lock().clear();
    }

    fn node(&self, at: usize) -> &RaftNode {
        self.nodes[at].as_ref().unwrap()
    }

    fn node_mut(&mut self, at: usize) -> &mut RaftNode {
        self.nodes[at].as_mut().unwrap()
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |at: &usize| self.nodes[*at].as_ref().is_some_and(RaftNode::is_leader);
        (0..3).filter(leads).collect()
    }

    fn terms(&self) -> Vec<u64> {
        self.nodes.iter().flatten().map(|node| node.term().get()).collect()
    }

    /// Lets a node take its turn.
    fn turn(&mut self, at: usize) {
        let now = self.now;
        if let Some(node) = &mut self.nodes[at]
            && let Err(error) = node.advance(now)
        {
            node.fail_pending(&error.to_string());
            self.nodes[at] = None;
            self.stopped[at] = Some(error);
        }
    }

    /// Takes turns and carries messages until there are none, without letting time pass.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            for at in 0..3 {
                self.turn(at);
            }
            let sent = std::mem::take(&mut *self.wires.lock());
            if sent.is_empty() {
                return;
            }
            for (from, to, message) in sent {
                self.carry(from, to, &message);
            }
        }
        panic!("the nodes talk without end");
    }

    fn carry(&mut self, from: usize, to: usize, message: &PeerMessage) {
        let kind = summarize_message(message.bytes.clone()).unwrap().kind;
        assert_eq!(
            message.is_snapshot,
            kind == MessageKind::Snapshot,
            "snapshots have a stream of their own"
        );
        let lost = self.cut.contains(&(from, to)) || self.lost_kinds.contains(&kind);
        let now = self.now;
        if let (false, Some(receiver)) = (lost, &mut self.nodes[to]) {
            self.carried.push((from, to, kind));
            if let Err(StepError::Fatal(error)) = receiver.step(now, node(from), message.bytes.clone()) {
                receiver.fail_pending(&error.to_string());
                self.nodes[to] = None;
                self.stopped[to] = Some(error);
            }
        }
    }

    fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.now = self.now.plus_ms(TICK_MS);
            for node in self.nodes.iter_mut().flatten() {
                node.tick();
            }
            self.settle();
        }
    }

    fn carried_count(&self, kind: MessageKind) -> usize {
        self.carried.iter().filter(|(_, _, carried)| *carried == kind).count()
    }

    /// Proposes at a node, and lets nothing happen yet.
    fn ask(&mut self, at: usize, batch: CommandBatch) -> Answer<Applied> {
        let answer = Answer::default();
        let slot = Arc::clone(&answer);
        let now = self.now;
        let done = Box::new(move |outcome| {
            assert!(slot.lock().replace(outcome).is_none(), "answered twice");
        });
        self.node_mut(at).propose(now, batch, None, done);
        answer
    }

    /// Proposes a topic at a node; it must be there in the end, on every node that runs.
    fn create(&mut self, at: usize, number: u32) -> Applied {
        let answer = self.ask(at, topic(number));
        self.settle();
        let answer = answer.lock().take().expect("it is answered at once");
        answer.unwrap()
    }

    fn barrier(&mut self, at: usize) -> Answer<Arc<MetadataImage>> {
        let answer = Answer::default();
        let slot = Arc::clone(&answer);
        self.node_mut(at).barrier(Box::new(move |outcome| {
            assert!(slot.lock().replace(outcome).is_none(), "answered twice");
        }));
        answer
    }

    fn has(&self, at: usize, number: u32) -> bool {
        self.node(at).image().topic(&format!("topic-{number}")).is_some()
    }

    /// Registers a broker of this incarnation, in service or not.
    fn register(&mut self, at: usize, incarnation: u128, in_service: bool) {
        self.node_mut(at).set_broker_incarnation(incarnation);
        let endpoint = Endpoint { listener: "L".into(), host: "h".into(), port: 1, security_protocol: 0 };
        let mut commands: Vec<Command> =
            vec![RegisterBroker::new(node(at), incarnation, vec![endpoint]).into()];
        if in_service {
            commands.push(UnfenceBroker::new(node(at), None).into());
        }
        let answer = self.ask(at, CommandBatch::new(commands));
        self.settle();
        answer.lock().take().expect("it is answered at once").unwrap();
    }
}

fn topic(number: u32) -> CommandBatch {
    let id = TopicId(u128::from(number) + 1);
    CommandBatch::new(vec![CreateTopic::new(format!("topic-{number}"), id, 1, 1).into()])
}

#[test]
fn any_node_takes_proposals_and_answers_when_it_shows_them() {
    let mut cluster = Cluster::led();
    for (number, at) in [(1, 0), (2, 1), (3, 2)] {
        let answer = cluster.ask(at, topic(number));
        for _ in 0..100 {
            let answered = answer.lock().is_some();
            assert!(!answered || cluster.has(at, number), "node {at} answers before it shows");
            for turn in 0..3 {
                cluster.turn(turn);
            }
            let sent = std::mem::take(&mut *cluster.wires.lock());
            for (from, to, message) in sent {
                cluster.carry(from, to, &message);
            }
        }
        answer.lock().take().expect("it is answered").unwrap();
        assert!((0..3).all(|at| cluster.has(at, number)));
    }
    // A refusal is the state machine's own, in full, wherever it was asked for.
    for at in 0..3 {
        let answer = cluster.ask(at, topic(1));
        cluster.settle();
        let refused = answer.lock().take().expect("it is answered");
        let expected = "topic 'topic-1' already exists";
        assert!(
            matches!(&refused, Err(ProposeError::Refused { error, .. }) if error.to_string() == expected),
            "{refused:?}"
        );
    }
}

#[test]
fn a_proposal_survives_lost_messages_and_takes_effect_once() {
    for lost in [MessageKind::Forward, MessageKind::ForwardReply] {
        let mut cluster = Cluster::led();
        cluster.lost_kinds = vec![lost];
        let answer = cluster.ask(1, topic(1));
        cluster.pass_ms(700);
        assert_eq!(answer.lock().is_some(), lost == MessageKind::ForwardReply, "the entry itself tells");
        cluster.heal();
        cluster.pass_ms(1_000);
        answer.lock().take().expect("it is answered").unwrap();
        assert!((0..3).all(|at| cluster.has(at, 1)));
    }
}

#[test]
fn a_proposal_survives_its_leader() {
    // The leader has it in its log and dies, or is cut off, before anybody else has.
    for at in [0, 1] {
        let mut cluster = Cluster::led();
        cluster.lost_kinds = vec![MessageKind::Append];
        let answer = cluster.ask(at, topic(1));
        cluster.settle();
        cluster.heal();
        cluster.isolate(0);
        cluster.pass_ms(2_000);
        assert_ne!(cluster.leaders(), [0]);
        assert_eq!(answer.lock().is_some(), at == 1, "a node that is not cut off has its answer");
        cluster.heal();
        cluster.pass_ms(1_000);
        answer.lock().take().expect("it is answered").unwrap();
        assert!((0..3).all(|at| cluster.has(at, 1)));
        // However often it was written, it took effect once.
        let ids: Vec<_> = cluster.node(0).image().topics().map(|topic| topic.id).collect();
        assert_eq!(ids, [TopicId(2)]);
    }
}

#[test]
fn without_a_leader_nothing_is_written() {
    let mut cluster = Cluster::new();
    cluster.isolate(0);
    let answer = cluster.ask(0, topic(1));
    cluster.pass_ms(4_900);
    assert!(answer.lock().is_none());
    cluster.pass_ms(200);
    let answer = answer.lock().take().expect("its time is over");
    assert!(matches!(answer, Err(ProposeError::NotLeader { leader: None })), "{answer:?}");
}

#[test]
fn what_the_controller_alone_may_propose_is_never_forwarded() {
    let mut cluster = Cluster::led();
    let ask = |cluster: &mut Cluster, at: usize, term: u64, number: u32| {
        let answer: Answer<Applied> = Answer::default();
        let slot = Arc::clone(&answer);
        let now = cluster.now;
        let done = Box::new(move |outcome| *slot.lock() = Some(outcome));
        cluster.node_mut(at).propose(now, topic(number), Some(Term(term)), done);
        cluster.settle();
        answer.lock().take()
    };
    assert!(matches!(ask(&mut cluster, 0, 1, 1), Some(Ok(_))));
    for (at, term) in [(0, 2), (1, 1)] {
        let answer = ask(&mut cluster, at, term, 2);
        assert!(matches!(answer, Some(Err(ProposeError::NotLeader { leader: Some(NodeId(0)) }))));
    }
    // A leader that is cut off proposes, and another leads: the answer is unknown, and nobody tries again.
    cluster.isolate(0);
    let now = cluster.now;
    let answer: Answer<Applied> = Answer::default();
    let slot = Arc::clone(&answer);
    cluster.node_mut(0).propose(
        now,
        topic(3),
        Some(Term(1)),
        Box::new(move |outcome| *slot.lock() = Some(outcome)),
    );
    cluster.pass_ms(2_000);
    assert!(matches!(answer.lock().take(), Some(Err(ProposeError::LeadershipLost))));
    cluster.heal();
    cluster.pass_ms(2_000);
    assert!((0..3).all(|at| cluster.has(at, 1) && !cluster.has(at, 2) && !cluster.has(at, 3)));
}

#[test]
fn too_many_proposals_are_refused_and_the_others_answered() {
    let mut cluster = Cluster::led();
    let count = crate::metadata::REQUESTS_OUTSTANDING_MAX;
    let answers: Vec<_> = (0..=count).map(|_| cluster.ask(1, CommandBatch::new(Vec::new()))).collect();
    assert!(matches!(answers.last().unwrap().lock().take(), Some(Err(ProposeError::Busy))));
    cluster.pass_ms(500);
    for answer in &answers[..answers.len() - 1] {
        answer.lock().take().expect("it is answered").unwrap();
    }
    cluster.create(1, 1);
}

#[test]
fn a_snapshot_answers_the_proposals_in_it() {
    let mut cluster = Cluster::with_config(|config| {
        config.snapshot_entries_max = 2;
        config.retained_entries_max = 0;
    })
    .elect_first();
    // Node 1 can reach the leader, and hears nothing of what becomes of its request.
    cluster.cut.insert((0, 1));
    cluster.cut.insert((2, 1));
    let answer = cluster.ask(1, topic(1));
    let refused = cluster.ask(1, CommandBatch::new(vec![topic(1).commands[0].clone()]));
    cluster.settle();
    for number in 2..8 {
        cluster.create(0, number);
    }
    assert!(answer.lock().is_none());
    cluster.heal();
    cluster.pass_ms(2_000);
    assert!(0 < cluster.carried_count(MessageKind::Snapshot));
    answer.lock().take().expect("it is answered").unwrap();
    let refused = refused.lock().take().expect("it is answered").unwrap_err();
    assert_eq!(refused.error_code(), chronik_types::ErrorCode::TopicAlreadyExists, "{refused:?}");
}

#[test]
fn a_barrier_shows_on_any_node_what_another_has_answered() {
    let mut cluster = Cluster::led();
    // Followers learn of commits late.
    for at in 0..3 {
        let number = u32::try_from(at).unwrap();
        let answer = cluster.ask(0, topic(number));
        while answer.lock().is_none() {
            cluster.turn(0);
            let sent = std::mem::take(&mut *cluster.wires.lock());
            for (from, to, message) in sent {
                cluster.carry(from, to, &message);
                cluster.turn(to);
            }
        }
        let barrier = cluster.barrier(at);
        cluster.settle();
        let image = barrier.lock().take().expect("it is answered").unwrap();
        assert!(image.topic(&format!("topic-{number}")).is_some(), "node {at}");
    }
    // A node that is cut off has nothing to show, even if it takes itself for the leader.
    cluster.isolate(0);
    let barrier = cluster.barrier(0);
    cluster.settle();
    assert!(barrier.lock().is_none());
    cluster.pass_ms(5_050);
    assert!(matches!(barrier.lock().take(), Some(Err(ProposeError::TimedOut { .. }))));
}

#[test]
fn a_barrier_waits_without_haste_for_somebody_to_lead() {
    let mut cluster = Cluster::led();
    cluster.isolate(1);
    let barrier = cluster.barrier(1);
    // It asks the leader that it knows, and then for votes that nobody gives.
    cluster.pass_ms(2_000);
    assert!(barrier.lock().is_none());
    assert_eq!(cluster.node(1).quorum().leader, None);
    let next = cluster.node(1).next_deadline();
    assert!(next.is_none_or(|next| cluster.now < next), "{next:?} is over at {:?}", cluster.now);
    cluster.heal();
    cluster.pass_ms(2_000);
    barrier.lock().take().expect("it is answered").unwrap();
}

#[test]
fn the_leader_knows_how_far_each_replica_is() {
    let mut cluster = Cluster::led();
    cluster.create(1, 1);
    cluster.isolate(2);
    let cut_at = cluster.now;
    cluster.create(0, 2);
    cluster.pass_ms(400);
    let quorum = cluster.node(0).quorum();
    let ends: Vec<_> = quorum.replicas.iter().map(|replica| (replica.node, replica.log_end_index)).collect();
    let end = quorum.commit_index;
    assert_eq!(ends, [(node(0), end), (node(1), end), (node(2), LogIndex(end.get() - 1))]);
    let now = cluster.now;
    let recent = |at: Option<MonotonicMs>| now.since_ms(at.unwrap()) <= 150;
    for replica in &quorum.replicas[..2] {
        assert!(recent(replica.last_fetch) && recent(replica.last_caught_up), "{replica:?}");
    }
    let behind = quorum.replicas[2];
    assert!(behind.last_fetch.unwrap() <= cut_at && behind.last_caught_up.unwrap() <= cut_at, "{behind:?}");
    assert!(cluster.node(1).quorum().replicas.is_empty());
    let metrics = cluster.node(0).metrics();
    assert_eq!((metrics.elections_won_count, metrics.proposal_latency_ms.count()), (1, 1));
    assert!(0 < metrics.log_bytes && metrics.elections_started_count == 1);
}

#[test]
fn a_follower_learns_what_its_leader_has_applied() {
    let mut cluster = Cluster::led();
    let known = |cluster: &Cluster| cluster.node(1).quorum().leader_applied_index;
    cluster.pass_ms(200);
    let first = known(&cluster);
    assert_eq!(first, cluster.node(0).image().applied_index());
    let created = cluster.create(0, 1);
    assert!(cluster.has(1, 1));
    assert_eq!(known(&cluster), first, "what says that an entry is committed is sent before it is applied");
    let barrier = cluster.barrier(0);
    cluster.settle();
    barrier.lock().take().expect("the quorum has been asked").unwrap();
    assert_eq!(known(&cluster), first, "and what asks the quorum may be");
    cluster.pass_ms(200);
    assert_eq!(known(&cluster), created.index);
    // One that hands over has applied everything; of what the next one has applied it hears nothing.
    let created = cluster.create(0, 2);
    cluster.node_mut(0).transfer_leadership(node(1));
    cluster.settle();
    assert_eq!(cluster.leaders(), [1]);
    cluster.pass_ms(200);
    assert_eq!(known(&cluster), created.index);
    assert_eq!(cluster.node(0).quorum().leader_applied_index, cluster.node(1).image().applied_index());
}
