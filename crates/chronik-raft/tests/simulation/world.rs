//! The nodes, their disks, the network between them, and what goes wrong with all that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::{Crash, Disk, SimDisk};
use chronik_raft::inspect::summarize_message;
use chronik_raft::metadata::{
    Command, CommandBatch, Endpoint, FenceBroker, MetadataImage, RegisterBroker, UnfenceBroker,
};
use chronik_raft::{
    Dropped, LivenessChange, MetadataLog, PeerMessage, RaftConfig, RaftDriver, RaftHandle, Transport,
};
use chronik_types::{MonotonicMs, NodeId};
use parking_lot::Mutex;

use crate::checkers::{Checkers, Rule, Violation};
use crate::client::{self, Client, SharedClient};
use crate::lying_disk::LyingDisk;
use crate::random::Random;
use crate::sabotage::Sabotage;

const DIR: &str = "/data/__raft";

/// Requests in one history, at most.
const REQUESTS_MAX: usize = 30;

struct Node {
    id: NodeId,
    disk: SimDisk,
    driver: Option<RaftDriver>,
    /// Goes up with every start.
    incarnation: u64,
    wake_at: u64,
    restart_at: u64,
    /// When the broker looks again whether it is registered.
    register_at: u64,
    outbox: Arc<Mutex<Vec<(NodeId, PeerMessage)>>>,
}

struct InFlight {
    from: usize,
    to: usize,
    message: PeerMessage,
}

pub(crate) struct World {
    seed: u64,
    sabotage: Sabotage,
    random: Random,
    now_ms: u64,
    nodes: Vec<Node>,
    network: BTreeMap<(u64, u64), InFlight>,
    sent_count: u64,
    /// Directions that carry nothing, until when.
    blocked: BTreeMap<(usize, usize), u64>,
    /// Disks that are full, until when.
    full: BTreeMap<usize, u64>,
    faulty: bool,
    checkers: Arc<Mutex<Checkers>>,
    client: SharedClient,
    trace: u32,
    pub(crate) crash_count: u64,
    pub(crate) snapshot_count: u64,
    pub(crate) full_disk_count: u64,
    fence_count: Arc<Mutex<u64>>,
}

impl World {
    /// Three nodes, or five in every fourth history. With a rule, only that rule is looked at.
    pub(crate) fn new(seed: u64, sabotage: Sabotage, only: Option<Rule>) -> Self {
        let mut world = Self {
            seed,
            sabotage,
            random: Random(seed),
            now_ms: 0,
            nodes: Vec::new(),
            network: BTreeMap::new(),
            sent_count: 0,
            blocked: BTreeMap::new(),
            full: BTreeMap::new(),
            faulty: true,
            checkers: Arc::new(Mutex::new(Checkers::new(only))),
            client: Arc::new(Mutex::new(Client::default())),
            trace: 0,
            crash_count: 0,
            snapshot_count: 0,
            full_disk_count: 0,
            fence_count: Arc::default(),
        };
        let count = if seed % 4 == 3 { 5 } else { 3 };
        for number in 0..count {
            let disk = SimDisk::new();
            disk.create_dir_all(Path::new("/data")).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            world.nodes.push(Node {
                // Id 0 is among them, which raft itself cannot name.
                id: NodeId(number),
                disk,
                driver: None,
                incarnation: 0,
                wake_at: 0,
                restart_at: world.random.below(300),
                register_at: 0,
                outbox: Arc::default(),
            });
        }
        world
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.checkers.lock().violations.clone()
    }

    pub(crate) fn term_max(&self) -> u64 {
        self.checkers.lock().term_max()
    }

    pub(crate) fn trace_hash(&self) -> u32 {
        self.trace
    }

    pub(crate) fn client(&self) -> &SharedClient {
        &self.client
    }

    pub(crate) fn fence_count(&self) -> u64 {
        *self.fence_count.lock()
    }

    pub(crate) fn run_with_faults(&mut self, until_ms: u64) {
        while self.now_ms < until_ms && self.checkers.lock().violations.is_empty() {
            self.break_something();
            self.ask_something();
            self.step();
        }
    }

