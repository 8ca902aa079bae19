//! Heartbeat (key 12, versions 0–4): a member says that it lives and hears whether its group rebalances.

use std::sync::Arc;

use chronik_protocol::messages::HeartbeatRequest;

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: HeartbeatRequest) {
    broker.run_group_request(context, &request.group_id, |coordinator, now, asked| {
        coordinator.heartbeat(now, asked, &request)
    });
}
