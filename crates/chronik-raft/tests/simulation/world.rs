//! The nodes, their disks, the network between them, and a client that never gives up.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::{Crash, DirEntry, Disk, DiskFile, DiskLock, DiskSpace, OpenMode, SimDisk};
use chronik_raft::inspect::{MessageKind, summarize_message};
use chronik_raft::metadata::{
    AllocateProducerIds, Command, CommandBatch, CreateTopic, Endpoint, RegisterBroker, RequestId,
};
use chronik_raft::{Dropped, MetadataLog, PeerMessage, ProposeError, RaftConfig, RaftDriver, Transport};
use chronik_types::{BrokerEpoch, MonotonicMs, NodeId, TopicId};
use parking_lot::Mutex;

use crate::checkers::{Checkers, Rule, Violation};

const DIR: &str = "/data/__raft";

/// What is broken on purpose, to see that the checkers notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// Votes that were refused arrive as granted.
    ForgedVotes,
    /// A byte of an entry's data changes on its way.
    ChangedEntries,
    /// Syncs succeed and do nothing.
    LyingDisk,
}

struct Node {
    id: NodeId,
    disk: SimDisk,
    driver: Option<RaftDriver>,
    wake_at: u64,
    restart_at: u64,
    outbox: Arc<Mutex<Vec<(NodeId, PeerMessage)>>>,
}

struct InFlight {
    from: usize,
    to: usize,
    message: PeerMessage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Asked,
    Acknowledged,
}

/// Requests of clients, answered from within the nodes.
struct Requests {
    states: Vec<State>,
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
    faulty: bool,
    checkers: Arc<Mutex<Checkers>>,
    requests: Arc<Mutex<Requests>>,
    trace: u32,
    pub(crate) crash_count: u64,
    pub(crate) snapshot_count: u64,
}