    /// Ends all faults, and waits until every node has everything and every broker is in service.
    pub(crate) fn heal_and_settle(&mut self, within_ms: u64) {
        self.faulty = false;
        self.blocked.clear();
        for node in &mut self.nodes {
            node.restart_at = node.restart_at.min(self.now_ms);
            node.disk.set_capacity_bytes(None);
        }
        self.full.clear();
        let until_ms = self.now_ms + within_ms;
        while self.checkers.lock().violations.is_empty() {
            self.step();
            if self.settled() {
                return;
            }
            if until_ms <= self.now_ms {
                let quorums: Vec<_> = self
                    .nodes
                    .iter()
                    .map(|node| node.driver.as_ref().map(|driver| driver.node().quorum()))
                    .collect();
                let idle = self.client.lock().is_idle();
                let brokers: Vec<_> = self
                    .nodes
                    .iter()
                    .map(|node| {
                        let image = node.driver.as_ref().map(|driver| driver.handle().image());
                        let broker = image.as_ref().and_then(|image| image.broker(node.id));
                        (node.incarnation, broker.map(|broker| (broker.incarnation, broker.fenced)))
                    })
                    .collect();
                let text = format!("not settled, clients answered: {idle}, brokers {brokers:?}, {quorums:?}");
                self.checkers.lock().report(Rule::Liveness, text);
            }
        }
    }

    fn settled(&self) -> bool {
        if !self.client.lock().is_idle() || !self.network_is_quiet() {
            return false;
        }
        let mut images = Vec::new();
        for node in &self.nodes {
            let Some(driver) = &node.driver else { return false };
            let image = driver.handle().image();
            let broker = image.broker(node.id);
            if broker.is_none_or(|broker| broker.fenced || broker.incarnation != u128::from(node.incarnation))
            {
                return false;
            }
            images.push(image);
        }
        if images.windows(2).any(|pair| *pair[0] != *pair[1]) {
            return false;
        }
        self.client.lock().check(&images[0], &mut self.checkers.lock());
        true
    }

    /// Whether no message is on its way that was sent while things went wrong: it may still have an effect.
    fn network_is_quiet(&self) -> bool {
        self.network.keys().all(|(at, _)| *at <= self.now_ms + 60)
    }

    fn break_something(&mut self) {
        let count = self.nodes.len();
        let node = self.random.index(count);
        match self.random.below(2_500) {
            // The machine stops within the next few operations on its disk, in the middle of a write perhaps.
            0..3 => {
                let count = self.random.below(6);
                self.nodes[node].disk.stop_after(count);
            }
            3..5 => self.crash(node),
            5..13 => {
                // One direction, or both.
                let other = (node + 1 + self.random.index(count - 1)) % count;
                let until_ms = self.now_ms + 50 + self.random.below(1_500);
                self.blocked.insert((node, other), until_ms);
                if self.random.below(2) == 0 {
                    self.blocked.insert((other, node), until_ms);
                }
            }
            13..17 => {
                if let Some(driver) = &self.nodes[node].driver {
                    driver.handle().leader_gone();
                    self.nodes[node].wake_at = self.now_ms;
                }
            }
            17..19 => {
                let to = self.nodes[(node + 1) % count].id;
                if let Some(driver) = &self.nodes[node].driver {
                    driver.handle().transfer_leadership(to);
                    self.nodes[node].wake_at = self.now_ms;
                }
            }
            19..20 => {
                let free = self.random.below(400);
                let until_ms = self.now_ms + 50 + self.random.below(1_000);
                let disk = &self.nodes[node].disk;
                disk.set_capacity_bytes(Some(disk.used_bytes() + free));
                self.full.insert(node, until_ms);
                self.full_disk_count += 1;
            }
            _ => {}
        }
    }

    fn crash(&mut self, number: usize) {
        let crash = if self.random.below(4) == 0 {
            Crash::Process
        } else {
            Crash::PowerLoss { seed: self.random.next() }
        };
        // Some stay away for so long that they are fenced for their silence alone.
        let down_ms = if self.random.below(4) == 0 { 2_500 } else { self.random.below(1_200) };
        let noticed = self.random.below(2) == 0;
        let node = &mut self.nodes[number];
        let id = node.id;
        node.driver = None;
        node.outbox.lock().clear();
        node.disk.crash(crash);
        node.restart_at = self.now_ms + down_ms;
        self.crash_count += 1;
        self.note(&[0xc0, u8::try_from(number).unwrap()]);
        for other in &self.nodes {
            if let Some(driver) = &other.driver {
                driver.handle().peer_unreachable(id);
                if noticed {
                    driver.handle().peer_gone(id);
                }
            }
        }
    }

