//! Record batches: the header in place, the records inside when someone must look at them.
//!
//! A broker reads, checks and stamps the header of what it appends ([`check_client_batch`], [`patch_append`]), looks
//! through the records once ([`inspect_records`]) and passes them on as they are, or in another codec where the topic
//! asks for one ([`recompress`]). [`RecordIter`] reads them: for compaction, for the coordinators' own records.
//! [`BatchBuilder`] writes.

mod batch_iter;
mod builder;
mod compression;
mod control;
mod header;
mod inspect;
mod lz4;
mod recompress;
mod record;
mod snappy;
mod validate;
mod varint;
mod zstd;

pub use batch_iter::{Batch, BatchIter};
pub use builder::{BatchBuilder, BatchOptions, BuildError, empty_batch};
pub use compression::{CompressError, CompressionLevels, compress, decompress};
pub use control::{ControlType, EndTxnMarker};
pub use header::{
    BATCH_HEADER_BYTES, BatchAttributes, BatchError, BatchHeader, Compression, LOG_OVERHEAD_BYTES, MAGIC_V2,
    TimestampType, patch_append, patch_max_timestamp,
};
pub use inspect::{
    RECORD_FAULTS_MAX, RECORDS_INFLATED_BYTES_MAX, RecordFault, RecordFaultKind, RecordRules, RecordsFacts,
    find_record, inspect_records,
};
pub use recompress::{RecompressError, Recompressed, Recompression, recompress};
pub use record::{Header, Headers, Record, RecordIter};
pub use validate::{ClientBatchLimits, check_client_batch, parse_client_batch};
