//! `CreateTopics` (key 19, versions 2–7): topics with their partitions and configs.
//!
//! Each topic is one atomic proposal to the metadata log. The answer comes when all of them are applied here, so
//! that the client finds what it has made, or when the client's time is up. With `validate_only` everything is
//! decided and nothing proposed. From version 5 on the answer tells partitions, replicas and configs (KIP-525),
//! from version 7 on the topic's id (KIP-516).

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_protocol::messages::create_topics_request::CreatableTopic;
use chronik_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use chronik_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use chronik_raft::metadata::{CommandBatch, MetadataImage};
use chronik_types::ErrorCode;

use crate::broker::Broker;
use crate::config::{BrokerValues, TOPIC_CONFIGS, TopicOverrides, effective};
use crate::context::RequestContext;
use crate::controller::{CreationError, NewTopic, PARTITIONS_PER_REQUEST_MAX, PlannedTopic};

use super::outcomes::Outcomes;

/// The first version whose answer tells partitions, replicas and configs.
const DETAILS_FROM: i16 = 5;

/// The name of the metadata log where Kafka shows it as a topic.
const METADATA_LOG_TOPIC: &str = "__cluster_metadata";

/// What is answered for one topic, once its proposal is applied where it has one.
struct Answer {
    result: CreatableTopicResult,
    /// The proposal that makes it so, by its position.
    proposal: Option<usize>,
}

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: CreateTopicsRequest) {
    if requested_partition_count(broker, &request.topics) > i64::from(PARTITIONS_PER_REQUEST_MAX) {
        let error = CreationError::new(
            ErrorCode::PolicyViolation,
            format!(
                "Excessively large number of partitions per request: at most {PARTITIONS_PER_REQUEST_MAX} are possible."
            ),
        );
        let topics = request.topics.iter().map(|topic| failed(&topic.name, error.clone())).collect();
        context.reply(&CreateTopicsResponse { topics, ..Default::default() });
        return;
    }
    let broker_then = Arc::clone(broker);
    broker.with_fresh_image(move |image| match image {
        Ok(image) => create(&broker_then, context, &request, &image),
        Err(error) => {
            let error = CreationError::from_proposal(&error);
            let topics = request.topics.iter().map(|topic| failed(&topic.name, error.clone())).collect();
            context.reply(&CreateTopicsResponse { topics, ..Default::default() });
        }
    });
}

/// All topics of a request are judged by the same image, before the first of them is made.
fn create(
    broker: &Arc<Broker>,
    context: RequestContext,
    request: &CreateTopicsRequest,
    image: &MetadataImage,
) {
    let has_details = DETAILS_FROM <= context.version();
    let (mut names, mut duplicates) = (BTreeSet::new(), BTreeSet::new());
    for topic in &request.topics {
        if !names.insert(topic.name.as_str()) {
            duplicates.insert(topic.name.as_str());
        }
    }
    let mut answers = Vec::with_capacity(request.topics.len());
    let mut batches = Vec::new();
    for topic in request.topics.iter().filter(|topic| !duplicates.contains(topic.name.as_str())) {
        let planned = if topic.name == METADATA_LOG_TOPIC {
            let message = format!("Creation of internal topic {METADATA_LOG_TOPIC} is prohibited.");
            Err(CreationError::new(ErrorCode::InvalidRequest, message))
        } else {
            broker.plan_topic(image, &wanted(topic))
        };
        answers.push(match planned {
            Err(error) => Answer { result: failed(&topic.name, error), proposal: None },
            Ok(planned) => {
                let result = made(&topic.name, &planned, has_details.then_some(&broker.config.topic_values));
                let proposal = (!request.validate_only).then(|| {
                    batches.push(CommandBatch::new(planned.commands));
                    batches.len() - 1
                });
                Answer { result, proposal }
            }
        });
    }
    answers.extend(duplicates.into_iter().map(|name| {
        let error = CreationError::new(ErrorCode::InvalidRequest, "Duplicate topic name.");
        Answer { result: failed(name, error), proposal: None }
    }));
    let outcomes = Outcomes::new(
        broker,
        context,
        batches.len(),
        Box::new(move |context, outcomes: Vec<Option<Result<(), CreationError>>>| {
            answer(context, answers, outcomes);
        }),
    );
    for (position, batch) in batches.into_iter().enumerate() {
        let outcomes = Arc::clone(&outcomes);
        broker.metadata.propose(
            batch,
            Box::new(move |outcome| {
                let outcome = outcome.map(|_| ()).map_err(|error| CreationError::from_proposal(&error));
                outcomes.set(position, outcome);
            }),
        );
    }
    outcomes.wait(request.timeout_ms);
}

fn answer(
    context: RequestContext,
    answers: Vec<Answer>,
    mut outcomes: Vec<Option<Result<(), CreationError>>>,
) {
    let topics = answers
        .into_iter()
        .map(|Answer { result, proposal }| {
            let Some(position) = proposal else { return result };
            match outcomes.get_mut(position).and_then(Option::take) {
                Some(Ok(())) => result,
                Some(Err(error)) => failed(&result.name, error),
                None => CreatableTopicResult {
                    name: result.name,
                    error_code: ErrorCode::RequestTimedOut.code(),
                    error_message: None,
                    ..Default::default()
                },
            }
        })
        .collect();
    context.reply(&CreateTopicsResponse { topics, ..Default::default() });
}

/// How many partitions the request asks for, duplicates and impossible topics included.
fn requested_partition_count(broker: &Broker, topics: &[CreatableTopic]) -> i64 {
    topics
        .iter()
        .map(|topic| match (topic.assignments.len(), topic.num_partitions) {
            (0, -1) => i64::from(broker.config.num_partitions),
            (0, count) => i64::from(count.max(0)),
            (count, _) => i64::try_from(count).unwrap_or(i64::MAX),
        })
        .fold(0, i64::saturating_add)
}

fn wanted(topic: &CreatableTopic) -> NewTopic {
    NewTopic {
        name: topic.name.clone(),
        partition_count: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|assignment| (assignment.partition_index, assignment.broker_ids.clone()))
            .collect(),
        configs: topic.configs.iter().map(|config| (config.name.clone(), config.value.clone())).collect(),
    }
}

fn failed(name: &str, error: CreationError) -> CreatableTopicResult {
    CreatableTopicResult {
        name: name.to_owned(),
        error_code: error.code.code(),
        error_message: Some(error.message),
        ..Default::default()
    }
}

/// `broker_values` gives what the topic does not set itself; `None` leaves out what the version cannot carry.
fn made(name: &str, planned: &PlannedTopic, broker_values: Option<&BrokerValues>) -> CreatableTopicResult {
    let result = CreatableTopicResult {
        name: name.to_owned(),
        topic_id: planned.topic_id,
        error_message: None,
        ..Default::default()
    };
    let Some(broker_values) = broker_values else { return result };
    CreatableTopicResult {
        num_partitions: i32::try_from(planned.replicas.len()).unwrap_or(i32::MAX),
        replication_factor: i16::try_from(planned.replication_factor()).unwrap_or(i16::MAX),
        configs: Some(effective_configs(&planned.configs, broker_values)),
        ..result
    }
}

fn effective_configs(overrides: &TopicOverrides, broker_values: &BrokerValues) -> Vec<CreatableTopicConfigs> {
    TOPIC_CONFIGS
        .iter()
        .map(|def| {
            let (value, source) = effective(def, overrides, broker_values);
            CreatableTopicConfigs {
                name: def.name.to_owned(),
                value: Some(value.to_owned()),
                read_only: false,
                config_source: source as i8,
                is_sensitive: false,
            }
        })
        .collect()
}
