//! Deleting old segments, by time, by size, and below the log's start.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chronik_types::Now;

use crate::dir::LogDir;
use crate::log::Log;
use crate::segment::Segment;
use crate::stats::add;
use crate::{LogConfig, LogError};

/// Deletes from the logs of a directory the segments that a moved start no longer keeps and, `by_settings`, those that are
/// too old or too much. What is not below the high watermark stays.
///
/// First every log's start moves past them, then what the journal says of that is made durable, once for all, and then
/// the segments go: a power loss may leave a checkpoint that is older, and by that a log which begins behind its start has
/// lost what it began with.
pub(crate) fn delete_old_segments(dir: &Arc<LogDir>, logs: &[Arc<Log>], by_settings: bool, now: Now) {
    let warn = |log: &Log, error: &LogError| {
        tracing::warn!(partition = %log.topic_partition(), %error, "cannot delete old segments");
    };
    let mut concerned = Vec::new();
    for log in logs.iter().filter(|log| Arc::ptr_eq(&log.dir, dir)) {
        match log.move_start_past_old_segments(by_settings, now) {
            Ok(Some(new_start)) => concerned.push((log, new_start)),
            Ok(None) => {}
            Err(error) => warn(log, &error),
        }
    }
    if concerned.is_empty() {
        return;
    }
    if let Err(error) = dir.sync_notes() {
        tracing::warn!(dir = %dir.path.display(), %error, "cannot delete old segments");
        return;
    }
    for (log, new_start) in concerned {
        if let Err(error) = log.delete_segments_below(now, new_start) {
            warn(log, &error);
        }
    }
}

impl Log {
    /// The offset below which there are segments to delete, if there are any. The log begins there, or later, then.
    fn move_start_past_old_segments(&self, by_settings: bool, now: Now) -> Result<Option<i64>, LogError> {
        let config = self.config();
        // Most of the time there is nothing to do; that is found out without the writer's lock.
        if self.deletable_count(&config, by_settings, now) == 0 {
            return Ok(None);
        }
        let _reshaping = self.reshaping.lock();
        let mut writer = self.writer.lock();
        self.check_usable()?;
        let mut count = self.deletable_count(&config, by_settings, now);
        if count > 0 && self.view.lock().segments.len() <= count {
            // The log goes on in a new segment, so that the one it appends to can go.
            match self.roll(&mut writer, now, self.log_end_offset().get()) {
                // The others make room for it.
                Err(LogError::DiskFull { .. }) => count -= 1,
                rolled => rolled?,
            }
        }
        let new_start = self.view.lock().segments.get(count).map(|segment| segment.base_offset);
        let Some(new_start) = new_start.filter(|_| count > 0) else { return Ok(None) };
        // A segment that was begun behind a gap may lie ahead of the end.
        let new_start = new_start.min(self.log_end_offset().get());
        self.note_start(&mut writer, new_start)?;
        self.move_start(&mut writer, new_start)?;
        Ok(Some(new_start))
    }

    /// What a client has let go meanwhile stays for the next time: nothing durable says yet that it may go.
    fn delete_segments_below(&self, now: Now, offset: i64) -> Result<(), LogError> {
        let _reshaping = self.reshaping.lock();
        let mut writer = self.writer.lock();
        self.check_usable()?;
        let delay_ms = self.config().file_delete_delay_ms;
        // A log that was emptied meanwhile begins elsewhere.
        let below = self.log_start_offset().get().min(offset);
        let gone: Vec<Segment> = {
            let mut view = self.view.lock();
            let after = view.segments.partition_point(|segment| segment.base_offset <= below);
            view.segments.drain(..after.saturating_sub(1)).collect()
        };
        for segment in gone {
            self.retire_segment(&mut writer, now, segment.base_offset, delay_ms)?;
            self.dir.shared.files.forget_segment(self.view.lock().file_number, segment.base_offset);
            self.size_bytes.fetch_sub(segment.size_bytes, Ordering::Relaxed);
            add(&self.dir.shared.counters.deleted_segment_count, 1);
        }
        Ok(())
    }

    fn deletable_count(&self, config: &LogConfig, by_settings: bool, now: Now) -> usize {
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
            let may_delete = by_settings && config.cleanup_policy.delete;
            let too_old = may_delete && config.retention_ms.is_some_and(|limit| age_ms(segment, now) > limit);
            let too_much = may_delete
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
