//! The groups that this broker coordinates: one shard for each partition of `__consumer_offsets` that it leads.
//!
//! A shard is loaded from its partition's log when it is first asked for, and lives until the topic goes or another
//! broker takes the lead. The rules of groups are those of `chronik-coordinator`; here they meet the log, the timers
//! and the connections.

mod load;
mod reply;
mod shard;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use chronik_coordinator::{
    Effects, GroupCoordinator, GroupStats, RequestContext as GroupContext, RequestId, Response, Topics,
    partition_for,
};
use chronik_raft::metadata::{Delta, MetadataImage};
use chronik_types::{ErrorCode, Now, PartitionIndex, TopicId};
use parking_lot::RwLock;

use crate::broker::Broker;
use crate::context::RequestContext;

pub(crate) use shard::{Answer, Shard};

/// The topic that holds groups and offsets.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The shards that have been asked for.
#[derive(Default)]
pub(crate) struct Groups {
    shards: RwLock<HashMap<(TopicId, PartitionIndex), Arc<Shard>>>,
}

impl Groups {
    fn get(&self, key: (TopicId, PartitionIndex)) -> Option<Arc<Shard>> {
        self.shards.read().get(&key).cloned()
    }

    fn remove(&self, key: (TopicId, PartitionIndex)) -> Option<Arc<Shard>> {
        self.shards.write().remove(&key)
    }

    fn all(&self) -> Vec<Arc<Shard>> {
        self.shards.read().values().cloned().collect()
    }

    /// Follows a change of the image: shards go with their partitions, offsets with their topics.
    pub(crate) fn apply(&self, broker: &Broker, delta: &Delta) {
        let now = broker.clock.now();
        for topic in delta.topics_deleted.iter().filter(|topic| &*topic.name == OFFSETS_TOPIC) {
            for (index, _) in topic.partitions() {
                if let Some(shard) = self.remove((topic.id, index)) {
                    shard.retire(now);
                }
            }
        }
        for change in &delta.partitions_changed {
            if change.new.leader != Some(broker.node_id())
                && let Some(shard) = self.remove((change.topic_id, change.partition))
            {
                shard.retire(now);
            }
        }
        let names: BTreeSet<String> =
            delta.topics_deleted.iter().map(|topic| topic.name.to_string()).collect();
        if !names.is_empty() {
            for shard in self.all() {
                shard.if_loaded(now, |coordinator| coordinator.topics_deleted(now, &names));
            }
        }
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

impl Broker {
    /// What the coordinator asks of the image as it is now.
    pub(crate) fn group_topics(&self) -> ImageTopics {
        ImageTopics(self.metadata.image())
    }

    /// The shard of a group, loaded. Where this broker does not coordinate the group it is one that refuses
    /// everything with `NOT_COORDINATOR`, in the form of each request.
    pub(crate) fn group_shard(self: &Arc<Self>, now: Now, group_id: &str) -> Arc<Shard> {
        self.find_group_shard(now, group_id).unwrap_or_else(|error| {
            tracing::debug!(group = group_id, %error, "asked for a group that is not coordinated here");
            Arc::new(Shard::elsewhere(self))
        })
    }

    fn find_group_shard(self: &Arc<Self>, now: Now, group_id: &str) -> Result<Arc<Shard>, ErrorCode> {
        let image = self.metadata.image();
        let topic = image.topic(OFFSETS_TOPIC).ok_or(ErrorCode::NotCoordinator)?;
        let partition_count = i32::try_from(topic.partitions().count()).unwrap_or(i32::MAX);
        let index = partition_for(group_id, partition_count).ok_or(ErrorCode::NotCoordinator)?;
        self.shard_of(now, &image, PartitionIndex(index))
    }

    /// Every shard that this broker leads, loaded. A shard that cannot be loaded is its error.
    pub(crate) fn group_shards(self: &Arc<Self>, now: Now) -> Vec<Result<Arc<Shard>, ErrorCode>> {
        let image = self.metadata.image();
        let Some(topic) = image.topic(OFFSETS_TOPIC) else { return Vec::new() };
        topic
            .partitions()
            .filter(|(_, state)| state.leader == Some(self.node_id()))
            .map(|(index, _)| self.shard_of(now, &image, index))
            .collect()
    }

    /// Loads every shard that this broker leads, so that members' sessions and the retention of offsets run from
    /// its start and not from the first request.
    pub fn load_groups(self: &Arc<Self>, now: Now) {
        for shard in self.group_shards(now) {
            if let Err(error) = shard {
                tracing::error!(%error, "cannot load groups");
            }
        }
    }

    /// The groups that this broker coordinates, shard by shard and in the order of their ids within each. Shards that
    /// nobody has asked for yet are left alone.
    pub fn group_stats(&self) -> Vec<GroupStats> {
        let mut shards = self
            .groups
            .shards
            .read()
            .iter()
            .map(|(key, shard)| (*key, Arc::clone(shard)))
            .collect::<Vec<_>>();
        shards.sort_by_key(|(key, _)| *key);
        let now = self.clock.now();
        shards.iter().flat_map(|(_, shard)| shard.read(now, GroupCoordinator::group_stats)).collect()
    }

    fn shard_of(
        self: &Arc<Self>,
        now: Now,
        image: &MetadataImage,
        index: PartitionIndex,
    ) -> Result<Arc<Shard>, ErrorCode> {
        let topic = image.topic(OFFSETS_TOPIC).ok_or(ErrorCode::NotCoordinator)?;
        let key = (topic.id, index);
        let shard = if let Some(shard) = self.groups.get(key) {
            shard
        } else {
            let partition = self.partition_of(topic, index)?;
            partition.check_leader()?;
            let made = Shard::new(self, partition);
            Arc::clone(self.groups.shards.write().entry(key).or_insert_with(|| Arc::new(made)))
        };
        shard.check_leader()?;
        shard.ensure_loaded(now)?;
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
        GroupCoordinator::new(self.config.groups.clone(), seed)
    }
}

/// Shards are held by their broker and reach it through this.
type BrokerRef = Weak<Broker>;
