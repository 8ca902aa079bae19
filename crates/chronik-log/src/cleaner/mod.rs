//! Log compaction: of each key the last record is kept, at its offset.
//!
//! A [`Cleaner`] belongs to a [`LogManager`]; each [`CleanerWorker`] of it cleans one log at a time, the dirtiest first.
//! [`CleanerWorker::step`] does a small piece of work and says when it wants to go on: nothing here sleeps, and no lock
//! that an append or a read could want is held while the disk works.
//!
//! Split by role: `choose` says which log and how far, `key_map` knows the last offset of each key, `transactions` what
//! was aborted, `filter` decides about a batch, `output` writes, `swap` puts in place, `pass` leads from one to the next.

mod choose;
mod filter;
mod key_map;
mod output;
mod pass;
mod swap;
mod throttle;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_types::{MonotonicMs, Now, TopicId, TopicPartition};
use parking_lot::{Mutex, RwLock};

use crate::stats::add;
use crate::{Log, LogError, LogManager};
use choose::Dirt;
use pass::{CleanError, Pass};
use throttle::Throttle;

/// The broker's settings for compaction. They may change at any time; a clean that is under way goes on with the memory
/// that it has.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanerOptions {
    /// `log.cleaner.threads`: how many workers share the memory.
    pub thread_count: usize,
    /// `log.cleaner.dedupe.buffer.size`: the most memory of all key maps together, in bytes. A clean takes what its log
    /// needs and no more than its worker's share.
    pub dedupe_buffer_bytes: usize,
    /// `log.cleaner.io.buffer.load.factor`: how full a key map may become, from 0 to 1.
    pub dedupe_buffer_load_factor: f64,
    /// `log.cleaner.io.buffer.size`: how much all workers together read in one step, in bytes.
    pub io_buffer_bytes: usize,
    /// `log.cleaner.io.max.bytes.per.second`: the most that all workers together read and write.
    pub io_max_bytes_per_second: f64,
    /// `log.cleaner.backoff.ms`: how long to wait when nothing is to be cleaned.
    pub backoff_ms: u64,
    /// What keys are hashed with; drawn at random when the process starts.
    pub hash_secret: [u64; 2],
}

impl Default for CleanerOptions {
    fn default() -> Self {
        Self {
            thread_count: 1,
            dedupe_buffer_bytes: 128 * 1024 * 1024,
            dedupe_buffer_load_factor: 0.9,
            io_buffer_bytes: 512 * 1024,
            io_max_bytes_per_second: f64::MAX,
            backoff_ms: 15_000,
            hash_secret: [0, 0],
        }
    }
}

impl CleanerOptions {
    /// What one worker's key map may take.
    fn map_bytes(&self) -> usize {
        self.dedupe_buffer_bytes / self.thread_count.max(1)
    }

    /// What one worker reads in a step.
    fn step_bytes(&self) -> u64 {
        (self.io_buffer_bytes / self.thread_count.max(1)) as u64
    }
}

/// Cleans the compacted logs of a manager.
pub struct Cleaner {
    manager: Arc<LogManager>,
    options: RwLock<Arc<CleanerOptions>>,
    state: Mutex<State>,
    throttle: Mutex<Throttle>,
}

#[derive(Default)]
struct State {
    in_progress: BTreeSet<TopicPartition>,
    /// Logs that hold something which cannot be cleaned, until the next start or until they are deleted.
    uncleanable: BTreeMap<TopicPartition, TopicId>,
    /// Logs of which nothing could be cleaned for the moment, and until when they are left alone.
    deferred: BTreeMap<TopicPartition, MonotonicMs>,
}

impl Cleaner {
    /// A cleaner that does nothing until a worker of it is driven.
    pub fn new(manager: Arc<LogManager>, options: CleanerOptions) -> Arc<Self> {
        Arc::new(Self {
            manager,
            options: RwLock::new(Arc::new(options)),
            state: Mutex::default(),
            throttle: Mutex::default(),
        })
    }

    /// A worker, for a thread of its own.
    pub fn worker(self: &Arc<Self>) -> CleanerWorker {
        CleanerWorker { cleaner: Arc::clone(self), pass: None }
    }

    /// The settings in force.
    pub fn options(&self) -> Arc<CleanerOptions> {
        Arc::clone(&self.options.read())
    }

    /// Replaces the settings, and says whether they differ: then the workers are to be woken, for what they wait for may
    /// be over.
    pub fn update_options(&self, options: CleanerOptions) -> bool {
        let mut current = self.options.write();
        if **current == options {
            return false;
        }
        *current = Arc::new(options);
        // What was owed under the old rate is forgotten.
        *self.throttle.lock() = Throttle::default();
        true
    }

    /// The logs that are left alone because they hold something which cannot be cleaned.
    pub fn uncleanable(&self) -> Vec<TopicPartition> {
        self.state.lock().uncleanable.keys().cloned().collect()
    }

