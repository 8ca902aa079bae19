//! Whether a log is worth cleaning, and how far.

use chronik_types::Now;

use crate::log::Log;
use crate::segment::Segment;
use crate::{LogConfig, LogError};

/// What there is to clean in a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dirt {
    /// What lies below was cleaned before.
    pub(super) first_dirty_offset: i64,
    /// The base offset of the first segment that may not be cleaned yet.
    pub(super) upper_bound: i64,
    /// Bytes of the segments that can be cleaned, less those that are clean.
    pub(super) dirty_bytes: u64,
    /// The share of these in what would be read, from 0 to 1.
    pub(super) ratio: f64,
    /// Whether `max.compaction.lag.ms` asks for it whatever the ratio is.
    pub(super) is_overdue: bool,
}

impl Dirt {
    /// Whether the log is to be cleaned.
    pub(super) fn is_due(&self, config: &LogConfig) -> bool {
        (self.is_overdue && self.dirty_bytes > 0) || self.ratio > config.min_cleanable_dirty_ratio
    }
}

impl Log {
    /// Looks at what there is to clean. `None` where there is no segment that could be.
    pub(super) fn dirt(&self, config: &LogConfig, now: Now) -> Option<Dirt> {
        let first_dirty_offset = self.first_dirty_offset(config);
        let stable = self.first_unstable_offset().map_or(i64::MAX, chronik_types::Offset::get);
        let stable = stable.min(self.high_watermark().get());
        let view = self.view.lock();
        let (active, closed) = view.segments.split_last()?;
        let young_from = now.wall.get().saturating_sub_unsigned(config.min_compaction_lag_ms);
        let is_young = |segment: &Segment| {
            config.min_compaction_lag_ms > 0
                && first_dirty_offset < segment.next_offset
                && segment.max_timestamp > young_from
        };
        let uncleanable = closed.iter().find(|segment| stable < segment.next_offset || is_young(segment));
        let upper_bound = uncleanable.map_or(active.base_offset, |segment| segment.base_offset);
        // A segment that was begun behind a gap may lie ahead of the end.
        let upper_bound = upper_bound.min(self.log_end_offset().get()).max(first_dirty_offset);
        let cleanable = || closed.iter().take_while(|segment| segment.base_offset < upper_bound);
        let is_dirty = |segment: &&Segment| first_dirty_offset < segment.next_offset;
        let dirty_bytes: u64 = cleanable().filter(is_dirty).map(|segment| segment.size_bytes).sum();
        let clean_bytes: u64 = cleanable()
            .filter(|segment| segment.base_offset < first_dirty_offset)
            .map(|segment| segment.size_bytes)
            .sum();
        let total_bytes = clean_bytes.saturating_add(dirty_bytes);
        let oldest = closed
            .iter()
            .filter(|segment| is_dirty(segment) && segment.first_timestamp > 0)
            .map(|segment| segment.first_timestamp)
            .min();
        let is_overdue = config.max_compaction_lag_ms.is_some_and(|lag_ms| {
            oldest.is_some_and(|oldest| oldest < now.wall.get().saturating_sub_unsigned(lag_ms))
        });
        (total_bytes > 0).then(|| Dirt {
            first_dirty_offset,
            upper_bound,
            dirty_bytes,
            ratio: ratio(dirty_bytes, total_bytes),
            is_overdue,
        })
    }

    /// Where the log was cleaned up to, unless that is no longer one of its offsets.
    fn first_dirty_offset(&self, config: &LogConfig) -> i64 {
        let (start, end) = (self.log_start_offset().get(), self.log_end_offset().get());
        let Some(cleaned_up_to) = self.cleaned_up_to() else { return start };
        let cleaned_up_to = cleaned_up_to.get();
        if (start..=end).contains(&cleaned_up_to) {
            return cleaned_up_to;
        }
        // Retention is expected to move the start past it.
        if !(config.cleanup_policy.delete && cleaned_up_to < start) {
            tracing::warn!(
                partition = %self.topic_partition(), cleaned_up_to, log_start_offset = start, log_end_offset = end,
                "the log was cleaned up to an offset that it does not have any more; all of it is cleaned again"
            );
        }
        self.set_cleaned_up_to(Some(start));
        start
    }

