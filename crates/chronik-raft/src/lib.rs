//! The metadata log: one Raft group, and the state machine that every node applies it to.
//!
//! Topics, partitions, brokers, configs and producer ids change by commands in a replicated log and in no other
//! way. [`MetadataLog`] is what the broker sees of it: propose a batch of commands, read the current image.

mod in_memory;
mod log;
pub mod metadata;

pub use in_memory::InMemoryMetadata;
pub use log::{Applied, MetadataListener, MetadataLog, ProposalDone, ProposeError, QuorumState};
