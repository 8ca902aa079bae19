//! `AlterConfigs` (key 33, versions 0–2): the configs of topics and brokers, all at once. What is not named goes back
//! to its default.

use std::sync::Arc;

use chronik_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use chronik_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use crate::broker::Broker;
use crate::config::WantedConfigs;
use crate::context::RequestContext;

use super::config_changes::{self, AskedResource};

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: AlterConfigsRequest) {
    let resources = request
        .resources
        .into_iter()
        .map(|resource| AskedResource {
            kind: resource.resource_type,
            name: resource.resource_name,
            wanted: WantedConfigs::Replace(
                resource.configs.into_iter().map(|config| (config.name, config.value)).collect(),
            ),
        })
        .collect();
    config_changes::run(broker, context, request.validate_only, resources, |context, answers| {
        let responses = answers
            .into_iter()
            .map(|answer| AlterConfigsResourceResponse {
                error_code: answer.code.code(),
                error_message: answer.message,
                resource_type: answer.kind,
                resource_name: answer.name,
            })
            .collect();
        context.reply(&AlterConfigsResponse { responses, ..Default::default() });
    });
}
