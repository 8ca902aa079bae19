//! One partition of `__consumer_offsets`: its coordinator, and who waits for it.
//!
//! The coordinator is called under the shard's lock, and what it writes is appended under that lock, so that the log
//! has it in the order of its ids. The partition says what became of a write from within the append or later, from
//! any thread; the outcome is queued, and whoever finds the lock free takes it in. So an outcome never waits for the
//! lock that its own append holds. Answers are sent with no lock held.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use bytes::BytesMut;
use chronik_coordinator::{
    Completion, Effects, GroupCoordinator, RequestContext as GroupContext, RequestId, Response, Write,
    WriteId,
};
use chronik_log::{AppendError, AppendOrigin, Appended, LogError};
use chronik_protocol::records::{BatchBuilder, BatchOptions, BuildError};
use chronik_types::{ErrorCode, MonotonicMs, Now};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::connection::{Connection, Parked};
use crate::partition::Partition;
use crate::timers::{Expire, TimerKey};

use super::BrokerRef;
use super::load::load;

/// Sends the answer to one request.
pub(crate) type Answer = Box<dyn FnOnce(Response) + Send>;

/// One partition of `__consumer_offsets`.
pub(crate) struct Shard {
    broker: BrokerRef,
    /// `None` for the shard of groups that are coordinated elsewhere.
    partition: Option<Arc<Partition>>,
    state: Mutex<State>,
    /// What became of writes, in the order of the log. Bounded by the coordinator's own bound on pending writes.
    decided: Mutex<Vec<Decided>>,
    /// Who waits for an answer. Bounded by what a connection may have under way.
    waiting: Mutex<BTreeMap<RequestId, Waiting>>,
}

struct State {
    coordinator: GroupCoordinator,
    phase: Phase,
    /// Counts the times that the shard was loaded, so that a write of an earlier one is not taken for a later's.
    generation: u64,
    timer: Option<(MonotonicMs, TimerKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The log has to be read first.
    Fresh,
    Loaded,
    /// The partition is led elsewhere, or gone. There is no way back: a new lead is a new shard.
    Retired,
}

struct Decided {
    generation: u64,
    write: WriteId,
    outcome: Result<Appended, AppendError>,
}

struct Waiting {
    connection: Arc<Connection>,
    answer: Answer,
}

impl Shard {
    /// The shard of `partition`, which has read nothing yet.
    pub(super) fn new(broker: &Arc<Broker>, partition: Arc<Partition>) -> Self {
        Self::with(broker, Some(partition), Phase::Fresh, broker.new_coordinator())
    }

    /// A shard that refuses everything with `NOT_COORDINATOR`.
    pub(super) fn elsewhere(broker: &Arc<Broker>) -> Self {
        let mut coordinator = broker.new_coordinator();
        let effects = coordinator.unload();
        debug_assert!(effects.is_empty(), "nobody waits for a coordinator that has just been made");
        Self::with(broker, None, Phase::Retired, coordinator)
    }

