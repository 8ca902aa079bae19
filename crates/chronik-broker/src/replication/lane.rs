//! One connection to one leader, and the partitions that are fetched over it.
//!
//! What is under way is one request. Its answer is worked off on the thread that brings it, outside of all locks but
//! those of the partitions, and then the next request goes out.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use chronik_replication::{FetchPosition, Fetcher, follower};
use chronik_types::{ErrorCode, MonotonicMs, NodeId, Now};

use super::request::{Answered, Bounds, answer_of, decode, encode};
use super::{Key, Lane, PeerError};
use crate::broker::Broker;
use crate::partition::Applied;
use crate::timers::{Expire, TimerKey};

/// The first pause after a failure, in milliseconds. Each failure doubles it.
const BACKOFF_MS_MIN: u64 = 20;
/// The longest pause: a leader that is back is found within this.
const BACKOFF_MS_MAX: u64 = 500;
/// How long a leader may hold a request for newcomers. They go over to the main lane when that asks next, and until
/// then this is what a producer may wait for them.
const NEWCOMERS_WAIT_MS: i32 = 10;

/// The state of a lane.
#[derive(Default)]
pub(super) struct LaneState {
    fetcher: Fetcher<Key>,
    /// Those of the newcomers that have caught up, ready for the main lane.
    caught_up: BTreeSet<Key>,
    /// Those of the newcomers that lacked committed records when the leader last spoke of them. That it is silent about
    /// one, or gives no records, may only mean that the answer was full before its turn came.
    behind: BTreeSet<Key>,
    failure_count: u32,
    /// Nothing is sent before.
    not_before: Option<MonotonicMs>,
    timer: Option<TimerKey>,
}

impl LaneState {
    pub(super) fn follow(&mut self, key: Key, position: FetchPosition) {
        self.caught_up.remove(&key);
        self.behind.remove(&key);
        self.fetcher.follow(key, position);
    }

    pub(super) fn stop(&mut self, key: &Key) {
        self.caught_up.remove(key);
        self.behind.remove(key);
        self.fetcher.stop(key);
    }

    /// Something has changed: a pause after a failure is over.
    pub(super) fn try_at_once(&mut self) {
        self.not_before = None;
        self.failure_count = 0;
    }

    fn failed(&mut self, now: MonotonicMs) {
        self.fetcher.failed();
        let pause_ms = BACKOFF_MS_MIN.checked_shl(self.failure_count.min(8)).unwrap_or(BACKOFF_MS_MAX);
        self.failure_count = self.failure_count.saturating_add(1);
        self.not_before = Some(now.plus_ms(pause_ms.min(BACKOFF_MS_MAX)));
    }
}

/// Sends again when a pause is over.
struct Retry {
    broker: Weak<Broker>,
    leader: NodeId,
    lane: Lane,
}

impl Expire for Retry {
    fn expire(self: Arc<Self>, now: Now) {
        if let Some(broker) = self.broker.upgrade() {
            broker.fetchers.lane(self.leader, self.lane).lock().timer = None;
            broker.pump(now, self.leader, self.lane);
        }
    }
}

impl Broker {
    /// Sends the next request of a lane, if there is something to ask for and nothing under way.
    pub(super) fn pump(self: &Arc<Self>, now: Now, leader: NodeId, lane: Lane) {
        if self.is_stopping() {
            return;
        }
        if lane == Lane::Main {
            self.take_over_newcomers(leader);
        }
        let image = self.metadata.image();
        let Some((host, port)) = image.broker(leader).and_then(|broker| {
            let endpoint = broker.endpoints.first()?;
            Some((endpoint.host.clone(), u16::try_from(endpoint.port).ok()?))
        }) else {
            return;
        };
        // Before this life of the broker is registered, a leader would take it for the one before.
        let Some(own) = image.broker(self.node_id()).filter(|own| own.incarnation == self.incarnation) else {
            return;
        };
        let bounds = Bounds {
            max_wait_ms: match lane {
                Lane::Main => self.config.replica_fetch_wait_max_ms,
                Lane::Newcomers => NEWCOMERS_WAIT_MS,
            },
            max_bytes: self.config.replica_fetch_response_max_bytes,
            partition_max_bytes: self.config.replica_fetch_max_bytes,
        };
        let frame = {
            let state = self.fetchers.lane(leader, lane);
            let mut state = state.lock();
            if let Some(until) = state.not_before.filter(|until| now.monotonic < *until) {
                self.rearm(&mut state, leader, lane, until);
                return;
            }
            state.not_before = None;
            let Some(plan) = state.fetcher.next_request(now.monotonic) else {
                if let Some(resume) = state.fetcher.next_resume().filter(|_| !state.fetcher.is_in_flight()) {
                    self.rearm(&mut state, leader, lane, resume);
                }
                return;
            };
            match encode(self.node_id(), own.epoch, bounds, &plan) {
                Ok(frame) => frame,
                Err(error) => {
                    tracing::error!("cannot ask broker {leader} for records: {error}");
                    state.failed(now.monotonic);
                    let until = state.not_before.unwrap_or(now.monotonic);
                    self.rearm(&mut state, leader, lane, until);
                    return;
                }
            }
        };
        let broker = Arc::downgrade(self);
        let done = Box::new(move |answer: Result<Bytes, PeerError>| {
            if let Some(broker) = broker.upgrade() {
                broker.answered(leader, lane, answer);
            }
        });
        self.fetchers.peers.call(leader, lane, (host, port), frame, done);
    }

