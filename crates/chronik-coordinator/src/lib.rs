//! Kafka's group coordinator as a pure state machine.
//!
//! One [`GroupCoordinator`] holds the groups of one partition of `__consumer_offsets`. It reads no clock, opens
//! no file and starts no thread: the broker calls it under a lock, with the time, and carries out the
//! [`Effects`] of each call: it appends the writes to the partition and sends the completions.
//!
//! # A reply follows the commit of its records (GROUP-1)
//!
//! A call that changes something durable gives a [`Write`]; its reply is held until the broker reports the
//! write committed, and turned into a refusal if it fails. Between the two nobody sees what it carries:
//!
//! - Offsets, and tombstones of offsets, are staged beside the committed value. Readers see the committed value;
//!   the commit moves the staged one over, the failure drops it.
//! - The leader's assignment, a static member's new id and the end of a group wait in the write as a change that
//!   is applied by its commit. A failure undoes what the group had to do meanwhile.
//! - A new group is not shown before its first record is committed.
//! - Who is in a group and which generation it has reached is memory only, until the assignment is written. A
//!   new coordinator starts from the last committed assignment, and members that it does not know join again.
//!
//! Writes must be appended in the order of their ids, and are committed in that order. An append that fails at
//! once (a full disk, a leader that is none any more) is reported by [`GroupCoordinator::failed`], which may be
//! called from within the loop that carries out effects. A write that takes too long to be committed has its
//! reply refused by [`GroupCoordinator::poll`], and counts when it is committed after all.
//!
//! # How the broker drives it
//!
//! ```text
//! replay(record)…  loaded(now)            the partition's log, up to its end; then requests are served
//! join_group(now, context, request) …     one method per API; each gives Effects
//! committed(now, up_to)                   the high watermark has passed these writes
//! failed(now, write, error)               this write is not in the log
//! poll(now), next_deadline()              sessions, rebalances, expiry
//! unload()                                another broker leads the partition; all who wait hear NOT_COORDINATOR
//! ```
//!
//! Reads (`OffsetFetch`, `DescribeGroups`, `ListGroups`) answer at once and change nothing. Every request that takes a
//! [`RequestContext`] is completed exactly once, at once or by a later call.
//!
//! # Not here yet
//!
//! Offsets of open transactions belong into the slots of `offsets`, as a third side. Groups of the consumer
//! protocol (KIP-848) belong beside `group`, and their records into `records`, which passes over them today.

mod api;
mod config;
mod coordinator;
mod effects;
mod env;
mod group;
mod member_id;
mod offsets;
mod partition;
mod records;
mod stats;
mod timers;

pub use api::{offset_fetch_groups, offset_fetch_response};
pub use config::GroupConfig;
pub use coordinator::GroupCoordinator;
pub use effects::{Completion, Effects, Record, RequestContext, RequestId, Response, Topics, Write, WriteId};
pub use partition::partition_for;
pub use records::ReplayError;
pub use stats::GroupStats;
