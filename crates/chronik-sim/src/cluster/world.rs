//! The world: a queue of events in virtual time, and what each of them does to nodes and clients.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use chronik_broker::{Broker, PeerError, Reply, ResponsePart};
use chronik_disk::Crash;
use chronik_raft::MetadataLog as _;
use chronik_types::{MonotonicMs, Now, TimestampMs};

use super::checkers::{Checkers, Rule};
use super::clients::{Action, Client, Context};
use super::effects::{Duty, Effect, Effects, Life, PeersUp, node_id, position};
use super::network::{Answer, Asker, Endpoint, Network, Pending, Port};
use super::node::{self, Exit, Node, Start};
use super::plan::Plan;
use super::sabotage::Sabotage;
use crate::log_lines::LogLines;
use crate::rng::Rng;
use crate::trace::Trace;

/// How long a follower waits for an answer beyond what its leader may hold it, as the server does.
const FOLLOWER_PATIENCE_MS: u64 = 5_000;
/// How long a connection may take to open, as on the server.
const CONNECT_PATIENCE_MS: u64 = 2_000;
/// How long a node waits for the controller's answer, as the server does.
const ASK_PATIENCE_MS: u64 = 5_000;
/// How often a node that waits for a peer's port tries it at the most.
const RECONNECT_MS: u64 = 100;
/// How much later each further follower campaigns when the leader is gone, as the server does.
const CAMPAIGN_STAGGER_MS: u64 = 150;
/// How often checkers look at what no client sees.
const LOOK_MS: u64 = 50;
/// The bytes of a frame's length.
const LENGTH_BYTES: usize = 4;
/// The most events of one millisecond: far beyond what there is to do, and soon reached by what never waits.
const EVENTS_PER_MS_MAX: u64 = 20_000;

/// Something that happens at its time.
pub(super) enum Event {
    /// A duty of a process.
    Duty { life: Life, duty: Duty },
    /// A message of the metadata log arrives.
    Raft { from: usize, to: usize, bytes: Bytes, is_snapshot: bool },
    /// A peer's connection is lost.
    PeerLost { at: usize, peer: usize },
    /// A peer's port is tried.
    PeerTried { at: usize, peer: usize },
    /// A follower of a leader that is gone campaigns.
    Campaign { at: usize, peer: usize },
    /// A machine, or a process on it, starts.
    Start { node: usize },
    /// A process is killed, if it still runs.
    Kill { life: Life },
    /// A process goes on.
    Resume { node: usize },
    /// A request arrives at its server.
    Request { stream: u64, request: u64, frame: Bytes },
    /// An answer arrives at its asker.
    Response { stream: u64, request: u64, answer: Answer },
    /// The asker's end of a connection is closed, and the server hears of it.
    Closed { stream: u64 },
    /// The server's end of a connection is gone, and the asker hears of it.
    Broken { stream: u64 },
    /// A request was never sent.
    Refused { request: u64 },
    /// A request has waited for long enough.
    Timeout { request: u64 },
    /// A client goes on.
    Wake { client: usize },
    /// Something goes wrong.
    Fault,
    /// The checkers look at what nodes know of themselves.
    Look,
    /// A disk has room again.
    DiskEmptied { node: usize },
}

