//! Kafka's replication protocol for one partition, without the IO.
//!
//! Followers pull. The leader knows how far each has come ([`Leader`]), decides what is committed and who is in
//! sync, and proposes changes of the ISR through the metadata log. A follower learns from each answer what to do
//! with its own log ([`follower::next_step`]), and where it diverges from the leader's it cuts by leader epochs
//! (KIP-101, KIP-279, KIP-320). What a follower asks of one leader, over all partitions that they share, is
//! [`Fetcher`] (sessions as in KIP-227).
//!
//! Nothing here reads or writes a log, a socket or a clock.

mod fetcher;
pub mod follower;
mod leader;

pub use fetcher::{FetchPlan, FetchPosition, Fetcher};
pub use leader::{
    Effects, FollowerFetch, IsrCause, IsrProposal, Leader, LeaderSettings, LeaderTerm, Membership,
    ReplicaState,
};
