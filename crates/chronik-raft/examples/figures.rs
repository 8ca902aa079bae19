//! Prints what the metadata log costs: `cargo run --release -p chronik-raft --example figures`.

#![expect(clippy::print_stdout, reason = "printing is what this is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time, and cleans up a real directory")]
#![expect(clippy::unwrap_used, reason = "a measurement that fails has no result")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use chronik_disk::RealDisk;
use chronik_raft::metadata::{
    AssignPartition, Command, CommandBatch, CreateTopic, Endpoint, MetadataImage, RegisterBroker,
    SetPartitionLeader, UpdateIsr,
};
use chronik_raft::{
    Dropped, MetadataLog, NoPeers, PeerMessage, RaftConfig, RaftDriver, RaftHandle, Transport,
};
use chronik_types::{LogIndex, MonotonicMs, NodeId, PartitionEpoch, PartitionIndex, Term, TopicId};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn brokers() -> Vec<Command> {
    let endpoint = Endpoint { listener: "PLAINTEXT".into(), host: "h".into(), port: 1, security_protocol: 0 };
    NODES.iter().map(|id| RegisterBroker::new(*id, 1, vec![endpoint.clone()]).into()).collect()
}

fn topic(name: &str, id: u128, partition_count: i32) -> Vec<Command> {
    let mut commands: Vec<Command> = vec![CreateTopic::new(name, TopicId(id), partition_count, 3).into()];
    for index in (0..partition_count).map(PartitionIndex) {
        let leader = NODES[usize::try_from(index.get()).unwrap() % 3];
        commands.push(AssignPartition::new(TopicId(id), index, &NODES).into());
        commands.push(SetPartitionLeader::new(TopicId(id), index, Some(leader)).into());
        commands.push(UpdateIsr::new(TopicId(id), index, &NODES, Some(PartitionEpoch(1))).into());
    }
    commands
}

fn main() {
    let brokers = CommandBatch::new(brokers());
    let start = MetadataImage::default().apply(LogIndex(1), Term(1), &brokers).unwrap().image;
    let batch = CommandBatch::new(topic("big", 1, 10_000));
    let before_bytes = resident_bytes();
    let clock = Instant::now();
    let applied = start.apply(LogIndex(2), Term(1), &batch).unwrap();
    println!("10,000 partitions in one batch: applied in {:?}", clock.elapsed());
    let image = applied.image.clone();
    drop(applied);
    println!("their image: about {} KiB resident", (resident_bytes() - before_bytes) / 1024);
    let clock = Instant::now();
    let snapshot = image.encode_snapshot();
    println!("its snapshot: {} KiB, written in {:?}", snapshot.len() / 1024, clock.elapsed());
    let clock = Instant::now();
    drop(MetadataImage::decode_snapshot(&snapshot).unwrap());
    println!("and read in {:?}", clock.elapsed());

    let dir = std::env::temp_dir().join(format!("chronik-raft-figures-{}", std::process::id()));
    let mut incarnation = 0;
    let mut open = || {
        incarnation += 1;
        let config = RaftConfig::new(NODES[0], vec![NODES[0]], incarnation);
        let clock = Instant::now();
        let mut driver =
            RaftDriver::open(config, Arc::new(RealDisk), Path::new(&dir), Box::new(NoPeers)).unwrap();
        driver.poll(MonotonicMs(0)).unwrap();
        (driver, clock.elapsed())
    };
    let (mut driver, elapsed) = open();
    println!("first start of a lone node: {elapsed:?}");
    let handle = driver.handle();
    handle.propose(brokers, Box::new(|outcome| drop(outcome.unwrap())));
    driver.poll(MonotonicMs(0)).unwrap();
    let clock = Instant::now();
    for number in 0..100 {
        let batch = CommandBatch::new(topic(&format!("t{number}"), 10 + number, 1));
        handle.propose(batch, Box::new(|outcome| drop(outcome.unwrap())));
        driver.poll(MonotonicMs(0)).unwrap();
    }
    println!("one topic after another: {:?} each", clock.elapsed() / 100);
    let clock = Instant::now();
    handle.propose(batch, Box::new(|outcome| drop(outcome.unwrap())));
    driver.poll(MonotonicMs(0)).unwrap();
    println!("10,000 partitions through the log: {:?}", clock.elapsed());
    // Snapshots keep what a restart replays below 10,000 entries, however many there have been.
    let clock = Instant::now();
    for round in 0..100_i32 {
        for number in 0..1_000 {
            let isr = if (round + number) % 2 == 0 { &NODES[..2] } else { &NODES[..] };
            let index = PartitionIndex(number * 3 + round % 2);
            let update = UpdateIsr::new(TopicId(1), index, isr, None);
            handle.propose(CommandBatch::new(vec![update.into()]), Box::new(|_| {}));
        }
        driver.poll(MonotonicMs(0)).unwrap();
    }
    println!("100,000 further entries: {:?}", clock.elapsed());
    drop(driver);
    let (driver, elapsed) = open();
    println!("restart with {} partitions: {elapsed:?}", driver.handle().image().partition_count());
    drop(driver);
    std::fs::remove_dir_all(&dir).unwrap();
    three_nodes();
}