impl Event {
    /// The node that must not stand still for the event to take place.
    fn node(&self, network: &Network) -> Option<usize> {
        match self {
            Self::Duty { life, .. } => Some(life.node),
            Self::Raft { to, .. } => Some(*to),
            Self::PeerLost { at, .. } | Self::PeerTried { at, .. } | Self::Campaign { at, .. } => Some(*at),
            Self::Request { stream, .. } | Self::Closed { stream } => {
                network.streams.get(stream).map(|stream| stream.to)
            }
            Self::Response { stream, .. } | Self::Broken { stream } => {
                let from = network.streams.get(stream)?.from;
                if let Endpoint::Node(node) = from { Some(node) } else { None }
            }
            Self::Start { .. }
            | Self::Kill { .. }
            | Self::Resume { .. }
            | Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Wake { .. }
            | Self::Fault
            | Self::Look
            | Self::DiskEmptied { .. } => None,
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Duty { life, duty } => 100 + life.number * 1_000 + (life.node * 10) as u64 + *duty as u64,
            Self::Raft { from, to, bytes, .. } => u64::from(crc32c::crc32c(bytes)) + (from * 10 + to) as u64,
            Self::PeerLost { at, peer } => 1_000 + (at * 10 + peer) as u64,
            Self::PeerTried { at, peer } => 2_000 + (at * 10 + peer) as u64,
            Self::Campaign { at, peer } => 3_000 + (at * 10 + peer) as u64,
            Self::Start { node } => 4_000 + *node as u64,
            Self::Kill { life } => 30 + life.node as u64,
            Self::Resume { node } => 5_000 + *node as u64,
            Self::Request { request, frame, .. } => u64::from(crc32c::crc32c(frame)) + request,
            Self::Response { request, answer, .. } => u64::from(crc32c::crc32c(&answer.frame)) + request,
            Self::Closed { stream } => 6_000 + stream,
            Self::Broken { stream } => 7_000 + stream,
            Self::Refused { request } => 8_000 + request,
            Self::Timeout { request } => 9_000 + request,
            Self::Wake { client } => 10_000 + *client as u64,
            Self::Fault => 1,
            Self::Look => 2,
            Self::DiskEmptied { node } => 20 + *node as u64,
        }
    }
}

struct Scheduled {
    at_ms: u64,
    serial: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.serial).cmp(&(other.at_ms, other.serial))
    }
}

/// What a history has seen, for who wants to know that its faults strike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Records that were acknowledged with `acks=all`.
    pub acknowledged: u64,
    /// Records that consumers have read.
    pub read: u64,
    /// Faults, those of single messages aside.
    pub faults: u64,
    /// Processes that ended, by whatever cause.
    pub ends: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.read += other.read;
        self.faults += other.faults;
        self.ends += other.ends;
    }
}

/// A cluster and its clients.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) now_ms: u64,
    shared_now_ms: Arc<AtomicU64>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    next_serial: u64,
    events_now: u64,
    /// What waits for processes that stand still.
    held: Vec<Vec<Event>>,
    pub(super) nodes: Vec<Node>,
    /// What is left of the processes that have ended: who waits in a broker keeps it.
    ended: Vec<Weak<Broker>>,
    pub(super) network: Network,
    pub(super) up: PeersUp,
    effects: Effects,
    pub(super) clients: Vec<Client>,
    pub(super) checkers: Checkers,
    pub(super) trace: Trace,
    pub(super) hash: u64,
    pub(super) counts: Counts,
    pub(super) sabotage: Option<Sabotage>,
    /// What brokers log, where it is told.
    pub(super) logged: Option<LogLines>,
}

