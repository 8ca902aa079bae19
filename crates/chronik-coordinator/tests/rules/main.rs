//! Every rule of the classic protocol, one test a rule, with Kafka's own error codes.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod commits;
mod expiry;
mod join;
mod members;
mod offsets;
mod static_members;
mod sync;
