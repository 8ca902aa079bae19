//! Which partitions this broker serves right now.
//!
//! The metadata image says what exists. A partition's log is opened when someone first asks for it, so that
//! thousands of idle partitions cost nothing but their place in the image.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chronik_log::{Log, LogConfig, LogError};
use chronik_raft::metadata::{ConfigResource, Delta, MetadataImage, PartitionImage, TopicImage};
use chronik_replication::{FetchPosition, LeaderSettings};
use chronik_types::{ErrorCode, LeaderEpoch, Now, Offset, PartitionIndex, TopicId, TopicPartition};
use parking_lot::{Mutex, RwLock};

use crate::broker::Broker;
use crate::config::{BrokerValues, TopicOverrides, log_config};
use crate::partition::{Partition, PartitionServices, Standing, position_in};
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

    /// Follows a change of the image; `all_configs` where the broker's own values are different too.
    pub(crate) fn apply(&self, broker: &Broker, image: &MetadataImage, delta: &Delta, all_configs: bool) {
        let now = broker.clock.now();
        let _changing = self.changing.lock();
        for topic in &delta.topics_deleted {
            self.retire(broker, now, topic);
        }
        // A log may be there without anybody having asked for its partition since the start.
        if all_configs {
            self.update_configs(broker, image, image.topics());
        } else {
            let changed = delta.configs_changed.iter().filter_map(|resource| match resource {
                ConfigResource::Topic(name) => image.topic(name),
                ConfigResource::Broker(_)
                | ConfigResource::BrokerDefault
                | ConfigResource::ClientMetrics(_)
                | ConfigResource::Group(_) => None,
            });
            self.update_configs(broker, image, changed);
        }
        for change in &delta.partitions_changed {
            if let Some(partition) = self.get(change.topic_id, change.partition) {
                take_up(&partition, now, &change.new, &broker.standing(image, &change.topic));
            }
        }
        let is_own = delta.brokers_changed.contains(&broker.node_id());
        if !delta.brokers_changed.is_empty() {
            for partition in self.open_partitions() {
                let state = image.topic_by_id(partition.topic_id);
                let state = state.and_then(|topic| topic.partition(partition.index));
                if let Some(state) = state.filter(|_| is_own) {
                    // Once it is registered it may lead.
                    take_up(&partition, now, state, &broker.standing(image, &partition.topic));
                }
                partition.membership_changed(now, &broker.standing(image, &partition.topic));
            }
        }
    }

    /// Every partition that has been asked for, in an order that does not change from run to run.
    pub(crate) fn open_partitions(&self) -> Vec<Arc<Partition>> {
        let mut found: Vec<_> = self.open.read().values().cloned().collect();
        found.sort_unstable_by_key(|partition| (partition.topic_id, partition.index));
        found
    }

    /// Gives the logs of these topics the settings that are in force now.
    fn update_configs<'a>(
        &self,
        broker: &Broker,
        image: &MetadataImage,
        topics: impl Iterator<Item = &'a Arc<TopicImage>>,
    ) {
        let values = broker.configs.values();
        for topic in topics {
            let config = topic_log_config(image, &values, &topic.name);
            let standing = broker.standing(image, &topic.name);
            for (index, state) in topic.partitions() {
                let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
                let opened = self.get(topic.id, index).map(|partition| Arc::clone(partition.log()));
                if let Some(log) = opened.or_else(|| broker.logs.get(&name)) {
                    log.update_config(Arc::clone(&config));
                }
                if let Some(partition) = self.get(topic.id, index) {
                    take_up(&partition, broker.clock.now(), state, &standing);
                }
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
            // A topic of the same name may have come in its place by now.
            let is_other = |log: &Arc<Log>| log.topic_id() != topic.id && log.topic_id() != TopicId::ZERO;
            if broker.logs.get(&name).as_ref().is_some_and(is_other) {
                continue;
            }
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

/// Becomes what the image says; a disk that keeps it from that is told to the operator, and the partition is tried
/// again with its next change.
fn take_up(partition: &Arc<Partition>, now: Now, state: &PartitionImage, standing: &Standing<'_>) {
    if let Err(error) = partition.take_up(now, state, standing) {
        tracing::error!(
            topic = &*partition.topic,
            partition = partition.index.get(),
            leader_epoch = state.leader_epoch.get(),
            "cannot take the lead: {error}"
        );
    }
}

/// The settings of the logs of `topic`, as the image and the broker's own values have them. Logs are opened with it
/// before there is a broker.
pub fn topic_log_config(image: &MetadataImage, values: &BrokerValues, topic: &str) -> Arc<LogConfig> {
    let overrides = image.configs(&ConfigResource::Topic(topic.into()));
    log_config(overrides.map_or(&TopicOverrides::new(), |set| set), values)
}

impl Broker {
    /// Sets aside the logs that no topic of the image owns: left by a topic that was deleted while this node was
    /// away, or of another topic by the same name. Called once at start, before the first request.
    pub fn retire_strays(&self) {
        self.knows_strays.store(true, Ordering::Release);
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
        topic_log_config(image, &self.configs.values(), topic)
    }

    /// How many replicas must be in sync for a produce with `acks=all` to a topic. Every such produce asks.
    pub(crate) fn min_insync_replicas(&self, image: &MetadataImage, topic: &Arc<str>) -> usize {
        let own = image.config(&ConfigResource::Topic(Arc::clone(topic)), MIN_INSYNC_REPLICAS);
        own.and_then(|value| value.parse().ok()).unwrap_or_else(|| self.configs.min_insync_replicas())
    }

    /// Makes a partition what the image says now: a disk has kept it from that before, or it has not been told yet.
    pub(crate) fn take_up_again(&self, now: Now, partition: &Arc<Partition>) {
        // What is looked at here must not be older than what the partition has been told.
        let _changing = self.topics.changing.lock();
        let image = self.metadata.image();
        let state = image
            .topic_by_id(partition.topic_id)
            .and_then(|topic| topic.partition(partition.index))
            .map(Arc::clone);
        if let Some(state) = state {
            take_up(partition, now, &state, &self.standing(&image, &partition.topic));
        }
    }

    /// What the image says of the brokers, and of what `topic` asks of its replicas.
    pub(crate) fn standing<'a>(&self, image: &'a MetadataImage, topic: &Arc<str>) -> Standing<'a> {
        let settings = LeaderSettings {
            min_insync: self.min_insync_replicas(image, topic),
            lag_ms_max: self.config.replica_lag_time_max_ms,
        };
        let own = image.broker(self.node_id());
        let is_registered = own.is_some_and(|own| own.incarnation == self.incarnation);
        Standing { image, is_registered, settings }
    }

    /// Where this broker would go on as a follower of a partition, which need not be open for that.
    pub(crate) fn fetch_position(
        &self,
        topic: &TopicImage,
        index: PartitionIndex,
        leader_epoch: LeaderEpoch,
    ) -> FetchPosition {
        let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
        let log = self.logs.get(&name).filter(|log| log.topic_id() == topic.id);
        log.map_or(
            FetchPosition {
                fetch_offset: Offset::ZERO,
                log_start_offset: Offset::ZERO,
                current_leader_epoch: leader_epoch,
                last_fetched_epoch: LeaderEpoch::NONE,
            },
            |log| position_in(&log, leader_epoch),
        )
    }

    /// How many records the replica of a partition lacks that is furthest behind, where this broker leads it and it has
    /// been asked for.
    pub fn replica_lag_max(&self, topic: &TopicImage, index: PartitionIndex) -> Option<u64> {
        self.topics.get(topic.id, index)?.replica_lag_max()
    }

    /// How many replicas of a topic's partitions must be in sync for `acks=all`.
    pub fn min_insync_replicas_of(&self, image: &MetadataImage, topic: &TopicImage) -> usize {
        self.min_insync_replicas(image, &topic.name)
    }

    /// Whether a follower of this partition has neither opened it nor any log of it, having asked from its beginning.
    pub(crate) fn is_untouched(
        &self,
        topic: &TopicImage,
        index: PartitionIndex,
        asked: FetchPosition,
    ) -> bool {
        let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
        asked.fetch_offset == Offset::ZERO
            && self.topics.get(topic.id, index).is_none()
            && self.logs.get(&name).is_none()
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
            let is_news =
                topic.partition(index).is_some_and(|state| partition.leader_epoch() < state.leader_epoch);
            // The image is there a moment before the partitions have taken it up, one after the other. Whoever comes in
            // that moment has been sent here by the same news.
            if is_news && !partition.is_behind.load(Ordering::Acquire) {
                self.take_up_again(self.clock.now(), &partition);
            }
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
        let config = self.log_config_of(&image, &topic.name);
        let open = || self.logs.get_or_create(&name, topic.id, Arc::clone(&config));
        let mut opened = open();
        // A full disk has kept it from being recovered when the others of its kind were set aside.
        if let Err(LogError::InconsistentTopicId { found, .. }) = &opened
            && self.knows_strays.load(Ordering::Acquire)
            && image.topic_by_id(*found).is_none()
        {
            tracing::warn!(
                topic = &*topic.name,
                partition = index.get(),
                "set aside the log of a partition that does not exist any more"
            );
            opened = self.logs.retire_stray(self.clock.now(), &name).and_then(|_| open());
        }
        let opened = opened.and_then(|log| {
            let services = Arc::clone(&self.topics.services);
            let name = Arc::clone(&topic.name);
            let partition = Arc::new(Partition::new(name, topic.id, index, log, services));
            partition.take_up(self.clock.now(), state, &self.standing(&image, &topic.name))?;
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
