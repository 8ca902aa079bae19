//! Hundreds of histories of whole clusters, and the proof that each checker would find what it is there for.
//! `scripts/test simulation` lives through thousands.

use std::collections::BTreeSet;

use chronik_sim::cluster::{Options, Rule, Sabotage, run};

/// How many histories are lived through.
const SEEDS: u64 = 120;
/// They are lived through by so many tests at once.
const SHARES: u64 = 2;
/// Histories within which a sabotage must be found.
const SABOTAGED_SEEDS: u64 = 400;

fn check_share(share: u64) {
    for seed in (0..SEEDS).filter(|seed| seed % SHARES == share) {
        let outcome = run(seed, Options::default());
        if let Some(finding) = outcome.finding {
            panic!(
                "seed {seed}: {finding}\nwhat led there: cargo run --release -p chronik-sim -- cluster --seeds {seed} --trace"
            );
        }
        assert!(outcome.counts.acknowledged > 0, "seed {seed} has hardly a history: {:?}", outcome.counts);
    }
}

#[test]
fn every_checker_holds_in_the_first_share_of_histories() {
    check_share(0);
}

#[test]
fn every_checker_holds_in_the_second_share_of_histories() {
    check_share(1);
}

#[test]
fn c12_a_seed_always_tells_the_same_history_and_another_seed_another() {
    let mut hashes = BTreeSet::new();
    for seed in 0..12 {
        let told = run(seed, Options { is_traced: true, ..Options::default() });
        let again = run(seed, Options::default());
        assert_eq!((told.hash, told.counts), (again.hash, again.counts), "seed {seed}");
        assert!(told.lines.len() > 50, "seed {seed} tells {} lines", told.lines.len());
        hashes.insert(told.hash);
    }
    assert_eq!(hashes.len(), 12);
    let depending = Options { sabotage: Some(Sabotage::DependOnThePast), ..Options::default() };
    assert_ne!(run(0, depending).hash, run(0, depending).hash, "it would be noticed");
}

fn bites(sabotage: Sabotage, rules: &[Rule]) {
    let options = Options { sabotage: Some(sabotage), ..Options::default() };
    let bitten = (0..SABOTAGED_SEEDS).find_map(|seed| run(seed, options).finding);
    let finding = bitten.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
    assert!(rules.contains(&finding.rule), "{sabotage:?} is noticed by another checker: {finding}");
}

#[test]
fn the_checkers_of_records_bite() {
    bites(
        Sabotage::LyingDisk,
        // What was never synced may come back torn as well as not at all.
        &[Rule::Acknowledged, Rule::OneValue, Rule::InSync, Rule::Skips, Rule::Order, Rule::Logs],
    );
    bites(
        Sabotage::ForgetUncleanEnds,
        &[Rule::Acknowledged, Rule::OneValue, Rule::InSync, Rule::Skips, Rule::Order],
    );
    bites(Sabotage::AcknowledgeAhead, &[Rule::Acknowledged, Rule::OneValue, Rule::InSync, Rule::Order]);
    bites(Sabotage::ForgetProducers, &[Rule::Order]);
    bites(Sabotage::SendOutOfOrder, &[Rule::Order]);
    bites(Sabotage::SkipRecords, &[Rule::Skips]);
    bites(Sabotage::TellOldWatermarks, &[Rule::Watermarks]);
    bites(Sabotage::ForgetCommits, &[Rule::Commits]);
}

#[test]
fn the_checkers_of_nodes_bite() {
    bites(Sabotage::StoreOtherBytes, &[Rule::SameBytes, Rule::OneValue]);
    bites(Sabotage::DamageDisks, &[Rule::Logs]);
    bites(Sabotage::IgnoreFailedSyncs, &[Rule::FailedSync]);
    bites(Sabotage::SeeAnotherLeader, &[Rule::OneLeader]);
    bites(Sabotage::SeeAnotherIsr, &[Rule::Images]);
    bites(Sabotage::NeverHeal, &[Rule::Convergence]);
    bites(Sabotage::Panic, &[Rule::Panic]);
}
