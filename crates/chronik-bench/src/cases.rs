//! The cases: what is done to a broker, and what is noted.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use tempfile::TempDir;

use crate::client::Connection;
use crate::load::{self, Moved, Volume};
use crate::stats::Figures;
use crate::systems::System;

/// How long a broker is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// Partitions of the topic that throughput is measured on.
const PARTITIONS: i32 = 6;
/// Connections that produce or consume at once.
const CONNECTIONS: i32 = 2;

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
    pub(crate) partitions: i32,
}

/// Runs one case on one system, from an empty directory.
pub(crate) fn run(case: Case, system: &System, options: Options) -> Result<Figures> {
    let directory = TempDir::with_prefix("chronik-bench-")?;
    system.prepare(directory.path())?;
    let running = system.start(directory.path())?;
    let mut figures = Figures::default();
    match case {
        Case::Start => {
            figures.note("start_ms", running.start_ms);
            sleep(SETTLE);
            figures.note("idle_mb", running.resident_mb()?);
            let before = running.cpu_seconds()?;
            sleep(SETTLE);
            let percent = (running.cpu_seconds()? - before) / SETTLE.as_secs_f64() * 100.0;
            figures.note("idle_cpu_percent", percent);
        }
        Case::Small | Case::Large => {
            let (record_bytes, batch_bytes) =
                if case == Case::Small { (100, 16 << 10) } else { (1_024, 256 << 10) };
            let volume = Volume {
                record_bytes,
                batch_bytes,
                total_bytes: options.megabytes * 1_000_000,
                partition_count: PARTITIONS,
                connection_count: CONNECTIONS,
            };
            Connection::open(running.port)?.create_topic("bench", PARTITIONS)?;
            load::warm_up(running.port, "bench", &volume)?;
            // A JVM needs a run-up before it shows what it can do.
            load::produce(running.port, "bench", Volume { total_bytes: volume.total_bytes / 5, ..volume })?;
            let before = running.cpu_seconds()?;
            let produced = load::produce(running.port, "bench", volume)?;
            let between = running.cpu_seconds()?;
            let consumed = load::consume(running.port, "bench", volume)?;
            note_moved(&mut figures, Direction::Produce, produced, between - before);
            note_moved(&mut figures, Direction::Consume, consumed, running.cpu_seconds()? - between);
            figures.note("loaded_mb", running.resident_mb()?);
        }
        Case::Idle => {
            let mut connection = Connection::open(running.port)?;
            let before = running.resident_mb()?;
            let began = std::time::Instant::now();
            connection.create_topic("idle", options.partitions)?;
            figures.note("create_ms", began.elapsed().as_secs_f64() * 1_000.0);
            sleep(SETTLE);
            figures.note("partitions_mb", running.resident_mb()? - before);
            running.kill()?;
            let again = system.start(directory.path())?;
            figures.note("restart_ms", again.start_ms);
            sleep(SETTLE);
            figures.note("restarted_mb", again.resident_mb()?);
        }
    }
    Ok(figures)
}

/// Which way records went.
#[derive(Clone, Copy)]
enum Direction {
    Produce,
    Consume,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn note_moved(figures: &mut Figures, what: Direction, moved: Moved, cpu_seconds: f64) {
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