    /// Takes the dirtiest log that is to be cleaned.
    fn choose(&self, now: Now) -> Option<(Arc<Log>, Dirt)> {
        let logs = self.manager.logs();
        let mut state = self.state.lock();
        state.deferred.retain(|_, until| now.monotonic < *until);
        state.uncleanable.retain(|partition, topic_id| {
            self.manager.get(partition).is_some_and(|log| log.topic_id() == *topic_id)
        });
        let mut dirtiest: Option<(Arc<Log>, Dirt)> = None;
        for log in logs {
            let config = log.config();
            let partition = log.topic_partition();
            let is_left_alone = !config.cleanup_policy.compact
                || log.check_usable().is_err()
                || state.in_progress.contains(partition)
                || state.uncleanable.contains_key(partition)
                || state.deferred.contains_key(partition);
            if is_left_alone {
                continue;
            }
            if let Err(error) = log.roll_overdue(&config, now) {
                tracing::warn!(%partition, %error, "cannot close a segment that is to be cleaned");
            }
            let Some(dirt) = log.dirt(&config, now).filter(|dirt| dirt.is_due(&config)) else { continue };
            if dirtiest.as_ref().is_none_or(|(_, best)| best.ratio < dirt.ratio) {
                dirtiest = Some((log, dirt));
            }
        }
        if let Some((log, _)) = &dirtiest {
            state.in_progress.insert(log.topic_partition().clone());
        }
        dirtiest
    }

    /// Lets go of a log after a pass.
    fn release(&self, log: &Log, now: Now, outcome: Result<(), &CleanError>) {
        let partition = log.topic_partition();
        let mut state = self.state.lock();
        state.in_progress.remove(partition);
        let counters = &self.manager.shared.counters;
        let Err(error) = outcome else {
            add(&counters.clean_count, 1);
            return;
        };
        let until = now.monotonic.plus_ms(self.options().backoff_ms);
        match error {
            CleanError::Changed => {}
            CleanError::OpenTransaction => {
                state.deferred.insert(partition.clone(), until);
            }
            // The disk is full, or its directory is offline and was reported; neither is the log's fault.
            CleanError::Log(LogError::DiskFull { .. } | LogError::Offline { .. } | LogError::Closed) => {
                tracing::warn!(%partition, %error, "cannot clean the log; it is tried again");
                state.deferred.insert(partition.clone(), until);
            }
            CleanError::Batch { .. }
            | CleanError::Read { .. }
            | CleanError::TooLarge(_)
            | CleanError::MapTooSmall
            | CleanError::Log(_) => {
                add(&counters.uncleanable_count, 1);
                state.uncleanable.insert(partition.clone(), log.topic_id());
                tracing::error!(
                    %partition, %error,
                    "the log is not compacted any more and grows from now on; the others are: restore the named file \
                     from another replica, or delete its records, and restart"
                );
            }
        }
    }
}

/// Cleans one log at a time.
pub struct CleanerWorker {
    cleaner: Arc<Cleaner>,
    pass: Option<Pass>,
}

impl CleanerWorker {
    /// Does a small piece of work, and says when it wants to be called again.
    pub fn step(&mut self, now: Now) -> MonotonicMs {
        let options = self.cleaner.options();
        let Some(mut pass) = self.pass.take() else {
            let delay_ms = if self.begin(now, &options) { 0 } else { options.backoff_ms };
            return now.monotonic.plus_ms(delay_ms);
        };
        let outcome = pass.step(now, options.step_bytes());
        let counters = &self.cleaner.manager.shared.counters;
        match outcome {
            Ok(progress) => {
                add(&counters.clean_io_bytes, progress.io_bytes);
                if progress.is_done {
                    self.finish(&pass, now);
                } else {
                    self.pass = Some(pass);
                }
                let limit = options.io_max_bytes_per_second;
                self.cleaner.throttle.lock().spend(now.monotonic, progress.io_bytes, limit)
            }
            Err(error) => {
                let log = Arc::clone(&pass.log);
                pass.abandon();
                self.cleaner.release(&log, now, Err(&error));
                now.monotonic
            }
        }
    }

    /// Whether a clean is under way.
    pub fn is_busy(&self) -> bool {
        self.pass.is_some()
    }

    /// Bytes of the key map of the clean that is under way.
    pub fn map_bytes(&self) -> usize {
        self.pass.as_ref().map_or(0, Pass::map_bytes)
    }

    /// Gives up the clean that is under way; a later one begins it anew.
    pub fn abandon(&mut self, now: Now) {
        if let Some(pass) = self.pass.take() {
            let log = Arc::clone(&pass.log);
            pass.abandon();
            self.cleaner.release(&log, now, Err(&CleanError::Changed));
        }
    }

    fn begin(&mut self, now: Now, options: &CleanerOptions) -> bool {
        if self.cleaner.manager.holds_deletions() {
            return false;
        }
        let Some((log, dirt)) = self.cleaner.choose(now) else { return false };
        let config = log.config();
        match Pass::begin(Arc::clone(&log), config, dirt, options, now) {
            Ok(pass) => self.pass = Some(pass),
            Err(error) => self.cleaner.release(&log, now, Err(&error)),
        }
        true
    }

    /// All is in place: notes how far the log is clean.
    fn finish(&self, pass: &Pass, now: Now) {
        let log = &pass.log;
        log.finish_clean(pass.cut_count, pass.end_offset());
        let written = self.cleaner.manager.write_cleaner_offsets(&log.dir);
        if let Err(error) = written {
            tracing::warn!(partition = %log.topic_partition(), %error, "cannot note how far the log is clean; it is tried again");
        }
        tracing::info!(
            partition = %log.topic_partition(),
            cleaned_up_to = pass.end_offset(),
            read_bytes = pass.read_bytes,
            written_bytes = pass.written_bytes,
            freed_bytes = pass.replaced_bytes,
            "cleaned the log"
        );
        self.cleaner.release(log, now, Ok(()));
    }
}
