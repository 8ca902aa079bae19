//! What is done for the logs from time to time, and at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_types::{MonotonicMs, Now, TopicPartition};

use crate::checkpoint::{self, CheckpointWriter, SYNCED_INTERVAL_MS};
use crate::file_cache::FileKind;
use crate::log::Log;
use crate::manager::{LogManager, ManagedDir};
use crate::retention::delete_old_segments;
use crate::stats::add;
use crate::{LogError, ManagerOptions, journal, kafka_checkpoint, names};

/// How long between two looks at what has no date of its own (`flush.ms`, removals), at most.
const PASS_MS_MAX: u64 = 1_000;

/// When what is due next.
pub(crate) struct Due {
    checkpoint: MonotonicMs,
    synced_checkpoint: MonotonicMs,
    retention: MonotonicMs,
}

impl Due {
    pub(crate) fn first(options: &ManagerOptions, now: Now) -> Self {
        Self {
            checkpoint: now.monotonic.plus_ms(options.checkpoint_interval_ms),
            synced_checkpoint: now.monotonic,
            retention: now.monotonic.plus_ms(options.retention_check_interval_ms.min(30_000)),
        }
    }
}

pub(crate) fn run(manager: &LogManager, now: Now) -> MonotonicMs {
    let mut due = manager.maintenance.lock();
    let options = &manager.shared.options;
    manager.recover_waiting(now);
    let logs = manager.logs();
    let holds_deletions = manager.holds_deletions();
    let retention_is_due = due.retention <= now.monotonic && !holds_deletions;
    if retention_is_due {
        due.retention = now.monotonic.plus_ms(options.retention_check_interval_ms);
    }
    for home in &manager.dirs {
        if home.dir.check_online().is_err() {
            continue;
        }
        let starts_moved = home.dir.take_start_moved();
        if retention_is_due || starts_moved {
            delete_old_segments(&home.dir, &logs, !holds_deletions, now);
        }
        if retention_is_due {
            for log in logs.iter().filter(|log| Arc::ptr_eq(&log.dir, &home.dir)) {
                log.expire_producers(now);
            }
        }
        home.dir.removals.remove_due(&*manager.disk, now.monotonic);
        // Before anything else takes the room that this has made.
        pay_notes(manager, home);
        if due.checkpoint <= now.monotonic || home.dir.checkpoint_is_due() {
            let synced = due.synced_checkpoint <= now.monotonic;
            match write_checkpoint(manager, home, synced, None) {
                Ok(true) if synced => {
                    due.synced_checkpoint = now.monotonic.plus_ms(SYNCED_INTERVAL_MS);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(dir = %home.dir.path.display(), %error, "cannot write the checkpoint; it is tried again");
                }
            }
        }
    }
    if due.checkpoint <= now.monotonic {
        due.checkpoint = now.monotonic.plus_ms(options.checkpoint_interval_ms);
        for log in &logs {
            log.release_idle(now, options.tail_idle_ms);
        }
    }
    let mut next = now.monotonic.plus_ms(PASS_MS_MAX).min(due.checkpoint);
    if !holds_deletions {
        next = next.min(due.retention);
    }
    for log in &logs {
        match log.wants_sync(now) {
            SyncWish::Now => {
                manager.flush_queue().request(log, log.log_end_offset(), None);
            }
            SyncWish::At(at) => next = next.min(at),
            SyncWish::None => {}
        }
    }
    let removal = manager.dirs.iter().filter_map(|home| home.dir.removals.next_due()).min();
    removal.map_or(next, |removal| next.min(removal.max(now.monotonic.plus_ms(1))))
}

fn pay_notes(manager: &LogManager, home: &ManagedDir) {
    home.dir.pay_notes(|partition| {
        let log = manager.get(partition).filter(|log| Arc::ptr_eq(&log.dir, &home.dir));
        log.map_or(Ok(()), |log| log.pay_start())
    });
}

/// Whether a log is to be synced without anyone having asked.
enum SyncWish {
    None,
    Now,
    At(MonotonicMs),
}

impl Log {
    /// `flush.ms` asks for old data to be synced; a segment that was closed is synced in any case, so that a restart
    /// after a power loss need not read it.
    fn wants_sync(&self, now: Now) -> SyncWish {
        let flush_ms = self.config().flush_ms;
        let writer = self.writer.lock();
        if writer.unsynced.len() > 1 {
            return SyncWish::Now;
        }
        let (Some(flush_ms), Some(since)) = (flush_ms, writer.unsynced_since) else { return SyncWish::None };
        let at = since.plus_ms(flush_ms);
        if at <= now.monotonic { SyncWish::Now } else { SyncWish::At(at) }
    }

