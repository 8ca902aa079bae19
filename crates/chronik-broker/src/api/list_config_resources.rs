//! `ListConfigResources` (key 74, versions 0–1): what has configs, or could have (KIP-1142).
//!
//! Version 0 knows client metrics only (KIP-714). Topics and brokers are listed whether or not anything is set on
//! them, groups and client metrics where something is.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_protocol::messages::list_config_resources_response::ConfigResource as Listed;
use chronik_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use chronik_types::ErrorCode;

use crate::broker::Broker;
use crate::config::resource_type;
use crate::context::RequestContext;

/// The first version whose requests name kinds.
const KINDS_FROM: i16 = 1;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: ListConfigResourcesRequest) {
    let kinds: BTreeSet<i8> = if context.version() < KINDS_FROM {
        BTreeSet::from([resource_type::CLIENT_METRICS])
    } else if request.resource_types.is_empty() {
        BTreeSet::from(resource_type::ALL)
    } else {
        request.resource_types.into_iter().collect()
    };
    if !kinds.iter().all(|kind| resource_type::ALL.contains(kind)) {
        let error_code = ErrorCode::UnsupportedVersion.code();
        context.reply(&ListConfigResourcesResponse { error_code, ..Default::default() });
        return;
    }
    let image = broker.metadata.image();
    let mut config_resources = Vec::new();
    for kind in kinds {
        let names: Vec<String> = match kind {
            resource_type::TOPIC => image.topics().map(|topic| topic.name.to_string()).collect(),
            resource_type::BROKER | resource_type::BROKER_LOGGER => {
                image.live_brokers().map(|broker| broker.id.to_string()).collect()
            }
            _ => image
                .config_resources()
                .map(|(resource, _)| resource.to_kafka())
                .filter(|(found, _)| *found == kind)
                .map(|(_, name)| name)
                .collect(),
        };
        config_resources
            .extend(names.into_iter().map(|resource_name| Listed { resource_name, resource_type: kind }));
    }
    context.reply(&ListConfigResourcesResponse { config_resources, ..Default::default() });
}
