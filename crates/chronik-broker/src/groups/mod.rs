//! The groups that this broker coordinates: one shard for each partition of `__consumer_offsets` that it leads.
//!
//! A shard belongs to one leader epoch. It comes to be when the metadata image says that this broker leads the
//! partition, is loaded from its log in the background, and ends when the topic goes or anyone takes the lead in a
//! later epoch: whoever waits is told `NOT_COORDINATOR` then, and finds the next one. The rules of groups are those of
//! `chronik-coordinator`; here they meet the log, the timers and the connections.

mod load;
mod loader;
mod reply;
mod shard;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use chronik_coordinator::{
    Effects, GroupConfig, GroupCoordinator, GroupStats, RequestContext as GroupContext, RequestId, Response,
    Topics, partition_for,
};
use chronik_raft::metadata::{Delta, MetadataImage, PartitionImage};
use chronik_types::{ErrorCode, Now, PartitionIndex, TopicId};
use parking_lot::{Mutex, RwLock};

use crate::broker::Broker;
use crate::context::RequestContext;

use loader::Loader;
use shard::Place;
pub(crate) use shard::{Answer, Shard};

/// The topic that holds groups and offsets.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The shards of the partitions that this broker leads.
pub(crate) struct Groups {
    shards: RwLock<HashMap<(TopicId, PartitionIndex), Arc<Shard>>>,
    /// Held while shards come and go with the lead of their partitions.
    changing: Mutex<()>,
    /// The settings in force.
    config: RwLock<GroupConfig>,
    loader: Arc<Loader>,
}

impl Groups {
    /// No shards, with the settings that the broker has started with.
    pub(crate) fn new(broker: BrokerRef, config: GroupConfig) -> Self {
        Self {
            shards: RwLock::default(),
            changing: Mutex::new(()),
            config: RwLock::new(config),
            loader: Arc::new(Loader::new(broker)),
        }
    }

    fn config(&self) -> GroupConfig {
        self.config.read().clone()
    }

    fn get(&self, key: (TopicId, PartitionIndex)) -> Option<Arc<Shard>> {
        self.shards.read().get(&key).cloned()
    }

    fn remove(&self, key: (TopicId, PartitionIndex)) -> Option<Arc<Shard>> {
        self.shards.write().remove(&key)
    }

    /// Every shard, in an order that does not change from run to run.
    fn all(&self) -> Vec<Arc<Shard>> {
        self.in_order().into_iter().map(|(_, shard)| shard).collect()
    }

    fn in_order(&self) -> Vec<((TopicId, PartitionIndex), Arc<Shard>)> {
        let mut found: Vec<_> =
            self.shards.read().iter().map(|(key, shard)| (*key, Arc::clone(shard))).collect();
        found.sort_unstable_by_key(|(key, _)| *key);
        found
    }

    /// Follows a change of the image: shards come and go with the lead of their partitions, offsets go with their
    /// topics.
    pub(crate) fn apply(&self, broker: &Arc<Broker>, delta: &Delta) {
        let now = broker.clock.now();
        for topic in delta.topics_deleted.iter().filter(|topic| &*topic.name == OFFSETS_TOPIC) {
            let _changing = self.changing.lock();
            for (index, _) in topic.partitions() {
                if let Some(shard) = self.remove((topic.id, index)) {
                    shard.retire(now);
                }
            }
        }
        for change in delta.partitions_changed.iter().filter(|change| &*change.topic == OFFSETS_TOPIC) {
            self.follow(broker, now, change.topic_id, change.partition);
        }
        let names: BTreeSet<String> =
            delta.topics_deleted.iter().map(|topic| topic.name.to_string()).collect();
        if !names.is_empty() {
            for shard in self.all() {
                shard.topics_deleted(now, &names);
            }
        }
    }

    /// Others may coordinate these groups by now: whoever waits is told to look for them.
    pub(crate) fn lose_contact(&self, now: Now, image: &MetadataImage) {
        let _changing = self.changing.lock();
        for ((topic_id, index), shard) in self.in_order() {
            let state = image.topic_by_id(topic_id).and_then(|topic| topic.partition(index));
            if state.is_some_and(|state| state.replicas.len() > 1) {
                self.remove((topic_id, index));
                shard.retire(now);
            }
        }
    }

