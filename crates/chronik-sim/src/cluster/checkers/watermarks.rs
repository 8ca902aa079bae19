//! C7: within a leader epoch neither the high watermark nor the log's beginning goes back.

use chronik_types::LeaderEpoch;

use super::{Checkers, PartitionKey, Rule};

impl Checkers {
    /// A leader has told a reader where its log begins and up to where it is committed. What two readers are told may
    /// reach them in another order.
    pub(in crate::cluster) fn watermark(
        &mut self,
        reader: u64,
        key: PartitionKey,
        epoch: LeaderEpoch,
        high_watermark: i64,
        log_start_offset: i64,
    ) {
        let known = self.watermarks.entry((reader, key, epoch)).or_insert((high_watermark, log_start_offset));
        let (known_watermark, known_start) = *known;
        *known = (known_watermark.max(high_watermark), known_start.max(log_start_offset));
        if high_watermark < known_watermark {
            let text = format!(
                "{key} in leader epoch {epoch}: the high watermark went back from {known_watermark} to {high_watermark}"
            );
            self.report(Rule::Watermarks, text);
        }
        if log_start_offset < known_start {
            let text = format!(
                "{key} in leader epoch {epoch}: the log's beginning went back from {known_start} to {log_start_offset}"
            );
            self.report(Rule::Watermarks, text);
        }
    }
}