impl World {
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
            faulty: true,
            checkers: Arc::new(Mutex::new(Checkers::new(only))),
            requests: Arc::new(Mutex::new(Requests { states: Vec::new() })),
            trace: 0,
            crash_count: 0,
            snapshot_count: 0,
        };
        for number in 0..3 {
            let disk = SimDisk::new();
            disk.create_dir_all(Path::new("/data")).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            // Id 0 is among them, which raft itself cannot name.
            let id = NodeId(number);
            let restart_at = world.random.below(300);
            world.nodes.push(Node { id, disk, driver: None, wake_at: 0, restart_at, outbox: Arc::default() });
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

    pub(crate) fn acknowledged_count(&self) -> usize {
        self.requests.lock().states.iter().filter(|state| **state == State::Acknowledged).count()
    }

    pub(crate) fn run_with_faults(&mut self, until_ms: u64) {
        while self.now_ms < until_ms && self.checkers.lock().violations.is_empty() {
            self.break_something();
            self.ask_something();
            self.step();
        }
    }

    /// Ends all faults, and waits until every node has everything.
    pub(crate) fn heal_and_settle(&mut self, within_ms: u64) {
        self.faulty = false;
        self.blocked.clear();
        for node in &mut self.nodes {
            node.restart_at = node.restart_at.min(self.now_ms);
        }
        let until_ms = self.now_ms + within_ms;
        while self.checkers.lock().violations.is_empty() {
            self.ask_something();
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
                self.checkers.lock().report(Rule::Liveness, format!("not settled: {quorums:?}"));
            }
        }
    }

    fn settled(&self) -> bool {
        if self.requests.lock().states.iter().any(|state| *state != State::Acknowledged) {
            return false;
        }
        let images: Vec<_> =
            self.nodes.iter().filter_map(|node| Some(node.driver.as_ref()?.handle().image())).collect();
        if images.len() < self.nodes.len() || images.windows(2).any(|pair| *pair[0] != *pair[1]) {
            return false;
        }
        let requests = self.requests.lock().states.len();
        let image = &images[0];
        let mut checkers = self.checkers.lock();
        for number in 0..requests {
            if image.topic(&format!("topic-{number}")).is_none() {
                checkers
                    .report(Rule::ExactlyOnce, format!("topic {number} was acknowledged and is not there"));
            }
        }
        if image.topic_count() != requests
            || image.next_producer_id().get() != 10 * i64::try_from(requests).unwrap()
        {
            checkers.report(
                Rule::ExactlyOnce,
                format!(
                    "{requests} requests, {} topics, {} ids",
                    image.topic_count(),
                    image.next_producer_id()
                ),
            );
        }
        true
    }

    fn break_something(&mut self) {
        let node = self.random.index(self.nodes.len());
        match self.random.below(900) {
            // The machine stops within the next few operations on its disk, in the middle of a write perhaps.
            0..3 => {
                let count = self.random.below(6);
                self.nodes[node].disk.stop_after(count);
            }
            3..5 => self.crash(node),
            5..8 => {
                // One direction, or both.
                let other = (node + 1 + self.random.index(2)) % 3;
                let until_ms = self.now_ms + 50 + self.random.below(1_500);
                self.blocked.insert((node, other), until_ms);
                if self.random.below(2) == 0 {
                    self.blocked.insert((other, node), until_ms);
                }
            }
            8..10 => {
                if let Some(driver) = &self.nodes[node].driver {
                    driver.handle().leader_gone();
                    self.nodes[node].wake_at = self.now_ms;
                }
            }
            10..11 => {
                let to = self.nodes[(node + 1) % 3].id;
                if let Some(driver) = &self.nodes[node].driver {
                    driver.handle().transfer_leadership(to);
                    self.nodes[node].wake_at = self.now_ms;
                }
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
        let down_ms = self.random.below(1_200);
        let node = &mut self.nodes[number];
        node.driver = None;
        node.outbox.lock().clear();
        node.disk.crash(crash);
        node.restart_at = self.now_ms + down_ms;
        self.crash_count += 1;
        self.note(&[0xc0, u8::try_from(number).unwrap()]);
        for other in 0..3 {
            if let Some(driver) = &self.nodes[other].driver {
                driver.handle().peer_unreachable(NodeId(i32::try_from(number).unwrap()));
            }
        }
    }

    fn start(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let voters = (0..3).map(NodeId).collect();
        let mut config = RaftConfig::new(node.id, voters);
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
                let (id, checkers) = (node.id, Arc::clone(&self.checkers));
                driver.handle().subscribe(Box::new(move |image, _| checkers.lock().image(id, image)));
                node.driver = Some(driver);
                node.wake_at = self.now_ms;
            }
            // A machine that stopped while starting starts again later; anything else is for the checkers.
            Err(error) => {
                let text = format!("node {number} does not start: {error:?}");
                if !text.contains("has stopped") {
                    self.checkers.lock().report(Rule::CommittedSurvives, text);
                }
                self.crash(number);
            }
        }
    }

    /// Clients ask for a new topic and a block of ids, or ask again where they have no answer.
    fn ask_something(&mut self) {
        if self.random.below(40) != 0 {
            return;
        }
        let waiting: Vec<usize> = {
            let mut requests = self.requests.lock();
            if self.faulty && requests.states.len() < 30 {
                requests.states.push(State::Idle);
            }
            (0..requests.states.len()).filter(|number| requests.states[*number] == State::Idle).collect()
        };
        if waiting.is_empty() {
            return;
        }
        let request = waiting[self.random.index(waiting.len())];
        let at = self.random.index(self.nodes.len());
        let Some(driver) = &self.nodes[at].driver else { return };
        let endpoint =
            Endpoint { listener: "PLAINTEXT".into(), host: "h".into(), port: 1, security_protocol: 0 };
        // The broker is registered by each request alike; only the first changes anything.
        let handle = driver.handle();
        let epoch = handle.image().broker(NodeId(9)).map(|broker| broker.epoch);
        let mut commands: Vec<Command> = vec![RegisterBroker::new(NodeId(9), 1, vec![endpoint]).into()];
        let Some(epoch) = epoch else {
            handle.propose(CommandBatch::new(commands), Box::new(drop));
            self.nodes[at].wake_at = self.now_ms;
            return;
        };
        commands
            .push(CreateTopic::new(format!("topic-{request}"), TopicId(request as u128 + 1), 1, 1).into());
        commands.push(AllocateProducerIds::new(NodeId(9), BrokerEpoch(epoch.get()), 10).into());
        let request_id = RequestId { node_id: 9, incarnation: 7, sequence: request as u64 };
        self.requests.lock().states[request] = State::Asked;
        let (requests, checkers) = (Arc::clone(&self.requests), Arc::clone(&self.checkers));
        handle.propose(
            CommandBatch::new(commands).with_request_id(request_id),
            Box::new(move |outcome| {
                let state = match outcome {
                    Ok(_) => State::Acknowledged,
                    Err(ProposeError::Refused { error, .. }) => {
                        checkers.lock().report(Rule::ExactlyOnce, format!("request {request}: {error}"));
                        State::Idle
                    }
                    Err(_) => State::Idle,
                };
                requests.lock().states[request] = state;
            }),
        );
        self.nodes[at].wake_at = self.now_ms;
    }

    /// One millisecond passes.
    fn step(&mut self) {
        self.now_ms += 1;
        self.blocked.retain(|_, until_ms| self.now_ms < *until_ms);
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
            if self.nodes[number].driver.is_some() && self.nodes[number].wake_at <= self.now_ms {
                self.poll(number);
            }
        }
    }

    fn poll(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let Some(driver) = &mut node.driver else { return };
        let outcome = driver.poll(MonotonicMs(self.now_ms));
        self.checkers.lock().node(node.id, driver.node());
        match outcome {
            Ok(wake_at) => {
                node.wake_at = wake_at.map_or(u64::MAX, |at| at.0);
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
        for _ in 0..copies {
            let delay_ms = match self.random.below(if self.faulty { 20 } else { 19 }) {
                0..15 => 1 + self.random.below(4),
                15..19 => 1 + self.random.below(20),
                _ => 50 + self.random.below(1_000),
            };
            self.sent_count += 1;
            let place = (self.now_ms + delay_ms, self.sent_count);
            self.network.insert(place, InFlight { from, to, message: message.clone() });
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: PeerMessage) {
        let lost = self.blocked.contains_key(&(from, to)) || self.nodes[to].driver.is_none();
        if message.is_snapshot
            && let Some(driver) = &self.nodes[from].driver
        {
            driver.handle().snapshot_finished(self.nodes[to].id, !lost);
        }
        if lost {
            return;
        }
        let bytes = self.spoil(message.bytes);
        self.note(&bytes);
        if let Some(driver) = &self.nodes[to].driver {
            driver.handle().receive(self.nodes[from].id, bytes);
            self.nodes[to].wake_at = self.now_ms;
        }
    }

    /// Does what the sabotage asks for to a message.
    fn spoil(&mut self, bytes: Bytes) -> Bytes {
        let summary = summarize_message(bytes.clone()).unwrap();
        let mut spoiled = bytes.to_vec();
        match self.sabotage {
            Sabotage::None | Sabotage::LyingDisk => return bytes,
            Sabotage::ForgedVotes => {
                let is_vote =
                    matches!(summary.kind, MessageKind::VoteResponse | MessageKind::PreVoteResponse);
                if !is_vote || !summary.reject {
                    return bytes;
                }
                // The flag comes after version, type and eight numbers.
                spoiled[66] = 0;
                assert!(!summarize_message(spoiled.clone().into()).unwrap().reject);
            }
            Sabotage::ChangedEntries => {
                let name = b"topic-";
                let place = spoiled.windows(name.len()).position(|window| window == name);
                let Some(place) = place.filter(|_| summary.kind == MessageKind::Append) else { return bytes };
                if self.random.below(10) != 0 {
                    return bytes;
                }
                spoiled[place] = b'T';
            }
        }
        spoiled.into()
    }

    fn note(&mut self, bytes: &[u8]) {
        self.trace = crc32c::crc32c_append(self.trace, &self.now_ms.to_be_bytes());
        self.trace = crc32c::crc32c_append(self.trace, bytes);
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
        let summary = summarize_message(message.bytes.clone()).unwrap();
        self.checkers.lock().message(self.id, &summary, &self.disk, Path::new(DIR));
        self.queue.lock().push((to, message));
        Ok(())
    }
}

/// A disk whose syncs do nothing.
struct LyingDisk(SimDisk);

struct LyingFile(Arc<dyn DiskFile>);

impl Disk for LyingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let existed = self.0.exists(path)?;
        let file = self.0.open(path, mode)?;
        // A new file starts out whole, or the node would not even start again.
        if !existed {
            file.sync_data()?;
        }
        Ok(Arc::new(LyingFile(file)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.open(from, OpenMode::ReadWrite)?.sync_data()?;
        self.0.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.0.space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.0.lock(path)
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset_bytes)
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset_bytes)
    }

    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        self.0.write_all_vectored_at(slices, offset_bytes)
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.0.truncate(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }
}

/// Everything that looks random comes from here.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}
