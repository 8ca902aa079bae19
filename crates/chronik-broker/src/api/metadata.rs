//! Metadata (key 3, versions 0–13): brokers, topics and partitions; topics that are created when first named.
//!
//! Version 0 takes an empty list for "all topics"; later ones take null for all and an empty list for none. Topics
//! may be named by id from version 12 on. From version 4 on the client says whether a missing topic may be created;
//! before, it always may. The answer waits for the creation, so that the client finds the topic at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_protocol::messages::metadata_request::MetadataRequestTopic;
use chronik_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use chronik_protocol::messages::{MetadataRequest, MetadataResponse};
use chronik_raft::metadata::{MetadataImage, TopicImage};
use chronik_types::{ErrorCode, TopicId, validate_topic_name};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::is_internal_topic;

use super::authorized_operations::{CLUSTER_OPERATIONS, OPERATIONS_UNKNOWN, TOPIC_OPERATIONS};

/// The first version in which a client may ask for topics by id.
const TOPIC_IDS_FROM: i16 = 12;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: MetadataRequest) {
    let version = context.version();
    let wants_all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let topics = request.topics.as_deref().unwrap_or_default();
    let is_by_id = |topic: &MetadataRequestTopic| topic.name.is_none() || topic.topic_id != TopicId::ZERO;
    if version < TOPIC_IDS_FROM && topics.iter().any(is_by_id) {
        let response = refuse_ids(topics);
        context.reply(&response);
        return;
    }
    let may_create = broker.config.auto_create_topics_enable
        && (version < 4 || request.allow_auto_topic_creation)
        && !wants_all;
    if may_create {
        let image = broker.metadata.image();
        let uses_ids = topics.iter().any(|topic| topic.topic_id != TopicId::ZERO);
        let missing: BTreeSet<String> = topics
            .iter()
            .filter(|_| !uses_ids)
            .filter_map(|topic| topic.name.clone())
            .filter(|name| {
                image.topic(name).is_none() && validate_topic_name(name).is_ok() && !is_internal_topic(name)
            })
            .collect();
        if !missing.is_empty() {
            let broker_then = Arc::clone(broker);
            broker.auto_create_topics(
                missing,
                Box::new(move |failures| {
                    let failure = |name: &str| {
                        failures.iter().find(|(failed, _)| failed == name).map(|(_, error)| *error)
                    };
                    answer(&broker_then, context, &request, wants_all, &failure);
                }),
            );
            return;
        }
    }
    answer(broker, context, &request, wants_all, &|_| None);
}

/// Versions 10 and 11 have a field for ids that may not be used, and a null name means nothing without one.
fn refuse_ids(topics: &[MetadataRequestTopic]) -> MetadataResponse {
    let refused = |topic: &MetadataRequestTopic| MetadataResponseTopic {
        error_code: ErrorCode::InvalidRequest.code(),
        name: Some(topic.name.clone().unwrap_or_default()),
        topic_id: topic.topic_id,
        ..Default::default()
    };
    MetadataResponse { topics: topics.iter().map(refused).collect(), ..Default::default() }
}

fn answer(
    broker: &Broker,
    context: RequestContext,
    request: &MetadataRequest,
    wants_all: bool,
    failure: &dyn Fn(&str) -> Option<ErrorCode>,
) {
    let version = context.version();
    let image = broker.metadata.image();
    let asked = request.topics.as_deref().unwrap_or_default();
    let mut topics: Vec<MetadataResponseTopic> = if wants_all {
        image.topics().map(|topic| describe(broker, &image, topic)).collect()
    } else if asked.iter().any(|topic| topic.topic_id != TopicId::ZERO) {
        // A request speaks of ids or of names; where it has an id, names are passed over, as on Kafka.
        let ids: BTreeSet<TopicId> =
            asked.iter().map(|topic| topic.topic_id).filter(|id| *id != TopicId::ZERO).collect();
        ids.into_iter().map(|id| by_id(broker, &image, id)).collect()
    } else {
        let names: BTreeSet<&str> = asked.iter().filter_map(|topic| topic.name.as_deref()).collect();
        names.into_iter().map(|name| by_name(broker, &image, name, failure)).collect()
    };
    if version >= 8 && request.include_topic_authorized_operations {
        for topic in &mut topics {
            topic.topic_authorized_operations = TOPIC_OPERATIONS;
        }
    }
    let wants_cluster_operations =
        (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    let response = MetadataResponse {
        throttle_time_ms: 0,
        brokers: brokers(broker, &context, &image),
        cluster_id: image.cluster_id().map(str::to_owned),
        controller_id: broker.controller_id(&image),
        topics,
        cluster_authorized_operations: if wants_cluster_operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_UNKNOWN
        },
        ..Default::default()
    };
    context.reply(&response);
}

fn brokers(broker: &Broker, context: &RequestContext, image: &MetadataImage) -> Vec<MetadataResponseBroker> {
    image
        .live_brokers()
        .filter_map(|registered| {
            let (host, port) = broker.endpoint_for(registered, &context.connection)?;
            Some(MetadataResponseBroker {
                node_id: registered.id.get(),
                host,
                port,
                rack: registered.rack.clone(),
            })
        })
        .collect()
}

fn by_name(
    broker: &Broker,
    image: &MetadataImage,
    name: &str,
    failure: &dyn Fn(&str) -> Option<ErrorCode>,
) -> MetadataResponseTopic {
    if let Some(topic) = image.topic(name) {
        return describe(broker, image, topic);
    }
    let error = match validate_topic_name(name) {
        Ok(()) => failure(name).unwrap_or(ErrorCode::UnknownTopicOrPartition),
        Err(_) => ErrorCode::InvalidTopicException,
    };
    MetadataResponseTopic {
        error_code: error.code(),
        name: Some(name.to_owned()),
        is_internal: is_internal_topic(name),
        ..Default::default()
    }
}

fn by_id(broker: &Broker, image: &MetadataImage, topic_id: TopicId) -> MetadataResponseTopic {
    match image.topic_by_id(topic_id) {
        Some(topic) => describe(broker, image, topic),
        None => MetadataResponseTopic {
            error_code: ErrorCode::UnknownTopicId.code(),
            name: None,
            topic_id,
            ..Default::default()
        },
    }
}

fn describe(broker: &Broker, image: &MetadataImage, topic: &TopicImage) -> MetadataResponseTopic {
    let is_live = |node: chronik_types::NodeId| image.broker(node).is_some_and(|found| !found.fenced);
    let partitions = topic
        .partitions()
        .map(|(index, partition)| {
            let leader = broker.known_leader(partition).filter(|leader| is_live(*leader));
            MetadataResponsePartition {
                error_code: match leader {
                    Some(_) => ErrorCode::None.code(),
                    None => ErrorCode::LeaderNotAvailable.code(),
                },
                partition_index: index.get(),
                leader_id: leader.map_or(-1, chronik_types::NodeId::get),
                leader_epoch: partition.leader_epoch.get(),
                replica_nodes: partition.replicas.iter().map(|node| node.get()).collect(),
                isr_nodes: partition.isr.iter().map(|node| node.get()).collect(),
                offline_replicas: partition
                    .replicas
                    .iter()
                    .filter(|node| !is_live(**node))
                    .map(|node| node.get())
                    .collect(),
            }
        })
        .collect();
    MetadataResponseTopic {
        error_code: ErrorCode::None.code(),
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: is_internal_topic(&topic.name),
        partitions,
        ..Default::default()
    }
}
