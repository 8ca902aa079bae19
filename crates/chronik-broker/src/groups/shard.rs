//! One partition of `__consumer_offsets` in one leader epoch: its coordinator, and who waits for it.
//!
//! The coordinator is called under the shard's lock, and what it writes is appended under that lock, so that the log
//! has it in the order of its ids. The partition says what became of a write from within the append or later, from
//! any thread; the outcome is queued, and whoever finds the lock free takes it in. So an outcome never waits for the
//! lock that its own append holds. Answers are sent with no lock held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use bytes::BytesMut;
use chronik_coordinator::{
    Completion, Effects, GroupConfig, GroupCoordinator, RequestContext as GroupContext, RequestId, Response,
    Write, WriteId,
};
use chronik_log::{AppendError, Appended, LogError};
use chronik_protocol::records::{BatchBuilder, BatchOptions, BuildError};
use chronik_types::{ErrorCode, LeaderEpoch, MonotonicMs, Now, PartitionIndex, TopicId};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::connection::{Connection, Parked};
use crate::partition::Partition;
use crate::timers::{Expire, TimerKey};

use super::BrokerRef;

/// Sends the answer to one request.
pub(crate) type Answer = Box<dyn FnOnce(Response) + Send>;

/// One partition of `__consumer_offsets`, as long as this broker leads it in one epoch.
pub(crate) struct Shard {
    broker: BrokerRef,
    /// Where it is; the one of groups that are coordinated elsewhere is nowhere.
    place: Option<Place>,
    state: Mutex<State>,
    /// What became of writes, in the order of the log. Bounded by the coordinator's own bound on pending writes.
    decided: Mutex<Vec<Decided>>,
    /// Who waits for an answer. Bounded by what a connection may have under way.
    waiting: Mutex<BTreeMap<RequestId, Waiting>>,
}

/// Which partition a shard is, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) topic_id: TopicId,
    pub(super) index: PartitionIndex,
    pub(super) leader_epoch: LeaderEpoch,
}

struct State {
    coordinator: GroupCoordinator,
    phase: Phase,
    /// Set while loaded.
    partition: Option<Arc<Partition>>,
    /// Topics that were deleted while the shard was loading. Bounded by the topics that there were.
    deleted_topics: BTreeSet<String>,
    /// Counts the times that the shard was loaded, so that a write of an earlier one is not taken for a later's.
    generation: u64,
    writes: Writes,
    timer: Option<(MonotonicMs, TimerKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The log has to be read first; everyone hears `COORDINATOR_LOAD_IN_PROGRESS`.
    Loading,
    Loaded,
    /// The partition is led elsewhere, or gone. There is no way back: a new lead is a new shard.
    Retired,
}

/// The writes that the coordinator waits for. It takes one that is committed for word of all before it, and two threads
/// may tell of two writes in another order than that of the log. Bounded by the coordinator's own bound on pending writes.
#[derive(Default)]
struct Writes {
    /// Nobody has said yet what became of these.
    undecided: BTreeSet<WriteId>,
    /// These are committed, and the coordinator has not been told.
    committed: BTreeSet<WriteId>,
}

impl Writes {
    fn begin(&mut self, write: WriteId) {
        self.undecided.insert(write);
    }

    /// What became of a write is known. Gives the last one up to which every write that has not failed is committed, if that
    /// is news.
    fn decide(&mut self, write: WriteId, is_committed: bool) -> Option<WriteId> {
        self.undecided.remove(&write);
        if is_committed {
            self.committed.insert(write);
        }
        let rest = self.undecided.first().map(|first| self.committed.split_off(first)).unwrap_or_default();
        std::mem::replace(&mut self.committed, rest).pop_last()
    }
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
    /// The shard of a partition that this broker has begun to lead. It has read nothing yet.
    pub(super) fn new(broker: &Arc<Broker>, place: Place) -> Self {
        Self::with(broker, Some(place), Phase::Loading, broker.new_coordinator())
    }

