//! The cases with three nodes: three replicas of everything, two of which must be in sync, and `acks=all`.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::cases::{Direction, Options, PARTITIONS, note_moved};
use crate::client::{Connection, Layout, PartitionState};
use crate::latency::{self, Rate};
use crate::load::{self, Target, Volume};
use crate::process::Running;
use crate::stats::Figures;
use crate::systems::{Node, System};

const NODES: i32 = 3;
const TOPIC: &str = "bench";
/// Producers, each with a connection to every leader.
const PRODUCERS: usize = 2;
/// A warm-up ends when so much has been produced, however much of its time is left.
const WARM_UP_BYTES_MAX: u64 = 500_000_000;
/// Values of the records whose latency is measured.
const LATENCY_RECORD_BYTES: usize = 100;
/// How long leaders may take to move or replicas to catch up.
const CHANGE_MAX: Duration = Duration::from_mins(4);
/// How often a change is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Three nodes that know of each other; `None` in the place of one that is down.
struct Cluster<'a> {
    system: &'a System,
    nodes: Vec<Node>,
    running: Vec<Option<Running>>,
    /// What they wrote goes when this is dropped, after the nodes.
    _directory: TempDir,
}

impl<'a> Cluster<'a> {
    fn start(system: &'a System) -> Result<Self> {
        let directory = TempDir::with_prefix("chronik-bench-")?;
        let nodes = Node::several(NODES, directory.path())?;
        for node in &nodes {
            system.prepare(node, &nodes)?;
        }
        let running: Result<Vec<_>> =
            nodes.iter().map(|node| Ok(Some(system.spawn(node, &nodes)?))).collect();
        let mut cluster = Self { system, nodes, running: running?, _directory: directory };
        for node in cluster.running.iter_mut().flatten() {
            node.answers()?;
        }
        Ok(cluster)
    }

    /// A connection to the first node.
    fn connect(&self) -> Result<Connection> {
        Connection::open(self.nodes.first().context("a first node")?.port)
    }

    /// CPU seconds of all nodes.
    fn cpu_seconds(&self) -> Result<f64> {
        self.running.iter().flatten().map(Running::cpu_seconds).sum()
    }

    /// Resident memory of all nodes, in MB.
    fn resident_mb(&self) -> Result<f64> {
        self.running.iter().flatten().map(Running::resident_mb).sum()
    }

    fn kill(&mut self, at: usize) -> Result<()> {
        let running = self.running.get_mut(at).and_then(Option::take);
        running.context("a node that runs")?.kill()
    }

    fn start_again(&mut self, at: usize) -> Result<()> {
        let node = self.nodes.get(at).context("a node")?;
        let again = self.system.spawn(node, &self.nodes)?;
        *self.running.get_mut(at).context("a node")? = Some(again);
        Ok(())
    }

    /// Makes the topic and gives the connections of one producer: one to each leader, whose requests have a batch for
    /// each partition that it leads.
    fn create_topic(&self, assignments: Vec<Vec<i32>>) -> Result<Vec<Target>> {
        let layout =
            Layout { partition_count: PARTITIONS, replication_factor: 3, min_in_sync: Some(2), assignments };
        self.connect()?.create_topic(TOPIC, &layout)?;
        wait_for(self, |partitions| partitions.iter().all(|partition| partition.in_sync.len() == 3))?;
        let targets = self.targets()?;
        load::warm_up(&targets, TOPIC, &Volume::new(100, 100, 0))?;
        Ok(targets)
    }

    fn targets(&self) -> Result<Vec<Target>> {
        let mut targets: Vec<Target> = Vec::new();
        for partition in self.connect()?.partitions(TOPIC)? {
            let port = partition.leader_port.context("a leader")?;
            match targets.iter_mut().find(|target| target.port == port) {
                Some(target) => target.requests.iter_mut().for_each(|request| request.push(partition.index)),
                None => targets.push(Target { port, requests: vec![vec![partition.index]] }),
            }
        }
        Ok(targets)
    }
}

fn wait_for(cluster: &Cluster<'_>, is_so: impl Fn(&[PartitionState]) -> bool) -> Result<()> {
    let began = Instant::now();
    let mut connection = cluster.connect()?;
    while !is_so(&connection.partitions(TOPIC)?) {
        if began.elapsed() > CHANGE_MAX {
            bail!("the cluster has not come to what it should be within {CHANGE_MAX:?}");
        }
        sleep(LOOK_EVERY);
    }
    Ok(())
}

/// `PRODUCERS` times the connections of one.
fn several(targets: &[Target]) -> Vec<Target> {
    targets.iter().cycle().take(targets.len() * PRODUCERS).cloned().collect()
}

/// A JVM needs a run-up before it shows what it can do. What that wrote is on the disk before anything is measured, so
/// that nobody is slowed down by the kernel writing what came before.
fn warm_up(targets: &[Target], volume: Volume, options: Options) -> Result<()> {
    let run_up = Volume { total_bytes: WARM_UP_BYTES_MAX, time_max: options.warm_up, ..volume };
    load::produce(targets, TOPIC, run_up)?;
    write_back()
}

