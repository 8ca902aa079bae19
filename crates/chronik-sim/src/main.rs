//! Lives through ranges of seeds, and tells the first history that breaks an invariant.

use std::io::Write as _;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use chronik_sim::{cluster, groups};
use clap::{Parser, ValueEnum};

/// How many lines of a failed history are shown; what led to the end is near it.
const LINES_SHOWN_MAX: usize = 400;

/// Each so manieth seed is lived through twice, and must tell the same history.
const LIVED_AGAIN: u64 = 50;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum World {
    /// The group coordinator and its clients.
    Groups,
    /// Whole clusters and their clients.
    Cluster,
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
    /// Seeds that are lived through at the same time; as many as there are cores where it is not given.
    #[arg(long)]
    threads: Option<usize>,
    /// The nodes of each cluster, 3 or 5; each seed draws its own where it is not given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=5))]
    nodes: Option<u8>,
    /// What goes wrong in each cluster, separated by commas, instead of what each seed draws.
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    faults: Vec<cluster::Fault>,
    /// Go on after a violation, and tell the seed of each.
    #[arg(long)]
    keep_going: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("'{text}': {error}"));
    if let Some((first, end)) = text.split_once("..") {
        return Ok(number(first)?..number(end)?);
    }
    let seed = number(text)?;
    Ok(seed..seed.saturating_add(1))
}

fn fault(text: &str) -> Result<cluster::Fault, String> {
    let named = cluster::Fault::ALL.into_iter().find(|fault| format!("{fault:?}").eq_ignore_ascii_case(text));
    named.ok_or_else(|| format!("'{text}': there are {:?}", cluster::Fault::ALL))
}

/// What was wrong in a history, if anything was, and what happened if that was to be told.
struct Told {
    finding: Option<String>,
    hash: u64,
    lines: Vec<String>,
}

impl Arguments {
    /// What is wrong where a history is lived through again and is another one.
    fn differs(&self, seed: u64, hash: u64) -> Option<String> {
        if !seed.is_multiple_of(LIVED_AGAIN) {
            return None;
        }
        let (again, _) = self.live(seed, false);
        (again.hash != hash)
            .then(|| format!("C12: lived through again, its hash is {:016x} and was {hash:016x}", again.hash))
    }

    fn live(&self, seed: u64, is_traced: bool) -> (Told, cluster::Counts) {
        match self.world {
            World::Groups => {
                let told = match groups::run(seed, None, is_traced) {
                    Ok((hash, lines)) => Told { finding: None, hash, lines },
                    Err(violation) => {
                        Told { finding: Some(violation.finding), hash: 0, lines: violation.lines }
                    }
                };
                (told, cluster::Counts::default())
            }
            World::Cluster => {
                let options = cluster::Options {
                    nodes: self.nodes.map(usize::from),
                    faults: self.faults.clone(),
                    is_traced,
                    ..Default::default()
                };
                let outcome = cluster::run(seed, options);
                let finding = outcome.finding.map(|finding| finding.to_string());
                (Told { finding, hash: outcome.hash, lines: outcome.lines }, outcome.counts)
            }
        }
    }
}

