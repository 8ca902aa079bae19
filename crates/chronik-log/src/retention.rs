//! Deleting old segments, by time, by size, and below the log's start.

use chronik_types::Now;

use crate::journal::NoteKind;
use crate::log::{Log, Writer};
use crate::segment::Segment;
use crate::stats::add;
use crate::{LogConfig, LogError};

impl Log {
    /// Deletes the segments that retention or a moved start no longer keeps, and gives their number. What is not below
    /// the high watermark stays.
    pub(crate) fn delete_old_segments(&self, now: Now) -> Result<usize, LogError> {
        let config = self.config();
        // Most of the time there is nothing to do; that is found out without the writer's lock.
        if self.deletable_count(&config, now) == 0 {
            return Ok(0);
        }
        let _reshaping = self.reshaping.lock();
        let mut writer = self.writer.lock();
        self.check_usable()?;
        match self.deletable_count(&config, now) {
            0 => Ok(0),
            count => self.delete_first_segments(&mut writer, &config, now, count),
        }
    }

    fn deletable_count(&self, config: &LogConfig, now: Now) -> usize {
        let log_start_offset = self.log_start_offset().get();
        let high_watermark = self.high_watermark().get();
        let view = self.view.lock();
        let mut size_left = self.size_bytes();
        let mut count = 0;
        for (at, segment) in view.segments.iter().enumerate() {
            let last_is_empty = segment.size_bytes == 0 && count + 1 == view.segments.len();
            if last_is_empty || high_watermark < segment.next_offset {
                break;
            }
            // Compaction may leave a first segment with nothing in it, at the start of the log: what comes after its
            // gap begins with the next one, and the start must not move there.
            let end = view.segments.get(at + 1).map_or(segment.next_offset, |next| next.base_offset);
            let below_start = end <= log_start_offset;
            let too_old = config.cleanup_policy.delete
                && config.retention_ms.is_some_and(|limit| age_ms(segment, now) > limit);
            let too_much = config.cleanup_policy.delete
                && config.retention_bytes.is_some_and(|limit| {
                    size_left.checked_sub(segment.size_bytes).is_some_and(|rest| limit <= rest)
                });
            if !(below_start || too_old || too_much) {
                break;
            }
            size_left = size_left.saturating_sub(segment.size_bytes);
            count += 1;
        }
        count
    }

    fn delete_first_segments(
        &self,
        writer: &mut Writer,
        config: &LogConfig,
        now: Now,
        mut count: usize,
    ) -> Result<usize, LogError> {
        let all = self.view.lock().segments.len() <= count;
        if all {
            // The log goes on in a new segment, so that the one it appends to can go.
            match self.roll(writer, now, self.log_end_offset().get()) {
                // The others make room for it.
                Err(LogError::DiskFull { .. }) => count -= 1,
                rolled => rolled?,
            }
        }
        let new_start = self.view.lock().segments.get(count).map(|segment| segment.base_offset);
        if let Some(new_start) = new_start {
            self.note_start(new_start)?;
            self.move_start(writer, new_start)?;
        }
        let gone: Vec<Segment> = self.view.lock().segments.drain(..count).collect();
        for segment in gone {
            self.retire_segment(writer, now, segment.base_offset, config.file_delete_delay_ms)?;
            self.dir.shared.files.forget_segment(self.view.lock().file_number, segment.base_offset);
            self.size_bytes.fetch_sub(segment.size_bytes, std::sync::atomic::Ordering::Relaxed);
            add(&self.dir.shared.counters.deleted_segment_count, 1);
        }
        Ok(count)
    }

    /// Makes durable where the log will begin: a power loss may leave a checkpoint that is older than the segments which
    /// go now, and a log that begins behind its start has lost what it began with.
    fn note_start(&self, offset: i64) -> Result<(), LogError> {
        match self.dir.note_synced(&self.partition, NoteKind::LogStart, offset) {
            // A full disk must not keep anyone from making room on it. The next checkpoint, which is synced, has it.
            Ok(_) | Err(LogError::DiskFull { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How old a segment is: by its newest record, but never newer than the last append to it, so that a timestamp from
/// the future cannot keep it for ever.
fn age_ms(segment: &Segment, now: Now) -> u64 {
    let newest = if segment.max_timestamp < 0 {
        segment.last_append_ms
    } else {
        segment.max_timestamp.min(segment.last_append_ms)
    };
    u64::try_from(now.wall.get().saturating_sub(newest)).unwrap_or(0)
}
