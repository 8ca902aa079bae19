//! What can go wrong with a log, and the Kafka error code for each.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chronik_protocol::records::{BatchError, CompressError, RecordFault, RecordFaultKind};
use chronik_types::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicId};

/// Why a batch was not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The bytes are not one whole, intact batch that may be appended.
    #[error("the batch is refused: {0}")]
    Batch(#[source] BatchError),
    /// The batch is larger than a whole segment may be.
    #[error("the batch has {size_bytes} bytes and segment.bytes allows {max_bytes}")]
    LargerThanSegment {
        /// The size of the batch.
        size_bytes: u64,
        /// `segment.bytes`.
        max_bytes: u64,
    },
    /// Single records are refused, and the batch with them.
    #[error("{0}")]
    Records(RefusedRecords),
    /// The batch could not be written in the topic's codec.
    #[error("the batch cannot be stored as compression.type asks: {0}")]
    Recompress(#[source] Arc<CompressError>),
    /// The sequence number does not follow the producer's last one.
    #[error("producer {producer_id} sent sequence {sequence} after {last_sequence}")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: ProducerId,
        /// The first sequence number of the batch.
        sequence: i32,
        /// The last one that was appended, −1 where there is none.
        last_sequence: i32,
    },
    /// The sequence number is further on than the producer's last one, soon after an election: the batches between them may
    /// be waiting for the leader before (ADR 14).
    #[error(
        "producer {producer_id} sent sequence {sequence} after {last_sequence}, and earlier batches may still be on their \
         way from the leader before; send it again after them"
    )]
    SequenceAhead {
        /// The producer.
        producer_id: ProducerId,
        /// The first sequence number of the batch.
        sequence: i32,
        /// The last one that was appended, −1 where there is none.
        last_sequence: i32,
    },
    /// The producer has a newer epoch.
    #[error("producer {producer_id} has epoch {current_epoch} and the batch {epoch}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's epoch.
        epoch: ProducerEpoch,
        /// The newest epoch that was appended.
        current_epoch: ProducerEpoch,
    },
    /// A batch outside a transaction from a producer that has one open.
    #[error("producer {producer_id} has a transaction open and sent a batch outside it")]
    InvalidTxnState {
        /// The producer.
        producer_id: ProducerId,
    },
    /// The marker of a coordinator that a newer one replaced.
    #[error("coordinator epoch {epoch} is older than {current_epoch} for producer {producer_id}")]
    TransactionCoordinatorFenced {
        /// The producer.
        producer_id: ProducerId,
        /// The marker's coordinator epoch.
        epoch: i32,
        /// The newest that was appended.
        current_epoch: i32,
    },
    /// A batch replicated from the leader does not start at or after the log's end.
    #[error("a replicated batch starts at offset {base_offset} and the log ends at {log_end_offset}")]
    UnexpectedOffset {
        /// The batch's base offset.
        base_offset: Offset,
        /// The log's end.
        log_end_offset: Offset,
    },
    /// A batch carries an older leader epoch than the log already holds (LOG-1), or a leader that was replaced
    /// appends.
    #[error("leader epoch {epoch} is below {latest_epoch}, which the log already holds")]
    LeaderEpochRegressed {
        /// The batch's epoch.
        epoch: LeaderEpoch,
        /// The log's newest.
        latest_epoch: LeaderEpoch,
    },
    /// A replicated batch carries a later leader epoch than that of the leader which sent it: it was damaged on its way.
    #[error(
        "a batch of leader epoch {epoch} came from the leader of epoch {leader_epoch}; it is fetched again"
    )]
    LeaderEpochAhead {
        /// The batch's epoch.
        epoch: LeaderEpoch,
        /// The leader's.
        leader_epoch: LeaderEpoch,
    },
    /// The batch is in the log, and this broker cannot tell whether it is or will be committed: that is for the leader after it
    /// to say.
    #[error(
        "the batch that ends at offset {last_offset} is in the log, and may be committed or cut away by another leader"
    )]
    Undecided {
        /// The batch's last offset.
        last_offset: Offset,
    },
    /// The log has used up the range of offsets.
    #[error("the log has no offsets left")]
    OffsetsExhausted,
    /// The log itself cannot take it.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl AppendError {
    /// The error code that Kafka answers with.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::Batch(error) => error.error_code(),
            Self::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
            Self::Records(refused) => refused.error_code(),
            Self::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::SequenceAhead { .. } => ErrorCode::LeaderNotAvailable,
            Self::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            Self::InvalidTxnState { .. } => ErrorCode::InvalidTxnState,
            Self::TransactionCoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
            Self::LeaderEpochAhead { .. } => ErrorCode::CorruptMessage,
            Self::LeaderEpochRegressed { .. } | Self::Undecided { .. } => ErrorCode::NotLeaderOrFollower,
            Self::Recompress(_) | Self::UnexpectedOffset { .. } | Self::OffsetsExhausted => {
                ErrorCode::UnknownServerError
            }
            Self::Log(error) => error.error_code(),
        }
    }
}