fn main() -> std::io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let count = arguments.seeds.end.saturating_sub(arguments.seeds.start);
    let next = AtomicU64::new(arguments.seeds.start);
    let progress = progress::Progress::new(count);
    // Whoever finds a violation, the lowest seed that has one is told: it is the same whatever the threads do.
    let first_failed = AtomicU64::new(u64::MAX);
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    std::thread::scope(|scope| {
        for _ in 0..threads.unwrap_or(1).max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = !arguments.keep_going && first_failed.load(Ordering::Relaxed) < seed;
                    if arguments.seeds.end <= seed || is_over {
                        return;
                    }
                    let (told, counts) = arguments.live(seed, false);
                    let finding = told.finding.or_else(|| arguments.differs(seed, told.hash));
                    if let Some(finding) = finding {
                        first_failed.fetch_min(seed, Ordering::Relaxed);
                        if arguments.keep_going {
                            progress::Progress::line(&format!("seed {seed}: {finding}"));
                        }
                    }
                    let is_idle = arguments.world == World::Cluster && counts.acknowledged == 0;
                    progress.lived(&counts, is_idle.then_some(seed));
                }
            });
        }
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", progress.summary())?;
    let failed = first_failed.into_inner();
    if failed == u64::MAX && !arguments.trace {
        writeln!(out, "{count} seeds, no violation")?;
        return Ok(ExitCode::SUCCESS);
    }
    let told = if failed == u64::MAX { arguments.seeds.start } else { failed };
    let (outcome, _) = arguments.live(told, true);
    let shown = if arguments.trace { 0 } else { outcome.lines.len().saturating_sub(LINES_SHOWN_MAX) };
    for line in outcome.lines.iter().skip(shown) {
        writeln!(out, "{line}")?;
    }
    match &outcome.finding {
        None => writeln!(out, "seed {told}: no violation, trace hash {:016x}", outcome.hash)?,
        Some(finding) => writeln!(out, "seed {told}: {finding}")?,
    }
    Ok(if failed == u64::MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How far a run has come, told from time to time.
mod progress {
    use std::io::Write as _;
    use std::time::{Duration, Instant};

    use chronik_sim::cluster::Counts;

    /// How often it is told.
    const PAUSE: Duration = Duration::from_secs(5);

    struct State {
        lived_count: u64,
        counts: Counts,
        /// Seeds of histories in which nothing was acknowledged: there was little to find out in them.
        idle_seeds: Vec<u64>,
        told_at: Instant,
    }

    pub(crate) struct Progress {
        seed_count: u64,
        began_at: Instant,
        state: std::sync::Mutex<State>,
    }

    impl Progress {
        #[expect(
            clippy::disallowed_methods,
            reason = "the command tells its own speed; no history hears of it"
        )]
        pub(crate) fn new(seed_count: u64) -> Self {
            let now = Instant::now();
            let state =
                State { lived_count: 0, counts: Counts::default(), idle_seeds: Vec::new(), told_at: now };
            Self { seed_count, began_at: now, state: std::sync::Mutex::new(state) }
        }

        /// One more history has ended.
        pub(crate) fn lived(&self, counts: &Counts, idle_seed: Option<u64>) {
            let Ok(mut state) = self.state.lock() else { return };
            state.idle_seeds.extend(idle_seed);
            state.lived_count += 1;
            state.counts += *counts;
            if state.told_at.elapsed() < PAUSE {
                return;
            }
            let since = state.told_at.elapsed();
            state.told_at += since;
            let per_second = Self::per_second(state.lived_count, self.began_at.elapsed());
            let left = self.seed_count.saturating_sub(state.lived_count);
            let left_s = left.checked_div(per_second.max(1)).unwrap_or(0);
            let line = format!(
                "{}/{} seeds, {per_second} seeds/s, {left_s} s left",
                state.lived_count, self.seed_count
            );
            drop(state);
            Self::line(&line);
        }

        fn per_second(count: u64, elapsed: Duration) -> u64 {
            let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
            count.saturating_mul(1_000).checked_div(ms).unwrap_or(0)
        }

        /// A line for whoever watches. Where nobody does, it is lost.
        pub(crate) fn line(line: &str) {
            drop(writeln!(std::io::stderr().lock(), "{line}"));
        }

        /// What all histories have seen.
        pub(crate) fn summary(&self) -> String {
            let elapsed = self.began_at.elapsed();
            let Ok(state) = self.state.lock() else { return String::new() };
            let counts = state.counts;
            let told = format!(
                "{} seeds in {} s ({}/s): {} events, {} faults, {} ends of processes, {} records \
                 acknowledged, {} read",
                state.lived_count,
                elapsed.as_secs(),
                Self::per_second(state.lived_count, elapsed),
                counts.events,
                counts.faults.total(),
                counts.ends,
                counts.acknowledged,
                counts.read
            );
            let told = if counts.faults.total() == 0 {
                told
            } else {
                format!(
                    "{told}\nfaults: {}\nmessages: {}; topics deleted: {}",
                    counts.faults, counts.messages, counts.topics_deleted
                )
            };
            let idle = &state.idle_seeds;
            if idle.is_empty() { told } else { format!("{told}\nnothing was acknowledged in seeds {idle:?}") }
        }
    }
}
