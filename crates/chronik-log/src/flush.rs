//! One queue for everything that must be synced, so that many partitions share one pass of the disk.

use std::sync::Arc;

use chronik_types::Offset;

use crate::{Log, LogError};

/// Runs once what it waits for is durable, or never will be.
pub type FlushDone = Box<dyn FnOnce(Result<Offset, LogError>) + Send>;

/// Logs that wait to be synced.
///
/// Any thread may [`request`](Self::request); one thread drives [`sync_batch`](Self::sync_batch).
#[derive(Default)]
pub struct FlushQueue {}

/// What one pass synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncedBatch {
    /// Logs that were synced.
    pub log_count: usize,
    /// Logs that could not be; their directories are offline.
    pub failed_count: usize,
}

impl FlushQueue {
    /// Asks that `log` be durable up to (not including) `up_to`; `done` runs on the syncing thread, with the
    /// offset below which the log is durable. True when the queue was empty before: wake the syncing thread.
    pub fn request(&self, _log: &Arc<Log>, _up_to: Offset, _done: Option<FlushDone>) -> bool {
        unimplemented!()
    }

    /// Takes all that is queued and syncs each file of it once, then runs what waited.
    pub fn sync_batch(&self) -> SyncedBatch {
        unimplemented!()
    }
}
