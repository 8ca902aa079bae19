//! One partition's log, and all the logs of a broker.
//!
//! Files are Kafka's, byte for byte: segments of v2 batches, their indexes, producer snapshots, leader-epoch
//! checkpoints. Beside them each log directory holds one checkpoint and a journal of Chronik's own, so that a
//! restart looks only at what was appended last.
//!
//! This crate never knows who leads a partition, and never looks at a clock.

mod append;
mod config;
mod error;
mod flush;
mod log;
mod manager;
mod producer_state;
mod reader;

pub use append::{AppendOrigin, Appended, PendingBatch, ReplicaAppended};
pub use config::{CleanupPolicy, LogConfig, ManagerOptions};
pub use error::{AppendError, LogError};
pub use flush::{FlushDone, FlushQueue, SyncedBatch};
pub use log::{EpochEndOffset, Log};
pub use manager::{ConfigSource, LogDirDescription, LogManager, StartingLogManager};
pub use producer_state::ProducerSummary;
pub use reader::{FileRegion, OffsetQuery, ReadData, ReadRequest, ReadResult, TimestampAndOffset};
