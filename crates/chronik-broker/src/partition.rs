//! One partition as this broker serves it: its log, its leadership, and who waits for it.
//!
//! Two threads at once meet here, and only here on the data path: the append queue (whoever finds the log free
//! writes for all that are queued), the high watermark, and the waiters. A parked fetch registers itself before
//! it looks at the high watermark a last time; an append moves the high watermark before it looks at the waiters.
//! So one of the two always sees the other, and no wake-up is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};

use bytes::BytesMut;
use chronik_log::{AppendError, AppendOrigin, Appended, FlushQueue, Log, LogError, PendingBatch};
use chronik_types::{ErrorCode, LeaderEpoch, Now, Offset, PartitionIndex};
use parking_lot::Mutex;

use crate::clock::SharedClock;
use crate::stats::TrafficCounters;

/// Called once with what became of an append, when it may be acknowledged.
pub(crate) type AppendDone = Box<dyn FnOnce(Now, Result<Appended, AppendError>) + Send>;

/// Told that records have become readable. It is called without any lock held.
pub(crate) trait Watcher: Send + Sync {
    /// `bytes` more can be read; returns whether the watcher has now seen enough to be woken.
    fn arrived(&self, bytes: u64) -> bool;
    /// It has seen enough.
    fn wake(self: Arc<Self>, now: Now);
}

/// What partitions share with the broker.
pub(crate) struct PartitionServices {
    pub(crate) flush_queue: Arc<FlushQueue>,
    pub(crate) clock: SharedClock,
}

/// One partition of one topic on this broker.
pub(crate) struct Partition {
    pub(crate) topic: Arc<str>,
    pub(crate) index: PartitionIndex,
    pub(crate) traffic: TrafficCounters,
    log: Arc<Log>,
    services: Arc<PartitionServices>,
    leader_epoch: AtomicI32,
    is_leader: AtomicBool,
    is_deleted: AtomicBool,
    /// The last append found the disk full. The log says so once, not for each batch that is refused.
    is_disk_full: AtomicBool,
    high_watermark: AtomicI64,
    appends: Mutex<Vec<AppendJob>>,
    appending: Mutex<()>,
    advancing: Mutex<()>,
    watchers: Mutex<BTreeMap<u64, Arc<dyn Watcher>>>,
}

