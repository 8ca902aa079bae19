//! Three nodes in one thread: virtual time, a network that loses, delays, repeats and reorders, nodes that crash
//! and disks that forget what was not synced. One seed is one history; checkers look at every step of it.

#![expect(clippy::unwrap_used, reason = "a simulation that cannot be set up has failed")]

mod checkers;
mod world;

use checkers::Rule;
use world::{Sabotage, World};

/// How long things go wrong, in virtual time.
const FAULTS_MS: u64 = 4_000;

/// Runs one history to its end and gives what the checkers found.
fn run(seed: u64) -> World {
    let mut world = World::new(seed, Sabotage::None, None);
    world.run_with_faults(FAULTS_MS);
    world.heal_and_settle(15_000);
    world
}

/// How many histories are run in all; `CHRONIK_SIMULATION_SEEDS` asks for another number.
const SEED_COUNT: u64 = 200;

/// Runs every fourth history from `first`, so that four threads share the work.
fn every_rule_holds_from(first: u64) {
    let asked = std::env::var("CHRONIK_SIMULATION_SEEDS").ok().and_then(|count| count.parse().ok());
    let (mut acknowledged_count, mut crash_count, mut snapshot_count, mut term_max) = (0, 0, 0, 0);
    let seeds = (first..asked.unwrap_or(SEED_COUNT)).step_by(4);
    let seed_count = seeds.clone().count();
    for seed in seeds {
        let world = run(seed);
        let violations = world.violations();
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        acknowledged_count += world.acknowledged_count();
        crash_count += world.crash_count;
        snapshot_count += world.snapshot_count;
        term_max = term_max.max(world.term_max());
    }
    // The histories must have something to say.
    assert!(15 * seed_count < acknowledged_count, "only {acknowledged_count} requests were acknowledged");
    assert!(2 * seed_count as u64 <= crash_count, "only {crash_count} crashes");
    assert!(seed_count as u64 / 5 <= snapshot_count, "only {snapshot_count} snapshots were sent");
    assert!(seed_count < 20 || 4 < term_max, "only {term_max} terms");
}

#[test]
fn every_rule_holds_in_every_history_1() {
    every_rule_holds_from(0);
}

#[test]
fn every_rule_holds_in_every_history_2() {
    every_rule_holds_from(1);
}

#[test]
fn every_rule_holds_in_every_history_3() {
    every_rule_holds_from(2);
}

#[test]
fn every_rule_holds_in_every_history_4() {
    every_rule_holds_from(3);
}

#[test]
fn a_seed_is_a_history() {
    for seed in [3, 77] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.trace_hash(), second.trace_hash(), "seed {seed}");
        assert_ne!(first.trace_hash(), run(seed + 1).trace_hash());
    }
}

/// Breaks something on purpose and gives the seed at which the rule's checker notices.
fn first_seed_that_breaks(rule: Rule, sabotage: Sabotage) -> Option<u64> {
    (0..300).find(|seed| {
        // A run this broken may never settle, so only its faulty part counts.
        let mut world = World::new(*seed, sabotage, Some(rule));
        world.run_with_faults(FAULTS_MS);
        world.violations().iter().any(|violation| violation.rule == rule)
    })
}

#[test]
fn forged_votes_give_a_term_two_leaders() {
    assert!(first_seed_that_breaks(Rule::OneLeaderPerTerm, Sabotage::ForgedVotes).is_some());
}

#[test]
fn entries_changed_on_the_way_make_logs_differ() {
    assert!(first_seed_that_breaks(Rule::LogsMatch, Sabotage::ChangedEntries).is_some());
}

#[test]
fn entries_changed_on_the_way_make_images_differ() {
    assert!(first_seed_that_breaks(Rule::EqualImages, Sabotage::ChangedEntries).is_some());
}

#[test]
fn disks_that_lie_lose_committed_entries() {
    assert!(first_seed_that_breaks(Rule::CommittedSurvives, Sabotage::LyingDisk).is_some());
}

#[test]
fn disks_that_lie_break_promises() {
    assert!(first_seed_that_breaks(Rule::PromisesAreDurable, Sabotage::LyingDisk).is_some());
}
