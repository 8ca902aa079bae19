//! Loads shards in the background: one after the other, a chunk at a time, on the thread of the timers.
//!
//! A turn reads no more than [`TURN_BYTES_MAX`], so that what else is due is late by milliseconds at most however
//! large the log of the groups has become. Requests never wait for a load; they hear `COORDINATOR_LOAD_IN_PROGRESS`.

use std::collections::VecDeque;
use std::sync::Arc;

use chronik_types::{ErrorCode, MonotonicMs, Now};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::timers::Expire;

use super::BrokerRef;
use super::load::{CHUNK_BYTES_MAX, Load, LoadError, Progress};
use super::shard::Shard;

/// How much one turn reads, in bytes.
const TURN_BYTES_MAX: usize = CHUNK_BYTES_MAX;
/// What opening a log counts for, in bytes: its files may have to be made.
const OPEN_COST_BYTES: usize = 64 * 1024;
/// The pause between two turns, in which the other timers have theirs.
const TURN_PAUSE_MS: u64 = 1;
/// How long to wait for the rest of a log to be committed before looking again. Followers take milliseconds.
const NOT_COMMITTED_PAUSE_MS: u64 = 20;
/// How long after a failure a shard is read again, at the most. What failed is a disk or the log itself, which a human mends.
const RETRY_MS: u64 = 10_000;
/// How long after the first failure: what was read wrongly once may be right the next time. It doubles from one to the next.
const FIRST_RETRY_MS: u64 = 100;

/// The shards that are being loaded. Bounded by the partitions of `__consumer_offsets`, each of which has one shard.
pub(super) struct Loader {
    broker: BrokerRef,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// The earliest turn that has been arranged for.
    armed: Option<MonotonicMs>,
}

struct Job {
    shard: Arc<Shard>,
    /// `None` until its first turn.
    load: Option<Load>,
    /// Not to be looked at before.
    not_before: MonotonicMs,
    started: Now,
    /// How long to wait after the next failure, in milliseconds.
    next_retry_ms: u64,
}

impl Loader {
    pub(super) fn new(broker: BrokerRef) -> Self {
        Self { broker, queue: Mutex::default() }
    }

    /// Has `shard` loaded.
    pub(super) fn load(self: &Arc<Self>, broker: &Arc<Broker>, now: Now, shard: Arc<Shard>) {
        let not_before = now.monotonic;
        self.queue.lock().waiting.push_back(Job {
            shard,
            load: None,
            not_before,
            started: now,
            next_retry_ms: FIRST_RETRY_MS,
        });
        self.arm(broker, not_before);
    }

    /// Somebody asks for `shard`, which comes before the others then. If its log is empty, as that of a new topic is,
    /// it is loaded by this call, so that the first member of the first group need not come again.
    pub(super) fn hurry(self: &Arc<Self>, broker: &Arc<Broker>, shard: &Arc<Shard>) {
        if let Some(job) = self.take_unbegun(shard) {
            self.begin_first(broker, job);
        }
    }

    /// The same, with something that happens while the job is out of the queue.
    #[cfg(test)]
    pub(super) fn hurry_around(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        shard: &Arc<Shard>,
        meanwhile: impl FnOnce(),
    ) {
        let job = self.take_unbegun(shard).expect("its load has not begun");
        meanwhile();
        self.begin_first(broker, job);
    }

    fn begin_first(self: &Arc<Self>, broker: &Arc<Broker>, mut job: Job) {
        if job.begin(broker).is_ok_and(|load| load.is_empty()) {
            job.finish(broker);
        } else {
            let not_before = job.not_before;
            self.queue.lock().waiting.push_front(job);
            // Its turn may have come and gone while it was out of the queue.
            self.arm(broker, not_before);
        }
    }

    fn take_unbegun(&self, shard: &Arc<Shard>) -> Option<Job> {
        let mut queue = self.queue.lock();
        let position =
            queue.waiting.iter().position(|job| job.load.is_none() && Arc::ptr_eq(&job.shard, shard))?;
        queue.waiting.remove(position)
    }

    /// Arranges for a turn at `deadline`, unless there is one before that.
    fn arm(self: &Arc<Self>, broker: &Arc<Broker>, deadline: MonotonicMs) {
        {
            let mut queue = self.queue.lock();
            if queue.armed.is_some_and(|armed| armed <= deadline) {
                return;
            }
            queue.armed = Some(deadline);
        }
        broker.timers.arm(deadline, Arc::clone(self) as Arc<dyn Expire>);
    }

