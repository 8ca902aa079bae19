//! Clusters of three and five nodes in one thread: virtual time, a network that loses, delays, repeats and reorders,
//! nodes that crash, disks that forget what was not synced or are full. One seed is one history; checkers look at
//! every step of it.
//!
//! `CHRONIK_SIMULATION_SEEDS=10000` runs as many histories, `CHRONIK_SIMULATION_SEED=77` that one alone.

#![expect(clippy::unwrap_used, reason = "a simulation that cannot be set up has failed")]

mod checkers;
mod client;
mod lying_disk;
mod random;
mod sabotage;
mod world;

use checkers::Rule;
use sabotage::Sabotage;
use world::World;

/// How long things go wrong, in virtual time.
const FAULTS_MS: u64 = 5_000;

/// Within which all is well again.
const SETTLE_MS: u64 = 15_000;

/// How many histories are run in all.
const SEED_COUNT: u64 = 2_000;

/// Runs one history to its end.
fn run(seed: u64) -> World {
    let mut world = World::new(seed, Sabotage::None, None);
    world.run_with_faults(FAULTS_MS);
    world.heal_and_settle(SETTLE_MS);
    world
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Runs every fourth history from `first`, so that four threads share the work.
fn every_rule_holds_from(first: u64) {
    let count = from_environment("CHRONIK_SIMULATION_SEEDS").unwrap_or(SEED_COUNT);
    let seeds: Vec<u64> = match from_environment("CHRONIK_SIMULATION_SEED") {
        Some(seed) if seed % 4 == first => vec![seed],
        Some(_) => return,
        None => (first..count).step_by(4).collect(),
    };
    let (mut applied_count, mut refused_count, mut barrier_count) = (0, 0, 0);
    let (mut crash_count, mut snapshot_count, mut full_disk_count, mut fence_count) = (0, 0, 0, 0);
    let mut term_max = 0;
    for seed in &seeds {
        let world = run(*seed);
        let violations = world.violations();
        assert!(
            violations.is_empty(),
            "CHRONIK_SIMULATION_SEED={seed} cargo test -p chronik-raft --test simulation: {violations:#?}"
        );
        let client = world.client().lock();
        applied_count += client.applied_count();
        refused_count += client.refused_count();
        barrier_count += client.barrier_count;
        crash_count += world.crash_count;
        snapshot_count += world.snapshot_count;
        full_disk_count += world.full_disk_count;
        fence_count += world.fence_count();
        term_max = term_max.max(world.term_max());
    }
    // The histories must have something to say.
    let seed_count = seeds.len();
    if seed_count < 20 {
        return;
    }
    let report = format!(
        "{seed_count} histories: {applied_count} applied, {refused_count} refused, {barrier_count} barriers, \
         {crash_count} crashes, {snapshot_count} snapshots sent, {full_disk_count} full disks, \
         {fence_count} fencings, {term_max} terms"
    );
    assert!(8 * seed_count < applied_count && seed_count < refused_count, "{report}");
    assert!(15 * seed_count < barrier_count, "{report}");
    let seed_count = seed_count as u64;
    assert!(2 * seed_count <= crash_count && seed_count / 5 <= snapshot_count, "{report}");
    assert!(seed_count / 2 <= full_disk_count && 3 * seed_count < fence_count && 4 < term_max, "{report}");
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
        let mut world = World::new(*seed, sabotage, Some(rule));
        world.run_with_faults(FAULTS_MS);
        // A run this broken may never settle, so mostly its faulty part counts.
        if matches!(rule, Rule::ExactlyOnce | Rule::Liveness) {
            world.heal_and_settle(5_000);
        }
        world.violations().iter().any(|violation| violation.rule == rule)
    })
}

fn check_bites(rule: Rule, sabotage: Sabotage) {
    assert!(first_seed_that_breaks(rule, sabotage).is_some(), "{sabotage:?} goes unnoticed");
}

#[test]
fn forged_votes_give_a_term_two_leaders() {
    check_bites(Rule::OneLeaderPerTerm, Sabotage::ForgedVotes);
}

#[test]
fn entries_changed_on_the_way_make_logs_differ() {
    check_bites(Rule::LogsMatch, Sabotage::ChangedEntries);
}

#[test]
fn entries_changed_on_the_way_make_images_differ() {
    check_bites(Rule::EqualImages, Sabotage::ChangedEntries);
}

#[test]
fn disks_that_lie_lose_committed_entries() {
    check_bites(Rule::CommittedSurvives, Sabotage::LyingDisk);
}

#[test]
fn disks_that_lie_break_promises() {
    check_bites(Rule::PromisesAreDurable, Sabotage::LyingDisk);
}

#[test]
fn a_request_under_two_ids_takes_effect_twice() {
    check_bites(Rule::ExactlyOnce, Sabotage::ForgedRequests);
}

#[test]
fn a_barrier_that_ends_early_shows_an_old_image() {
    check_bites(Rule::Barrier, Sabotage::EarlyBarriers);
}

#[test]
fn a_node_that_hears_nothing_never_catches_up() {
    check_bites(Rule::Liveness, Sabotage::DeafNode);
}

#[test]
fn a_change_under_an_old_epoch_is_seen() {
    check_bites(Rule::PartitionEpochs, Sabotage::KeptEpoch);
}

#[test]
fn a_foreign_member_of_an_isr_is_seen() {
    check_bites(Rule::IsrWithinReplicas, Sabotage::ForeignIsr);
}

#[test]
fn a_second_assignment_is_seen() {
    check_bites(Rule::AssignedOnce, Sabotage::MovedPartition);
}
