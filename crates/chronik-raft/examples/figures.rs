//! Prints what the metadata log costs: `cargo run --release -p chronik-raft --example figures`.

#![expect(clippy::print_stdout, reason = "printing is what this is for")]
#![expect(clippy::disallowed_methods, reason = "it measures time, and cleans up a real directory")]
#![expect(clippy::unwrap_used, reason = "a measurement that fails has no result")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chronik_disk::RealDisk;
use chronik_raft::metadata::{
    AssignPartition, Command, CommandBatch, CreateTopic, Endpoint, MetadataImage, RegisterBroker,
    SetPartitionLeader, UpdateIsr,
};
use chronik_raft::{MetadataLog, NoPeers, RaftConfig, RaftDriver};
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
}