    /// Has the journal say where the log begins, if it owes that. Once it is closed it does not: what is noted then is of the
    /// next log of its name.
    fn pay_start(&self) -> Result<(), LogError> {
        let _writer = self.writer.lock();
        match self.check_usable() {
            Ok(()) => self.dir.pay_start(&self.partition, self.topic_id(), self.log_start_offset().get()),
            Err(LogError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn expire_producers(&self, now: Now) {
        let expiration_ms = self.dir.shared.options.producer_id_expiration_ms;
        let mut writer = self.writer.lock();
        if !writer.producers.is_empty() && writer.producers.expire(now.wall, expiration_ms) > 0 {
            self.dir.mark_changed();
        }
    }

    /// Gives back the memory and the open file of a log that nothing is appended to.
    fn release_idle(&self, now: Now, idle_ms: u64) {
        let mut writer = self.writer.lock();
        let is_open = writer.active_file.is_some();
        if is_open && now.monotonic.since_ms(writer.last_append) >= idle_ms {
            writer.active_file = None;
            self.view.lock().ring = None;
        }
    }

    /// Adds this log to a checkpoint, with its index entries on disk so that a restart finds them.
    fn add_to_checkpoint(&self, checkpoint: &mut CheckpointWriter) {
        let _reshaping = self.reshaping.lock();
        let writer = self.writer.lock();
        if self.check_usable().is_err() {
            return;
        }
        let unwritten = {
            let view = self.view.lock();
            view.segments
                .last()
                .filter(|segment| {
                    !segment.offset_index.unwritten().is_empty() || !segment.time_index.unwritten().is_empty()
                })
                .map(|segment| segment.base_offset)
        };
        if let Some(base_offset) = unwritten
            && let Err(error) = self.write_indexes(base_offset)
        {
            // The entries stay in memory and are written later; without them a restart only seeks longer.
            tracing::warn!(partition = %self.partition, %error, "cannot write the indexes");
        }
        let view = self.view.lock();
        checkpoint.add(
            &self.partition,
            self.topic_id(),
            [
                self.log_start_offset().get(),
                self.log_end_offset().get(),
                self.high_watermark().get(),
                self.recovery_point().get(),
            ],
            &view.segments,
            &view.epochs,
            Some(&writer.producers),
        );
    }

    /// Brings everything to the disk that a start would have to make anew otherwise.
    fn prepare_shutdown(&self) -> Result<(), LogError> {
        self.sync()?;
        let mut writer = self.writer.lock();
        self.check_usable()?;
        // Kafka's next start reads it.
        self.write_owed_epochs(&mut writer)?;
        let log_end_offset = self.log_end_offset().get();
        if !writer.producers.is_empty() && !writer.snapshots.contains(&log_end_offset) {
            self.take_snapshot(&mut writer, log_end_offset)?;
        }
        let active = {
            let mut view = self.view.lock();
            view.segments.last_mut().and_then(|segment| {
                segment.add_time_entry();
                let written =
                    segment.offset_index.unwritten().is_empty() && segment.time_index.unwritten().is_empty();
                (!written).then_some(segment.base_offset)
            })
        };
        let Some(base_offset) = active else { return Ok(()) };
        self.write_indexes(base_offset)?;
        let file_number = self.view.lock().file_number;
        for (kind, extension) in [(FileKind::Index, names::INDEX), (FileKind::TimeIndex, names::TIME_INDEX)] {
            let path = self.file_path(base_offset, extension);
            let synced = self.open_file(file_number, base_offset, kind).and_then(|file| file.sync_data());
            synced.map_err(|source| self.dir.sync_failed(&path, source))?;
        }
        Ok(())
    }
}

/// Writes a directory's checkpoint where anything changed, and says whether it did. `ended` are the logs that are ready for the
/// end of the process, where it ends.
fn write_checkpoint(
    manager: &LogManager,
    home: &ManagedDir,
    synced: bool,
    ended: Option<&[Arc<Log>]>,
) -> Result<bool, LogError> {
    let dir = &home.dir;
    let clean = ended.is_some();
    if let Some(error) = manager.why_checkpoint_stays(dir) {
        return if clean { Err(error) } else { Ok(false) };
    }
    if !dir.take_changed() && !clean {
        return Ok(false);
    }
    // From here on logs note themselves in the next journal. What they did before is in the checkpoint, as all of them are
    // looked at only now, those that were made a moment ago too; what they do meanwhile may be in both, which does no harm.
    let old_generation = dir.generation();
    let generation = old_generation + 1;
    if let Err(error) = dir.start_journal(generation) {
        dir.mark_changed();
        return Err(error);
    }
    // What the old journal said of cuts and of cleaned segments must outlast a power loss.
    let had_synced_notes = dir.take_synced_notes();
    let synced = synced || had_synced_notes;
    home.old_journals.lock().push(old_generation);
    let logs = ended.map_or_else(|| manager.logs(), <[_]>::to_vec);
    let stored = store_checkpoint(manager, home, &logs, generation, synced, clean);
    if let Err(error) = stored {
        dir.mark_changed();
        if had_synced_notes {
            dir.mark_synced_notes();
        }
        return Err(error);
    }
    add(&manager.shared.counters.checkpoint_count, 1);
    for generation in std::mem::take(&mut *home.old_journals.lock()) {
        let path = journal::path(&dir.path, generation);
        if let Err(error) = manager.disk.remove_file_if_there(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an old journal");
        }
    }
    Ok(true)
}

fn store_checkpoint(
    manager: &LogManager,
    home: &ManagedDir,
    logs: &[Arc<Log>],
    generation: u64,
    synced: bool,
    clean: bool,
) -> Result<(), LogError> {
    let dir = &home.dir;
    let failed = manager.carry_failed(dir)?;
    // The next process has to know of what could not be recovered that the machine has stopped, and that nobody has ended it
    // in good order; what that costs the other logs is time.
    let has_rebooted = failed.iter().any(|known| known.rebooted);
    let boot_id = if has_rebooted { "" } else { &manager.shared.options.boot_id };
    let mut checkpoint = CheckpointWriter::new(generation, boot_id, clean && failed.is_empty());
    for earlier in failed.iter().filter_map(|known| known.checkpoint.as_ref()) {
        checkpoint.carry(earlier);
    }
    for log in logs.iter().filter(|log| Arc::ptr_eq(&log.dir, dir)) {
        log.add_to_checkpoint(&mut checkpoint);
    }
    // Once the directory is offline, the logs are left out.
    dir.check_online()?;
    let contents = checkpoint.finish();
    // Before the journal goes, which knows of cuts.
    manager.write_cleaner_offsets(dir)?;
    checkpoint::store(&*manager.disk, &dir.path, &contents, synced)
        .map_err(|source| LogError::io("write the checkpoint of", &dir.path, source))
}

pub(crate) fn shut_down(manager: &LogManager, now: Now) -> Result<(), LogError> {
    let mut first_error = None;
    let logs = manager.logs();
    // Whoever waits is answered now; a failure shows below again.
    manager.flush_queue().sync_batch();
    for home in &manager.dirs {
        let dir = &home.dir;
        let mut result = dir.check_online();
        for log in logs.iter().filter(|log| Arc::ptr_eq(&log.dir, dir)) {
            let prepared = log.prepare_shutdown();
            result = result.and(prepared);
        }
        dir.removals.remove_due(&*manager.disk, now.monotonic);
        pay_notes(manager, home);
        let result = result.and_then(|()| {
            manager.why_checkpoint_stays(dir).map_or(Ok(()), Err)?;
            // A start that finds other files of Kafka's beside a clean checkpoint takes them for Kafka's own.
            write_kafka_files(manager, home, &logs)?;
            write_checkpoint(manager, home, true, Some(&logs)).map(|_| ())
        });
        if let Err(error) = result {
            tracing::error!(dir = %dir.path.display(), %error, "the log directory could not be shut down cleanly");
            first_error.get_or_insert(error);
        }
        for log in logs.iter().filter(|log| Arc::ptr_eq(&log.dir, dir)) {
            log.close();
        }
        drop(home.lock.lock().take());
    }
    first_error.map_or(Ok(()), Err)
}

/// Leaves what Kafka looks for in a log directory.
fn write_kafka_files(manager: &LogManager, home: &ManagedDir, logs: &[Arc<Log>]) -> Result<(), LogError> {
    let dir = &home.dir;
    let offsets = |offset: fn(&Log) -> i64| -> BTreeMap<TopicPartition, i64> {
        logs.iter()
            .filter(|log| Arc::ptr_eq(&log.dir, dir))
            .map(|log| (log.topic_partition().clone(), offset(log)))
            .collect()
    };
    let files = [
        (names::RECOVERY_POINT_CHECKPOINT, offsets(|log| log.recovery_point().get())),
        (names::HIGH_WATERMARK_CHECKPOINT, offsets(|log| log.high_watermark().get())),
        (names::LOG_START_CHECKPOINT, offsets(|log| log.log_start_offset().get())),
    ];
    let replace = |name, contents: &[u8]| {
        let path = dir.path.join(name);
        manager.disk.replace_file(&path, contents).map_err(|source| dir.write_failed("write", &path, source))
    };
    for (name, offsets) in files {
        replace(name, kafka_checkpoint::format(&offsets).as_bytes())?;
    }
    replace(names::CLEAN_SHUTDOWN, br#"{"version":0,"brokerEpoch":-1}"#)
}
