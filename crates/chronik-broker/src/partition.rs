//! One partition as this broker serves it: its log, its leadership, and who waits for it.
//!
//! Two threads at once meet here, and only here on the data path: the append queue (whoever finds the log free
//! writes for all that are queued), the high watermark, and the waiters. A parked fetch registers itself before
//! it looks at the high watermark a last time; an append moves the high watermark before it looks at the waiters.
//! So one of the two always sees the other, and no wake-up is lost.
//!
//! Locks are taken in this order: `appending`, then `replicas`. Nobody is called with either held.

mod replicas;
mod replication;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};

use bytes::BytesMut;
use chronik_log::{
    AppendError, AppendOrigin, Appended, FlushQueue, Log, LogError, PendingBatch, ValidatedBatch,
};
use chronik_raft::MetadataLog;
use chronik_types::{ErrorCode, LeaderEpoch, NodeId, Now, Offset, PartitionIndex, TopicId};
use parking_lot::Mutex;

use crate::clock::SharedClock;
use crate::stats::TrafficCounters;

pub(crate) use replication::{Applied, LeaderAnswer, Standing, position_in};

use replicas::{Committing, Replicas, Trimming, deposed, fail, undecided};

/// Called once with what became of an append, when it may be acknowledged: when it is committed, or, for those who
/// do not ask for that, when it is in the leader's log.
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
    pub(crate) node_id: NodeId,
    /// Takes changes of the ISR.
    pub(crate) metadata: Arc<dyn MetadataLog>,
    pub(crate) flush_queue: Arc<FlushQueue>,
    pub(crate) clock: SharedClock,
}

/// One partition of one topic on this broker.
pub(crate) struct Partition {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) index: PartitionIndex,
    pub(crate) traffic: TrafficCounters,
    log: Arc<Log>,
    services: Arc<PartitionServices>,
    leader_epoch: AtomicI32,
    is_leader: AtomicBool,
    /// Others have replicas of it, so that it may be given to them.
    is_shared: AtomicBool,
    is_deleted: AtomicBool,
    /// The disk has kept it from becoming what the image says.
    pub(crate) is_behind: AtomicBool,
    /// Nobody counts on what a follower has: the cluster knows that it may lack records.
    may_cut: AtomicBool,
    /// The last append found the disk full. The log says so once, not for each batch that is refused.
    is_disk_full: AtomicBool,
    /// The last read failed.
    is_unreadable: AtomicBool,
    high_watermark: AtomicI64,
    appends: Mutex<Vec<AppendJob>>,
    appending: Mutex<()>,
    replicas: Mutex<Replicas>,
    /// Told of what is committed.
    watchers: Mutex<BTreeMap<u64, Arc<dyn Watcher>>>,
    /// Told of what is in the log: followers.
    append_watchers: Mutex<BTreeMap<u64, Arc<dyn Watcher>>>,
}

