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
    BrokerConfigEntry, ConfigSource, TOPIC_CONFIGS, TopicConfigDef, TopicOverrides, effective,
};
use crate::context::RequestContext;

/// Kafka's numbers of the kinds of resource.
mod resource_type {
    pub(super) const TOPIC: i8 = 2;
    pub(super) const BROKER: i8 = 4;
    pub(super) const BROKER_LOGGER: i8 = 8;
    pub(super) const CLIENT_METRICS: i8 = 16;
    pub(super) const GROUP: i8 = 32;
}

/// What is said of each config beside its value.
#[derive(Clone, Copy, Debug)]
struct Detail {
    synonyms: bool,
    documentation: bool,
}

/// How much of a name that makes no sense is repeated to the client.
const NAME_SHOWN_CHARS_MAX: usize = 249;

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
    let results = request
        .resources
        .into_iter()
        .filter(|resource| seen.insert((resource.resource_type, resource.resource_name.clone())))
        .map(|resource| {
            let described = match &unknown {
                Some(refusal) => Err(refusal.clone()),
                None => describe(broker, &resource, detail),
            };
            let (code, error_message, configs) = match described {
                Ok(configs) => (ErrorCode::None, String::new(), configs),
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
    matches!(
        kind,
        resource_type::TOPIC
            | resource_type::BROKER
            | resource_type::BROKER_LOGGER
            | resource_type::CLIENT_METRICS
            | resource_type::GROUP
    )
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
        // The broker of no name stands for what is set for all brokers at run time, which is nothing.
        resource_type::BROKER if name.is_empty() => Ok(Vec::new()),
        resource_type::BROKER => {
            let own_id = broker.node_id();
            if broker_id(name)? != own_id.get() {
                return invalid(format!(
                    "Unexpected broker id, expected {own_id} or empty string, but received {name}"
                ));
            }
            let entries = broker.config.entries.iter().filter(|entry| wanted(&entry.name));
            Ok(entries.map(|entry| broker_config(entry, detail)).collect())
        }
        resource_type::BROKER_LOGGER if name.is_empty() => invalid("Broker id must not be empty".to_owned()),
        resource_type::BROKER_LOGGER => {
            let own_id = broker.node_id();
            if broker_id(name)? != own_id.get() {
                return invalid(format!("Unexpected broker id, expected {own_id} but received {name}"));
            }
            // Log levels are set where the process starts, so there is no logger to show.
            Ok(Vec::new())
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
    let defs = TOPIC_CONFIGS.iter().filter(|def| wanted(def.name));
    Ok(defs.map(|def| topic_config(broker, def, overrides, detail)).collect())
}

fn topic_config(
    broker: &Broker,
    def: &TopicConfigDef,
    overrides: &TopicOverrides,
    detail: Detail,
) -> DescribeConfigsResourceResult {
    let broker_values = &broker.config.topic_values;
    let (value, source) = effective(def, overrides, broker_values);
    let mut synonyms = Vec::new();
    if detail.synonyms {
        if let Some(own) = overrides.get(def.name) {
            synonyms.push(synonym(def.name, Some(own), ConfigSource::DynamicTopic));
        }
        if let Some(name) = def.broker_synonym {
            if let Some(given) = broker_values.get(name) {
                synonyms.push(synonym(name, Some(given), ConfigSource::StaticBroker));
            }
            // Some of the broker's configs have no default of their own: what they stand for comes from others.
            let entry = broker.config.entries.iter().find(|entry| entry.name == name);
            if let Some(default) = entry.map_or(Some(def.default), |entry| entry.default.as_deref()) {
                synonyms.push(synonym(name, Some(default), ConfigSource::Default));
            }
        }
    }
    DescribeConfigsResourceResult {
        name: def.name.to_owned(),
        value: Some(value.to_owned()),
        read_only: false,
        config_source: source as i8,
        is_sensitive: false,
        synonyms,
        config_type: def.config_type() as i8,
        documentation: detail.documentation.then(|| def.documentation.to_owned()),
    }
}

fn broker_config(entry: &BrokerConfigEntry, detail: Detail) -> DescribeConfigsResourceResult {
    let shown = |value: &Option<String>| if entry.is_sensitive { None } else { value.clone() };
    let value = shown(&entry.value);
    let mut synonyms = Vec::new();
    if detail.synonyms {
        if entry.is_static {
            synonyms.push(synonym(&entry.name, value.as_deref(), ConfigSource::StaticBroker));
        }
        if entry.default.is_some() {
            synonyms.push(synonym(&entry.name, shown(&entry.default).as_deref(), ConfigSource::Default));
        }
    }
    DescribeConfigsResourceResult {
        name: entry.name.clone(),
        value,
        // Nothing that was set at start can be changed at run time.
        read_only: true,
        config_source: if entry.is_static { ConfigSource::StaticBroker } else { ConfigSource::Default } as i8,
        is_sensitive: entry.is_sensitive,
        synonyms,
        config_type: entry.config_type as i8,
        documentation: detail.documentation.then(|| entry.documentation.clone()),
    }
}

fn synonym(name: &str, value: Option<&str>, source: ConfigSource) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym { name: name.to_owned(), value: value.map(str::to_owned), source: source as i8 }
}
