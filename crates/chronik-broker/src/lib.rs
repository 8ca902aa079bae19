//! What every Kafka request means.
//!
//! The broker composes the cores: partition logs, the metadata image, later groups and replication. It opens no
//! socket, no file and no clock: requests, disks and the time are handed in, and answers leave through the
//! responder that came with the request.

pub mod config;
mod connection;
mod fetch_session;
mod reply;
mod timers;

pub use connection::{Connection, ConnectionId};
pub use reply::{Reply, Responder, Response, ResponsePart};
