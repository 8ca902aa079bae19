//! Which partitions this broker serves right now.
//!
//! The metadata image says what exists. A partition's log is opened when someone first asks for it, so that
//! thousands of idle partitions cost nothing but their place in the image.

use std::collections::HashMap;
use std::sync::Arc;

use chronik_log::LogConfig;
use chronik_raft::metadata::{ConfigResource, Delta, MetadataImage, TopicImage};
use chronik_types::{ErrorCode, Now, PartitionIndex, TopicId, TopicPartition};
use parking_lot::{Mutex, RwLock};

use crate::broker::Broker;
use crate::config::{BrokerValues, TopicOverrides, log_config};
use crate::controller::is_internal_topic;
use crate::partition::{Partition, PartitionServices};
use crate::stats::{TopicTraffic, Traffic};

/// The config that says it, on topics and on the broker alike.
const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

/// The partitions that have been asked for.
pub(crate) struct Topics {
    services: Arc<PartitionServices>,
    open: RwLock<HashMap<(TopicId, PartitionIndex), Arc<Partition>>>,
    /// Held while a partition is opened or retired, so that none is opened for a topic that has just gone.
    changing: Mutex<()>,
    /// What the partitions that are gone have done, so that the broker's sums never go back.
    gone: Mutex<Traffic>,
}

impl Topics {
    pub(crate) fn new(services: Arc<PartitionServices>) -> Self {
        Self { services, open: RwLock::default(), changing: Mutex::new(()), gone: Mutex::default() }
    }

    /// What clients have written and read, by topic and in all. Only topics that have been asked for are told.
    #[expect(clippy::iter_over_hash_type, reason = "sums do not depend on the order, and are kept by name")]
    pub(crate) fn traffic(&self) -> TopicTraffic {
        let mut told = TopicTraffic { total: *self.gone.lock(), ..TopicTraffic::default() };
        for partition in self.open.read().values() {
            let traffic = partition.traffic.read();
            told.total += traffic;
            *told.topics.entry(Arc::clone(&partition.topic)).or_default() += traffic;
        }
        told
    }

    fn get(&self, topic_id: TopicId, index: PartitionIndex) -> Option<Arc<Partition>> {
        self.open.read().get(&(topic_id, index)).cloned()
    }

    /// Follows a change of the image.
    pub(crate) fn apply(&self, broker: &Broker, image: &MetadataImage, delta: &Delta) {
        let now = broker.clock.now();
        let _changing = self.changing.lock();
        for topic in &delta.topics_deleted {
            self.retire(broker, now, topic);
        }
        for resource in &delta.configs_changed {
            let ConfigResource::Topic(name) = resource else { continue };
            let Some(topic) = image.topic(name) else { continue };
            let config = broker.log_config_of(image, name);
            for (index, _) in topic.partitions() {
                if let Some(partition) = self.get(topic.id, index) {
                    partition.log().update_config(Arc::clone(&config));
                }
            }
        }
        for change in &delta.partitions_changed {
            let Some(partition) = self.get(change.topic_id, change.partition) else { continue };
            if change.new.leader == Some(broker.node_id())
                && let Err(error) = partition.become_leader(now, change.new.leader_epoch)
            {
                tracing::error!(
                    topic = &*change.topic,
                    partition = change.partition.get(),
                    leader_epoch = change.new.leader_epoch.get(),
                    "cannot take the lead: {error}"
                );
            }
        }
    }

    fn retire(&self, broker: &Broker, now: Now, topic: &TopicImage) {
        for (index, _) in topic.partitions() {
            let partition = self.open.write().remove(&(topic.id, index));
            if let Some(partition) = partition {
                partition.retire(now);
                *self.gone.lock() += partition.traffic.read();
            }
            let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
            if let Err(error) = broker.logs.delete(now, &name) {
                tracing::error!(
                    topic = &*topic.name,
                    partition = index.get(),
                    "cannot delete a log: {error}"
                );
            }
        }
    }
}

/// The settings of the logs of `topic`, as the image and the broker's own values have them. Logs are opened with it
/// before there is a broker.
pub fn topic_log_config(image: &MetadataImage, values: &BrokerValues, topic: &str) -> Arc<LogConfig> {
    let overrides = image.configs(&ConfigResource::Topic(topic.into()));
    let config = log_config(overrides.map_or(&TopicOverrides::new(), |set| set), values);
    if !is_internal_topic(topic) {
        return config;
    }
    // What the broker keeps in its own topics does not grow old: on Kafka they are compacted. Until there is compaction
    // everything is kept, whatever the broker's retention is.
    Arc::new(LogConfig { retention_ms: None, retention_bytes: None, ..LogConfig::clone(&config) })
}

