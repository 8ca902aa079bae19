//! The markers that end transactions, as far as the producers' state needs them.

use chronik_protocol::records::{BatchHeader, EndTxnMarker, RecordIter};

/// Control batches hold one small record; more than this is no marker.
const MARKER_BYTES_MAX: usize = 4096;

/// The coordinator epoch of the marker in a control batch. `None` for a batch of data, and for a control batch
/// without a marker.
pub(crate) fn marker_epoch(header: &BatchHeader, batch: &[u8]) -> Option<i32> {
    if !header.attributes.is_control() {
        return None;
    }
    let mut records = RecordIter::new(batch, MARKER_BYTES_MAX).ok()?;
    let record = records.next_record().ok()??;
    Some(EndTxnMarker::from_record(&record).ok()??.coordinator_epoch)
}