    /// Brings one partition's shard in line with the image as it is now, and gives it if this broker leads.
    fn follow(
        &self,
        broker: &Arc<Broker>,
        now: Now,
        topic_id: TopicId,
        index: PartitionIndex,
    ) -> Option<Arc<Shard>> {
        // The image is looked at under the lock: of two threads that come here the later one acts on the later image.
        let _changing = self.changing.lock();
        let image = broker.metadata.image();
        let key = (topic_id, index);
        let led = image
            .topic_by_id(topic_id)
            .and_then(|topic| topic.partition(index))
            .filter(|partition| partition.leader == Some(broker.node_id()));
        let current = self.get(key);
        let Some(partition) = led else {
            if let Some(shard) = self.remove(key) {
                shard.retire(now);
            }
            return None;
        };
        if let Some(shard) = current {
            if partition.leader_epoch <= shard.leader_epoch() {
                return Some(shard);
            }
            shard.retire(now);
        }
        let place = Place { topic_id, index, leader_epoch: partition.leader_epoch };
        let shard = Arc::new(Shard::new(broker, place));
        self.shards.write().insert(key, Arc::clone(&shard));
        self.load(broker, now, Arc::clone(&shard));
        Some(shard)
    }

    /// Has a shard loaded in the background.
    fn load(&self, broker: &Arc<Broker>, now: Now, shard: Arc<Shard>) {
        self.loader.load(broker, now, shard);
    }
}

/// The metadata image, as the coordinator asks it.
pub(crate) struct ImageTopics(pub(crate) Arc<MetadataImage>);

impl Topics for ImageTopics {
    fn name_of(&self, id: TopicId) -> Option<Arc<str>> {
        self.0.topic_by_id(id).map(|topic| Arc::clone(&topic.name))
    }

    fn id_of(&self, name: &str) -> Option<TopicId> {
        self.0.topic(name).map(|topic| topic.id)
    }

    fn partition_count(&self, name: &str) -> i32 {
        let count = self.0.topic(name).map_or(0, |topic| topic.partitions().count());
        i32::try_from(count).unwrap_or(i32::MAX)
    }
}

/// The partition that a group lives in.
fn home_of(image: &MetadataImage, group_id: &str) -> Option<(TopicId, PartitionIndex)> {
    let topic = image.topic(OFFSETS_TOPIC)?;
    let partition_count = i32::try_from(topic.partitions().count()).unwrap_or(i32::MAX);
    partition_for(group_id, partition_count).map(|index| (topic.id, PartitionIndex(index)))
}

impl Broker {
    /// What the coordinator asks of the image as it is now.
    pub(crate) fn group_topics(&self) -> ImageTopics {
        ImageTopics(self.metadata.image())
    }

    /// The shard of a group. Where this broker does not coordinate the group it is one that refuses
    /// everything with `NOT_COORDINATOR`, in the form of each request.
    pub(crate) fn group_shard(self: &Arc<Self>, now: Now, group_id: &str) -> Arc<Shard> {
        self.find_group_shard(now, group_id).unwrap_or_else(|error| {
            tracing::debug!(group = group_id, %error, "asked for a group that is not coordinated here");
            Arc::new(Shard::elsewhere(self))
        })
    }

    /// Hurries the load of a group's shard, which has not begun, as a request does.
    #[cfg(test)]
    pub(crate) fn hurry_around(self: &Arc<Self>, group_id: &str, meanwhile: impl FnOnce()) {
        let image = self.metadata.image();
        let place = home_of(&image, group_id).expect("there is the topic of offsets");
        let shard = self.groups.get(place).expect("it is led here");
        self.groups.loader.hurry_around(self, &shard, meanwhile);
    }

    fn find_group_shard(self: &Arc<Self>, now: Now, group_id: &str) -> Result<Arc<Shard>, ErrorCode> {
        let image = self.metadata.image();
        let (topic_id, index) = home_of(&image, group_id).ok_or(ErrorCode::NotCoordinator)?;
        let topic = image.topic_by_id(topic_id).ok_or(ErrorCode::NotCoordinator)?;
        let leader = topic.partition(index).ok_or(ErrorCode::NotCoordinator)?;
        self.shard_of(now, topic_id, index, leader)
    }

