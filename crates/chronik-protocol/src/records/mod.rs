//! Record batches: the header in place, the records inside when someone must look at them.

mod header;

pub use header::{
    BATCH_HEADER_BYTES, BatchAttributes, BatchError, BatchHeader, Compression, LOG_OVERHEAD_BYTES, MAGIC_V2,
    TimestampType, patch_append, patch_max_timestamp,
};
