//! Counters of what the logs do, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters that only grow; read them at any time.
        #[derive(Debug, Default)]
        pub struct LogCounters {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct LogStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl LogCounters {
            /// Reads them all.
            pub fn snapshot(&self) -> LogStats {
                LogStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Batches appended.
    appended_batch_count,
    /// Bytes appended.
    appended_bytes,
    /// Writes that appended them.
    append_write_count,
    /// Batches that were duplicates of earlier ones.
    duplicate_batch_count,
    /// Reads answered from memory.
    read_from_memory_count,
    /// Reads answered by a file region.
    read_from_file_count,
    /// Segments rolled.
    rolled_segment_count,
    /// Segments deleted by retention or `DeleteRecords`.
    deleted_segment_count,
    /// Logs cleaned by compaction, each clean counted.
    clean_count,
    /// Bytes that compaction has read and written.
    clean_io_bytes,
    /// Logs that compaction gave up until the next start.
    uncleanable_count,
    /// File syncs.
    sync_count,
    /// Checkpoints written.
    checkpoint_count,
    /// Appends refused for want of disk space.
    disk_full_count,
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
