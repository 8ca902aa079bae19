//! The cases: what is done to a broker or to three, and what is noted.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::client::{Connection, Layout};
use crate::load::{self, Moved, Target, Volume};
use crate::process::Running;
use crate::replicated;
use crate::stats::Figures;
use crate::systems::{Node, System};

/// How long a broker is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// Partitions of the topic that throughput is measured on.
pub(crate) const PARTITIONS: i32 = 6;
/// Connections that produce or consume at once.
const CONNECTIONS: i32 = 2;

/// Records of 100 bytes in batches of 16 KiB.
const SMALL: (usize, usize) = (100, 16 << 10);
/// Records of 1 KiB in batches of 256 KiB.
const LARGE: (usize, usize) = (1 << 10, 256 << 10);

/// One thing to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// From an empty directory to the first answer, and memory with nothing to do.
    Start,
    /// Produce with acks=all, then consume, records of 100 bytes in batches of 16 KiB.
    Small,
    /// The same with records of 1 KiB in batches of 256 KiB.
    Large,
    /// Many idle partitions: their memory, and the start after kill -9.
    Idle,
    /// Three nodes, three replicas, two of which must be in sync: as small.
    ReplicatedSmall,
    /// The same as large.
    ReplicatedLarge,
    /// Latency on three nodes at a fixed rate, from producer to consumer, records of 100 bytes.
    EndToEnd,
    /// A node of three comes back while a fixed rate goes on, and has missed all of --megabytes.
    CatchUp,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }
}

/// What cases are told.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) megabytes: u64,
    /// The size of batches where throughput is measured, in place of the case's own.
    pub(crate) batch_bytes: Option<usize>,
    pub(crate) partitions: i32,
    /// Records a second where latency is measured.
    pub(crate) rate: u32,
    /// How long a system of three nodes is loaded before anything counts.
    pub(crate) warm_up: Duration,
    /// How long latency is measured.
    pub(crate) duration: Duration,
}

impl Options {
    fn sized(&self, (record_bytes, batch_bytes): (usize, usize)) -> (usize, usize) {
        (record_bytes, self.batch_bytes.unwrap_or(batch_bytes))
    }
}

/// Runs one case on one system, from an empty directory.
pub(crate) fn run(case: Case, system: &System, options: Options) -> Result<Figures> {
    match case {
        Case::Start => start(system),
        Case::Small => throughput(system, options.sized(SMALL), options),
        Case::Large => throughput(system, options.sized(LARGE), options),
        Case::Idle => idle(system, options),
        Case::ReplicatedSmall => replicated::throughput(system, options.sized(SMALL), options),
        Case::ReplicatedLarge => replicated::throughput(system, options.sized(LARGE), options),
        Case::EndToEnd => replicated::end_to_end(system, options),
        Case::CatchUp => replicated::catch_up(system, options),
    }
}

/// One broker that answers.
struct Alone {
    running: Running,
    start_ms: f64,
    node: Vec<Node>,
    /// What it wrote goes when this is dropped, after the broker.
    _directory: TempDir,
}

impl Alone {
    fn start(system: &System) -> Result<Self> {
        let directory = TempDir::with_prefix("chronik-bench-")?;
        let node = Node::several(1, directory.path())?;
        let only = node.first().context("one node")?;
        system.prepare(only, &node)?;
        let mut running = system.spawn(only, &node)?;
        let start_ms = running.answers()?;
        Ok(Self { running, start_ms, node, _directory: directory })
    }
}

fn start(system: &System) -> Result<Figures> {
    let Alone { running, start_ms, .. } = &Alone::start(system)?;
    let mut figures = Figures::default();
    figures.note("start_ms", *start_ms);
    sleep(SETTLE);
    figures.note("idle_mb", running.resident_mb()?);
    let before = running.cpu_seconds()?;
    sleep(SETTLE);
    let percent = (running.cpu_seconds()? - before) / SETTLE.as_secs_f64() * 100.0;
    figures.note("idle_cpu_percent", percent);
    Ok(figures)
}

fn throughput(
    system: &System,
    (record_bytes, batch_bytes): (usize, usize),
    options: Options,
) -> Result<Figures> {
    let Alone { running, .. } = &Alone::start(system)?;
    let volume = Volume::new(record_bytes, batch_bytes, options.megabytes * 1_000_000);
    let targets = Target::shared(running.port, PARTITIONS, CONNECTIONS);
    Connection::open(running.port)?.create_topic("bench", &Layout::alone(PARTITIONS))?;
    load::warm_up(&targets, "bench", &volume)?;
    // A JVM needs a run-up before it shows what it can do.
    load::produce(&targets, "bench", Volume { total_bytes: volume.total_bytes / 5, ..volume })?;
    let before = running.cpu_seconds()?;
    let produced = load::produce(&targets, "bench", volume)?;
    let between = running.cpu_seconds()?;
    let consumed = load::consume(&targets, "bench")?;
    let mut figures = Figures::default();
    note_moved(&mut figures, Direction::Produce, produced, between - before);
    note_moved(&mut figures, Direction::Consume, consumed, running.cpu_seconds()? - between);
    figures.note("loaded_mb", running.resident_mb()?);
    Ok(figures)
}

fn idle(system: &System, options: Options) -> Result<Figures> {
    let Alone { running, node, _directory, .. } = Alone::start(system)?;
    let mut figures = Figures::default();
    let mut connection = Connection::open(running.port)?;
    let before = running.resident_mb()?;
    let began = Instant::now();
    connection.create_topic("idle", &Layout::alone(options.partitions))?;
    figures.note("create_ms", began.elapsed().as_secs_f64() * 1_000.0);
    sleep(SETTLE);
    figures.note("partitions_mb", running.resident_mb()? - before);
    running.kill()?;
    let mut again = system.spawn(node.first().context("one node")?, &node)?;
    figures.note("restart_ms", again.answers()?);
    sleep(SETTLE);
    figures.note("restarted_mb", again.resident_mb()?);
    Ok(figures)
}

/// Which way records went.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Produce,
    Consume,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn note_moved(figures: &mut Figures, what: Direction, moved: Moved, cpu_seconds: f64) {
    let (bytes, records) = (moved.bytes as f64, moved.records as f64);
    let names = match what {
        Direction::Produce => ["produce_mb_s", "produce_records_s", "produce_cpu_s_gb"],
        Direction::Consume => ["consume_mb_s", "consume_records_s", "consume_cpu_s_gb"],
    };
    let values = [bytes / 1e6 / moved.seconds, records / moved.seconds, cpu_seconds / (bytes / 1e9)];
    for (name, value) in names.into_iter().zip(values) {
        figures.note(name, value);
    }
}
