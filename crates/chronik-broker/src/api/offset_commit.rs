//! `OffsetCommit` (key 8, versions 2–10): how far a group has read. The answer follows the commit of its records.

use std::sync::Arc;

use chronik_protocol::messages::OffsetCommitRequest;

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: OffsetCommitRequest) {
    let topics = broker.group_topics();
    broker.run_group_request(context, &request.group_id, |coordinator, now, asked| {
        coordinator.offset_commit(now, asked, &request, &topics)
    });
}
