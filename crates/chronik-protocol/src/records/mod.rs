//! Record batches: the header in place, the records inside when someone must look at them.
//!
//! A broker reads, checks and stamps the header of what it appends ([`validate_client_batch`], [`patch_append`]) and
//! passes the records on as they are. [`RecordIter`] looks inside for what cannot be done otherwise: looking up a
//! timestamp, compaction, the coordinators' own records. [`BatchBuilder`] writes.

mod batch_iter;
mod builder;
mod compression;
mod control;
mod header;
mod lz4;
mod record;
mod snappy;
mod validate;
mod varint;

pub use batch_iter::{Batch, BatchIter};
pub use builder::{BatchBuilder, BatchOptions, BuildError, empty_batch};
pub use compression::{CompressError, CompressionLevels, compress, decompress};
pub use control::{ControlType, EndTxnMarker};
pub use header::{
    BATCH_HEADER_BYTES, BatchAttributes, BatchError, BatchHeader, Compression, LOG_OVERHEAD_BYTES, MAGIC_V2,
    TimestampType, patch_append, patch_max_timestamp,
};
pub use record::{Header, Headers, Record, RecordIter};
pub use validate::{ClientBatchLimits, validate_client_batch};