    /// Loads what is due, up to the bound of a turn, and gives when to go on.
    fn turn(self: &Arc<Self>, broker: &Arc<Broker>, now: Now) -> Option<MonotonicMs> {
        let mut read_bytes = 0_usize;
        let job_count = self.queue.lock().waiting.len();
        for _ in 0..job_count {
            let Some(mut job) = self.queue.lock().waiting.pop_front() else { break };
            if job.not_before > now.monotonic {
                self.queue.lock().waiting.push_back(job);
                continue;
            }
            loop {
                if TURN_BYTES_MAX <= read_bytes {
                    // First in line, so that shards become ready one by one.
                    self.queue.lock().waiting.push_front(job);
                    return Some(now.monotonic.plus_ms(TURN_PAUSE_MS));
                }
                if job.load.is_none() {
                    read_bytes = read_bytes.saturating_add(OPEN_COST_BYTES);
                }
                match job.step(broker, now) {
                    Ok(Progress::More(bytes)) => read_bytes = read_bytes.saturating_add(bytes.max(1)),
                    Ok(Progress::NotCommitted) => {
                        job.not_before = now.monotonic.plus_ms(NOT_COMMITTED_PAUSE_MS);
                        self.queue.lock().waiting.push_back(job);
                        break;
                    }
                    Ok(Progress::Done) => {
                        job.finish(broker);
                        break;
                    }
                    Err(Abandoned { retry_ms }) => {
                        job.load = None;
                        job.not_before = now.monotonic.plus_ms(retry_ms);
                        if job.shard.is_loading(now) {
                            self.queue.lock().waiting.push_back(job);
                        }
                        break;
                    }
                }
            }
        }
        self.queue.lock().waiting.iter().map(|job| job.not_before).min()
    }
}

/// A load that came to nothing; the reason has been logged where somebody has to do something about it.
struct Abandoned {
    /// When to try again, in milliseconds.
    retry_ms: u64,
}

impl Job {
    /// The load, begun now where it has not been before.
    fn begin(&mut self, broker: &Arc<Broker>) -> Result<&mut Load, Abandoned> {
        match &mut self.load {
            Some(load) => Ok(load),
            none => {
                let partition = self.shard.open(broker).map_err(|error| Abandoned {
                    // The partition has not taken up yet that it leads.
                    retry_ms: if error == ErrorCode::NotLeaderOrFollower {
                        NOT_COMMITTED_PAUSE_MS
                    } else {
                        RETRY_MS
                    },
                })?;
                let end = partition.end_of_decisions(broker.clock.now());
                let end = end.ok_or(Abandoned { retry_ms: NOT_COMMITTED_PAUSE_MS })?;
                Ok(none.insert(Load::new(partition, broker.new_coordinator(), end)))
            }
        }
    }

    fn step(&mut self, broker: &Arc<Broker>, now: Now) -> Result<Progress, Abandoned> {
        if !self.shard.is_loading(now) {
            return Err(Abandoned { retry_ms: RETRY_MS });
        }
        let load = self.begin(broker)?;
        let progress = load.read_chunk().inspect_err(|error| log_failure(load, error));
        progress.map_err(|_| {
            let retry_ms = self.next_retry_ms;
            self.next_retry_ms = retry_ms.saturating_mul(2).min(RETRY_MS);
            Abandoned { retry_ms }
        })
    }

    fn finish(self, broker: &Arc<Broker>) {
        let Some(load) = self.load else { return };
        let now = broker.clock.now();
        if load.record_count > 0 {
            tracing::info!(
                topic = &*load.partition.topic,
                partition = load.partition.index.get(),
                leader_epoch = self.shard.leader_epoch().get(),
                records = load.record_count,
                ms = now.monotonic.since_ms(self.started.monotonic),
                "loaded groups and offsets"
            );
        }
        self.shard.become_loaded(now, load.partition, load.coordinator);
    }
}

fn log_failure(load: &Load, error: &LoadError) {
    let reason = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(
        topic = &*load.partition.topic,
        partition = load.partition.index.get(),
        reason,
        "cannot load groups, which have no coordinator until this is mended: {error}"
    );
}

impl Expire for Loader {
    fn expire(self: Arc<Self>, now: Now) {
        let Some(broker) = self.broker.upgrade() else { return };
        if broker.is_stopping() {
            let dropped = std::mem::take(&mut *self.queue.lock());
            drop(dropped);
            return;
        }
        self.queue.lock().armed.take_if(|armed| *armed <= now.monotonic);
        if let Some(next) = self.turn(&broker, now) {
            self.arm(&broker, next);
        }
    }
}
