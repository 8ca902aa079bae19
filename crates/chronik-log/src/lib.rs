//! One partition's log, and all the logs of a broker.
//!
//! Files are Kafka's, byte for byte: segments of v2 batches, their indexes, producer snapshots, leader-epoch
//! checkpoints. Beside them each log directory holds one checkpoint and a journal of Chronik's own, so that a
//! restart looks only at what was appended last.
//!
//! This crate never knows who leads a partition, and never looks at a clock.

mod append;
mod appender;
mod bytes_io;
mod checkpoint;
mod cleaner;
mod config;
mod dir;
mod epoch_cache;
mod error;
mod file_cache;
mod flush;
mod holes;
mod index;
mod journal;
mod kafka_checkpoint;
mod log;
mod lookup;
mod maintenance;
mod manager;
mod marker;
mod names;
mod partition_metadata;
mod producer_state;
mod reader;
mod recovery;
mod removal;
mod retention;
mod scan;
mod segment;
mod startup;
mod stats;
mod tail_ring;
mod truncate;
mod validate;

pub use append::{AppendOrigin, Appended, PendingBatch, ReplicaAppended, UNKNOWN_OFFSET};
pub use cleaner::{Cleaner, CleanerOptions, CleanerWorker};
pub use config::{CleanupPolicy, LogConfig, ManagerOptions};
pub use error::{AppendError, LogError, RefusedRecords};
pub use flush::{FlushDone, FlushQueue, SyncedBatch};
pub use log::{EpochEndOffset, Log};
pub use lookup::{OffsetQuery, TimestampAndOffset};
pub use manager::{ConfigSource, LogDirDescription, LogManager};
pub use producer_state::ProducerSummary;
pub use reader::{FileRegion, ReadData, ReadRequest, ReadResult};
pub use startup::StartingLogManager;
pub use stats::{LogCounters, LogStats};
pub use tail_ring::MemoryBudget;
pub use validate::ValidatedBatch;