impl Drop for World {
    /// What was left for later keeps the brokers that left it, and they keep what they leave it in.
    fn drop(&mut self) {
        self.queue.clear();
        self.held.clear();
        self.network.streams.clear();
        for node in &mut self.nodes {
            node.disk.stop_after(0);
            self.ended.extend(node.process.take().map(|process| Arc::downgrade(&process.broker)));
        }
        let now = Now { monotonic: MonotonicMs(self.now_ms), wall: TimestampMs(0) };
        for broker in self.ended.iter().filter_map(Weak::upgrade) {
            broker.stop_waiting(now);
        }
        while !self.effects.take().is_empty() {}
    }
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan, rng: Rng, sabotage: Option<Sabotage>, is_traced: bool) -> Self {
        let shared_now_ms = Arc::new(AtomicU64::new(0));
        let clients = Client::all(&plan, sabotage);
        let network = Network::new(plan.network, plan.node_count, clients.len());
        let mut world = Self {
            seed,
            nodes: (0..plan.node_count).map(|position| Node::new(position, &shared_now_ms)).collect(),
            ended: Vec::new(),
            held: (0..plan.node_count).map(|_| Vec::new()).collect(),
            up: PeersUp::new(plan.node_count),
            network,
            plan,
            rng,
            now_ms: 0,
            shared_now_ms,
            queue: BinaryHeap::new(),
            next_serial: 0,
            events_now: 0,
            effects: Effects::default(),
            clients,
            checkers: Checkers::default(),
            trace: Trace::new(is_traced),
            hash: 0,
            counts: Counts::default(),
            sabotage,
            logged: None,
        };
        world.at(LOOK_MS, Event::Look);
        for node in 0..world.plan.node_count {
            world.at(0, Event::Start { node });
        }
        for client in 0..world.clients.len() {
            world.at(100, Event::Wake { client });
        }
        world
    }

    pub(super) fn at(&mut self, at_ms: u64, event: Event) {
        self.next_serial += 1;
        let at_ms = at_ms.max(self.now_ms);
        self.queue.push(Reverse(Scheduled { at_ms, serial: self.next_serial, event }));
    }

    /// Lives until `until_ms`, or until something is wrong.
    pub(super) fn live_until(&mut self, until_ms: u64) -> bool {
        while let Some(Reverse(first)) = self.queue.peek() {
            if !self.checkers.is_content() {
                return false;
            }
            if until_ms < first.at_ms {
                break;
            }
            let Some(Reverse(Scheduled { at_ms, event, .. })) = self.queue.pop() else { break };
            self.events_now = if self.now_ms == at_ms { self.events_now + 1 } else { 0 };
            self.now_ms = at_ms;
            self.shared_now_ms.store(at_ms, Ordering::Relaxed);
            self.counts.events += 1;
            if self.events_now > EVENTS_PER_MS_MAX {
                self.checkers.report(Rule::Panic, format!("somebody goes round in circles at {at_ms} ms"));
                return false;
            }
            self.take_place(event);
        }
        self.now_ms = until_ms.max(self.now_ms);
        self.shared_now_ms.store(self.now_ms, Ordering::Relaxed);
        self.checkers.is_content()
    }

    fn take_place(&mut self, event: Event) {
        if let Some(node) = event.node(&self.network)
            && self.now_ms < self.nodes[node].paused_until_ms
        {
            self.held[node].push(event);
            return;
        }
        self.hash = (self.hash ^ self.now_ms.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ event.number())
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
        match event {
            Event::Duty { life, duty } => self.run_duty(life, duty),
            Event::Raft { from, to, bytes, is_snapshot } => {
                self.take_raft_message(from, to, bytes, is_snapshot);
            }
            Event::PeerLost { at, peer } => self.lose_peer(at, peer),
            Event::PeerTried { at, peer } => self.try_peer(at, peer),
            Event::Campaign { at, peer } => {
                if let Some(process) = &self.nodes[at].process
                    && process.handle.quorum().leader == Some(node_id(peer))
                {
                    process.handle.leader_gone();
                    self.effects.due(process.life, Duty::Raft, 0);
                }
            }
            Event::Start { node } => self.start(node),
            Event::Kill { life } => {
                if self.process(Some(life)).is_some() {
                    self.kill(life.node);
                }
            }
            Event::Resume { node } => {
                let held = std::mem::take(&mut self.held[node]);
                self.nodes[node].paused_until_ms = 0;
                for event in held {
                    self.at(self.now_ms, event);
                }
            }
            Event::Request { stream, request, frame } => self.take_request(stream, request, &frame),
            Event::Response { stream, request, answer } => {
                if self.network.streams.contains_key(&stream)
                    && let Some(pending) = self.network.pending.remove(&request)
                {
                    self.answered(pending.asker, Some(answer));
                }
            }
            Event::Closed { stream } => {
                if let Some(stream) = self.network.streams.remove(&stream)
                    && let Some(process) = self.process(stream.life)
                {
                    process.broker.connection_closed(&stream.server);
                }
            }
            Event::Broken { stream } => self.close(stream),
            Event::Refused { request } => {
                if let Some(pending) = self.network.pending.remove(&request) {
                    self.answered(pending.asker, None);
                }
            }
            Event::Timeout { request } => {
                if let Some(stream) = self.network.pending.get(&request).map(|pending| pending.stream) {
                    self.close(stream);
                }
            }
            Event::Wake { client } => self.with_client(client, Client::wake),
            Event::Fault => self.break_something(),
            Event::Look => {
                self.checkers.look(&self.nodes);
                self.at(self.now_ms + LOOK_MS, Event::Look);
            }
            Event::DiskEmptied { node } => self.nodes[node].disk.set_capacity_bytes(None),
        }
        self.settle();
        if let Some(logged) = &self.logged {
            for line in logged.take() {
                self.trace.note(format_args!("{}     {line}", self.now_ms));
            }
        }
    }

    /// Does what nodes have asked for meanwhile.
    pub(super) fn settle(&mut self) {
        loop {
            let effects = self.effects.take();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.follow(effect);
            }
        }
    }

    fn follow(&mut self, effect: Effect) {
        match effect {
            Effect::Due { life, duty, at_ms } => self.schedule_duty(life, duty, at_ms),
            Effect::Raft { life, to, message } => self.send_raft_message(life.node, position(to), &message),
            Effect::Fetch { life, to, lane, frame, done } => {
                let to = position(to);
                let key = (life.node, to, lane);
                let known = self.network.follower_streams.get(&key).copied();
                let stream = known.or_else(|| self.connect(Endpoint::Node(life.node), to, Port::Kafka));
                if let Some(stream) = stream {
                    self.network.follower_streams.insert(key, stream);
                }
                let patience_ms = FOLLOWER_PATIENCE_MS + u64::from(self.plan.replica_wait_ms.unsigned_abs());
                let frame = match self.sabotage {
                    Some(sabotage) => sabotage.follower_request(frame, &mut self.rng),
                    None => frame,
                };
                self.send_request(stream, Asker::Follower { life, to, lane, done }, frame, patience_ms);
            }
            Effect::Ask { life, to, frame, done } => {
                let stream = self.connect(Endpoint::Node(life.node), position(to), Port::Raft);
                let mut whole = BytesMut::with_capacity(frame.len() + LENGTH_BYTES);
                whole.extend_from_slice(&u32::try_from(frame.len()).unwrap_or(0).to_be_bytes());
                whole.extend_from_slice(&frame);
                self.send_request(stream, Asker::Node { life, done }, whole.freeze(), ASK_PATIENCE_MS);
            }
            Effect::Reply { request, reply } => self.take_reply(request, reply),
            Effect::Image { life, image, mut changed, deleted } => {
                self.checkers.deleted(&deleted);
                if let Some(sabotage) = self.sabotage {
                    for (_, _, state) in &mut changed {
                        sabotage.seen(life.node, state);
                    }
                }
                self.checkers.image(life, &image, &changed);
            }
        }
    }

    /// The process of this life, if it still runs.
    pub(super) fn process(&self, life: Option<Life>) -> Option<&node::Process> {
        let life = life?;
        self.nodes[life.node].process.as_ref().filter(|process| process.life == life)
    }

    pub(super) fn schedule_duty(&mut self, life: Life, duty: Duty, at_ms: u64) {
        let mut at_ms = at_ms.max(self.now_ms);
        if duty == Duty::Flush {
            at_ms += self.rng.below(self.plan.sync_ms_max + 1);
        }
        let Some(process) = self.nodes[life.node].process.as_mut().filter(|process| process.life == life)
        else {
            return;
        };
        let due_ms = &mut process.due_ms[duty as usize];
        if at_ms < *due_ms {
            *due_ms = at_ms;
            self.at(at_ms, Event::Duty { life, duty });
        }
    }

    fn run_duty(&mut self, life: Life, duty: Duty) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[life.node];
        let now = chronik_broker::Clock::now(&node.clock);
        let Some(process) = node.process.as_mut().filter(|process| process.life == life) else { return };
        let due_ms = &mut process.due_ms[duty as usize];
        if now_ms < *due_ms {
            return;
        }
        *due_ms = u64::MAX;
        let next = match duty {
            Duty::Raft => match process.driver.poll(now.monotonic) {
                Ok(next) => next,
                Err(error) => {
                    let text = format!("node {}: the metadata log ends: {error:?}", node.id);
                    self.process_failed(life.node, &text);
                    return;
                }
            },
            Duty::Timers => process.broker.run_timers(now),
            Duty::Controller => process.broker.run_controller(now),
            Duty::Maintenance => {
                let wanted = process.logs.maintain(now);
                Some(wanted.clamp(now.monotonic.plus_ms(5), now.monotonic.plus_ms(1_000)))
            }
            Duty::Flush => {
                process.logs.flush_queue().sync_batch();
                None
            }
            Duty::Ready => self.enter_service(life.node),
            Duty::Leave => self.leave(life.node),
        };
        if let Some(next) = next {
            // A thread that is asked to run again at once has the others run between.
            let at_ms = if next.0 <= now_ms && duty != Duty::Raft { now_ms + 1 } else { next.0 };
            self.effects.due(life, duty, at_ms);
        }
    }

    /// A process ends because of what its disk has told it.
    pub(super) fn process_failed(&mut self, node: usize, text: &str) {
        self.trace.note(format_args!("{} {text}", self.now_ms));
        if !self.nodes[node].is_excused {
            self.checkers.report(Rule::Panic, text.to_owned());
        }
        self.end(node, Crash::Process);
        let pause_ms = 200 + self.rng.below(500);
        self.at(self.now_ms + pause_ms, Event::Start { node });
    }

    fn start(&mut self, position: usize) {
        if self.nodes[position].process.is_some() {
            return;
        }
        let (seed, now_ms) = (self.seed, self.now_ms);
        let node = &mut self.nodes[position];
        node.is_off = false;
        let start =
            Start { seed, plan: &self.plan, effects: &self.effects, up: &self.up, sabotage: self.sabotage };
        match node::start(node, &start) {
            Ok(process) => {
                self.trace
                    .note(format_args!("{now_ms} node {} starts, life {}", node.id, process.life.number));
                node.failed_syncs_before = node.disk.failed_sync_count();
                node.process = Some(process);
                for peer in (0..self.plan.node_count).filter(|peer| *peer != position) {
                    // Its own connections, and those of the others, which find it soon.
                    self.at(now_ms + 1, Event::PeerTried { at: position, peer });
                    let pause_ms = self.rng.below(RECONNECT_MS);
                    self.at(now_ms + pause_ms, Event::PeerTried { at: peer, peer: position });
                }
            }
            Err(text) => {
                let text = format!("node {} does not start: {text}", node.id);
                self.process_failed(position, &text);
            }
        }
    }

    /// Ends a process, and with it its connections.
    pub(super) fn end(&mut self, position: usize, crash: Crash) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[position];
        node.is_stopping = false;
        // What was to strike this process does not strike the next.
        node.disk.clear_faults();
        let Some(process) = node.process.take() else {
            node.disk.crash(crash);
            return;
        };
        self.counts.ends += 1;
        let life = process.life;
        // What is called when it goes must not reach the disk any more.
        node.disk.stop_after(0);
        self.ended.push(Arc::downgrade(&process.broker));
        drop(process);
        node.disk.crash(crash);
        node.paused_until_ms = 0;
        self.held[position].clear();
        let is_off = matches!(crash, Crash::PowerLoss { .. });
        node.is_off = is_off;
        self.trace.note(format_args!("{now_ms} node {} ends: {crash:?}", node.id));
        // The effects of its last moments are nobody's.
        self.settle();
        self.hang_up(life, is_off);
    }

    /// The connections of a process that has ended: its system closes them, unless it has no power for that.
    pub(super) fn hang_up(&mut self, life: Life, is_off: bool) {
        let position = life.node;
        for stream in self.network.streams_to(life) {
            let Some(from) = self.network.streams.get(&stream).map(|stream| stream.from) else { continue };
            let at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, Endpoint::Node(position), from);
            // A machine that comes back knows nothing of its connections, and says so.
            let at_ms = if is_off { at_ms + 1_500 } else { at_ms };
            self.at(at_ms, Event::Broken { stream });
        }
        for stream in self.network.streams_of(Endpoint::Node(position)) {
            self.network.give_up(stream);
            let Some(to) = self.network.streams.get(&stream).map(|stream| stream.to) else { continue };
            let end = Endpoint::Node(to);
            let at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, Endpoint::Node(position), end);
            let at_ms = if is_off { at_ms + 1_500 } else { at_ms };
            self.at(at_ms, Event::Closed { stream });
        }
        for peer in (0..self.plan.node_count).filter(|peer| *peer != position) {
            self.up.set(position, peer, false);
            let at_ms = self.network.arrival_ms(
                &mut self.rng,
                self.now_ms,
                Endpoint::Node(position),
                Endpoint::Node(peer),
            );
            self.at(if is_off { at_ms + 1_500 } else { at_ms }, Event::PeerLost { at: peer, peer: position });
        }
    }

    fn lose_peer(&mut self, at: usize, peer: usize) {
        self.up.set(at, peer, false);
        if let Some(process) = &self.nodes[at].process {
            process.handle.peer_unreachable(node_id(peer));
            self.effects.due(process.life, Duty::Raft, 0);
        }
        self.at(self.now_ms + 20, Event::PeerTried { at, peer });
    }

    /// A node connects to a peer's port for the metadata log, or learns that nobody is there.
    fn try_peer(&mut self, at: usize, peer: usize) {
        let (here, there) = (Endpoint::Node(at), Endpoint::Node(peer));
        let Some(process) = &self.nodes[at].process else { return };
        if self.up.is_up(at, peer) && self.nodes[peer].process.is_some() {
            return;
        }
        let is_cut = self.network.is_blocked(self.now_ms, here, there)
            || self.network.is_blocked(self.now_ms, there, here)
            || self.nodes[peer].is_off;
        if self.nodes[peer].process.is_some() && !is_cut {
            self.up.set(at, peer, true);
            return;
        }
        if !is_cut {
            let (handle, life, id) = (process.handle.clone(), process.life, node_id(peer));
            let quorum = handle.quorum();
            if quorum.is_leader {
                handle.peer_gone(id);
                self.effects.due(life, Duty::Raft, 0);
            }
            if quorum.leader == Some(id) {
                let others = quorum.voters.iter().filter(|voter| **voter != id);
                let rank = others.take_while(|voter| **voter < node_id(at)).count();
                let wait_ms = CAMPAIGN_STAGGER_MS * u64::try_from(rank).unwrap_or(0);
                self.at(self.now_ms + wait_ms, Event::Campaign { at, peer });
            }
        }
        let pause_ms = 20 + self.rng.below(RECONNECT_MS * 3);
        self.at(self.now_ms + pause_ms, Event::PeerTried { at, peer });
    }

    fn send_raft_message(&mut self, from: usize, to: usize, message: &chronik_raft::PeerMessage) {
        let (here, there) = (Endpoint::Node(from), Endpoint::Node(to));
        let plan = self.network.plan;
        let is_faulty = self.network.is_faulty;
        let is_cut = self.network.is_blocked(self.now_ms, here, there);
        // What is lost in a cut is most of it; the rest waits in the sender's system.
        let is_lost = is_faulty && self.rng.chance(plan.lost_percent) || is_cut && self.rng.chance(80);
        if is_lost {
            if message.is_snapshot
                && let Some(process) = &self.nodes[from].process
            {
                process.handle.snapshot_finished(node_id(to), false);
            }
            return;
        }
        let copies = if is_faulty && self.rng.chance(plan.doubled_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let mut at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, here, there);
            if is_faulty && self.rng.chance(plan.late_percent) {
                at_ms += 20 + self.rng.below(800);
            }
            let bytes = message.bytes.clone();
            self.at(at_ms, Event::Raft { from, to, bytes, is_snapshot: message.is_snapshot });
        }
    }

    fn take_raft_message(&mut self, from: usize, to: usize, bytes: Bytes, is_snapshot: bool) {
        let arrived = self.nodes[to].process.as_ref();
        if let Some(process) = arrived {
            process.handle.receive(node_id(from), bytes);
            self.effects.due(process.life, Duty::Raft, 0);
        }
        if is_snapshot && let Some(sender) = &self.nodes[from].process {
            sender.handle.snapshot_finished(node_id(to), self.nodes[to].process.is_some());
            self.effects.due(sender.life, Duty::Raft, 0);
        }
    }

    /// Opens a connection; `None` where it is refused.
    pub(super) fn connect(&mut self, from: Endpoint, to: usize, port: Port) -> Option<u64> {
        let node = &self.nodes[to];
        let there = Endpoint::Node(to);
        let is_cut = self.network.is_blocked(self.now_ms, from, there)
            || self.network.is_blocked(self.now_ms, there, from)
            || node.is_off;
        let process = match port {
            Port::Kafka => node.serving(),
            Port::Raft => node.process.as_ref(),
        };
        let life = process.filter(|_| !is_cut).map(|process| process.life);
        if life.is_none() && !is_cut {
            return None;
        }
        Some(self.network.open(self.now_ms, from, to, port, life))
    }

    /// Sends a request over a connection; without one it fails soon.
    pub(super) fn send_request(&mut self, stream: Option<u64>, asker: Asker, frame: Bytes, patience_ms: u64) {
        let request = self.network.next_id();
        let Some(id) = stream else {
            self.network.pending.insert(request, Pending { stream: 0, asker });
            let pause_ms = 1 + self.rng.below(3);
            self.at(self.now_ms + pause_ms, Event::Refused { request });
            return;
        };
        self.network.pending.insert(request, Pending { stream: id, asker });
        let stream = self.network.streams.get(&id);
        let Some((from, to, up_at_ms)) = stream
            .filter(|stream| stream.life.is_some())
            .map(|stream| (stream.from, stream.to, stream.up_at_ms))
        else {
            self.at(self.now_ms + patience_ms.min(CONNECT_PATIENCE_MS), Event::Timeout { request });
            return;
        };
        self.at(self.now_ms + patience_ms, Event::Timeout { request });
        let stall_ms = self.network.stall_ms(&mut self.rng);
        let slow_ms = self.sabotage.map_or(0, Sabotage::delay_ms);
        let at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, from, Endpoint::Node(to));
        let at_ms = (at_ms + stall_ms + slow_ms).max(up_at_ms);
        if let Some(stream) = self.network.streams.get_mut(&id) {
            stream.up_at_ms = at_ms;
        }
        self.at(at_ms, Event::Request { stream: id, request, frame });
    }

    fn take_request(&mut self, id: u64, request: u64, frame: &Bytes) {
        let Some(stream) = self.network.streams.get_mut(&id) else { return };
        let Some(life) = stream.life else { return };
        let node = &self.nodes[life.node];
        let Some(process) = node.process.as_ref().filter(|process| process.life == life) else {
            // Whoever comes too late finds the port closed, or the machine without memory of the connection.
            return;
        };
        if stream.port == Port::Raft && !process.handle.is_leader() {
            self.at(self.now_ms + 1, Event::Broken { stream: id });
            return;
        }
        stream.waiting.push_back((request, None));
        let connection = Arc::clone(&stream.server);
        self.network.served.insert(request, id);
        let now = chronik_broker::Clock::now(&node.clock);
        let body = BytesMut::from(frame.get(LENGTH_BYTES..).unwrap_or_default());
        process.broker.handle(now, &connection, body, self.effects.responder(request));
    }

    fn take_reply(&mut self, request: u64, reply: Reply) {
        let Some(id) = self.network.served.remove(&request) else { return };
        let Some(stream) = self.network.streams.get_mut(&id) else { return };
        let Some(process) = stream
            .life
            .and_then(|life| self.nodes[life.node].process.as_ref().filter(|process| process.life == life))
        else {
            return;
        };
        let frame = match reply {
            Reply::Response(response) => joined(&response.parts),
            Reply::Nothing => Some(Bytes::new()),
            Reply::Close(reason) => {
                self.trace.note(format_args!("{} connection {id} is closed: {reason}", self.now_ms));
                None
            }
        };
        let answer = frame.map(|frame| Answer { frame, image: process.handle.image(), node: stream.to });
        if let Some(slot) = stream.waiting.iter_mut().find(|(waiting, _)| *waiting == request) {
            slot.1 = Some(answer);
        }
        let (from, to) = (stream.from, stream.to);
        while let Some((request, answer)) =
            self.network.streams.get_mut(&id).and_then(|stream| match stream.waiting.front() {
                Some((_, Some(_))) => stream.waiting.pop_front(),
                Some((_, None)) | None => None,
            })
        {
            let at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, Endpoint::Node(to), from);
            let Some(stream) = self.network.streams.get_mut(&id) else { return };
            let at_ms = at_ms.max(stream.down_at_ms);
            stream.down_at_ms = at_ms;
            match answer.flatten() {
                Some(answer) => self.at(at_ms, Event::Response { stream: id, request, answer }),
                None => self.at(at_ms, Event::Broken { stream: id }),
            }
        }
    }

    /// The asker's end of a connection closes: whoever waits for an answer on it has none. What was sent may still
    /// arrive.
    pub(super) fn close(&mut self, id: u64) {
        let Some(stream) = self.network.streams.get(&id) else { return };
        let (from, to, up_at_ms) = (stream.from, stream.to, stream.up_at_ms);
        let at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, from, Endpoint::Node(to));
        self.at(at_ms.max(up_at_ms), Event::Closed { stream: id });
        for asker in self.network.give_up(id) {
            self.answered(asker, None);
        }
    }

    fn answered(&mut self, asker: Asker, answer: Option<Answer>) {
        match asker {
            Asker::Client { client, token } => {
                self.with_client(client, |client, context| client.answered(context, token, answer));
            }
            Asker::Follower { life, to, lane, done } => {
                if self.process(Some(life)).is_none() {
                    return;
                }
                if answer.is_none() {
                    self.network.follower_streams.remove(&(life.node, to, lane));
                }
                let frame = answer.map(|answer| answer.frame.slice(LENGTH_BYTES.min(answer.frame.len())..));
                let frame = match self.sabotage {
                    Some(sabotage) => frame.map(|frame| sabotage.follower_answer(frame, &mut self.rng)),
                    None => frame,
                };
                done(frame.ok_or_else(|| PeerError("the connection has ended".to_owned())));
            }
            Asker::Node { life, done } => {
                if self.process(Some(life)).is_some() {
                    done(answer.map(|answer| answer.frame));
                }
            }
        }
    }

    /// Lets a client act, and does what it asks for.
    pub(super) fn with_client(&mut self, number: usize, act: impl FnOnce(&mut Client, &mut Context<'_>)) {
        let mut actions = Vec::new();
        {
            let mut context = Context {
                now_ms: self.now_ms,
                node_count: self.plan.node_count,
                rng: &mut self.rng,
                checkers: &mut self.checkers,
                trace: &mut self.trace,
                counts: &mut self.counts,
                sabotage: self.sabotage,
                actions: &mut actions,
            };
            act(&mut self.clients[number], &mut context);
        }
        for action in actions {
            match action {
                Action::Call { node, frame, token, patience_ms } => {
                    let key = (number, node);
                    let known = self.network.client_streams.get(&key).copied();
                    let stream = known.or_else(|| self.connect(Endpoint::Client(number), node, Port::Kafka));
                    if let Some(stream) = stream {
                        self.network.client_streams.insert(key, stream);
                    }
                    self.send_request(stream, Asker::Client { client: number, token }, frame, patience_ms);
                }
                Action::Wake { at_ms } => self.at(at_ms, Event::Wake { client: number }),
            }
        }
    }

    /// A process on its way out.
    fn leave(&mut self, position: usize) -> Option<MonotonicMs> {
        let now_ms = self.now_ms;
        let soon = Some(MonotonicMs(now_ms + 5));
        let node = &mut self.nodes[position];
        let process = node.process.as_mut()?;
        match &process.exit {
            Exit::No => None,
            Exit::HandingOver { until_ms, done } => {
                if !*done.lock() && now_ms < *until_ms {
                    return soon;
                }
                let image = process.handle.image();
                let is_active = |id: &chronik_types::NodeId| {
                    *id != node.id && image.broker(*id).is_some_and(|broker| broker.is_active())
                };
                let successor = (0..self.plan.node_count).map(node_id).find(is_active);
                process.exit = match successor.filter(|_| process.handle.is_leader()) {
                    Some(successor) => {
                        process.handle.transfer_leadership(successor);
                        self.effects.due(process.life, Duty::Raft, 0);
                        Exit::Transferring { until_ms: now_ms + 500 }
                    }
                    None => Exit::Lingering { until_ms: now_ms + 150 },
                };
                soon
            }
            Exit::Transferring { until_ms } => {
                if now_ms >= *until_ms || !process.handle.is_leader() {
                    process.exit = Exit::Lingering { until_ms: now_ms + 150 };
                }
                soon
            }
            Exit::Lingering { until_ms } => {
                if now_ms < *until_ms {
                    return soon;
                }
                self.shut_down(position);
                None
            }
        }
    }
}

/// All parts of a response, read from disk where they lie there.
fn joined(parts: &[ResponsePart]) -> Option<Bytes> {
    if let [ResponsePart::Bytes(only)] = parts {
        return Some(only.clone());
    }
    let mut whole = BytesMut::new();
    for part in parts {
        match part {
            ResponsePart::Bytes(bytes) => whole.extend_from_slice(bytes),
            ResponsePart::File { file, position, len_bytes } => {
                let mut region = vec![0; usize::try_from(*len_bytes).ok()?];
                // A region that cannot be read closes the connection, as it does on the server.
                let read = file.read_at(&mut region, *position).ok()?;
                if read < region.len() {
                    return None;
                }
                whole.extend_from_slice(&region);
            }
        }
    }
    Some(whole.freeze())
}