    fn start(&mut self, number: usize) {
        let voters = self.nodes.iter().map(|node| node.id).collect();
        let node = &mut self.nodes[number];
        node.incarnation += 1;
        node.register_at = self.now_ms;
        let mut config = RaftConfig::new(node.id, voters, node.incarnation);
        // Few entries between snapshots, and another number on each node.
        config.snapshot_entries_max = 4 + 3 * (number as u64) + self.seed % 5;
        config.retained_entries_max = number;
        let transport = Box::new(Outbox {
            id: node.id,
            disk: node.disk.clone(),
            queue: Arc::clone(&node.outbox),
            checkers: Arc::clone(&self.checkers),
        });
        let disk: Arc<dyn Disk> = if self.sabotage == Sabotage::LyingDisk {
            Arc::new(LyingDisk(node.disk.clone()))
        } else {
            Arc::new(node.disk.clone())
        };
        match RaftDriver::open(config, disk, Path::new(DIR), transport) {
            Ok(driver) => {
                let handle = driver.handle();
                let (id, checkers, sabotage) = (node.id, Arc::clone(&self.checkers), self.sabotage);
                handle.subscribe(Box::new(move |image, delta| {
                    let mut checkers = checkers.lock();
                    checkers.image(id, image);
                    checkers.partitions(id, delta);
                    sabotage.of_partitions(id, delta, &mut checkers);
                }));
                handle.set_broker_incarnation(u128::from(node.incarnation));
                let (log, fence_count) = (handle.clone(), Arc::clone(&self.fence_count));
                handle.set_liveness_listener(Box::new(move |term, changes| {
                    for change in changes {
                        *fence_count.lock() += 1;
                        let command = fencing(*change, &log.image());
                        log.propose_as_leader(term, CommandBatch::new(vec![command]), Box::new(drop));
                    }
                }));
                node.driver = Some(driver);
                node.wake_at = self.now_ms;
            }
            // A machine that stopped while starting, or has no room, starts again later; anything else is for the
            // checkers.
            Err(error) => {
                let text = format!("node {number} does not start: {error:?}");
                if !text.contains("has stopped") && !text.contains("NoSpace") && !text.contains("StorageFull")
                {
                    self.checkers.lock().report(Rule::CommittedSurvives, text);
                }
                self.crash(number);
            }
        }
    }

    fn ask_something(&mut self) {
        let dice = self.random.below(100);
        if 5 < dice {
            return;
        }
        let at = self.random.index(self.nodes.len());
        let nodes: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let Some(driver) = &self.nodes[at].driver else { return };
        let handle: RaftHandle = driver.handle();
        match dice {
            0..3 => {
                if self.client.lock().request_count() < REQUESTS_MAX {
                    let node = (self.nodes[at].id, &handle);
                    client::ask(&self.client, &self.checkers, node, &mut self.random, &nodes);
                }
            }
            3 => client::disturb(&handle, &mut self.random),
            _ => client::barrier(&self.client, &self.checkers, &handle),
        }
        self.nodes[at].wake_at = self.now_ms;
    }

    /// One millisecond passes.
    fn step(&mut self) {
        self.now_ms += 1;
        self.blocked.retain(|_, until_ms| self.now_ms < *until_ms);
        let healed: Vec<usize> =
            self.full.extract_if(.., |_, until_ms| *until_ms <= self.now_ms).map(|(node, _)| node).collect();
        for node in healed {
            self.nodes[node].disk.set_capacity_bytes(None);
        }
        while let Some(entry) = self.network.first_entry() {
            if self.now_ms < entry.key().0 {
                break;
            }
            let InFlight { from, to, message } = entry.remove();
            self.deliver(from, to, message);
        }
        for number in 0..self.nodes.len() {
            if self.nodes[number].driver.is_none() && self.nodes[number].restart_at <= self.now_ms {
                self.start(number);
            }
            self.register(number);
            if self.nodes[number].driver.is_some() && self.nodes[number].wake_at <= self.now_ms {
                self.poll(number);
            }
        }
    }

    /// A broker registers once it has started, and again where that came to nothing, or where a late message of its
    /// node's last process has registered that one in its place.
    fn register(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let Some(driver) = &node.driver else { return };
        if self.now_ms < node.register_at {
            return;
        }
        let handle = driver.handle();
        let incarnation = u128::from(node.incarnation);
        if handle.image().broker(node.id).is_some_and(|broker| broker.incarnation == incarnation) {
            node.register_at = self.now_ms + 200;
            return;
        }
        let endpoint =
            Endpoint { listener: "PLAINTEXT".into(), host: "h".into(), port: 1, security_protocol: 0 };
        let command = RegisterBroker::new(node.id, incarnation, vec![endpoint]);
        handle.propose(CommandBatch::new(vec![command.into()]), Box::new(drop));
        node.register_at = self.now_ms + 700;
        node.wake_at = self.now_ms;
    }

