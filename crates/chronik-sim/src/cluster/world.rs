//! The world: a queue of events in virtual time, and what each of them does to nodes and clients.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::BytesMut;
use chronik_broker::Broker;
use chronik_disk::Crash;
use chronik_raft::MetadataLog as _;
use chronik_types::{MonotonicMs, Now, TimestampMs};

use super::checkers::{Checkers, Rule};
use super::clients::{Action, Client, Context};
use super::counts::Counts;
use super::effects::{Duty, Effect, Effects, Life, PeersUp, node_id, position};
use super::event::{Event, Scheduled};
use super::messages::{LENGTH_BYTES, RECONNECT_MS};
use super::network::{Asker, Endpoint, Network, Port};
use super::node::{self, Exit, Node, Start};
use super::plan::{Fault, Plan};
use super::sabotage::Sabotage;
use crate::log_lines::LogLines;
use crate::rng::Rng;
use crate::trace::Trace;

/// How long a follower waits for an answer beyond what its leader may hold it, as the server does.
const FOLLOWER_PATIENCE_MS: u64 = 5_000;
/// How long a node waits for the controller's answer, as the server does.
const ASK_PATIENCE_MS: u64 = 5_000;
/// How often checkers look at what no client sees.
const LOOK_MS: u64 = 50;
/// The most events of one millisecond: far beyond what there is to do, and soon reached by what never waits.
const EVENTS_PER_MS_MAX: u64 = 20_000;

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
    pub(super) effects: Effects,
    pub(super) clients: Vec<Client>,
    pub(super) checkers: Checkers,
    pub(super) trace: Trace,
    pub(super) hash: u64,
    pub(super) counts: Counts,
    /// Nothing goes wrong any more.
    pub(super) is_mended: bool,
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
            is_mended: false,
            sabotage,
            logged: None,
        };
        world.at(LOOK_MS, Event::Look);
        for node in 0..world.plan.node_count {
            world.at(0, Event::Start { node });
        }
        if sabotage == Some(Sabotage::StartApart) {
            world.cut_off_for_ever(0);
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
            // Another pause may have begun meanwhile, and so may other records have filled the disk.
            Event::Resume { node } if self.now_ms < self.nodes[node].paused_until_ms => {}
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
            Event::DiskEmptied { node } if self.now_ms < self.nodes[node].full_until_ms => {}
            Event::DiskEmptied { node } => {
                if self.nodes[node].empty_disk() {
                    self.counts.faults.add(Fault::DiskFull);
                }
            }
            Event::DiskRestored { node } => self.nodes[node].disk.restore(),
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
                    Some(sabotage) => sabotage.follower_request(life, frame, &mut self.rng),
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
            Effect::Failed { life } => {
                let lives = |process: &node::Process| process.life == life;
                if self.nodes[life.node].process.as_ref().is_some_and(lives) {
                    let text = format!("node {}: its log directory is offline", self.nodes[life.node].id);
                    self.process_failed(life.node, &text);
                }
            }
            Effect::Reply { request, reply } => self.take_reply(request, reply),
            Effect::Image { life, image, mut changed, deleted } => {
                self.checkers.deleted(life, &deleted);
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
        let stopped = match self.sabotage {
            Some(Sabotage::StopControllers) => Some(Duty::Controller),
            Some(Sabotage::StopMaintenance) => Some(Duty::Maintenance),
            _ => None,
        };
        if self.is_mended && stopped == Some(duty) {
            return;
        }
        if self.sabotage == Some(Sabotage::NeverWait) {
            self.effects.due(life, duty, now_ms);
        }
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
        if !self.nodes[node].is_excused(self.now_ms) {
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
        node.failed_syncs_before = node.disk.failed_sync_count();
        let start =
            Start { seed, plan: &self.plan, effects: &self.effects, up: &self.up, sabotage: self.sabotage };
        match node::start(node, &start) {
            Ok(process) => {
                self.trace
                    .note(format_args!("{now_ms} node {} starts, life {}", node.id, process.life.number));
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
        node.clear_faults();
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

    /// How many bits have flipped on their way from disks.
    pub(super) fn flip_count(&self) -> u64 {
        self.nodes.iter().map(|node| node.strikes.flip_count()).sum()
    }

    /// Lets a client act, and does what it asks for.
    pub(super) fn with_client(&mut self, number: usize, act: impl FnOnce(&mut Client, &mut Context<'_>)) {
        let mut actions = Vec::new();
        self.checkers.flip_count = self.flip_count();
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
