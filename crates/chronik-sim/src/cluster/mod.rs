//! Whole clusters: brokers, their logs, the metadata quorum and clients, in one thread and in virtual time.
//!
//! The nodes are put together of the crates that the server is made of; the network between them, their disks and their
//! clocks belong to the world. A history begins with a cluster that makes its topics, goes on with records and faults,
//! and ends with everything mended: then all must come together again, and nothing that was acknowledged may be
//! missing.

#![expect(
    clippy::struct_excessive_bools,
    clippy::wildcard_enum_match_arm,
    reason = "what is drawn for a history is many yeses and noes, and a client looks at a few of all error codes"
)]
#![expect(
    clippy::needless_pass_by_value,
    clippy::option_option,
    reason = "an answer that is there, that never comes, and that may still come are told apart, and end with who gets them"
)]
#![expect(
    clippy::case_sensitive_file_extension_comparisons,
    reason = "the files are the broker's own, on a disk of the world"
)]

mod broken_disk;
mod checkers;
mod clients;
mod counts;
mod cuts;
mod effects;
mod ending;
mod event;
mod faults;
mod messages;
mod network;
mod node;
mod plan;
mod rot;
mod sabotage;
mod watched_disk;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use checkers::{Finding, Rule};
pub use counts::{Counts, FaultCounts, MessageCounts};
pub use plan::Fault;
pub use sabotage::Sabotage;

use crate::log_lines::LogLines;
use crate::rng::Rng;
use plan::Plan;
use world::World;

/// How a history is lived through.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The number of nodes; 3 or 5 by the seed where it is not given.
    pub nodes: Option<usize>,
    /// What goes wrong, instead of what the seed draws; nothing is to leave that to the seed.
    pub faults: Vec<Fault>,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// The only rule whose breaches are reported; a history goes on beyond those of all others.
    pub only: Option<Rule>,
    /// Whether what happens is kept in words.
    pub is_traced: bool,
}

/// How a history ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was wrong, if anything was.
    pub finding: Option<Finding>,
    /// The same for two runs of a seed.
    pub hash: u64,
    /// What it has seen.
    pub counts: Counts,
    /// What happened, if it was to be kept.
    pub lines: Vec<String>,
}

/// Lives through the history of a seed.
pub fn run(seed: u64, options: Options) -> Outcome {
    let mut rng = Rng::new(seed ^ 0x5eed_c1a5);
    let plan = Plan::draw(&mut rng, options.nodes, &options.faults);
    let mut world = World::new(seed, plan, rng, options.sabotage, options.is_traced);
    world.trace.note(format_args!("{:?}", world.plan));
    world.checkers.only = options.only;
    world.checkers.strict_producer_count = u32::try_from(world.plan.producer_count).unwrap_or(0);
    let logged = options.is_traced.then(LogLines::default);
    world.logged.clone_from(&logged);
    let live = AssertUnwindSafe(|| match logged {
        Some(logged) => tracing::subscriber::with_default(logged, || world.live()),
        None => world.live(),
    });
    let lived = catch_unwind(live);
    if let Err(panic) = lived {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        world.checkers.report(Rule::Panic, format!("panic: {text}"));
    }
    if options.is_traced && !world.checkers.is_content() {
        world.tell_state();
    }
    let failed_sync_count = world.nodes.iter().map(|node| node.disk.failed_sync_count()).sum();
    let flip_count = world.flip_count();
    world.counts.faults.set(Fault::SyncError, failed_sync_count);
    world.counts.faults.set(Fault::FlipRead, flip_count);
    Outcome {
        finding: world.checkers.finding().cloned(),
        hash: world.hash,
        counts: world.counts,
        lines: world.trace.lines().to_vec(),
    }
}