    fn rearm(self: &Arc<Self>, state: &mut LaneState, leader: NodeId, lane: Lane, at: MonotonicMs) {
        if let Some(timer) = state.timer.take() {
            self.timers.disarm(timer);
        }
        let retry = Retry { broker: Arc::downgrade(self), leader, lane };
        state.timer = Some(self.timers.arm(at, Arc::new(retry)));
    }

    /// Partitions that have caught up are fetched with all others from now on.
    fn take_over_newcomers(&self, leader: NodeId) {
        self.fetchers.with_both_lanes(leader, |newcomers, main| {
            if main.fetcher.is_in_flight() {
                return;
            }
            for key in std::mem::take(&mut newcomers.caught_up) {
                if let Some(position) = newcomers.fetcher.position(&key) {
                    newcomers.stop(&key);
                    main.follow(key, position);
                }
            }
        });
    }

    /// Partitions of the main lane that lack committed records are fetched with the newcomers until they have them, so that
    /// they take nothing of the answers that others wait for. For them nobody waits: no replica in sync lacks any.
    fn hand_back(&self, leader: NodeId, keys: &[Key]) {
        self.fetchers.with_both_lanes(leader, |newcomers, main| {
            for key in keys {
                if let Some(position) = main.fetcher.position(key) {
                    main.stop(key);
                    newcomers.follow(*key, position);
                    newcomers.behind.insert(*key);
                }
            }
        });
    }

    fn answered(self: &Arc<Self>, leader: NodeId, lane: Lane, answer: Result<Bytes, PeerError>) {
        let now = self.clock.now();
        let answered = answer.and_then(|frame| {
            decode(&frame).map_err(|error| PeerError(format!("its answer cannot be read: {error}")))
        });
        let state = self.fetchers.lane(leader, lane);
        match answered {
            Ok(answered) if answered.error.is_none() => {
                let session_id = answered.session_id;
                self.work_off(now, leader, lane, answered);
                let mut state = state.lock();
                state.fetcher.answered(session_id);
                state.failure_count = 0;
            }
            Ok(Answered { error, .. }) => {
                tracing::debug!("broker {leader} refuses a fetch: {error}");
                let mut state = state.lock();
                let is_session = matches!(
                    error,
                    ErrorCode::FetchSessionIdNotFound
                        | ErrorCode::InvalidFetchSessionEpoch
                        | ErrorCode::FetchSessionTopicIdError
                );
                if is_session {
                    // A new session needs no pause.
                    state.fetcher.failed();
                } else {
                    state.failed(now.monotonic);
                }
            }
            Err(error) => {
                tracing::debug!("no answer from broker {leader}: {error}");
                state.lock().failed(now.monotonic);
            }
        }
        let now = self.clock.now();
        self.pump(now, leader, lane);
        let main_is_idle = lane == Lane::Newcomers && {
            let main = self.fetchers.lane(leader, Lane::Main);
            let main = main.lock();
            !main.fetcher.is_in_flight()
        };
        if main_is_idle {
            self.pump(now, leader, Lane::Main);
        }
    }

