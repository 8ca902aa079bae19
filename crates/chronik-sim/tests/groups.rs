//! Thousands of histories of groups, and the proof that each checker would find what it is there for.

use std::collections::BTreeSet;

use chronik_sim::groups::{Sabotage, run};

/// How many histories are lived through.
const SEEDS: u64 = 2_000;
/// They are lived through by so many tests at once.
const SHARES: u64 = 4;
/// Histories within which a sabotage must be found.
const SABOTAGED_SEEDS: u64 = 200;

fn check_share(share: u64) {
    for seed in (0..SEEDS).filter(|seed| seed % SHARES == share) {
        if let Err(violation) = run(seed, None, false) {
            let found = &violation.finding;
            panic!(
                "seed {seed}: {found}\nwhat led there: cargo run -p chronik-sim -- groups --seeds {seed} --trace"
            );
        }
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
fn every_checker_holds_in_the_third_share_of_histories() {
    check_share(2);
}

#[test]
fn every_checker_holds_in_the_fourth_share_of_histories() {
    check_share(3);
}

#[test]
fn a_seed_always_tells_the_same_history_and_another_seed_another() {
    let tell = |seed| run(seed, None, true).unwrap();
    let mut hashes = BTreeSet::new();
    for seed in 0..40 {
        let (hash, lines) = tell(seed);
        assert_eq!((hash, &lines), (tell(seed).0, &tell(seed).1), "seed {seed}");
        assert!(lines.len() > 50, "seed {seed} has hardly a history: {} lines", lines.len());
        hashes.insert(hash);
    }
    assert_eq!(hashes.len(), 40);
}

#[test]
fn every_checker_bites() {
    for (sabotage, checker) in [
        (Sabotage::ReplyBeforeCommit, "GROUP-1"),
        (Sabotage::LoseCommittedOffsets, "GROUP-2"),
        (Sabotage::AssignTwice, "OWNER"),
        (Sabotage::NameAnotherLeader, "GENERATION"),
        (Sabotage::TellAnOldGeneration, "GROWTH"),
        (Sabotage::SkipReplayedRecord, "REPLAY"),
        (Sabotage::AnswerTwice, "ANSWERS"),
        (Sabotage::ForgetHeartbeats, "ANSWERS"),
        (Sabotage::AnswerInAnotherVersion, "WIRE"),
        (Sabotage::LoseAnswers, "LIVENESS"),
    ] {
        let bitten = (0..SABOTAGED_SEEDS).find_map(|seed| run(seed, Some(sabotage), true).err());
        let violation = bitten.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
        let finding = &violation.finding;
        assert!(finding.starts_with(checker), "{sabotage:?} is noticed by another checker: {finding}");
        assert!(!violation.lines.is_empty(), "a violation tells its history");
    }
}