    fn poll(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let Some(driver) = &mut node.driver else { return };
        let outcome = driver.poll(MonotonicMs(self.now_ms));
        self.checkers.lock().node(node.id, driver.node());
        match outcome {
            Ok(wake_at) => {
                node.wake_at = wake_at.map_or(u64::MAX, |at| at.0.max(self.now_ms + 1));
                let sent = std::mem::take(&mut *node.outbox.lock());
                for (to, message) in sent {
                    self.send(number, usize::try_from(to.get()).unwrap(), &message);
                }
            }
            Err(error) => {
                let text = format!("node {number} stopped: {error:?}");
                if !text.contains("has stopped") {
                    self.checkers.lock().report(Rule::CommittedSurvives, text);
                }
                self.crash(number);
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &PeerMessage) {
        if message.is_snapshot {
            self.snapshot_count += 1;
        }
        let copies = match self.random.below(100) {
            0..5 if self.faulty => 0,
            5..8 if self.faulty => 2,
            _ => 1,
        };
        // Whoever carries snapshots knows when one was lost.
        if message.is_snapshot
            && copies == 0
            && let Some(driver) = &self.nodes[from].driver
        {
            driver.handle().snapshot_finished(self.nodes[to].id, false);
        }
        for _ in 0..copies {
            let delay_ms = match self.random.below(if self.faulty { 20 } else { 19 }) {
                0..15 => 1 + self.random.below(4),
                15..19 => 1 + self.random.below(20),
                _ => 50 + self.random.below(1_000),
            };
            self.put(delay_ms, InFlight { from, to, message: message.clone() });
        }
        if let Some(bytes) = self.sabotage.extra_copy(&message.bytes) {
            let message = PeerMessage { bytes, is_snapshot: false };
            self.put(30, InFlight { from, to, message });
        }
    }

    fn put(&mut self, delay_ms: u64, in_flight: InFlight) {
        self.sent_count += 1;
        self.network.insert((self.now_ms + delay_ms, self.sent_count), in_flight);
    }

    fn deliver(&mut self, from: usize, to: usize, message: PeerMessage) {
        let deaf = self.sabotage == Sabotage::DeafNode && to == 1;
        let lost = deaf || self.blocked.contains_key(&(from, to)) || self.nodes[to].driver.is_none();
        if message.is_snapshot
            && let Some(driver) = &self.nodes[from].driver
        {
            driver.handle().snapshot_finished(self.nodes[to].id, !lost);
        }
        if lost {
            return;
        }
        let bytes = self.sabotage.spoil(message.bytes, &mut self.random);
        self.note(&bytes);
        if let Some(driver) = &self.nodes[to].driver {
            driver.handle().receive(self.nodes[from].id, bytes);
            self.nodes[to].wake_at = self.now_ms;
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.trace = crc32c::crc32c_append(self.trace, &self.now_ms.to_be_bytes());
        self.trace = crc32c::crc32c_append(self.trace, bytes);
    }
}

/// What the controller makes of what its node has heard.
fn fencing(change: LivenessChange, image: &MetadataImage) -> Command {
    let node = change.node();
    let epoch = image.broker(node).map(|broker| broker.epoch);
    match change {
        LivenessChange::Silent { .. } | LivenessChange::Gone { .. } => FenceBroker::new(node, epoch).into(),
        LivenessChange::Returned { .. } => UnfenceBroker::new(node, epoch).into(),
    }
}

/// Where a node's messages leave it, and are held against its disk.
struct Outbox {
    id: NodeId,
    disk: SimDisk,
    queue: Arc<Mutex<Vec<(NodeId, PeerMessage)>>>,
    checkers: Arc<Mutex<Checkers>>,
}

impl Transport for Outbox {
    fn send(&mut self, to: NodeId, message: PeerMessage) -> Result<(), Dropped> {
        let summary = summarize_message(Bytes::clone(&message.bytes)).unwrap();
        self.checkers.lock().message(self.id, &summary, &self.disk, Path::new(DIR));
        self.queue.lock().push((to, message));
        Ok(())
    }
}
