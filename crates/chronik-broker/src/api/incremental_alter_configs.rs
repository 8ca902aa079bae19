//! `IncrementalAlterConfigs` (key 44, versions 0–1): the configs of topics, brokers and loggers, one by one (KIP-339,
//! KIP-412). Lists can be added to and taken from.

use std::sync::Arc;

use chronik_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use chronik_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use crate::broker::Broker;
use crate::config::{ConfigChange, WantedConfigs};
use crate::context::RequestContext;

use super::config_changes::{self, AskedResource};

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: IncrementalAlterConfigsRequest) {
    let resources = request
        .resources
        .into_iter()
        .map(|resource| {
            let changes = resource.configs.into_iter().map(|config| ConfigChange {
                name: config.name,
                operation: config.config_operation,
                value: config.value,
            });
            AskedResource {
                kind: resource.resource_type,
                name: resource.resource_name,
                wanted: WantedConfigs::Change(changes.collect()),
            }
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
        context.reply(&IncrementalAlterConfigsResponse { responses, ..Default::default() });
    });
}