/// The records for which a batch is refused (KIP-467).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRecords {
    /// The first of them, in order.
    pub faults: Arc<[RecordFault]>,
    /// All of them.
    pub fault_count: usize,
    /// The earliest timestamp that the topic allowed at that moment.
    pub timestamp_min: TimestampMs,
    /// The latest timestamp that the topic allowed.
    pub timestamp_max: TimestampMs,
}

impl RefusedRecords {
    /// Bad timestamps have an error of their own, which wins over the others.
    pub fn error_code(&self) -> ErrorCode {
        let is_time = |fault: &RecordFault| fault.kind != RecordFaultKind::NoKey;
        if self.faults.iter().any(is_time) { ErrorCode::InvalidTimestamp } else { ErrorCode::InvalidRecord }
    }

    /// What is wrong with one of the records.
    pub fn describe(&self, fault: &RecordFault) -> String {
        match fault.kind {
            RecordFaultKind::NoKey => "a record of a compacted topic must have a key".to_owned(),
            RecordFaultKind::TimestampRange(timestamp) => format!(
                "timestamp {timestamp} is out of range: the topic takes {} to {}",
                self.timestamp_min, self.timestamp_max
            ),
            RecordFaultKind::TimestampType => {
                "a producer must not set the timestamp type to LogAppendTime".to_owned()
            }
        }
    }
}

impl fmt::Display for RefusedRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records of the batch are refused", self.fault_count)?;
        if let Some(first) = self.faults.first() {
            write!(f, "; record {}: {}", first.index, self.describe(first))?;
        }
        Ok(())
    }
}

/// Why a log could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The offset lies outside the log.
    #[error("offset {offset} is outside the log, which holds {log_start_offset} to {log_end_offset}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// The first offset that the log holds.
        log_start_offset: Offset,
        /// The offset after the last.
        log_end_offset: Offset,
    },
    /// The file system is full. Nothing was appended; the same append succeeds once space is back.
    #[error("no space left on the file system of {path} while trying to {attempt}; free space or add some")]
    DiskFull {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The log's directory failed before and takes no requests (LOG-3).
    #[error("log directory {dir} is offline since: {reason}; repair the disk and restart")]
    Offline {
        /// The log directory.
        dir: PathBuf,
        /// Its first failure.
        reason: Arc<str>,
    },
    /// A file operation failed.
    #[error("cannot {attempt} {path}: {source}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// A stored batch does not check (LOG-2).
    #[error("{path} holds a bad batch at byte {position}: {source}")]
    Corrupt {
        /// The segment file.
        path: PathBuf,
        /// Where the batch starts.
        position: u64,
        /// What is wrong with it.
        #[source]
        source: BatchError,
    },
    /// The log was deleted or closed.
    #[error("the log is closed")]
    Closed,
    /// The partition's directory belongs to a topic of the same name with another id.
    #[error("the directory of the partition belongs to topic id {found}, not {expected}")]
    InconsistentTopicId {
        /// The id on disk.
        found: TopicId,
        /// The id asked for.
        expected: TopicId,
    },
    /// Another process uses the log directory.
    #[error("log directory {0} is in use by another process; stop it, or name another directory")]
    Locked(PathBuf),
}

impl LogError {
    /// The error code that Kafka answers with.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::DiskFull { .. } | Self::Offline { .. } | Self::Io { .. } | Self::Locked(_) => {
                ErrorCode::KafkaStorageError
            }
            Self::Corrupt { .. } => ErrorCode::CorruptMessage,
            Self::Closed => ErrorCode::NotLeaderOrFollower,
            Self::InconsistentTopicId { .. } => ErrorCode::InconsistentTopicId,
        }
    }

    /// Whether what failed may succeed later without anybody having repaired anything: the disk was full, or too many files
    /// were open.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => is_out_of_files(source),
            Self::OffsetOutOfRange { .. }
            | Self::Offline { .. }
            | Self::Corrupt { .. }
            | Self::Closed
            | Self::InconsistentTopicId { .. }
            | Self::Locked(_) => false,
        }
    }

    /// The error of a file operation: a full file system is told apart from everything else.
    pub(crate) fn io(attempt: &'static str, path: &Path, source: io::Error) -> Self {
        if is_disk_full(&source) {
            Self::DiskFull { attempt, path: path.to_owned() }
        } else {
            Self::Io { attempt, path: path.to_owned(), source: Arc::new(source) }
        }
    }
}

/// Whether an operation failed for want of space only.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an operation failed because the process (EMFILE) or the system (ENFILE) has too many files open.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}
