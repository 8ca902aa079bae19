//! `DescribeConfigs` (key 32, versions 1–4): what topics and this broker are set to.
//!
//! A topic's configs come from the table in `config::topic`, a broker's from the entries that the process made at
//! start. Synonyms (version 1 on) are the places where a value is looked for, in that order; type and documentation
//! (version 3 on) follow KIP-569. A list of keys, unless it is empty, leaves out all others.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_protocol::messages::describe_configs_request::DescribeConfigsResource;
use chronik_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use chronik_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use chronik_raft::metadata::ConfigResource;
use chronik_types::{ErrorCode, validate_topic_name};

use crate::broker::Broker;
use crate::config::{
    BrokerConfigEntry, BrokerValues, ConfigSource, ConfigType, Described, Loggers, TOPIC_CONFIGS,
    TopicConfigDef, TopicOverrides, resource_type,
};
use crate::context::RequestContext;

/// What is said of each config beside its value.
#[derive(Clone, Copy, Debug)]
struct Detail {
    synonyms: bool,
    documentation: bool,
}

/// How much of a name that makes no sense is repeated to the client.
const NAME_SHOWN_CHARS_MAX: usize = 249;

/// The most configs in one answer; what lies beyond is refused. With synonyms and documentation each takes some hundred
/// bytes, and all configs of 15,000 topics fit.
const CONFIGS_PER_ANSWER_MAX: usize = 500_000;

/// Why a resource is not described, with words for the client.
type Refusal = (ErrorCode, String);

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DescribeConfigsRequest) {
    let detail = Detail { synonyms: request.include_synonyms, documentation: request.include_documentation };
    // A kind that nobody knows makes the whole request meaningless.
    let unknown =
        request.resources.iter().find(|resource| !is_known(resource.resource_type)).map(|resource| {
            let kind = resource.resource_type;
            let name: String = resource.resource_name.chars().take(NAME_SHOWN_CHARS_MAX).collect();
            (ErrorCode::InvalidRequest, format!("Unexpected resource type {kind} for resource {name}"))
        });
    // A resource that is named again would only be described again; answers must not grow with repetition.
    let mut seen = BTreeSet::new();
    let mut described_count = 0_usize;
    let results = request
        .resources
        .into_iter()
        .filter(|resource| seen.insert((resource.resource_type, resource.resource_name.clone())))
        .map(|resource| {
            let described = match &unknown {
                Some(refusal) => Err(refusal.clone()),
                None if CONFIGS_PER_ANSWER_MAX <= described_count => Err((
                    ErrorCode::InvalidRequest,
                    "One request asks for too many configs; ask for fewer resources at once.".to_owned(),
                )),
                None => describe(broker, &resource, detail),
            };
            let (code, error_message, configs) = match described {
                Ok(configs) => {
                    described_count = described_count.saturating_add(configs.len());
                    (ErrorCode::None, String::new(), configs)
                }
                Err((code, message)) => (code, message, Vec::new()),
            };
            DescribeConfigsResult {
                error_code: code.code(),
                error_message: Some(error_message),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
                configs,
            }
        })
        .collect();
    context.reply(&DescribeConfigsResponse { results, ..Default::default() });
}

fn is_known(kind: i8) -> bool {
    resource_type::ALL.contains(&kind)
}

fn describe(
    broker: &Broker,
    resource: &DescribeConfigsResource,
    detail: Detail,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let name = resource.resource_name.as_str();
    let invalid = |message: String| Err((ErrorCode::InvalidRequest, message));
    let wanted = |key: &str| match resource.configuration_keys.as_deref() {
        None | Some([]) => true,
        Some(keys) => keys.iter().any(|wanted| wanted == key),
    };
    match resource.resource_type {
        resource_type::TOPIC => describe_topic(broker, name, &wanted, detail),
        resource_type::BROKER if name.is_empty() => Ok(describe_all_brokers(broker, &wanted, detail)),
        resource_type::BROKER => {
            let own_id = broker.node_id();
            if broker_id(name)? != own_id.get() {
                return invalid(format!(
                    "Unexpected broker id, expected {own_id} or empty string, but received {name}"
                ));
            }
            let values = broker.configs.values();
            let entries = broker.configs.entries().iter().filter(|entry| wanted(&entry.name));
            Ok(entries.map(|entry| broker_config(broker, entry, &values, detail)).collect())
        }
        resource_type::BROKER_LOGGER if name.is_empty() => invalid("Broker id must not be empty".to_owned()),
        resource_type::BROKER_LOGGER => {
            let own_id = broker.node_id();
            if broker_id(name)? != own_id.get() {
                return invalid(format!("Unexpected broker id, expected {own_id} but received {name}"));
            }
            Ok(describe_loggers(broker, &wanted))
        }
        resource_type::CLIENT_METRICS if name.is_empty() => {
            invalid("Client metrics subscription name must not be empty".to_owned())
        }
        resource_type::GROUP if name.is_empty() => invalid("Group name must not be empty".to_owned()),
        // No subscription and no group has configs of its own.
        _ => Ok(Vec::new()),
    }
}