    /// Closes the segment that is appended to when `max.compaction.lag.ms` wants its records cleaned and nothing is
    /// appended that would close it.
    pub(super) fn roll_overdue(&self, config: &LogConfig, now: Now) -> Result<(), LogError> {
        let Some(lag_ms) = config.max_compaction_lag_ms else { return Ok(()) };
        let overdue = || {
            let view = self.view.lock();
            view.segments.last().is_some_and(|active| {
                active.size_bytes > 0
                    && active.first_timestamp > 0
                    && active.first_timestamp < now.wall.get().saturating_sub_unsigned(lag_ms)
            })
        };
        if !overdue() {
            return Ok(());
        }
        let mut writer = self.writer.lock();
        self.check_usable()?;
        if overdue() { self.roll(&mut writer, now, self.log_end_offset().get()) } else { Ok(()) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio is no more exact than this")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// The most segments that are merged into one at a time. The next clean merges on; meanwhile putting the result in place
/// takes little time.
const GROUP_SEGMENTS_MAX: usize = 64;

/// Groups segments, which follow each other, so that each group fits one segment: by bytes, by index, and by the range
/// of offsets. `upper_bound` is where the last one ends at most. Gives where the groups end.
pub(super) fn group(segments: &[Segment], config: &LogConfig, upper_bound: i64) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut start = 0;
    while let Some(first) = segments.get(start) {
        let mut size_bytes = first.size_bytes;
        let (mut index_bytes, mut time_index_bytes) = index_sizes(first);
        let mut end = start + 1;
        while let Some(next) = segments.get(end) {
            let (next_index, next_time_index) = index_sizes(next);
            let range_end = segments.get(end + 1).map_or(upper_bound, |after| after.base_offset);
            size_bytes = size_bytes.saturating_add(next.size_bytes);
            index_bytes += next_index;
            time_index_bytes += next_time_index;
            let fits = size_bytes <= config.segment_bytes
                && index_bytes <= config.segment_index_bytes
                && time_index_bytes <= config.segment_index_bytes
                && range_end.saturating_sub(1).saturating_sub(first.base_offset) <= i64::from(i32::MAX);
            if !fits || end - start >= GROUP_SEGMENTS_MAX {
                break;
            }
            end += 1;
        }
        ends.push(end);
        start = end;
    }
    ends
}

fn index_sizes(segment: &Segment) -> (u64, u64) {
    (segment.offset_index.len() as u64 * 8, segment.time_index.len() as u64 * 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(base_offset: i64, size_bytes: u64) -> Segment {
        Segment { size_bytes, ..Segment::new(base_offset, 0) }
    }

    #[test]
    fn neighbours_are_merged_as_far_as_they_fit() {
        let config = LogConfig { segment_bytes: 100, ..LogConfig::default() };
        let check = |segments: &[(i64, u64)], upper_bound, expected: &[usize]| {
            let segments: Vec<Segment> = segments.iter().map(|&(base, size)| segment(base, size)).collect();
            assert_eq!(group(&segments, &config, upper_bound), expected);
        };
        check(&[], 0, &[]);
        check(&[(0, 200), (10, 50), (20, 50), (30, 1)], 40, &[1, 3, 4]);
        check(&[(0, 40), (10, 60), (20, 0), (30, 1)], 40, &[3, 4]);
        let far = i64::from(i32::MAX);
        check(&[(0, 1), (10, 1)], far + 1, &[2]);
        check(&[(0, 1), (10, 1)], far + 2, &[1, 2]);
        let many: Vec<(i64, u64)> = (0..100).map(|at| (at, 0)).collect();
        check(&many, 100, &[64, 100]);
    }
}
