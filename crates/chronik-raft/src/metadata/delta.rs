//! What differs between two images: what a broker has to act on.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_types::{NodeId, PartitionIndex, TopicId};

use super::image::{ConfigResource, MetadataImage, PartitionImage, TopicImage};

/// What differs between an image and a later one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Topics that are new, as they are now. Their partitions are in `partitions_changed` too.
    pub topics_created: Vec<Arc<TopicImage>>,
    /// Topics that are gone, as they were. Their partitions are not in `partitions_changed`.
    pub topics_deleted: Vec<Arc<TopicImage>>,
    /// Partitions that are new or different, by topic id and number.
    pub partitions_changed: Vec<PartitionChange>,
    /// Resources whose configs are different, other than those that went with a deleted topic.
    pub configs_changed: Vec<ConfigResource>,
    /// Brokers that are new, gone or different.
    pub brokers_changed: Vec<NodeId>,
}

/// A partition that is new or different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionChange {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition's number.
    pub partition: PartitionIndex,
    /// The partition before; `None` for a new one.
    pub old: Option<Arc<PartitionImage>>,
    /// The partition now.
    pub new: Arc<PartitionImage>,
}

/// What may differ between two images; all else is the same.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) topics: BTreeSet<TopicId>,
    pub(super) partitions: BTreeSet<(TopicId, PartitionIndex)>,
    pub(super) configs: BTreeSet<ConfigResource>,
    pub(super) brokers: BTreeSet<NodeId>,
}

impl Delta {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What differs between any two images, as after the installation of a snapshot.
    pub fn between(old: &MetadataImage, new: &MetadataImage) -> Self {
        let mut touched = Touched::default();
        for (one, other) in [(old, new), (new, old)] {
            for topic in one.topics() {
                let same = other.topic_by_id(topic.id).is_some_and(|found| Arc::ptr_eq(found, topic));
                if !same {
                    touched.topics.insert(topic.id);
                    touched.partitions.extend(topic.partitions().map(|(index, _)| (topic.id, index)));
                }
            }
            touched.configs.extend(one.config_resources().map(|(resource, _)| resource.clone()));
            touched.brokers.extend(one.brokers().map(|broker| broker.id));
        }
        Self::of(old, new, &touched)
    }

    /// What differs of what was touched.
    pub(super) fn of(old: &MetadataImage, new: &MetadataImage, touched: &Touched) -> Self {
        let mut delta = Self::default();
        for topic_id in &touched.topics {
            match (old.topic_by_id(*topic_id), new.topic_by_id(*topic_id)) {
                (None, Some(created)) => delta.topics_created.push(Arc::clone(created)),
                (Some(deleted), None) => delta.topics_deleted.push(Arc::clone(deleted)),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        for (topic_id, partition) in &touched.partitions {
            let Some(topic) = new.topic_by_id(*topic_id) else { continue };
            let Some(now) = topic.partition(*partition) else { continue };
            let before = old.topic_by_id(*topic_id).and_then(|topic| topic.partition(*partition));
            if before.is_some_and(|before| before == now) {
                continue;
            }
            delta.partitions_changed.push(PartitionChange {
                topic: Arc::clone(&topic.name),
                topic_id: *topic_id,
                partition: *partition,
                old: before.cloned(),
                new: Arc::clone(now),
            });
        }
        for resource in &touched.configs {
            let went_with_its_topic =
                matches!(resource, ConfigResource::Topic(name) if new.topic(name).is_none());
            if !went_with_its_topic && old.configs(resource) != new.configs(resource) {
                delta.configs_changed.push(resource.clone());
            }
        }
        let differs = |node_id: &&NodeId| old.broker(**node_id) != new.broker(**node_id);
        delta.brokers_changed.extend(touched.brokers.iter().filter(differs));
        delta
    }
}
