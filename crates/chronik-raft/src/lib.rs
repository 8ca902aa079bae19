//! The metadata log: one Raft group, and the state machine that every node applies it to.
//!
//! Topics, partitions, brokers, configs and producer ids change by commands in a replicated log and in no other
//! way. [`MetadataLog`] is what the broker sees of it: propose a batch of commands, read the current image.

mod driver;
mod frame;
mod in_memory;
pub mod inspect;
mod log;
mod membership;
pub mod metadata;
mod metrics;
mod node;
mod slog_bridge;
mod store;
mod transport;
mod wire;

pub use driver::{RaftDriver, RaftHandle, TICK_MS};
pub use in_memory::InMemoryMetadata;
pub use log::{
    Applied, BarrierDone, MetadataListener, MetadataLog, ProposalDone, ProposeError, QuorumState,
    ReplicaState,
};
pub use membership::MembershipError;
pub use metrics::{LATENCY_BUCKETS_MS, LatencyHistogram, RaftMetrics};
pub use node::{
    CONTACT_INTERVAL_MS, CONTACT_TIMEOUT_MS, FENCED_HEARTBEAT_MS, FORMER_LEADER_MS, HEARTBEAT_MS,
    LIVENESS_CHECK_MS, LivenessChange, LivenessListener, Observer, PROPOSAL_BYTES_MAX, RaftConfig, RaftError,
    RaftNode, SESSION_TIMEOUT_MS, StepError,
};
pub use store::StoreError;
pub use transport::{Dropped, NoPeers, PeerMessage, PeerQueue, Transport};
pub use wire::{MESSAGE_BYTES_MAX, WireError};
