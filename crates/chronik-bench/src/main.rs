//! Runs Chronik and Apache Kafka in turn, on one machine and with one load, and prints ratios.
//!
//! Absolute figures drift with the machine; ratios of runs that take turns (A B B A …) drift little. Every case
//! reports what the broker process itself used: CPU seconds for each GB, and resident memory. The load comes from
//! this process, which builds its requests once and sends the same bytes to both systems, so that the client costs
//! both the same.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads clocks and files and prints what it finds"
)]

mod cases;
mod client;
mod latency;
mod load;
mod process;
mod replicated;
mod stats;
mod systems;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use cases::Case;
use systems::System;

/// Compares Chronik with Apache Kafka on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The Chronik binary.
    #[arg(long, default_value = "target/release/chronik-server")]
    chronik: PathBuf,
    /// The directory with Apache Kafka's jars; without it only Chronik runs.
    #[arg(long, env = "KAFKA_LIBS")]
    kafka_libs: Option<PathBuf>,
    /// The heap of Kafka's JVM.
    #[arg(long, default_value = "1g")]
    kafka_heap: String,
    /// Which cases to run; all of them when none is named.
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// How often each system runs each case.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Megabytes of records in one run of a throughput case.
    #[arg(long, default_value_t = 1_000)]
    megabytes: u64,
    /// Bytes of a batch in the throughput cases, in place of each case's own.
    #[arg(long)]
    batch_bytes: Option<usize>,
    /// Puts the broker on this core and the load on the others.
    #[arg(long)]
    broker_core: Option<usize>,
    /// Partitions in the case of many idle partitions.
    #[arg(long, default_value_t = 10_000)]
    partitions: i32,
    /// Records a second where latency is measured.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Seconds for which three nodes are loaded before anything counts.
    #[arg(long, default_value_t = 20)]
    warm_up_seconds: u64,
    /// Seconds for which latency is measured, and after which throughput on three nodes has been measured for long
    /// enough.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut systems = vec![System::chronik(&arguments.chronik, arguments.broker_core)];
    if let Some(libs) = &arguments.kafka_libs {
        systems.push(System::kafka(libs, &arguments.kafka_heap, arguments.broker_core));
    }
    let cases = if arguments.cases.is_empty() { Case::all() } else { arguments.cases.clone() };
    let options = cases::Options {
        megabytes: arguments.megabytes,
        batch_bytes: arguments.batch_bytes,
        partitions: arguments.partitions,
        rate: arguments.rate,
        warm_up: Duration::from_secs(arguments.warm_up_seconds),
        duration: Duration::from_secs(arguments.seconds),
    };
    for case in cases {
        let mut results = vec![Vec::new(); systems.len()];
        for round in 0..arguments.rounds {
            // A B, then B A: whatever drifts with time falls on both alike.
            let order: Vec<usize> = if round % 2 == 0 {
                (0..systems.len()).collect()
            } else {
                (0..systems.len()).rev().collect()
            };
            for at in order {
                let Some((system, slot)) = systems.get(at).zip(results.get_mut(at)) else { continue };
                slot.push(cases::run(case, system, options)?);
            }
        }
        stats::print(case, &systems, &results);
    }
    Ok(())
}