fn broker_id(name: &str) -> Result<i32, Refusal> {
    name.parse()
        .map_err(|_| (ErrorCode::InvalidRequest, format!("Broker id must be an integer, but it is: {name}")))
}

fn describe_topic(
    broker: &Broker,
    name: &str,
    wanted: &dyn Fn(&str) -> bool,
    detail: Detail,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    if let Err(error) = validate_topic_name(name) {
        return Err((ErrorCode::InvalidTopicException, format!("Topic name is invalid: {error}")));
    }
    let image = broker.metadata.image();
    let Some(topic) = image.topic(name) else {
        let message = format!("Topic '{name}' does not exist.");
        return Err((ErrorCode::UnknownTopicOrPartition, message));
    };
    let none = TopicOverrides::new();
    let overrides =
        image.configs(&ConfigResource::Topic(Arc::clone(&topic.name))).map_or(&none, |found| found);
    let values = broker.configs.values();
    let defs = TOPIC_CONFIGS.iter().filter(|def| wanted(def.name));
    Ok(defs.map(|def| topic_config(broker, def, overrides, &values, detail)).collect())
}

fn topic_config(
    broker: &Broker,
    def: &TopicConfigDef,
    overrides: &TopicOverrides,
    values: &BrokerValues,
    detail: Detail,
) -> DescribeConfigsResourceResult {
    let described = broker.configs.describe_topic(def, overrides, values);
    DescribeConfigsResourceResult {
        name: def.name.to_owned(),
        config_type: def.config_type() as i8,
        documentation: detail.documentation.then(|| def.documentation.to_owned()),
        ..result(described, detail)
    }
}

fn broker_config(
    broker: &Broker,
    entry: &BrokerConfigEntry,
    values: &BrokerValues,
    detail: Detail,
) -> DescribeConfigsResourceResult {
    let described = broker.configs.describe(entry, values);
    DescribeConfigsResourceResult {
        name: entry.name.clone(),
        read_only: entry.dynamic.is_none(),
        is_sensitive: entry.is_sensitive,
        config_type: entry.config_type as i8,
        documentation: detail.documentation.then(|| entry.documentation.clone()),
        ..result(described, detail)
    }
}

/// What is set for all brokers at run time.
fn describe_all_brokers(
    broker: &Broker,
    wanted: &dyn Fn(&str) -> bool,
    detail: Detail,
) -> Vec<DescribeConfigsResourceResult> {
    let values = broker.configs.values();
    let mut results = Vec::new();
    for (source, layer) in values.layers().filter(|(source, _)| *source == ConfigSource::DynamicDefaultBroker)
    {
        for (name, value) in layer.iter().filter(|(name, _)| wanted(name)) {
            let Some(entry) = broker.configs.entry(name) else { continue };
            let mut described = broker.configs.describe(entry, &values);
            described.value = Some(value.clone()).filter(|_| !entry.is_sensitive);
            described.source = source;
            described.synonyms.retain(|synonym| synonym.source == source);
            results.push(DescribeConfigsResourceResult {
                name: name.clone(),
                is_sensitive: entry.is_sensitive,
                config_type: entry.config_type as i8,
                documentation: detail.documentation.then(|| entry.documentation.clone()),
                ..result(described, detail)
            });
        }
    }
    results
}

fn describe_loggers(broker: &Broker, wanted: &dyn Fn(&str) -> bool) -> Vec<DescribeConfigsResourceResult> {
    let levels = broker.configs.loggers().map(Loggers::levels).unwrap_or_default();
    let shown = levels.into_iter().filter(|(name, _)| wanted(name));
    shown
        .map(|(name, level)| DescribeConfigsResourceResult {
            name,
            value: Some(level.name().to_owned()),
            config_source: ConfigSource::DynamicBrokerLogger as i8,
            config_type: ConfigType::Unknown as i8,
            ..Default::default()
        })
        .collect()
}

/// The part that all kinds of config share.
fn result(described: Described, detail: Detail) -> DescribeConfigsResourceResult {
    let synonyms = described.synonyms.into_iter().map(|synonym| DescribeConfigsSynonym {
        name: synonym.name,
        value: synonym.value,
        source: synonym.source as i8,
    });
    DescribeConfigsResourceResult {
        value: described.value,
        config_source: described.source as i8,
        synonyms: if detail.synonyms { synonyms.collect() } else { Vec::new() },
        ..Default::default()
    }
}
