//! What an append takes and gives.

use bytes::BytesMut;
use chronik_types::{LeaderEpoch, Offset, TimestampMs};

/// Who appends, which says what is checked and what is stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A producer: everything is checked; offsets, leader epoch and (if so configured) time are stamped.
    Client,
    /// A coordinator of this broker: stamped like a client's, with no sequence and no size limit.
    Coordinator,
}

/// One batch to append, with what is to be done for it.
#[derive(Debug)]
pub struct PendingBatch {
    /// Exactly one v2 batch, whole. Stamped where it lies.
    pub batch: BytesMut,
    /// Who appends it.
    pub origin: AppendOrigin,
}

/// Where a batch starts that is in the log, and of which nobody remembers where (ADR 12).
pub const UNKNOWN_OFFSET: Offset = Offset(-1);

/// A batch that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the batch's first record. For a duplicate, of the batch that was appended before;
    /// [`UNKNOWN_OFFSET`] if so much has followed that nobody remembers where that was.
    pub first_offset: Offset,
    /// The offset of its last record, or where that is not known the last at which it may be.
    pub last_offset: Offset,
    /// What Produce answers as log append time: the broker's time with `LogAppendTime`, the earlier batch's
    /// timestamp for a duplicate, −1 otherwise.
    pub log_append_time: TimestampMs,
    /// The log's first offset at that moment.
    pub log_start_offset: Offset,
    /// Whether the log held the batch already (KIP-98); nothing was written then.
    pub is_duplicate: bool,
    /// Where `flush.messages` asks for a sync: hand the log and this offset to the flush queue, and acknowledge
    /// when the queue says that it is done.
    pub sync_up_to: Option<Offset>,
}

/// What a replica's append changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaAppended {
    /// Base offset of the first batch appended, or the log's end where there was none.
    pub first_offset: Offset,
    /// The log's end after it.
    pub log_end_offset: Offset,
    /// The newest leader epoch in the log, −1 where there is none.
    pub leader_epoch: LeaderEpoch,
    /// As in [`Appended::sync_up_to`].
    pub sync_up_to: Option<Offset>,
}