    /// Every shard that this broker leads, loaded or not.
    pub(crate) fn group_shards(self: &Arc<Self>, now: Now) -> Vec<Arc<Shard>> {
        let image = self.metadata.image();
        let Some(topic) = image.topic(OFFSETS_TOPIC) else { return Vec::new() };
        topic
            .partitions()
            .filter_map(|(index, leader)| self.shard_of(now, topic.id, index, leader).ok())
            .collect()
    }

    /// Begins to load every shard that this broker leads, so that members' sessions and the retention of offsets run
    /// from its start and not from the first request. The loads go on with the timers.
    pub fn load_groups(self: &Arc<Self>, now: Now) {
        let shard_count = self.group_shards(now).len();
        tracing::debug!(shard_count, "coordinating groups");
    }

    /// Changes the settings of groups, for those that there are and those to come. A session that has begun keeps
    /// its timeout; everything else counts from now on.
    pub fn set_group_config(self: &Arc<Self>, now: Now, config: &GroupConfig) {
        self.groups.config.write().clone_from(config);
        for shard in self.groups.all() {
            shard.set_config(now, config);
        }
    }

    /// The settings of groups that are in force.
    pub fn group_config(&self) -> GroupConfig {
        self.groups.config()
    }

    /// The groups that this broker coordinates, shard by shard and in the order of their ids within each. Shards that
    /// nobody has asked for yet are left alone.
    pub fn group_stats(&self) -> Vec<GroupStats> {
        let now = self.clock.now();
        self.groups.all().iter().flat_map(|shard| shard.read(now, GroupCoordinator::group_stats)).collect()
    }

    fn shard_of(
        self: &Arc<Self>,
        now: Now,
        topic_id: TopicId,
        index: PartitionIndex,
        leader: &PartitionImage,
    ) -> Result<Arc<Shard>, ErrorCode> {
        if self.known_leader(leader) != Some(self.node_id()) {
            return Err(ErrorCode::NotCoordinator);
        }
        let shard = match self.groups.get((topic_id, index)) {
            Some(shard) if leader.leader_epoch <= shard.leader_epoch() => shard,
            // The image has moved on, and whoever is told of that has not come here yet.
            Some(_) | None => {
                self.groups.follow(self, now, topic_id, index).ok_or(ErrorCode::NotCoordinator)?
            }
        };
        if shard.is_loading(now) {
            self.groups.loader.hurry(self, &shard);
        }
        Ok(shard)
    }

    /// Hands a request to its group's shard. The answer comes at once or later, in the form of the request's
    /// version; it is dropped if the client goes first.
    pub(crate) fn run_group_request(
        self: &Arc<Self>,
        context: RequestContext,
        group_id: &str,
        run: impl FnOnce(&mut GroupCoordinator, Now, &GroupContext) -> Effects,
    ) {
        let shard = self.group_shard(context.now, group_id);
        let asked = self.group_context(&context);
        let (now, connection) = (context.now, Arc::clone(&context.connection));
        let answer: Answer = Box::new(move |response: Response| reply::send(context, response));
        shard.submit(now, &asked, &connection, answer, |coordinator| run(coordinator, now, &asked));
    }

    /// What the coordinator is told of a request beside its body.
    pub(crate) fn group_context(&self, context: &RequestContext) -> GroupContext {
        GroupContext {
            request_id: RequestId(self.next_parked_id()),
            api_version: context.version(),
            client_id: context.header.client_id.as_deref().unwrap_or_default().to_owned(),
            client_host: format!("/{}", context.connection.peer.ip().to_canonical()),
        }
    }

    fn new_coordinator(&self) -> GroupCoordinator {
        let seed = (u64::from(self.random.next_u32()) << 32) | u64::from(self.random.next_u32());
        GroupCoordinator::new(self.groups.config(), seed)
    }
}

/// Shards are held by their broker and reach it through this.
pub(crate) type BrokerRef = Weak<Broker>;
