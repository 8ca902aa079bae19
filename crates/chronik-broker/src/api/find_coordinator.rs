//! FindCoordinator (key 10, versions 0–6): no coordinator is to be had, because there are none yet.
//!
//! The API is offered all the same: librdkafka takes a broker that does not offer it for one from before 0.8.2 and
//! stops compressing with lz4, without a word. Groups are answered with the error that means "not now", because
//! librdkafka asks for a group's coordinator even where partitions are assigned by hand, and would show any other error
//! to an application that needs no group. Transactional ids are refused with one that no client retries.

use std::sync::Arc;

use chronik_protocol::messages::find_coordinator_response::Coordinator;
use chronik_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use chronik_types::ErrorCode;

use crate::broker::Broker;
use crate::context::RequestContext;

/// What the client is told.
const REASON: &str = "This broker has no consumer groups and no transactions yet.";
/// The type of a key that is a transactional id.
const TRANSACTION: i8 = 1;
/// The first version that asks for several keys at once (KIP-699).
const BATCHES_FROM: i16 = 4;

pub(super) fn handle(_broker: &Arc<Broker>, context: RequestContext, request: FindCoordinatorRequest) {
    let error_code = if request.key_type == TRANSACTION {
        ErrorCode::TransactionalIdAuthorizationFailed.code()
    } else {
        ErrorCode::CoordinatorNotAvailable.code()
    };
    let nowhere = Coordinator {
        node_id: -1,
        port: -1,
        error_code,
        error_message: Some(REASON.to_owned()),
        ..Default::default()
    };
    let response = if context.version() >= BATCHES_FROM {
        let coordinators =
            request.coordinator_keys.into_iter().map(|key| Coordinator { key, ..nowhere.clone() }).collect();
        FindCoordinatorResponse { coordinators, ..Default::default() }
    } else {
        FindCoordinatorResponse {
            error_code,
            error_message: Some(REASON.to_owned()),
            node_id: -1,
            port: -1,
            ..Default::default()
        }
    };
    context.reply(&response);
}