    /// A shard that refuses everything with `NOT_COORDINATOR`.
    pub(super) fn elsewhere(broker: &Arc<Broker>) -> Self {
        let mut coordinator = broker.new_coordinator();
        let effects = coordinator.unload();
        debug_assert!(effects.is_empty(), "nobody waits for a coordinator that has just been made");
        Self::with(broker, None, Phase::Retired, coordinator)
    }

    fn with(broker: &Arc<Broker>, place: Option<Place>, phase: Phase, coordinator: GroupCoordinator) -> Self {
        let state = State {
            coordinator,
            phase,
            partition: None,
            deleted_topics: BTreeSet::new(),
            generation: 0,
            writes: Writes::default(),
            timer: None,
        };
        Self {
            broker: Arc::downgrade(broker),
            place,
            state: Mutex::new(state),
            decided: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// The epoch in which this broker leads the partition, −1 for the shard of groups elsewhere.
    pub(super) fn leader_epoch(&self) -> LeaderEpoch {
        self.place.map_or(LeaderEpoch::NONE, |place| place.leader_epoch)
    }

    /// Whether the log still has to be read.
    pub(super) fn is_loading(self: &Arc<Self>, now: Now) -> bool {
        let is_loading = self.state.lock().phase == Phase::Loading;
        self.take_in(now);
        is_loading
    }

    /// The partition to load from, once it has taken up the lead in this shard's epoch: before that its log may yet be cut
    /// and get the records of others. Where there is none the reason is logged.
    pub(super) fn open(&self, broker: &Broker) -> Result<Arc<Partition>, ErrorCode> {
        let place = self.place.ok_or(ErrorCode::NotCoordinator)?;
        let opened = broker.partition_by_id(place.topic_id, place.index.get()).and_then(|partition| {
            partition.check_leader()?;
            if partition.leader_epoch() != place.leader_epoch {
                return Err(ErrorCode::NotLeaderOrFollower);
            }
            Ok(partition)
        });
        opened.inspect_err(|error| {
            // The image is there a moment before the partition has taken it up.
            if *error != ErrorCode::NotLeaderOrFollower {
                tracing::error!(
                    partition = place.index.get(),
                    leader_epoch = place.leader_epoch.get(),
                    %error,
                    "cannot open the log of groups that are to be coordinated here"
                );
            }
        })
    }

    /// The log has been read: requests are served from now on.
    pub(super) fn become_loaded(
        self: &Arc<Self>,
        now: Now,
        partition: Arc<Partition>,
        coordinator: GroupCoordinator,
    ) {
        let Some(broker) = self.broker.upgrade() else { return };
        let mut answers = Vec::new();
        {
            let mut state = self.state.lock();
            if state.phase != Phase::Loading {
                // The lead was lost meanwhile.
                return;
            }
            state.coordinator = coordinator;
            // It may have been made before a setting changed.
            state.coordinator.set_config(now, broker.groups.config());
            state.partition = Some(partition);
            state.phase = Phase::Loaded;
            state.generation = state.generation.wrapping_add(1);
            let effects = state.coordinator.loaded(now);
            self.carry_out(&mut state, now, effects, &mut answers);
            let deleted = std::mem::take(&mut state.deleted_topics);
            if !deleted.is_empty() {
                let effects = state.coordinator.topics_deleted(now, &deleted);
                self.carry_out(&mut state, now, effects, &mut answers);
            }
        }
        self.after(now, answers);
    }

    /// Settings have changed.
    pub(super) fn set_config(self: &Arc<Self>, now: Now, config: &GroupConfig) {
        {
            let mut state = self.state.lock();
            state.coordinator.set_config(now, config.clone());
            self.rearm(&mut state);
        }
        self.take_in(now);
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
        self.run(now, |state| run(&mut state.coordinator));
        if connection.is_closed() {
            // The client may have gone between the look at its connection and the parking.
            self.cancel(id);
            connection.unpark(id.0);
        }
    }

    /// Reads from the coordinator.
    pub(crate) fn read<T>(self: &Arc<Self>, now: Now, read: impl FnOnce(&GroupCoordinator) -> T) -> T {
        let found = read(&self.state.lock().coordinator);
        self.take_in(now);
        found
    }

    /// The offsets of these topics mean nothing any more.
    pub(super) fn topics_deleted(self: &Arc<Self>, now: Now, names: &BTreeSet<String>) {
        self.run(now, |state| {
            if state.phase == Phase::Loading {
                state.deleted_topics.extend(names.iter().cloned());
                Effects::default()
            } else {
                state.coordinator.topics_deleted(now, names)
            }
        });
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
        if phase == Phase::Loading
            && let Some(broker) = self.broker.upgrade()
        {
            // Who asks before it has been read again is told that it is loading, and not to look elsewhere.
            state.coordinator = broker.new_coordinator();
        }
        state.phase = phase;
        state.partition = None;
        state.generation = state.generation.wrapping_add(1);
        state.writes = Writes::default();
        if let Some((_, key)) = state.timer.take()
            && let Some(broker) = self.broker.upgrade()
        {
            broker.timers.disarm(key);
        }
        self.collect(effects.completions, answers);
    }

    fn run(self: &Arc<Self>, now: Now, run: impl FnOnce(&mut State) -> Effects) {
        let mut answers = Vec::new();
        {
            let mut state = self.state.lock();
            let effects = run(&mut state);
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
            let Some(partition) = &state.partition else { continue };
            let (shard, generation) = (Arc::clone(self), state.generation);
            state.writes.begin(id);
            partition.append_in(
                now,
                self.leader_epoch(),
                batch,
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
    /// after it has let go, whatever it held it for.
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
                    let is_committed = outcome.is_ok();
                    match outcome {
                        Ok(_) => {}
                        Err(error) if is_certain(&error) => {
                            let effects = state.coordinator.failed(now, write, error.error_code());
                            self.carry_out(&mut state, now, effects, &mut answers);
                        }
                        Err(error) => {
                            // Nobody knows what the log holds now; it is read again.
                            self.say_undecided(&error);
                            self.unload_locked(&mut state, Phase::Loading, &mut answers);
                            if let Some(broker) = self.broker.upgrade() {
                                broker.groups.load(&broker, now, Arc::clone(self));
                            }
                            continue;
                        }
                    }
                    if let Some(up_to) = state.writes.decide(write, is_committed) {
                        let effects = state.coordinator.committed(now, up_to);
                        self.carry_out(&mut state, now, effects, &mut answers);
                    }
                }
            }
            for (waiting, response) in answers {
                (waiting.answer)(response);
            }
        }
    }

    /// Tells what became of a write, which is known by its place among those that are under way.
    #[cfg(test)]
    pub(crate) fn decide(
        self: &Arc<Self>,
        now: Now,
        position: usize,
        outcome: Result<Appended, AppendError>,
    ) {
        let (generation, write) = {
            let state = self.state.lock();
            (state.generation, *state.writes.undecided.iter().nth(position).expect("it is under way"))
        };
        self.decided.lock().push(Decided { generation, write, outcome });
        self.take_in(now);
    }

    fn say_undecided(&self, error: &AppendError) {
        let partition = self.place.map(|place| place.index.get());
        if matches!(error, AppendError::Undecided { .. }) {
            // Which is how each lead ends that others take over.
            tracing::debug!(partition, "reading groups again: {error}");
        } else {
            tracing::error!(partition, "cannot say whether a write of groups is in the log: {error}");
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

/// Whether a write that failed so is certainly not in the log. After an error of the disk it may be there in part, and what
/// was there when the lead seemed lost may be committed yet.
fn is_certain(error: &AppendError) -> bool {
    !matches!(
        error,
        AppendError::Undecided { .. } | AppendError::Log(LogError::Io { .. } | LogError::Offline { .. })
    )
}

fn batch_of(now: Now, write: &Write) -> Result<BytesMut, BuildError> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for record in &write.records {
        builder.append(now.wall, Some(&record.key), record.value.as_deref(), &[])?;
    }
    builder.finish()
}
