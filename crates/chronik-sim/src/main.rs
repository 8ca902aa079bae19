//! Lives through ranges of seeds, and tells the first history that breaks an invariant.

use std::io::Write as _;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use chronik_sim::groups;
use clap::{Parser, ValueEnum};

/// How many lines of a failed history are shown; what led to the end is near it.
const LINES_SHOWN_MAX: usize = 400;

/// What is simulated.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum World {
    /// The group coordinator and its clients.
    Groups,
}

/// Lives through the histories of a world, one for each seed. A seed always tells the same history.
#[derive(Parser)]
struct Arguments {
    world: World,
    /// The seeds, as FIRST..END without the end, or a single one.
    #[arg(long, default_value = "0..2000", value_parser = seeds)]
    seeds: Range<u64>,
    /// Tell everything that happens, also where nothing is wrong.
    #[arg(long)]
    trace: bool,
    /// Seeds that are lived through at the same time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("'{text}': {error}"));
    if let Some((first, end)) = text.split_once("..") {
        return Ok(number(first)?..number(end)?);
    }
    let seed = number(text)?;
    Ok(seed..seed.saturating_add(1))
}

fn main() -> std::io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let World::Groups = arguments.world;
    let next = AtomicU64::new(arguments.seeds.start);
    // Whoever finds a violation, the lowest seed that has one is told: it is the same whatever the threads do.
    let first_failed = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if arguments.seeds.end <= seed || first_failed.load(Ordering::Relaxed) < seed {
                        return;
                    }
                    if groups::run(seed, None, false).is_err() {
                        first_failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut out = std::io::stdout().lock();
    let failed = first_failed.into_inner();
    if failed == u64::MAX && !arguments.trace {
        let count = arguments.seeds.end.saturating_sub(arguments.seeds.start);
        writeln!(out, "{count} seeds, no violation")?;
        return Ok(ExitCode::SUCCESS);
    }
    let told = if failed == u64::MAX { arguments.seeds.start } else { failed };
    let outcome = groups::run(told, None, true);
    let (lines, end) = match &outcome {
        Ok((hash, lines)) => (lines, format!("seed {told}: no violation, trace hash {hash:016x}")),
        Err(violation) => (&violation.lines, format!("seed {told}: {}", violation.finding)),
    };
    let shown = if arguments.trace { 0 } else { lines.len().saturating_sub(LINES_SHOWN_MAX) };
    for line in lines.iter().skip(shown) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{end}")?;
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