/// Puts messages where the thread that drives all nodes finds them.
struct Wire(NodeId, Sender<(NodeId, NodeId, PeerMessage)>);

impl Transport for Wire {
    fn send(&mut self, to: NodeId, message: PeerMessage) -> Result<(), Dropped> {
        self.1.send((self.0, to, message)).map_err(|_| Dropped)
    }
}

/// Three nodes on one thread and a real disk, so every figure is the sum of what three would do side by side.
struct Trio {
    drivers: Vec<RaftDriver>,
    handles: Vec<RaftHandle>,
    sent: Receiver<(NodeId, NodeId, PeerMessage)>,
    clock: Instant,
}

impl Trio {
    fn open(dir: &Path, incarnation: u64) -> Self {
        let (sender, sent) = channel();
        let open = |id: &NodeId| {
            let config = RaftConfig::new(*id, NODES.to_vec(), incarnation);
            let wire = Box::new(Wire(*id, sender.clone()));
            RaftDriver::open(config, Arc::new(RealDisk), &dir.join(id.to_string()), wire).unwrap()
        };
        let drivers: Vec<RaftDriver> = NODES.iter().map(open).collect();
        let handles = drivers.iter().map(RaftDriver::handle).collect();
        Self { drivers, handles, sent, clock: Instant::now() }
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&[RaftHandle]) -> bool) -> Duration {
        let begun = Instant::now();
        while !done(&self.handles) {
            assert!(begun.elapsed() < Duration::from_mins(2), "{what} takes too long");
            let now = MonotonicMs(u64::try_from(self.clock.elapsed().as_millis()).unwrap());
            for driver in &mut self.drivers {
                driver.poll(now).unwrap();
            }
            let mut idle = true;
            while let Ok((from, to, message)) = self.sent.try_recv() {
                let place = NODES.iter().position(|node| *node == to).unwrap();
                self.handles[place].receive(from, message.bytes);
                idle = false;
            }
            if idle {
                self.handles[0].wait(Some(Duration::from_millis(1)));
            }
        }
        begun.elapsed()
    }

    /// Proposes at a node and waits for its answer.
    fn propose(&mut self, at: usize, batch: CommandBatch) -> Duration {
        let answered = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&answered);
        let done = Box::new(move |outcome: Result<_, _>| {
            drop(outcome.unwrap());
            flag.store(true, Ordering::Release);
        });
        self.handles[at].propose(batch, done);
        self.run_until("a proposal", |_| answered.load(Ordering::Acquire))
    }
}

fn three_nodes() {
    let dir = std::env::temp_dir().join(format!("chronik-raft-figures-{}", std::process::id()));
    for node in NODES {
        std::fs::create_dir_all(dir.join(node.to_string())).unwrap();
    }
    let mut trio = Trio::open(&dir, 1);
    let elapsed = trio.run_until("an election", |handles| handles.iter().any(RaftHandle::is_leader));
    println!("three nodes, from nothing to a leader: {elapsed:?}");
    let follower = trio.handles.iter().position(|handle| !handle.is_leader()).unwrap();
    trio.propose(follower, CommandBatch::new(brokers()));
    let begun = Instant::now();
    for number in 0..100 {
        trio.propose(follower, CommandBatch::new(topic(&format!("t{number}"), 10 + number, 1)));
    }
    println!("one topic after another at a follower: {:?} each", begun.elapsed() / 100);
    let elapsed = trio.propose(follower, CommandBatch::new(topic("big", 1, 10_000)));
    println!("10,000 partitions in one batch at a follower, until it answers: {elapsed:?}");
    let rest =
        trio.run_until("all", |handles| handles.iter().all(|handle| handle.image().topic("big").is_some()));
    println!("and until all three show them: {:?}", elapsed + rest);
    let begun = Instant::now();
    for round in 0..100_i32 {
        for number in 0..1_000 {
            let isr = if (round + number) % 2 == 0 { &NODES[..2] } else { &NODES[..] };
            let index = PartitionIndex(number * 3 + round % 2);
            let update = UpdateIsr::new(TopicId(1), index, isr, None);
            trio.handles[follower].propose(CommandBatch::new(vec![update.into()]), Box::new(|_| {}));
        }
        trio.propose(follower, CommandBatch::new(Vec::new()));
    }
    println!("100,000 further entries, forwarded: {:?}", begun.elapsed());
    drop(trio);
    let begun = Instant::now();
    let mut trio = Trio::open(&dir, 2);
    println!("all three opened again: {:?}", begun.elapsed());
    trio.run_until("an election", |handles| handles.iter().any(RaftHandle::is_leader));
    let elected = begun.elapsed();
    trio.propose(0, CommandBatch::new(Vec::new()));
    println!("a leader after {elected:?}, a proposal answered after {:?}", begun.elapsed());
    drop(trio);
    std::fs::remove_dir_all(&dir).unwrap();
}
