//! `CreatePartitions` (key 37, versions 0–3): more partitions for topics that exist (KIP-195).
//!
//! Each topic is one atomic proposal to the metadata log. The answer comes when all of them are applied here, or
//! when the client's time is up. With `validate_only` everything is decided and nothing proposed.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use chronik_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use chronik_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use chronik_raft::metadata::{CommandBatch, MetadataImage, TopicImage};
use chronik_types::{ErrorCode, NodeId};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::{
    CreationError, PARTITIONS_PER_REQUEST_MAX, assignment_commands, check_manual, place,
};

use super::outcomes::Outcomes;

/// What is answered for one topic: its error, or what becomes of a proposal where there is one.
struct Answer {
    name: String,
    planned: Result<Option<usize>, CreationError>,
}

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: CreatePartitionsRequest) {
    let broker_then = Arc::clone(broker);
    broker.with_fresh_image(move |image| match image {
        Ok(image) => create(&broker_then, context, &request, &image),
        Err(error) => {
            let error = CreationError::from_proposal(&error);
            let results = request
                .topics
                .into_iter()
                .map(|topic| CreatePartitionsTopicResult {
                    name: topic.name,
                    error_code: error.code.code(),
                    error_message: Some(error.message.clone()),
                })
                .collect();
            context.reply(&CreatePartitionsResponse { results, ..Default::default() });
        }
    });
}

fn create(
    broker: &Arc<Broker>,
    context: RequestContext,
    request: &CreatePartitionsRequest,
    image: &MetadataImage,
) {
    let (mut names, mut duplicates) = (BTreeSet::new(), BTreeSet::new());
    for topic in &request.topics {
        if !names.insert(topic.name.as_str()) {
            duplicates.insert(topic.name.as_str());
        }
    }
    let mut answers: Vec<Answer> = duplicates
        .iter()
        .map(|name| Answer {
            name: (*name).to_owned(),
            planned: Err(CreationError::new(ErrorCode::InvalidRequest, "Duplicate topic name.")),
        })
        .collect();
    let mut batches = Vec::new();
    let mut remaining_count = PARTITIONS_PER_REQUEST_MAX;
    for topic in request.topics.iter().filter(|topic| !duplicates.contains(topic.name.as_str())) {
        let planned = plan(image, topic, &mut remaining_count).map(|batch| {
            (!request.validate_only).then(|| {
                batches.push(batch);
                batches.len() - 1
            })
        });
        answers.push(Answer { name: topic.name.clone(), planned });
    }
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

/// Decides where the new partitions of one topic go. `remaining_count` is how many the request may still add.
fn plan(
    image: &MetadataImage,
    wanted: &CreatePartitionsTopic,
    remaining_count: &mut i32,
) -> Result<CommandBatch, CreationError> {
    let Some(topic) = image.topic(&wanted.name) else {
        return Err(CreationError::new(
            ErrorCode::UnknownTopicOrPartition,
            "This server does not host this topic-partition.",
        ));
    };
    let current_count = topic.next_partition().get();
    if wanted.count == current_count {
        return Err(CreationError::new(
            ErrorCode::InvalidPartitions,
            format!("Topic already has {current_count} partition(s)."),
        ));
    }
    if wanted.count < current_count {
        return Err(CreationError::new(
            ErrorCode::InvalidPartitions,
            format!(
                "The topic {} currently has {current_count} partition(s); {} would not be an increase.",
                wanted.name, wanted.count
            ),
        ));
    }
    let additional_count = wanted.count.saturating_sub(current_count);
    let assigned = wanted
        .assignments
        .as_deref()
        .map(|assignments| check_assignments(image, topic, assignments, additional_count))
        .transpose()?;
    if *remaining_count < additional_count {
        return Err(CreationError::new(
            ErrorCode::PolicyViolation,
            format!(
                "Excessively large number of partitions per request: at most {PARTITIONS_PER_REQUEST_MAX} are possible."
            ),
        ));
    }
    let replicas = match assigned {
        Some(replicas) => replicas,
        None => place(image, current_count, additional_count, replication_factor(topic))?,
    };
    *remaining_count = remaining_count.saturating_sub(additional_count);
    Ok(CommandBatch::new(assignment_commands(topic.id, current_count, &replicas)))
}

/// How many replicas each partition of the topic has.
fn replication_factor(topic: &TopicImage) -> usize {
    match topic.partitions().next() {
        Some((_, partition)) => partition.replicas.len(),
        None => usize::try_from(topic.requested_replication_factor).unwrap_or(1),
    }
}

fn check_assignments(
    image: &MetadataImage,
    topic: &TopicImage,
    assignments: &[CreatePartitionsAssignment],
    additional_count: i32,
) -> Result<Vec<Vec<NodeId>>, CreationError> {
    if i32::try_from(assignments.len()) != Ok(additional_count) {
        return Err(CreationError::new(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "Attempted to add {additional_count} additional partition(s), but only {} assignment(s) were \
                 specified.",
                assignments.len()
            ),
        ));
    }
    let first = topic.next_partition().get();
    let lists: Vec<(i32, Vec<i32>)> =
        (first..).zip(assignments.iter().map(|assignment| assignment.broker_ids.clone())).collect();
    check_manual(image, first, Some(replication_factor(topic)), &lists)
}

fn answer(
    context: RequestContext,
    answers: Vec<Answer>,
    mut outcomes: Vec<Option<Result<(), CreationError>>>,
) {
    let results = answers
        .into_iter()
        .map(|Answer { name, planned }| {
            let outcome = planned.and_then(|proposal| match proposal {
                None => Ok(ErrorCode::None),
                Some(position) => match outcomes.get_mut(position).and_then(Option::take) {
                    None => Ok(ErrorCode::RequestTimedOut),
                    Some(outcome) => outcome.map(|()| ErrorCode::None),
                },
            });
            let (code, error_message) = match outcome {
                Ok(code) => (code, None),
                Err(error) => (error.code, Some(error.message)),
            };
            CreatePartitionsTopicResult { name, error_code: code.code(), error_message }
        })
        .collect();
    context.reply(&CreatePartitionsResponse { results, ..Default::default() });
}
