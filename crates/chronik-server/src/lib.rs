//! The broker process: everything between the operating system and `chronik-broker`.
//!
//! The only crate that knows tokio. It reads the configuration, listens, runs connections and threads, reads the
//! clocks and ends in good order. What a request means is decided below it.

pub mod clock;
pub mod config;
pub mod health;
pub mod http;
mod leaving;
pub mod loggers;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod node;
pub mod peers;
pub mod process;
mod race;
mod replica_client;
pub mod signals;
pub mod system;
pub mod threads;
