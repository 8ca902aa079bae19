//! This broker as a follower: whom it fetches from, over which connections, and what it does with the answers.

mod lane;
mod peer;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use chronik_raft::metadata::{Delta, MetadataImage, PartitionImage};
use chronik_types::{LeaderEpoch, NodeId, Now, PartitionIndex, TopicId, TopicPartition};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::timers::Expire;

pub use peer::{Lane, NoPeerClient, PeerAnswer, PeerClient, PeerError};

use lane::LaneState;

/// A partition, as fetchers name it.
pub(crate) type Key = (TopicId, PartitionIndex);

/// How often leaders look for replicas that have fallen behind: a fraction of the time that they may.
const LAG_CHECKS_PER_LIMIT: u64 = 4;

/// The longest pause between two looks, in milliseconds: proposals whose outcome is unknown are made again then.
const CHECK_MS_MAX: u64 = 1_000;

type SharedLane = Arc<Mutex<LaneState>>;

/// What this broker follows.
pub(crate) struct Fetchers {
    peers: Arc<dyn PeerClient>,
    followed: Mutex<BTreeMap<Key, (NodeId, LeaderEpoch)>>,
    /// Partitions of which nothing is fetched because their logs could not be recovered: a fetch tells the leader that
    /// this broker has everything before it, which is enough to be in sync with an empty partition. They are tried again
    /// and again, at most as many as there are such logs. Held while it is decided from whom a partition is fetched, so
    /// that the newest image decides last.
    blocked: Mutex<BTreeSet<Key>>,
    lanes: Mutex<BTreeMap<(NodeId, Lane), SharedLane>>,
}

impl Fetchers {
    pub(crate) fn new(peers: Arc<dyn PeerClient>) -> Self {
        Self { peers, followed: Mutex::default(), blocked: Mutex::default(), lanes: Mutex::default() }
    }

    fn lane(&self, leader: NodeId, lane: Lane) -> SharedLane {
        Arc::clone(self.lanes.lock().entry((leader, lane)).or_default())
    }

    /// Stops fetching a partition, wherever it is fetched from.
    fn stop(&self, key: &Key) {
        let Some((leader, _)) = self.followed.lock().remove(key) else { return };
        // One that goes over from one lane to the other meanwhile would be missed in both.
        self.with_both_lanes(leader, |newcomers, main| {
            newcomers.stop(key);
            main.stop(key);
        });
    }

    /// Holds both lanes of a leader, the newcomers' first: whoever holds two takes them in this order.
    fn with_both_lanes<T>(&self, leader: NodeId, run: impl FnOnce(&mut LaneState, &mut LaneState) -> T) -> T {
        let newcomers = self.lane(leader, Lane::Newcomers);
        let main = self.lane(leader, Lane::Main);
        let mut newcomers = newcomers.lock();
        let mut main = main.lock();
        run(&mut newcomers, &mut main)
    }
}

impl Broker {
    /// Follows, and stops following, as the image says.
    pub(crate) fn follow_image(self: &Arc<Self>, image: &MetadataImage, delta: &Delta) {
        let mut touched = BTreeSet::new();
        for topic in &delta.topics_deleted {
            for (index, _) in topic.partitions() {
                let key = (topic.id, index);
                self.fetchers.blocked.lock().remove(&key);
                self.fetchers.stop(&key);
            }
        }
        for change in &delta.partitions_changed {
            let mut blocked = self.fetchers.blocked.lock();
            let key = (change.topic_id, change.partition);
            touched.extend(self.follow_partition(&mut blocked, image, key, &change.new));
        }
        // A leader that has registered anew may listen elsewhere, and is tried at once.
        touched.extend(delta.brokers_changed.iter().copied().filter(|node| *node != self.node_id()));
        if delta.brokers_changed.contains(&self.node_id()) {
            // Now that this broker is registered, leaders may be asked.
            touched.extend(self.fetchers.lanes.lock().keys().map(|(leader, _)| *leader));
        }
        self.fetch_at_once(touched);
    }

