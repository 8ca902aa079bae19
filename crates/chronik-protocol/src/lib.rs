//! Kafka's wire protocol: bytes to values and back.
//!
//! This crate knows what a message looks like in every version and what a record batch holds. It never knows
//! what a request means. No input makes it panic, overflow the stack, or allocate beyond its budget (WIRE-2).
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod api;
pub mod fetch;
pub mod frame;
#[cfg(feature = "json")]
pub mod json;
pub mod messages;
pub mod produce;
pub mod records;
mod topic_ref;
pub mod wire;