fn write_back() -> Result<()> {
    Command::new("sync").status().context("cannot run sync")?;
    Ok(())
}

pub(crate) fn throughput(
    system: &System,
    (record_bytes, batch_bytes): (usize, usize),
    options: Options,
) -> Result<Figures> {
    let cluster = Cluster::start(system)?;
    let targets = several(&cluster.create_topic(Vec::new())?);
    let volume = Volume::new(record_bytes, batch_bytes, options.megabytes * 1_000_000);
    warm_up(&targets, volume, options)?;
    let before = cluster.cpu_seconds()?;
    let produced = load::produce(&targets, TOPIC, Volume { time_max: options.duration, ..volume })?;
    let mut figures = Figures::default();
    note_moved(&mut figures, Direction::Produce, produced, cluster.cpu_seconds()? - before);
    figures.note("loaded_mb", cluster.resident_mb()?);
    Ok(figures)
}

pub(crate) fn end_to_end(system: &System, options: Options) -> Result<Figures> {
    let cluster = Cluster::start(system)?;
    let targets = cluster.create_topic(Vec::new())?;
    warm_up(&several(&targets), Volume::new(LATENCY_RECORD_BYTES, 16 << 10, 0), options)?;
    let rate = Rate { records_per_second: options.rate, record_bytes: LATENCY_RECORD_BYTES };
    latency::run(&targets, TOPIC, rate, |due| Ok(due < options.warm_up / 2))?;
    let before = cluster.cpu_seconds()?;
    let mut found = latency::run(&targets, TOPIC, rate, |due| Ok(due < options.duration))?;
    let cpu_seconds = cluster.cpu_seconds()? - before;
    let mut figures = Figures::default();
    found.end_to_end.note(
        &mut figures,
        ["end_to_end_p50_ms", "end_to_end_p99_ms", "end_to_end_p999_ms", "end_to_end_worst_ms"],
    );
    found
        .produce
        .note(&mut figures, ["produce_p50_ms", "produce_p99_ms", "produce_p999_ms", "produce_worst_ms"]);
    figures.note("cpu_percent", cpu_seconds / options.duration.as_secs_f64() * 100.0);
    Ok(figures)
}

/// Node 3 leads nothing. It is killed and misses the volume, then comes back while a fixed rate goes on.
pub(crate) fn catch_up(system: &System, options: Options) -> Result<Figures> {
    let mut cluster = Cluster::start(system)?;
    let away = cluster.nodes.last().context("a last node")?.id;
    let assignments = [vec![1, 2, 3], vec![2, 1, 3]];
    let layout = assignments.iter().cycle().take(usize::try_from(PARTITIONS)?).cloned().collect();
    let targets = cluster.create_topic(layout)?;
    cluster.kill(2)?;
    wait_for(&cluster, |partitions| partitions.iter().all(|partition| !partition.in_sync.contains(&away)))?;
    let volume = Volume::new(1 << 10, 256 << 10, options.megabytes * 1_000_000);
    let missed = load::produce(&several(&targets), TOPIC, volume)?;
    write_back()?;
    let rate = Rate { records_per_second: options.rate, record_bytes: LATENCY_RECORD_BYTES };
    let mut figures = Figures::default();
    let mut alone = latency::run(&targets, TOPIC, rate, |due| Ok(due < options.duration))?;
    alone.produce.note(&mut figures, ["before_p50_ms", "before_p99_ms", "before_p999_ms", "before_worst_ms"]);

    cluster.start_again(2)?;
    let began = Instant::now();
    let mut connection = cluster.connect()?;
    let mut looked_at = Duration::ZERO;
    let mut least_in_sync = usize::MAX;
    let mut during = latency::run(&targets, TOPIC, rate, |due| {
        if due.saturating_sub(looked_at) < LOOK_EVERY {
            return Ok(true);
        }
        looked_at = due;
        let partitions = connection.partitions(TOPIC)?;
        let others = partitions
            .iter()
            .map(|partition| partition.in_sync.iter().filter(|node| **node != away).count())
            .min();
        least_in_sync = least_in_sync.min(others.unwrap_or(0));
        if began.elapsed() > CHANGE_MAX {
            bail!("the node has not caught up within {CHANGE_MAX:?}");
        }
        Ok(partitions.iter().any(|partition| !partition.in_sync.contains(&away)))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    during
        .produce
        .note(&mut figures, ["during_p50_ms", "during_p99_ms", "during_p999_ms", "during_worst_ms"]);
    figures.note("catch_up_s", seconds);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    figures.note("catch_up_mb_s", missed.bytes as f64 / 1e6 / seconds);
    figures.note("others_in_sync", f64::from(u32::try_from(least_in_sync)?));
    Ok(figures)
}
