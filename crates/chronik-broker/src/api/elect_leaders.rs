//! `ElectLeaders` (key 43, versions 0–2): an operator gives partitions back to their preferred leaders (KIP-460), or has
//! one elected that is not in sync where no other is left.
//!
//! All elections of a request are one proposal to the metadata log, planned on the newest image and planned again where
//! partitions changed meanwhile. The answer comes when it is applied here, or when the client's time is up.

use std::sync::Arc;

use chronik_protocol::messages::elect_leaders_request::TopicPartitions;
use chronik_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use chronik_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};
use chronik_raft::ProposeError;
use chronik_raft::metadata::{Command, CommandBatch, MetadataImage};
use chronik_types::{ErrorCode, PartitionIndex};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::{CreationError, ElectionError, ElectionType, OrderedElections};

use super::outcomes::Outcomes;

/// Elections that one request may ask for, as on Kafka (its `MAX_RECORDS_PER_USER_OP`).
const ELECTIONS_PER_REQUEST_MAX: usize = 10_000;
/// How often elections are planned anew because partitions changed meanwhile.
const PLANS_MAX: u32 = 10;

type Done = Box<dyn FnOnce(Result<Vec<ReplicaElectionResult>, CreationError>) + Send>;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: ElectLeadersRequest) {
    let named = request.topic_partitions.clone();
    let Some(election) = ElectionType::from_kafka(request.election_type) else {
        let message = format!("Unknown election type {}", request.election_type);
        refuse(context, named, &CreationError::new(ErrorCode::InvalidRequest, message));
        return;
    };
    let timeout_ms = request.timeout_ms;
    let outcomes = Outcomes::new(
        broker,
        context,
        1,
        Box::new(
            move |context, mut outcomes: Vec<Option<Result<Vec<ReplicaElectionResult>, CreationError>>>| {
                match outcomes.pop().flatten() {
                    Some(Ok(replica_election_results)) => {
                        context
                            .reply(&ElectLeadersResponse { replica_election_results, ..Default::default() });
                    }
                    Some(Err(error)) => refuse(context, named, &error),
                    None => {
                        let message = "The elections were not applied in time, and may yet be.";
                        refuse(context, named, &CreationError::new(ErrorCode::RequestTimedOut, message));
                    }
                }
            },
        ),
    );
    let told = Arc::clone(&outcomes);
    let done: Done = Box::new(move |outcome| told.set(0, outcome));
    let broker_then = Arc::clone(broker);
    let wanted = request.topic_partitions;
    broker.with_fresh_image(move |image| match image {
        Ok(image) => elect(&broker_then, &image, election, wanted, PLANS_MAX, done),
        Err(error) => done(Err(CreationError::from_proposal(&error))),
    });
    outcomes.wait(timeout_ms);
}

fn elect(
    broker: &Arc<Broker>,
    image: &MetadataImage,
    election: ElectionType,
    wanted: Option<Vec<TopicPartitions>>,
    plans_left: u32,
    done: Done,
) {
    let (results, commands) = plan(image, election, wanted.as_deref());
    if ELECTIONS_PER_REQUEST_MAX < commands.len() {
        let message = format!("More than {ELECTIONS_PER_REQUEST_MAX} elections in one request.");
        return done(Err(CreationError::new(ErrorCode::PolicyViolation, message)));
    }
    if commands.is_empty() {
        return done(Ok(results));
    }
    let broker_then = Arc::clone(broker);
    broker.metadata.propose(
        CommandBatch::new(commands),
        Box::new(move |outcome| match outcome {
            Ok(_) => done(Ok(results)),
            // A partition has changed since the image that this was planned on.
            Err(ProposeError::Refused { .. }) if plans_left > 0 => {
                let image = broker_then.metadata.image();
                elect(&broker_then, &image, election, wanted, plans_left - 1, done);
            }
            Err(error) => done(Err(CreationError::from_proposal(&error))),
        }),
    );
}

/// What is answered for each partition, and the commands that make it true. Where all partitions are meant, those that
/// need no election are not mentioned.
fn plan(
    image: &MetadataImage,
    election: ElectionType,
    wanted: Option<&[TopicPartitions]>,
) -> (Vec<ReplicaElectionResult>, Vec<Command>) {
    let mut orders = OrderedElections::new(image, election);
    let mut results = Vec::new();
    if let Some(wanted) = wanted {
        for topic in wanted {
            let partition_result = topic
                .partitions
                .iter()
                .map(|index| result(*index, orders.elect(&topic.topic, PartitionIndex(*index))))
                .collect();
            results.push(ReplicaElectionResult { topic: topic.topic.clone(), partition_result });
        }
    } else {
        for topic in image.topics() {
            let partition_result = topic
                .partitions()
                .map(|(index, _)| result(index.get(), orders.elect(&topic.name, index)))
                .filter(|result| result.error_code != ErrorCode::ElectionNotNeeded.code())
                .collect();
            results.push(ReplicaElectionResult { topic: topic.name.to_string(), partition_result });
        }
    }
    (results, orders.into_commands())
}

fn result(partition_id: i32, outcome: Result<(), ElectionError>) -> PartitionResult {
    let (error_code, error_message) = match outcome {
        Ok(()) => (ErrorCode::None, None),
        Err(error) => (error.error_code(), Some(error.to_string())),
    };
    PartitionResult { partition_id, error_code: error_code.code(), error_message }
}

/// Refuses the request as a whole. Version 0 has no place for that, so that each partition that was named says it too.
fn refuse(context: RequestContext, named: Option<Vec<TopicPartitions>>, error: &CreationError) {
    let replica_election_results = named
        .unwrap_or_default()
        .into_iter()
        .map(|topic| ReplicaElectionResult {
            topic: topic.topic,
            partition_result: topic
                .partitions
                .into_iter()
                .map(|partition_id| PartitionResult {
                    partition_id,
                    error_code: error.code.code(),
                    error_message: Some(error.message.clone()),
                })
                .collect(),
        })
        .collect();
    context.reply(&ElectLeadersResponse {
        error_code: error.code.code(),
        replica_election_results,
        ..Default::default()
    });
}
