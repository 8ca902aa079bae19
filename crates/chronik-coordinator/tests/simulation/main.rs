//! Groups under stress: members that crash, stall, come back, leave and commit, a log whose appends fail and whose
//! tail gets lost, coordinators that come and go. A seed is one history, and always the same one.
//!
//! | checker | holds that |
//! |---|---|
//! | GROUP-1 | what a reply grants is in the committed log |
//! | GROUP-2 | the committed offset of a partition never goes back by itself |
//! | OWNER | a partition has one owner in a generation |
//! | GENERATION | everyone who joins a generation hears of the same leader and protocol |
//! | REPLAY | a coordinator that replays the committed log knows what the one that wrote it knows |
//! | ANSWERS | every request is answered, exactly once |
//! | LIVENESS | once the faults end, the group is Stable with everyone in it and every partition owned |
//!
//! Each is shown to bite by a sabotage.

#[path = "../common/mod.rs"]
mod common;

mod checkers;
mod client;
mod rng;
mod world;

use world::{Sabotage, World};

/// How many histories are lived through.
const SEEDS: u64 = 2_000;
/// Random steps in each, before the faults end.
const STEPS: u64 = 250;

fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<(), String> {
    let mut world = World::new(seed, sabotage);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.heal_and_check()
}

#[test]
fn every_checker_holds_in_every_history() {
    for seed in 0..SEEDS {
        if let Err(violation) = run(seed, None) {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn a_seed_always_tells_the_same_history() {
    for seed in 0..20 {
        let tell = || {
            let mut world = World::new(seed, None);
            world.keep_history();
            for _ in 0..STEPS {
                world.step().unwrap();
            }
            world.history()
        };
        assert_eq!(tell(), tell(), "seed {seed}");
    }
}

#[test]
fn every_checker_bites() {
    for (sabotage, checker) in [
        (Sabotage::ReplyBeforeCommit, "GROUP-1"),
        (Sabotage::LoseCommittedOffsets, "GROUP-2"),
        (Sabotage::AssignTwice, "OWNER"),
        (Sabotage::NameAnotherLeader, "GENERATION"),
        (Sabotage::SkipReplayedRecord, "REPLAY"),
        (Sabotage::AnswerTwice, "ANSWERS"),
        (Sabotage::LoseAnswers, "LIVENESS"),
    ] {
        let bitten = (0..200).find_map(|seed| run(seed, Some(sabotage)).err());
        let violation = bitten.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
        assert!(violation.starts_with(checker), "{sabotage:?} is noticed by another checker: {violation}");
    }
}