struct AppendJob {
    batch: ValidatedBatch,
    confirmation: Confirmation,
    /// Written in this leader epoch or not at all; in whichever it is where there is none.
    only_in: Option<LeaderEpoch>,
    done: AppendDone,
}

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// When it is in the leader's log (`acks` 0 and 1).
    Appended,
    /// When all replicas in sync have it (`acks=all`).
    Committed,
}

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        topic_id: TopicId,
        index: PartitionIndex,
        log: Arc<Log>,
        services: Arc<PartitionServices>,
    ) -> Self {
        // What is committed beyond that is known once this broker leads, or hears from its leader.
        let high_watermark = log.high_watermark();
        Self {
            topic,
            topic_id,
            index,
            traffic: TrafficCounters::default(),
            log,
            services,
            leader_epoch: AtomicI32::new(LeaderEpoch::NONE.get()),
            is_leader: AtomicBool::new(false),
            is_shared: AtomicBool::new(false),
            is_deleted: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            may_cut: AtomicBool::new(false),
            is_disk_full: AtomicBool::new(false),
            is_unreadable: AtomicBool::new(false),
            high_watermark: AtomicI64::new(high_watermark.get()),
            appends: Mutex::new(Vec::new()),
            appending: Mutex::new(()),
            replicas: Mutex::default(),
            watchers: Mutex::new(BTreeMap::new()),
            append_watchers: Mutex::new(BTreeMap::new()),
        }
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

    /// Says why the partition cannot be served now, if so: another broker leads it, or may do so by now.
    pub(crate) fn check_leader(&self) -> Result<(), ErrorCode> {
        self.check_role()?;
        if self.may_be_replaced() { Err(ErrorCode::NotLeaderOrFollower) } else { Ok(()) }
    }

    /// Whether the cluster may have given the lead to another broker without this one's knowing.
    pub(crate) fn may_be_replaced(&self) -> bool {
        self.is_shared.load(Ordering::Acquire)
            && self.services.metadata.contact_until() < self.services.clock.now().monotonic
    }

    /// The same, as far as this broker knows.
    pub(crate) fn check_role(&self) -> Result<(), ErrorCode> {
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

    /// Queues a batch, which is confirmed once it is committed.
    #[cfg(test)]
    pub(crate) fn append(
        self: &Arc<Self>,
        now: Now,
        batch: BytesMut,
        origin: AppendOrigin,
        done: AppendDone,
    ) {
        self.append_with(now, batch, origin, Confirmation::Committed, done);
    }

    /// Queues a batch that a coordinator of this leader epoch has decided, which is confirmed once it is committed. In
    /// another epoch it would contradict what others have decided meanwhile, and is refused (replication points 9 and 14).
    pub(crate) fn append_in(
        self: &Arc<Self>,
        now: Now,
        epoch: LeaderEpoch,
        batch: BytesMut,
        done: AppendDone,
    ) {
        let pending = PendingBatch { batch, origin: AppendOrigin::Coordinator };
        self.enqueue(now, pending, Confirmation::Committed, Some(epoch), done);
    }

    /// Checks a batch on this thread, and queues it. It is written by this call, or by another thread that is writing to
    /// this partition now.
    pub(crate) fn append_with(
        self: &Arc<Self>,
        now: Now,
        batch: BytesMut,
        origin: AppendOrigin,
        confirmation: Confirmation,
        done: AppendDone,
    ) {
        self.enqueue(now, PendingBatch { batch, origin }, confirmation, None, done);
    }

    fn enqueue(
        self: &Arc<Self>,
        now: Now,
        pending: PendingBatch,
        confirmation: Confirmation,
        only_in: Option<LeaderEpoch>,
        done: AppendDone,
    ) {
        match self.log.validate(now, pending) {
            Ok(batch) => {
                self.appends.lock().push(AppendJob { batch, confirmation, only_in, done });
                self.drain(now);
            }
            Err(error) => done(now, Err(error)),
        }
    }

    /// Does `work` while nobody appends, then `follow_up` with what that gave, and then answers those who came meanwhile and
    /// left their batches in the queue. They come last, as their batches may have to be written.
    fn without_appends<T, U>(
        self: &Arc<Self>,
        now: Now,
        work: impl FnOnce() -> T,
        follow_up: impl FnOnce(T) -> U,
    ) -> U {
        let done = {
            let _appending = self.appending.lock();
            work()
        };
        let done = follow_up(done);
        self.drain(now);
        done
    }

    /// The log's end; nothing, while a coordinator's batch may be on its way there.
    pub(crate) fn end_of_decisions(self: &Arc<Self>, now: Now) -> Option<Offset> {
        let appending = self.appending.try_lock()?;
        let is_decided = self.appends.lock().iter().all(|job| job.only_in.is_none());
        let end = self.log.log_end_offset();
        drop(appending);
        // Others have left their batches to whoever held it.
        self.drain(now);
        is_decided.then_some(end)
    }

    /// Writes what is queued, unless another thread does so already. Whoever has held `appending` for another reason calls it
    /// afterwards, as [`without_appends`](Self::without_appends) does.
    fn drain(self: &Arc<Self>, now: Now) {
        // Whoever pushes after the holder's last look at the queue finds the lock free: the holder looks again
        // after it has let go.
        while !self.appends.lock().is_empty() {
            let Some(appending) = self.appending.try_lock() else { return };
            let jobs = std::mem::take(&mut *self.appends.lock());
            if jobs.is_empty() {
                continue;
            }
            // No role begins while `appending` is held.
            let epoch = self.leader_epoch();
            let (jobs, late): (Vec<_>, Vec<_>) =
                jobs.into_iter().partition(|job| job.only_in.is_none_or(|only| only == epoch));
            let (batches, waiting): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.batch, (job.confirmation, job.done))).unzip();
            let sizes: Vec<u64> = batches.iter().map(|batch| batch.size_bytes() as u64).collect();
            let results = if self.is_deleted.load(Ordering::Acquire) {
                batches.iter().map(|_| Err(AppendError::Log(LogError::Closed))).collect()
            } else if self.is_leader.load(Ordering::Acquire) {
                self.log.append_validated(now, batches, epoch)
            } else {
                // It was deposed while they queued up.
                batches.iter().map(|_| Err(deposed(epoch, epoch))).collect()
            };
            let written = Written::of(&results, &sizes);
            if let Some(written) = &written {
                // Noted before anybody else can append: the ends must arrive in order.
                self.replicas.lock().wrote(
                    written.end,
                    written.bytes,
                    written.sync_up_to.is_some().then_some(written.first),
                );
            }
            drop(appending);
            self.settle(now, epoch, written, results, waiting);
            for job in late {
                (job.done)(now, Err(deposed(job.only_in.unwrap_or(epoch), epoch)));
            }
        }
    }

    /// Tells everyone what was appended: at once, or after the sync that `flush.messages` asks for.
    fn settle(
        self: &Arc<Self>,
        now: Now,
        epoch: LeaderEpoch,
        written: Option<Written>,
        results: Vec<Result<Appended, AppendError>>,
        waiting: Vec<(Confirmation, AppendDone)>,
    ) {
        debug_assert_eq!(results.len(), waiting.len(), "append_many answers each batch");
        let failed_count = results.iter().filter(|result| result.is_err()).count();
        let (records, bytes) =
            written.as_ref().map_or((0, 0), |written| (written.record_count, written.bytes));
        self.traffic.produced(results.len(), failed_count, records, bytes);
        self.watch_disk(&results);
        if let Some(written) = &written {
            // Followers fetch what is in the log, committed or not.
            wake(&self.append_watchers, now, written.bytes);
        }
        let sync_up_to = results.iter().flatten().filter_map(|appended| appended.sync_up_to).max();
        let Some(sync_up_to) = sync_up_to else {
            self.confirm(now, epoch, results, waiting);
            return;
        };
        let partition = Arc::clone(self);
        let finish = Box::new(move |synced: Result<Offset, LogError>| {
            let now = partition.services.clock.now();
            match synced {
                Ok(_) => {
                    if let Some(written) = &written {
                        let mut replicas = partition.replicas.lock();
                        if replicas.leads_in(epoch) {
                            replicas.synced(written.first);
                        }
                    }
                    partition.confirm(now, epoch, results, waiting);
                }
                // LOG-3: the directory is offline. What waits for this sync, or behind it, is never committed.
                Err(error) => {
                    for ((_, done), result) in waiting.into_iter().zip(results) {
                        done(now, result.and(Err(AppendError::Log(error.clone()))));
                    }
                    let behind = partition.replicas.lock().take_all();
                    for Committing { done, .. } in behind {
                        done(now, Err(AppendError::Log(error.clone())));
                    }
                }
            }
        });
        // The queue wakes its thread itself, whoever asks first.
        self.services.flush_queue.request(&self.log, sync_up_to, Some(finish));
    }

    /// Notes how a read went; whether that is news.
    pub(crate) fn note_read(&self, succeeded: bool) -> bool {
        self.is_unreadable.load(Ordering::Relaxed) == succeeded
            && self.is_unreadable.swap(!succeeded, Ordering::Relaxed) == succeeded
    }

    /// Counts what this broker has written in `epoch`, and answers those who wait for no more than that, or for what is
    /// committed by now. The others wait on. Where another epoch has begun meanwhile, what was written may have been cut
    /// away, and others' records may stand in its place.
    fn confirm(
        self: &Arc<Self>,
        now: Now,
        epoch: LeaderEpoch,
        results: Vec<Result<Appended, AppendError>>,
        waiting: Vec<(Confirmation, AppendDone)>,
    ) {
        let mut ready = Vec::with_capacity(results.len());
        let deferred = {
            let mut replicas = self.replicas.lock();
            let leads = replicas.leads_in(epoch);
            let end = replicas.counted_end();
            let effects =
                replicas.leader().filter(|_| leads).map(|leader| leader.appended(now.monotonic, end));
            let deferred = self.follow_up(&mut replicas, effects.unwrap_or_default());
            let high_watermark = self.high_watermark();
            for ((confirmation, done), result) in waiting.into_iter().zip(results) {
                match result {
                    Ok(appended) if confirmation == Confirmation::Committed && !leads => {
                        ready.push((done, Err(undecided(&appended))));
                    }
                    Ok(appended)
                        if confirmation == Confirmation::Committed
                            && high_watermark <= appended.last_offset =>
                    {
                        if let Some(Committing { appended, done }) =
                            replicas.wait(Committing { appended, done })
                        {
                            ready.push((done, Err(undecided(&appended))));
                        }
                    }
                    result => ready.push((done, result)),
                }
            }
            deferred
        };
        self.run(now, deferred);
        for (done, result) in ready {
            done(now, result);
        }
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

    /// Tells `watcher`, known as `id`, of everything that becomes readable from now on.
    pub(crate) fn watch(&self, id: u64, watcher: Arc<dyn Watcher>) {
        self.watchers.lock().insert(id, watcher);
    }

    /// Forgets a watcher.
    pub(crate) fn unwatch(&self, id: u64) {
        let committed = self.watchers.lock().remove(&id);
        let appended = self.append_watchers.lock().remove(&id);
        drop((committed, appended));
    }

    /// Tells `watcher`, known as `id`, of everything that is appended from now on.
    pub(crate) fn watch_appends(&self, id: u64, watcher: Arc<dyn Watcher>) {
        self.append_watchers.lock().insert(id, watcher);
    }

    /// The topic was deleted: nothing more is appended, and everyone who waits is woken to see it.
    pub(crate) fn retire(self: &Arc<Self>, now: Now) {
        self.is_deleted.store(true, Ordering::Release);
        self.is_leader.store(false, Ordering::Release);
        // An append that is under way finishes before the log goes; those that queued up meanwhile are refused.
        let begin = || {
            let mut replicas = self.replicas.lock();
            let waiting = replicas.begin(replicas::Role::None, self.log.log_end_offset());
            (waiting, replicas.take_all_trimming())
        };
        self.without_appends(now, begin, |(waiting, trimming)| {
            for Trimming { done, .. } in trimming {
                done(Err(ErrorCode::UnknownTopicOrPartition));
            }
            for Committing { done, .. } in waiting {
                done(now, Err(AppendError::Log(LogError::Closed)));
            }
            self.wake_everyone(now);
        });
    }

    /// This broker may have been replaced: whoever waits for it as the leader is told to look elsewhere. What is
    /// under way may yet be committed, as with any leader that is deposed.
    pub(crate) fn lose_contact(self: &Arc<Self>, now: Now) {
        if self.check_role().is_err() || !self.may_be_replaced() {
            return;
        }
        let (waiting, trimming) = {
            let mut replicas = self.replicas.lock();
            (replicas.take_all(), replicas.take_all_trimming())
        };
        fail(now, waiting, trimming);
        wake(&self.watchers, now, u64::MAX);
    }

    /// Wakes all who wait, however little there is to see.
    fn wake_everyone(&self, now: Now) {
        wake(&self.watchers, now, u64::MAX);
        wake(&self.append_watchers, now, u64::MAX);
    }
}