    fn with(
        broker: &Arc<Broker>,
        partition: Option<Arc<Partition>>,
        phase: Phase,
        coordinator: GroupCoordinator,
    ) -> Self {
        Self {
            broker: Arc::downgrade(broker),
            partition,
            state: Mutex::new(State { coordinator, phase, generation: 0, timer: None }),
            decided: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    pub(super) fn check_leader(&self) -> Result<(), ErrorCode> {
        self.partition.as_ref().map_or(Err(ErrorCode::NotCoordinator), |partition| partition.check_leader())
    }

    /// Reads the log, unless that has been done. Others who ask for this shard wait meanwhile.
    pub(super) fn ensure_loaded(self: &Arc<Self>, now: Now) -> Result<(), ErrorCode> {
        let mut answers = Vec::new();
        {
            let mut state = self.state.lock();
            match state.phase {
                Phase::Loaded => {
                    drop(state);
                    self.take_in(now);
                    return Ok(());
                }
                Phase::Retired => return Err(ErrorCode::NotCoordinator),
                Phase::Fresh => {}
            }
            let (Some(broker), Some(partition)) = (self.broker.upgrade(), &self.partition) else {
                return Err(ErrorCode::NotCoordinator);
            };
            let mut coordinator = broker.new_coordinator();
            match load(partition, &mut coordinator) {
                Ok(record_count) => {
                    if record_count > 0 {
                        let partition = partition.index.get();
                        tracing::info!(partition, record_count, "loaded groups and offsets");
                    }
                }
                Err(error) => {
                    let reason = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(partition = partition.index.get(), reason, "cannot load groups: {error}");
                    return Err(ErrorCode::NotCoordinator);
                }
            }
            state.coordinator = coordinator;
            state.phase = Phase::Loaded;
            state.generation = state.generation.wrapping_add(1);
            let effects = state.coordinator.loaded(now);
            self.carry_out(&mut state, now, effects, &mut answers);
        }
        self.after(now, answers);
        Ok(())
    }

    /// Has the coordinator handle a request. `answer` is called once, unless the client goes first.
    pub(crate) fn submit(
        self: &Arc<Self>,
        now: Now,
        asked: &GroupContext,
        connection: &Arc<Connection>,
        answer: Answer,
        run: impl FnOnce(&mut GroupCoordinator) -> Effects,
    ) {
        let id = asked.request_id;
        self.waiting.lock().insert(id, Waiting { connection: Arc::clone(connection), answer });
        connection.park(id.0, Arc::new(ParkedRequest { shard: Arc::downgrade(self), id }));
        self.run(now, run);
        if connection.is_closed() {
            // The client may have gone between the look at its connection and the parking.
            self.cancel(id);
            connection.unpark(id.0);
        }
    }

    /// Reads from the coordinator.
    pub(crate) fn read<T>(self: &Arc<Self>, now: Now, read: impl FnOnce(&GroupCoordinator) -> T) -> T {
        let found = read(&self.state.lock().coordinator);
        // Whoever holds the lock looks at the outcomes that came meanwhile, readers too.
        self.take_in(now);
        found
    }

    /// Calls the coordinator, if it has been loaded.
    pub(super) fn if_loaded(self: &Arc<Self>, now: Now, run: impl FnOnce(&mut GroupCoordinator) -> Effects) {
        let is_loaded = self.state.lock().phase == Phase::Loaded;
        if is_loaded {
            self.run(now, run);
        }
    }

    /// The partition has gone: everyone who waits is told to look elsewhere.
    pub(super) fn retire(self: &Arc<Self>, now: Now) {
        self.unload(now, Phase::Retired);
    }

    fn unload(self: &Arc<Self>, now: Now, phase: Phase) {
        let mut answers = Vec::new();
        {
            let mut state = self.state.lock();
            self.unload_locked(&mut state, phase, &mut answers);
        }
        self.after(now, answers);
    }

    fn unload_locked(&self, state: &mut State, phase: Phase, answers: &mut Vec<(Waiting, Response)>) {
        let effects = state.coordinator.unload();
        state.phase = phase;
        state.generation = state.generation.wrapping_add(1);
        if let Some((_, key)) = state.timer.take()
            && let Some(broker) = self.broker.upgrade()
        {
            broker.timers.disarm(key);
        }
        self.collect(effects.completions, answers);
    }

    fn run(self: &Arc<Self>, now: Now, run: impl FnOnce(&mut GroupCoordinator) -> Effects) {
        let mut answers = Vec::new();
        {
            let mut state = self.state.lock();
            let effects = run(&mut state.coordinator);
            self.carry_out(&mut state, now, effects, &mut answers);
        }
        self.after(now, answers);
    }

    /// Appends what is to be written and finds who is to be answered; sets the timer anew.
    fn carry_out(
        self: &Arc<Self>,
        state: &mut State,
        now: Now,
        effects: Effects,
        answers: &mut Vec<(Waiting, Response)>,
    ) {
        self.collect(effects.completions, answers);
        for write in effects.writes {
            let id = write.id;
            let batch = match batch_of(now, &write) {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::error!("cannot write what happened to a group: {error}");
                    let undone = state.coordinator.failed(now, id, ErrorCode::UnknownServerError);
                    // A failure writes nothing anew; it only answers and undoes.
                    debug_assert!(undone.writes.is_empty(), "a failed write is not followed by another");
                    self.collect(undone.completions, answers);
                    continue;
                }
            };
            let Some(partition) = &self.partition else { continue };
            let (shard, generation) = (Arc::clone(self), state.generation);
            partition.append(
                now,
                batch,
                AppendOrigin::Coordinator,
                Box::new(move |now, outcome| {
                    shard.decided.lock().push(Decided { generation, write: id, outcome });
                    shard.take_in(now);
                }),
            );
        }
        self.rearm(state);
    }

    fn collect(&self, completions: Vec<Completion>, answers: &mut Vec<(Waiting, Response)>) {
        if completions.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        for completion in completions {
            // One whose client has gone is answered to nobody.
            if let Some(found) = waiting.remove(&completion.request_id) {
                found.connection.unpark(completion.request_id.0);
                answers.push((found, completion.response));
            }
        }
    }

    /// What is to be done once the lock is free.
    fn after(self: &Arc<Self>, now: Now, answers: Vec<(Waiting, Response)>) {
        for (waiting, response) in answers {
            (waiting.answer)(response);
        }
        self.take_in(now);
    }

    /// Tells the coordinator what became of its writes, unless another thread has the lock: that one looks again
    /// after it has let go.
    fn take_in(self: &Arc<Self>, now: Now) {
        while !self.decided.lock().is_empty() {
            let mut answers = Vec::new();
            {
                let Some(mut state) = self.state.try_lock() else { return };
                let decided = std::mem::take(&mut *self.decided.lock());
                for Decided { generation, write, outcome } in decided {
                    if generation != state.generation {
                        continue;
                    }
                    let effects = match outcome {
                        Ok(_) => state.coordinator.committed(now, write),
                        Err(error) if is_certain(&error) => {
                            state.coordinator.failed(now, write, error.error_code())
                        }
                        Err(error) => {
                            // Nobody knows what the log holds now. The next request reads it.
                            tracing::error!("cannot say whether a write of groups is in the log: {error}");
                            self.unload_locked(&mut state, Phase::Fresh, &mut answers);
                            continue;
                        }
                    };
                    self.carry_out(&mut state, now, effects, &mut answers);
                }
            }
            for (waiting, response) in answers {
                (waiting.answer)(response);
            }
        }
    }

    fn rearm(self: &Arc<Self>, state: &mut State) {
        if state.phase != Phase::Loaded {
            return;
        }
        let Some(deadline) = state.coordinator.next_deadline() else { return };
        // A timer that fires early costs a look; setting it anew for every heartbeat would cost more.
        if state.timer.is_some_and(|(armed, _)| armed <= deadline) {
            return;
        }
        let Some(broker) = self.broker.upgrade().filter(|broker| !broker.is_stopping()) else { return };
        if let Some((_, key)) = state.timer.take() {
            broker.timers.disarm(key);
        }
        let key = broker.timers.arm(deadline, Arc::clone(self) as Arc<dyn Expire>);
        state.timer = Some((deadline, key));
    }

    fn cancel(&self, id: RequestId) {
        let waiting = self.waiting.lock().remove(&id);
        drop(waiting);
    }
}

impl Expire for Shard {
    fn expire(self: Arc<Self>, now: Now) {
        if self.broker.upgrade().is_none_or(|broker| broker.is_stopping()) {
            // Whoever waits is sent away, as Kafka does it, and finds the group again when the broker is back.
            self.unload(now, Phase::Retired);
            return;
        }
        let mut answers = Vec::new();
        {
            let mut state = self.state.lock();
            // The key that was armed is spent, unless an earlier one has taken its place meanwhile.
            if state.timer.is_some_and(|(armed, _)| armed <= now.monotonic) {
                state.timer = None;
            }
            if state.phase == Phase::Loaded {
                let effects = state.coordinator.poll(now);
                self.carry_out(&mut state, now, effects, &mut answers);
            }
        }
        self.after(now, answers);
    }
}

/// A request that waits for its group.
struct ParkedRequest {
    shard: Weak<Shard>,
    id: RequestId,
}

impl Parked for ParkedRequest {
    fn cancel(&self) {
        if let Some(shard) = self.shard.upgrade() {
            shard.cancel(self.id);
        }
    }
}

/// Whether a write that failed so is certainly not in the log. After an error of the disk it may be there in part.
fn is_certain(error: &AppendError) -> bool {
    !matches!(error, AppendError::Log(LogError::Io { .. } | LogError::Offline { .. }))
}

fn batch_of(now: Now, write: &Write) -> Result<BytesMut, BuildError> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for record in &write.records {
        builder.append(now.wall, Some(&record.key), record.value.as_deref(), &[])?;
    }
    builder.finish()
}
