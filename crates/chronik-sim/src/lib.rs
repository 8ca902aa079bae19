//! Simulates Chronik's cores: a seed is one history, always the same one, in one thread and without a clock.
//!
//! Each world has a module of its own with the actors, the faults and the checkers of its invariants; what worlds
//! share is here: the virtual [`clock`], the seeded [`rng`], and the [`trace`] by which two runs are compared and a
//! failed one is told. A world can be sabotaged in each of the ways that a checker exists for, and the tests show
//! that the checker finds it.
//!
//! `cargo run --release -p chronik-sim -- cluster --seeds 0..100000` lives through any range of seeds, and tells the
//! first history that breaks an invariant; `groups` is the other world.

pub mod clock;
pub mod cluster;
pub mod groups;
mod log_lines;
pub mod rng;
pub mod trace;
