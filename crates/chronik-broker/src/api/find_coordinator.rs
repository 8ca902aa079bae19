//! `FindCoordinator` (key 10, versions 0–6): which broker coordinates a group.
//!
//! It is the leader of the group's partition of `__consumer_offsets`, which is created when it is first needed; the
//! answer waits for that. Transactions have no coordinator yet, and are refused with an error that no client retries
//! (Java and librdkafka retry most others for ever).

use std::sync::Arc;

use chronik_coordinator::partition_for;
use chronik_protocol::messages::find_coordinator_response::Coordinator;
use chronik_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use chronik_types::{ErrorCode, PartitionIndex};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::groups::OFFSETS_TOPIC;

/// The type of a key that is a group id.
const GROUP: i8 = 0;
/// The type of a key that is a transactional id.
const TRANSACTION: i8 = 1;
/// The first version that asks for several keys at once (KIP-699).
const BATCHES_FROM: i16 = 4;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: FindCoordinatorRequest) {
    let is_needed = request.key_type == GROUP
        && (context.version() < BATCHES_FROM || !request.coordinator_keys.is_empty());
    if is_needed && broker.metadata.image().topic(OFFSETS_TOPIC).is_none() {
        let broker_then = Arc::clone(broker);
        broker.auto_create_topics(
            std::iter::once(OFFSETS_TOPIC.to_owned()).collect(),
            // What failed is seen by the topic's not being there.
            Box::new(move |_| answer(&broker_then, context, request)),
        );
        return;
    }
    answer(broker, context, request);
}

fn answer(broker: &Broker, context: RequestContext, request: FindCoordinatorRequest) {
    let response = if context.version() >= BATCHES_FROM {
        let find = |key| find(broker, &context, request.key_type, key);
        let coordinators = request.coordinator_keys.into_iter().map(find).collect();
        FindCoordinatorResponse { coordinators, ..Default::default() }
    } else {
        let found = find(broker, &context, request.key_type, request.key);
        FindCoordinatorResponse {
            error_code: found.error_code,
            error_message: found.error_message,
            node_id: found.node_id,
            host: found.host,
            port: found.port,
            ..Default::default()
        }
    };
    context.reply(&response);
}

fn find(broker: &Broker, context: &RequestContext, key_type: i8, key: String) -> Coordinator {
    let nowhere = |key, error: ErrorCode, reason: &str| Coordinator {
        key,
        node_id: -1,
        port: -1,
        error_code: error.code(),
        error_message: Some(reason.to_owned()),
        ..Default::default()
    };
    match key_type {
        GROUP => {}
        TRANSACTION => {
            let error = ErrorCode::TransactionalIdAuthorizationFailed;
            return nowhere(key, error, "This broker has no transactions yet.");
        }
        _ => {
            return nowhere(key, ErrorCode::InvalidRequest, "This broker coordinates no keys of that type.");
        }
    }
    let Some((node_id, host, port)) = group_coordinator(broker, context, &key) else {
        return nowhere(key, ErrorCode::CoordinatorNotAvailable, "The coordinator is not available.");
    };
    Coordinator { key, node_id, host, port, error_code: ErrorCode::None.code(), ..Default::default() }
}

fn group_coordinator(
    broker: &Broker,
    context: &RequestContext,
    group_id: &str,
) -> Option<(i32, String, i32)> {
    let image = broker.metadata.image();
    let topic = image.topic(OFFSETS_TOPIC)?;
    let partition_count = i32::try_from(topic.partitions().count()).ok()?;
    let partition = topic.partition(PartitionIndex(partition_for(group_id, partition_count)?))?;
    let leader = image.broker(broker.known_leader(partition)?).filter(|leader| !leader.fenced)?;
    let (host, port) = broker.endpoint_for(leader, &context.connection)?;
    Some((leader.id.get(), host, port))
}
