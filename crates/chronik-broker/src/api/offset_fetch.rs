//! `OffsetFetch` (key 9, versions 1–10): how far groups have read. From version 8 on a request names several groups,
//! each of which may live in another shard.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_coordinator::{offset_fetch_groups, offset_fetch_response};
use chronik_protocol::messages::OffsetFetchRequest;

use crate::broker::Broker;
use crate::context::RequestContext;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: OffsetFetchRequest) {
    let version = context.version();
    let topics = broker.group_topics();
    let mut named = BTreeSet::new();
    let groups = offset_fetch_groups(&request, version)
        .iter()
        // A group that is named again is answered once: names cost a client little, and offsets a lot.
        .filter(|group| named.insert(group.group_id.clone()))
        .map(|group| {
            let shard = broker.group_shard(context.now, &group.group_id);
            shard.read(context.now, |coordinator| {
                coordinator.offset_fetch(version, group, request.require_stable, &topics)
            })
        })
        .collect();
    context.reply(&offset_fetch_response(groups, version));
}
