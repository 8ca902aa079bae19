//! `SyncGroup` (key 14, versions 0–5): the leader gives the assignment, the others wait for theirs.

use std::sync::Arc;

use chronik_protocol::messages::SyncGroupRequest;

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: SyncGroupRequest) {
    broker.run_group_request(context, &request.group_id, |coordinator, now, asked| {
        coordinator.sync_group(now, asked, &request)
    });
}