    fn fetch_at_once(self: &Arc<Self>, leaders: BTreeSet<NodeId>) {
        let now = self.clock.now();
        for leader in leaders {
            for lane in Lane::ALL {
                self.fetchers.lane(leader, lane).lock().try_at_once();
                self.pump(now, leader, lane);
            }
        }
    }

    /// Sees to it that a partition is fetched from its leader, and from nobody else, or from nobody at all while its log
    /// is not recovered; gives the leader where that is new.
    fn follow_partition(
        &self,
        blocked: &mut BTreeSet<Key>,
        image: &MetadataImage,
        key: Key,
        state: &PartitionImage,
    ) -> Option<NodeId> {
        let (topic_id, index) = key;
        let was_blocked = blocked.remove(&key);
        let leader = state
            .leader
            .filter(|leader| *leader != self.node_id() && state.replicas.contains(&self.node_id()));
        let Some(leader) = leader else {
            self.fetchers.stop(&key);
            return None;
        };
        if self.fetchers.followed.lock().get(&key) == Some(&(leader, state.leader_epoch)) {
            return None;
        }
        self.fetchers.stop(&key);
        let topic = image.topic_by_id(topic_id)?;
        if self.logs.is_failed(&TopicPartition { topic: Arc::clone(&topic.name), partition: index }) {
            blocked.insert(key);
            if !was_blocked {
                tracing::warn!(
                    topic = &*topic.name,
                    partition = index.get(),
                    leader_epoch = state.leader_epoch.get(),
                    "the log could not be recovered; nothing is fetched for it until it is"
                );
            }
            return None;
        }
        let position = self.fetch_position(topic, index, state.leader_epoch);
        self.fetchers.followed.lock().insert(key, (leader, state.leader_epoch));
        self.fetchers.lane(leader, Lane::Newcomers).lock().follow(key, position);
        Some(leader)
    }

    /// Follows partitions whose logs are recovered by now.
    fn follow_blocked(self: &Arc<Self>) {
        let keys = self.fetchers.blocked.lock().clone();
        let mut touched = BTreeSet::new();
        for key in keys {
            let mut blocked = self.fetchers.blocked.lock();
            if !blocked.contains(&key) {
                continue;
            }
            let image = self.metadata.image();
            let state = image.topic_by_id(key.0).and_then(|topic| topic.partition(key.1));
            match state {
                Some(state) => touched.extend(self.follow_partition(&mut blocked, &image, key, state)),
                None => drop(blocked.remove(&key)),
            }
        }
        self.fetch_at_once(touched);
    }

    /// From now on this broker looks for replicas that have fallen behind, on all partitions that it leads. Called once.
    pub fn start_replica_checks(self: &Arc<Self>, now: Now) {
        let pause_ms = (self.config.replica_lag_time_max_ms / LAG_CHECKS_PER_LIMIT).clamp(1, CHECK_MS_MAX);
        let check = ReplicaCheck { broker: Arc::downgrade(self), pause_ms };
        self.timers.arm(now.monotonic.plus_ms(pause_ms), Arc::new(check));
        self.start_contact_checks(now);
    }
}

/// Looks for replicas that have fallen behind, again and again.
struct ReplicaCheck {
    broker: Weak<Broker>,
    pause_ms: u64,
}

impl Expire for ReplicaCheck {
    fn expire(self: Arc<Self>, now: Now) {
        let Some(broker) = self.broker.upgrade().filter(|broker| !broker.is_stopping()) else { return };
        for partition in broker.topics.open_partitions() {
            if partition.is_behind.load(Ordering::Acquire) {
                broker.take_up_again(now, &partition);
            }
            if partition.is_replicated() {
                partition.check_replicas(now);
            }
        }
        broker.follow_blocked();
        broker.first_batches.forget_old(now.monotonic);
        broker.timers.arm(now.monotonic.plus_ms(self.pause_ms), self);
    }
}
