//! Groups under stress: members that crash, stall, come back, leave and commit, in every version of the requests that
//! a broker takes; a log whose appends fail and whose uncommitted tail gets lost; coordinators that are deposed, or
//! crash without a word, and others that begin with what the log has kept.
//!
//! | checker | holds that |
//! |---|---|
//! | GROUP-1 | what a reply grants is in the committed log |
//! | GROUP-2 | the committed offset of a partition never goes back by itself |
//! | OWNER | a partition has one owner in a generation |
//! | GENERATION | everyone who joins a generation hears of the same leader and protocol |
//! | GROWTH | no member is told a generation below one that the group has had |
//! | REPLAY | a coordinator that replays the committed log knows what the one that wrote it knows |
//! | ANSWERS | every request is answered, exactly once, unless its coordinator crashed |
//! | WIRE | an answer can be written in the version of its request |
//! | LIVENESS | once the faults end, the group is Stable with everyone in it and every partition owned |
//!
//! Each is shown to bite by a [`Sabotage`].

mod answers;
mod broker;
mod checkers;
mod client;
mod ending;
mod requests;
mod world;

pub use world::Sabotage;
use world::World;

/// Random steps of a history, before its faults end.
pub const STEPS: u64 = 250;

/// A history that broke an invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which history.
    pub seed: u64,
    /// The checker's name, a colon, and what it found.
    pub finding: String,
    /// Everything that happened, where it was kept.
    pub lines: Vec<String>,
}

/// Lives through the history of `seed`; gives the hash of its trace and its lines, if it is to be traced.
pub fn run(
    seed: u64,
    sabotage: Option<Sabotage>,
    is_traced: bool,
) -> Result<(u64, Vec<String>), Box<Violation>> {
    let mut world = World::new(seed, sabotage, is_traced);
    let mut live = || {
        for _ in 0..STEPS {
            world.step()?;
        }
        world.heal_and_check()
    };
    let outcome = live();
    let lines = world.trace.lines().to_vec();
    match outcome {
        Ok(()) => Ok((world.trace.hash(), lines)),
        Err(finding) => Err(Box::new(Violation { seed, finding, lines })),
    }
}