/// What a group of appends wrote.
struct Written {
    /// The first offset.
    first: Offset,
    /// The log's end after it.
    end: Offset,
    record_count: i64,
    bytes: u64,
    /// Where `flush.messages` asks for a sync.
    sync_up_to: Option<Offset>,
}

impl Written {
    /// `None` where nothing was written, as when all are duplicates.
    fn of(results: &[Result<Appended, AppendError>], sizes: &[u64]) -> Option<Self> {
        let mut written: Option<Self> = None;
        for (appended, bytes) in
            results.iter().zip(sizes).filter_map(|(result, size)| Some((result.as_ref().ok()?, *size)))
        {
            if appended.is_duplicate {
                continue;
            }
            let end = appended.last_offset.next();
            let record_count = end.get() - appended.first_offset.get();
            match &mut written {
                Some(written) => {
                    written.end = written.end.max(end);
                    written.record_count += record_count;
                    written.bytes += bytes;
                    written.sync_up_to = written.sync_up_to.max(appended.sync_up_to);
                }
                None => {
                    written = Some(Self {
                        first: appended.first_offset,
                        end,
                        record_count,
                        bytes,
                        sync_up_to: appended.sync_up_to,
                    });
                }
            }
        }
        written
    }
}

fn wake(watchers: &Mutex<BTreeMap<u64, Arc<dyn Watcher>>>, now: Now, bytes: u64) {
    let ready: Vec<Arc<dyn Watcher>> =
        watchers.lock().values().filter(|watcher| watcher.arrived(bytes)).cloned().collect();
    for watcher in ready {
        watcher.wake(now);
    }
}
