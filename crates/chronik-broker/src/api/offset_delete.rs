//! `OffsetDelete` (key 47, version 0): forgets offsets of topics that the group does not read (KIP-496).

use std::sync::Arc;

use chronik_protocol::messages::OffsetDeleteRequest;

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: OffsetDeleteRequest) {
    let topics = broker.group_topics();
    broker.run_group_request(context, &request.group_id, |coordinator, now, asked| {
        coordinator.offset_delete(now, asked, &request, &topics)
    });
}