impl Broker {
    /// Sets aside the logs that no topic of the image owns: left by a topic that was deleted while this node was
    /// away, or of another topic by the same name. Called once at start, before the first request.
    pub fn retire_strays(&self) {
        let image = self.metadata.image();
        let now = self.clock.now();
        for log in self.logs.logs() {
            let name = log.topic_partition();
            // A directory whose id was lost belongs to whoever has its name now.
            let is_same = |id: TopicId| log.topic_id() == id || log.topic_id() == TopicId::ZERO;
            let owner = image.topic(&name.topic).filter(|topic| is_same(topic.id));
            let is_known = owner.is_some_and(|topic| topic.partition(name.partition).is_some());
            if is_known {
                continue;
            }
            match self.logs.retire_stray(now, name) {
                Ok(_) => tracing::warn!(
                    topic = &*name.topic,
                    partition = name.partition.get(),
                    "set aside the log of a partition that does not exist any more"
                ),
                Err(error) => tracing::error!(
                    topic = &*name.topic,
                    partition = name.partition.get(),
                    "cannot set aside a log: {error}"
                ),
            }
        }
    }

    /// The settings of a topic's logs.
    pub(crate) fn log_config_of(&self, image: &MetadataImage, topic: &Arc<str>) -> Arc<LogConfig> {
        topic_log_config(image, &self.config.topic_values, topic)
    }

    /// How many replicas must be in sync for a produce with `acks=all` to a topic. Every such produce asks.
    pub(crate) fn min_insync_replicas(&self, image: &MetadataImage, topic: &Arc<str>) -> usize {
        let own = image.config(&ConfigResource::Topic(Arc::clone(topic)), MIN_INSYNC_REPLICAS);
        let value = own.or_else(|| self.config.topic_values.get(MIN_INSYNC_REPLICAS).map(String::as_str));
        value.and_then(|value| value.parse().ok()).unwrap_or(1)
    }

    /// How many replicas of a topic's partitions must be in sync for `acks=all`.
    pub fn min_insync_replicas_of(&self, image: &MetadataImage, topic: &TopicImage) -> usize {
        self.min_insync_replicas(image, &topic.name)
    }

    /// The partition of a topic known by name.
    pub(crate) fn partition_by_name(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, ErrorCode> {
        let image = self.metadata.image();
        let topic = image.topic(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        self.partition_of(topic, PartitionIndex(partition))
    }

    /// The partition of a topic known by id.
    pub(crate) fn partition_by_id(
        &self,
        topic_id: TopicId,
        partition: i32,
    ) -> Result<Arc<Partition>, ErrorCode> {
        let image = self.metadata.image();
        let topic = image.topic_by_id(topic_id).ok_or(ErrorCode::UnknownTopicId)?;
        self.partition_of(topic, PartitionIndex(partition))
    }

    /// The partition of a topic in the image, opened now where nobody has asked for it before.
    pub(crate) fn partition_of(
        &self,
        topic: &TopicImage,
        index: PartitionIndex,
    ) -> Result<Arc<Partition>, ErrorCode> {
        if let Some(partition) = self.topics.get(topic.id, index) {
            return Ok(partition);
        }
        let state = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if !state.replicas.contains(&self.node_id()) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let _changing = self.topics.changing.lock();
        if let Some(partition) = self.topics.get(topic.id, index) {
            return Ok(partition);
        }
        // The image may have moved on since the caller looked; what is opened now must exist now.
        let image = self.metadata.image();
        let topic = image.topic_by_id(topic.id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let state = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
        let opened = self
            .logs
            .get_or_create(&name, topic.id, self.log_config_of(&image, &topic.name))
            .and_then(|log| {
                let services = Arc::clone(&self.topics.services);
                let partition = Arc::new(Partition::new(Arc::clone(&topic.name), index, log, services));
                if state.leader == Some(self.node_id()) {
                    partition.become_leader(self.clock.now(), state.leader_epoch)?;
                }
                Ok(partition)
            });
        match opened {
            Ok(partition) => {
                self.topics.open.write().insert((topic.id, index), Arc::clone(&partition));
                Ok(partition)
            }
            Err(error) => {
                tracing::error!(topic = &*topic.name, partition = index.get(), "cannot open a log: {error}");
                Err(error.error_code())
            }
        }
    }
}