struct AppendJob {
    pending: PendingBatch,
    done: AppendDone,
}

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        index: PartitionIndex,
        log: Arc<Log>,
        services: Arc<PartitionServices>,
    ) -> Self {
        // With one replica everything that is in the log is committed.
        let high_watermark = log.log_end_offset();
        log.set_high_watermark(high_watermark);
        Self {
            topic,
            index,
            traffic: TrafficCounters::default(),
            log,
            services,
            leader_epoch: AtomicI32::new(LeaderEpoch::NONE.get()),
            is_leader: AtomicBool::new(false),
            is_deleted: AtomicBool::new(false),
            is_disk_full: AtomicBool::new(false),
            high_watermark: AtomicI64::new(high_watermark.get()),
            appends: Mutex::new(Vec::new()),
            appending: Mutex::new(()),
            advancing: Mutex::new(()),
            watchers: Mutex::new(BTreeMap::new()),
        }
    }

    /// Takes the lead in `leader_epoch`. The epoch is in the log before anything is appended under it.
    pub(crate) fn become_leader(
        self: &Arc<Self>,
        now: Now,
        leader_epoch: LeaderEpoch,
    ) -> Result<(), LogError> {
        {
            let _appending = self.appending.lock();
            if self.leader_epoch() < leader_epoch {
                self.log.begin_epoch(leader_epoch)?;
                self.leader_epoch.store(leader_epoch.get(), Ordering::Release);
            }
            self.is_leader.store(true, Ordering::Release);
        }
        self.drain(now);
        Ok(())
    }

    /// The log itself.
    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The epoch in which this broker leads, −1 before the first.
    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leader_epoch.load(Ordering::Acquire))
    }

    /// Everything below this offset is committed and may be read.
    pub(crate) fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::SeqCst))
    }

    /// Everything below this offset is decided: no transaction below it is open.
    pub(crate) fn last_stable_offset(&self) -> Offset {
        let high_watermark = self.high_watermark();
        self.log.first_unstable_offset().map_or(high_watermark, |first| first.min(high_watermark))
    }

    /// Says why the partition cannot be served now, if so.
    pub(crate) fn check_leader(&self) -> Result<(), ErrorCode> {
        if self.is_deleted.load(Ordering::Acquire) {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        if self.is_leader.load(Ordering::Acquire) { Ok(()) } else { Err(ErrorCode::NotLeaderOrFollower) }
    }

    /// Compares the leader epoch that a client knows (−1: none) with the one in force (KIP-320).
    pub(crate) fn check_leader_epoch(&self, known: i32) -> Result<(), ErrorCode> {
        let current = self.leader_epoch().get();
        if known == LeaderEpoch::NONE.get() || known == current {
            Ok(())
        } else if known < current {
            Err(ErrorCode::FencedLeaderEpoch)
        } else {
            Err(ErrorCode::UnknownLeaderEpoch)
        }
    }

    /// Queues a batch. It is written by this call, or by another thread that is writing to this partition now.
    pub(crate) fn append(
        self: &Arc<Self>,
        now: Now,
        batch: BytesMut,
        origin: AppendOrigin,
        done: AppendDone,
    ) {
        self.appends.lock().push(AppendJob { pending: PendingBatch { batch, origin }, done });
        self.drain(now);
    }

    /// Writes what is queued, unless another thread does so already. Whoever held `appending` for another reason
    /// calls this afterwards, because those who came meanwhile have left their batches in the queue.
    fn drain(self: &Arc<Self>, now: Now) {
        // Whoever pushes after the holder's last look at the queue finds the lock free: the holder looks again
        // after it has let go.
        while !self.appends.lock().is_empty() {
            let Some(appending) = self.appending.try_lock() else { return };
            let jobs = std::mem::take(&mut *self.appends.lock());
            if jobs.is_empty() {
                continue;
            }
            let (batches, dones): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.pending, job.done)).unzip();
            let sizes: Vec<u64> = batches.iter().map(|pending| pending.batch.len() as u64).collect();
            let results = if self.is_deleted.load(Ordering::Acquire) {
                batches.iter().map(|_| Err(AppendError::Log(LogError::Closed))).collect()
            } else {
                self.log.append_many(now, batches, self.leader_epoch())
            };
            drop(appending);
            self.settle(now, sizes, results, dones);
        }
    }

    /// Commits what was appended and tells everyone: at once, or after the sync that `flush.messages` asks for.
    fn settle(
        self: &Arc<Self>,
        now: Now,
        sizes: Vec<u64>,
        results: Vec<Result<Appended, AppendError>>,
        dones: Vec<AppendDone>,
    ) {
        debug_assert_eq!(results.len(), dones.len(), "append_many answers each batch");
        let mut end = None;
        let mut bytes = 0;
        let mut records = 0;
        let mut sync_up_to = None;
        for (result, size) in results.iter().zip(sizes) {
            if let Ok(appended) = result {
                sync_up_to = sync_up_to.max(appended.sync_up_to);
                if !appended.is_duplicate {
                    end = end.max(Some(appended.last_offset.next()));
                    bytes += size;
                    records += appended.last_offset.get() - appended.first_offset.get() + 1;
                }
            }
        }
        let failed = results.iter().filter(|result| result.is_err()).count();
        self.traffic.produced(results.len(), failed, records, bytes);
        self.watch_disk(&results);
        let Some(sync_up_to) = sync_up_to else {
            if let Some(end) = end {
                self.advance_high_watermark(now, end, bytes);
            }
            for (done, result) in dones.into_iter().zip(results) {
                done(now, result);
            }
            return;
        };
        let partition = Arc::clone(self);
        let finish = Box::new(move |synced: Result<Offset, LogError>| {
            let now = partition.services.clock.now();
            if synced.is_ok()
                && let Some(end) = end
            {
                partition.advance_high_watermark(now, end, bytes);
            }
            for (done, result) in dones.into_iter().zip(results) {
                let result = match (&synced, result) {
                    (Ok(_), result) | (Err(_), result @ Err(_)) => result,
                    (Err(error), Ok(_)) => Err(AppendError::Log(error.clone())),
                };
                done(now, result);
            }
        });
        // The queue wakes its thread itself, whoever asks first.
        self.services.flush_queue.request(&self.log, sync_up_to, Some(finish));
    }

    /// Tells the operator when the disk has become full, and when appends succeed again.
    fn watch_disk(&self, results: &[Result<Appended, AppendError>]) {
        let full = results.iter().find_map(|result| match result {
            Err(AppendError::Log(error @ LogError::DiskFull { .. })) => Some(error),
            Ok(_) | Err(_) => None,
        });
        let (topic, partition) = (&*self.topic, self.index.get());
        match full {
            Some(error) if !self.is_disk_full.swap(true, Ordering::Relaxed) => {
                tracing::error!(topic, partition, "refusing records until there is space again: {error}");
            }
            None if results.iter().any(Result::is_ok) && self.is_disk_full.swap(false, Ordering::Relaxed) => {
                tracing::info!(topic, partition, "there is space again, and records are accepted");
            }
            Some(_) | None => {}
        }
    }

    fn advance_high_watermark(&self, now: Now, to: Offset, bytes: u64) {
        {
            // REPL-1: the high watermark never goes back within a leader epoch, here or in the log, whichever of two
            // appends comes here first.
            let _advancing = self.advancing.lock();
            if self.high_watermark() < to {
                self.high_watermark.store(to.get(), Ordering::SeqCst);
                self.log.set_high_watermark(to);
            }
        }
        self.wake_watchers(now, bytes);
    }

    fn wake_watchers(&self, now: Now, bytes: u64) {
        let ready: Vec<Arc<dyn Watcher>> =
            self.watchers.lock().values().filter(|watcher| watcher.arrived(bytes)).cloned().collect();
        for watcher in ready {
            watcher.wake(now);
        }
    }

    /// Tells `watcher`, known as `id`, of everything that becomes readable from now on.
    pub(crate) fn watch(&self, id: u64, watcher: Arc<dyn Watcher>) {
        self.watchers.lock().insert(id, watcher);
    }

    /// Forgets a watcher.
    pub(crate) fn unwatch(&self, id: u64) {
        let removed = self.watchers.lock().remove(&id);
        drop(removed);
    }

    /// The topic was deleted: nothing more is appended, and everyone who waits is woken to see it.
    pub(crate) fn retire(self: &Arc<Self>, now: Now) {
        self.is_deleted.store(true, Ordering::Release);
        self.is_leader.store(false, Ordering::Release);
        // An append that is under way finishes before the log goes; those that queued up meanwhile are refused.
        drop(self.appending.lock());
        self.drain(now);
        self.wake_watchers(now, u64::MAX);
    }
}
