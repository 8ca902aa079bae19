//! Hundreds of histories of whole clusters, and the proof that each checker would find what it is there for.
//! `scripts/test simulation` lives through thousands.

use std::collections::BTreeSet;

use chronik_sim::cluster::{Fault, Finding, Options, Rule, Sabotage, run};

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
    let differs = |seed| run(seed, depending.clone()).hash != run(seed, depending.clone()).hash;
    assert!((0..12).any(differs), "it would be noticed");
}

fn bites(sabotage: Sabotage, rules: &[Rule], faults: &[Fault]) {
    let options = Options { sabotage: Some(sabotage), faults: faults.to_vec(), ..Options::default() };
    // Much of what is broken keeps a cluster from coming together again; what has to notice it is looked for beyond that.
    let counts = |finding: &Finding| rules.contains(&finding.rule) || finding.rule != Rule::Convergence;
    let bitten = (0..SABOTAGED_SEEDS).find_map(|seed| run(seed, options.clone()).finding.filter(counts));
    let finding = bitten.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
    assert!(rules.contains(&finding.rule), "{sabotage:?} is noticed by another checker: {finding}");
}

/// One test for each rule that is broken on purpose, the faults that it takes where few seeds have them, and the checkers that may be the first to notice.
macro_rules! sabotages {
    ($($name:ident: $sabotage:ident $(under $($fault:ident)|+)? is noticed by $($rule:ident)|+;)+) => {
        $(
            #[test]
            fn $name() {
                bites(Sabotage::$sabotage, &[$(Rule::$rule),+], &[$($(Fault::$fault),+)?]);
            }
        )+
    };
}

sabotages! {
    // What was never synced may come back torn as well as not at all.
    lying_disks_bite: LyingDisk is noticed by Acknowledged | OneValue | InSync | Skips | Order | Logs;
    forgotten_unclean_ends_bite: ForgetUncleanEnds under PowerLoss | Pause | Shutdown is noticed by Acknowledged | OneValue | InSync | Skips | Order;
    acknowledgements_ahead_bite: AcknowledgeAhead is noticed by Acknowledged | OneValue | InSync | Order;
    forgotten_producers_bite: ForgetProducers is noticed by Order;
    skipped_records_bite: SkipRecords is noticed by Skips;
    old_watermarks_bite: TellOldWatermarks is noticed by Watermarks;
    forgotten_commits_bite: ForgetCommits is noticed by Commits;
    partitions_of_two_owners_bite: AssignTwice is noticed by Groups;
    old_generations_bite: TellOldGenerations is noticed by Groups;
    forgotten_commits_of_members_bite: ForgetGroupCommits is noticed by Groups;
    other_bytes_bite: StoreOtherBytes is noticed by SameBytes | OneValue;
    damaged_disks_bite: DamageDisks is noticed by Logs;
    ignored_failed_syncs_bite: IgnoreFailedSyncs is noticed by FailedSync;
    another_leader_bites: SeeAnotherLeader is noticed by OneLeader;
    another_isr_bites: SeeAnotherIsr is noticed by Images;
    nodes_that_never_meet_bite: NeverHeal is noticed by Convergence;
    panics_bite: Panic is noticed by Panic;
}
