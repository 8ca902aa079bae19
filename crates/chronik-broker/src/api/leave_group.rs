//! `LeaveGroup` (key 13, versions 0–5): members leave their group, several at once from version 3 on (KIP-345).

use std::sync::Arc;

use chronik_protocol::messages::LeaveGroupRequest;

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: LeaveGroupRequest) {
    broker.run_group_request(context, &request.group_id, |coordinator, now, asked| {
        coordinator.leave_group(now, asked, &request)
    });
}
