//! `ListPartitionReassignments` (key 46, version 0): replicas that are being moved (KIP-455).
//!
//! None ever are: partitions stay where they were assigned. Topics that do not exist are passed over, as on Kafka.

use std::sync::Arc;

use chronik_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(
    _broker: &Arc<Broker>,
    context: RequestContext,
    _request: ListPartitionReassignmentsRequest,
) {
    context.reply(&ListPartitionReassignmentsResponse { error_message: None, ..Default::default() });
}