    /// Gives each partition its part of the answer, and notes where it stands then.
    fn work_off(self: &Arc<Self>, now: Now, leader: NodeId, lane: Lane, answered: Answered) {
        let state = self.fetchers.lane(leader, lane);
        let image = self.metadata.image();
        let mut named = BTreeSet::new();
        let mut fallen_behind = Vec::new();
        for (key, data) in answered.partitions {
            named.insert(key);
            let Some(asked) = state.lock().fetcher.told(&key) else { continue };
            let answer = answer_of(asked, data);
            let high_watermark = answer.high_watermark;
            let is_told = answer.error.is_none() && answer.diverging.is_none();
            let is_caught_up = is_told && answer.records.is_empty() && high_watermark <= asked.fetch_offset;
            let (topic_id, index) = key;
            let Some(topic) = image.topic_by_id(topic_id) else { continue };
            let applied = if is_caught_up && self.is_untouched(topic, index, asked) {
                // Nobody has written to it: it is not opened for that, so that idle partitions cost next to nothing.
                Applied::At(asked)
            } else {
                match self.partition_of(topic, index) {
                    Ok(partition) => partition.apply_answer(now, answer),
                    Err(error) => {
                        tracing::debug!("cannot follow {}-{index}: {error}", topic.name);
                        let delay_ms = follower::STORAGE_BACKOFF_MS;
                        Applied::Wait { position: asked, delay_ms }
                    }
                }
            };
            let mut state = state.lock();
            match applied {
                Applied::At(position) => {
                    state.fetcher.moved(&key, position);
                    let is_behind = position.fetch_offset < high_watermark;
                    match lane {
                        Lane::Main if is_behind => fallen_behind.push(key),
                        Lane::Main => {}
                        Lane::Newcomers if is_behind => {
                            state.behind.insert(key);
                            state.caught_up.remove(&key);
                        }
                        Lane::Newcomers => {
                            state.behind.remove(&key);
                            // With records too: a producer may wait for the next ones by now.
                            if is_told {
                                state.caught_up.insert(key);
                            }
                        }
                    }
                }
                Applied::Wait { position, delay_ms } => {
                    state.fetcher.moved(&key, position);
                    if delay_ms > 0 {
                        state.fetcher.delay(&key, now.monotonic.plus_ms(delay_ms));
                    }
                }
                // Its new leader is told by the image. Until then, or until this broker can follow that, nobody is asked in vain.
                Applied::Over => {
                    let is_same_epoch =
                        |position: FetchPosition| position.current_leader_epoch == asked.current_leader_epoch;
                    if state.fetcher.position(&key).is_some_and(is_same_epoch) {
                        state.fetcher.delay(&key, now.monotonic.plus_ms(follower::BACKOFF_MS));
                    }
                }
            }
        }
        if lane == Lane::Newcomers {
            // In a session the leader is silent about those of whom there is nothing new.
            let mut state = state.lock();
            let silent =
                state.fetcher.asked().filter(|key| !named.contains(key) && !state.behind.contains(key));
            let silent: Vec<Key> = silent.collect();
            state.caught_up.extend(silent);
        }
        if !fallen_behind.is_empty() {
            self.hand_back(leader, &fallen_behind);
            self.pump(now, leader, Lane::Newcomers);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use chronik_types::{LeaderEpoch, Offset, PartitionIndex, TopicId};

    use super::*;
    use crate::tests::leadership::three_brokers;

    /// Long enough for a thread to come to the lock that it waits for.
    const PAUSE: Duration = Duration::from_millis(100);

    fn key() -> Key {
        (TopicId(77), PartitionIndex(0))
    }

    /// Somebody stops a partition while it is about to go over from one lane to the other.
    fn stop_while(begins_in: Lane, go_over: impl Fn(&Broker, NodeId) + Sync) {
        let fixture = three_brokers();
        let fetchers = &fixture.broker.fetchers;
        let leader = NodeId(2);
        let epoch = LeaderEpoch(5);
        let position = FetchPosition {
            fetch_offset: Offset(0),
            log_start_offset: Offset(0),
            current_leader_epoch: epoch,
            last_fetched_epoch: LeaderEpoch::NONE,
        };
        let lanes = [Lane::Newcomers, Lane::Main].map(|lane| fetchers.lane(leader, lane));
        // Nobody says anything: it is a wait.
        let (_silent, nobody) = mpsc::channel::<()>();
        for held in &lanes {
            fetchers.followed.lock().insert(key(), (leader, epoch));
            {
                let lane = fetchers.lane(leader, begins_in);
                let mut lane = lane.lock();
                lane.fetcher.follow(key(), position);
                lane.caught_up.insert(key());
            }
            thread::scope(|scope| {
                let held = held.lock();
                scope.spawn(|| fetchers.stop(&key()));
                assert!(nobody.recv_timeout(PAUSE).is_err());
                scope.spawn(|| go_over(&fixture.broker, leader));
                assert!(nobody.recv_timeout(PAUSE).is_err());
                drop(held);
            });
            for lane in &lanes {
                assert_eq!(lane.lock().fetcher.position(&key()), None);
            }
        }
    }

    #[test]
    fn who_stops_while_newcomers_go_over_is_fetched_in_no_lane() {
        stop_while(Lane::Newcomers, Broker::take_over_newcomers);
    }

    #[test]
    fn who_stops_while_it_is_handed_back_is_fetched_in_no_lane() {
        stop_while(Lane::Main, |broker, leader| broker.hand_back(leader, &[key()]));
    }
}
