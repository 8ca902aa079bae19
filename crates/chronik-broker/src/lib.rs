//! What every Kafka request means.
//!
//! The broker composes the cores: partition logs, the metadata image, groups, replication. It opens no
//! socket, no file and no clock: requests, disks and the time are handed in, and answers leave through the
//! responder that came with the request.

mod api;
mod broker;
mod clock;
pub mod config;
mod connection;
mod contact;
mod context;
mod controller;
mod fetch_session;
mod first_batches;
mod groups;
mod last_life;
mod partition;
mod producer_ids;
mod random;
mod replication;
mod reply;
mod stats;
#[cfg(test)]
mod tests;
mod timers;
mod topics;

pub use api::{OFFERS, Offer};
pub use broker::{Broker, BrokerParts};
pub use chronik_coordinator::GroupStats;
pub use clock::{Clock, SharedClock};
pub use config::{BrokerConfig, BrokerConfigEntry};
pub use connection::{Connection, ConnectionId};
pub use controller::{Answered, ControllerLink, HandedOver};
pub use last_life::{LastLife, PreviousLife};
pub use replication::{Lane, NoPeerClient, PeerAnswer, PeerClient, PeerError};
pub use reply::{Reply, Responder, Response, ResponsePart};
pub use stats::{PartitionChanges, TopicTraffic, Traffic};
pub use topics::topic_log_config;
