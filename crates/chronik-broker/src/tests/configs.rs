//! `DescribeConfigs`.

use std::collections::BTreeSet;

use chronik_protocol::messages::describe_configs_request::DescribeConfigsResource;
use chronik_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use chronik_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use chronik_types::ErrorCode;

use super::{Fixture, code};
use crate::config::{BrokerConfig, BrokerConfigEntry, ConfigType, TOPIC_CONFIGS};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

fn entry(name: &str, value: Option<&str>, default: Option<&str>, is_static: bool) -> BrokerConfigEntry {
    BrokerConfigEntry {
        name: name.to_owned(),
        value: value.map(str::to_owned),
        default: default.map(str::to_owned),
        is_static,
        is_sensitive: name.contains("password"),
        config_type: ConfigType::Int,
        dynamic: None,
        documentation: format!("Says {name}."),
    }
}

fn fixture() -> Fixture {
    let mut config = BrokerConfig {
        entries: vec![
            entry("num.partitions", Some("7"), Some("3"), true),
            entry("log.roll.ms", None, None, false),
            entry("log.retention.hours", Some("100"), Some("168"), true),
            entry("ssl.password", Some("hush"), Some("hush"), true),
        ],
        ..Default::default()
    };
    config.topic_values.insert("log.segment.bytes".to_owned(), "2097152".to_owned());
    let fixture = Fixture::with_config(config);
    fixture.create_topic("a", 1, &[("retention.ms", "5000")]);
    fixture
}

fn ask(kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsRequest {
    let configuration_keys = keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect());
    let resource =
        DescribeConfigsResource { resource_type: kind, resource_name: name.to_owned(), configuration_keys };
    DescribeConfigsRequest { resources: vec![resource], include_synonyms: true, include_documentation: false }
}

fn one(fixture: &Fixture, version: i16, request: &DescribeConfigsRequest) -> DescribeConfigsResult {
    let mut response: DescribeConfigsResponse = fixture.call(version, request);
    assert_eq!(response.results.len(), 1);
    response.results.remove(0)
}

fn find<'a>(result: &'a DescribeConfigsResult, name: &str) -> &'a DescribeConfigsResourceResult {
    result.configs.iter().find(|config| config.name == name).unwrap()
}

fn synonyms(config: &DescribeConfigsResourceResult) -> Vec<(&str, Option<&str>, i8)> {
    config.synonyms.iter().map(|found| (found.name.as_str(), found.value.as_deref(), found.source)).collect()
}

#[test]
fn a_topics_configs_say_where_they_come_from_in_every_version() {
    let fixture = fixture();
    for version in 1..=4 {
        let result = one(&fixture, version, &ask(TOPIC, "a", None));
        assert_eq!((result.error_code, result.resource_type, result.resource_name.as_str()), (0, TOPIC, "a"));
        assert_eq!(result.configs.len(), TOPIC_CONFIGS.len());
        let own = find(&result, "retention.ms");
        assert_eq!((own.value.as_deref(), own.config_source, own.read_only), (Some("5000"), 1, false));
        assert_eq!(synonyms(own), [("retention.ms", Some("5000"), 1)]);
        let given = find(&result, "segment.bytes");
        assert_eq!((given.value.as_deref(), given.config_source), (Some("2097152"), 4));
        assert_eq!(
            synonyms(given),
            [("log.segment.bytes", Some("2097152"), 4), ("log.segment.bytes", Some("1073741824"), 5)]
        );
        let default = find(&result, "cleanup.policy");
        assert_eq!((default.value.as_deref(), default.config_source), (Some("delete"), 5));
        assert_eq!(synonyms(default), [("log.cleanup.policy", Some("delete"), 5)]);
        // The broker's config has no default of its own, and the topic's has no broker config behind it.
        assert_eq!(synonyms(find(&result, "segment.ms")), []);
        assert_eq!(synonyms(find(&result, "remote.storage.enable")), []);
        if version >= 3 {
            assert_eq!(own.config_type, ConfigType::Long as i8);
            assert_eq!(own.documentation, None, "only where it is asked for");
        }
    }
}

#[test]
fn synonyms_and_documentation_come_when_asked_for() {
    let fixture = fixture();
    let mut request = ask(TOPIC, "a", None);
    (request.include_synonyms, request.include_documentation) = (false, true);
    let result = one(&fixture, 4, &request);
    for config in &result.configs {
        assert!(config.synonyms.is_empty());
        assert!(config.documentation.as_deref().is_some_and(|text| !text.is_empty()), "{}", config.name);
    }
}

#[test]
fn a_list_of_keys_leaves_out_the_others() {
    let fixture = fixture();
    let names = |keys: Option<&[&str]>| -> Vec<String> {
        let result = one(&fixture, 4, &ask(TOPIC, "a", keys));
        result.configs.into_iter().map(|config| config.name).collect()
    };
    assert_eq!(names(Some(&["segment.ms", "no.such", "flush.ms"])), ["flush.ms", "segment.ms"]);
    assert!(names(Some(&["no.such"])).is_empty());
    assert_eq!(names(Some(&[])).len(), TOPIC_CONFIGS.len(), "an empty list filters nothing");
}

#[test]
fn this_brokers_configs_are_shown_without_secrets() {
    let fixture = fixture();
    let mut request = ask(BROKER, "1", None);
    request.include_documentation = true;
    let result = one(&fixture, 4, &request);
    assert_eq!(result.error_code, 0);
    // Those that the process lists, and those behind topic configs.
    let behind: BTreeSet<&str> = TOPIC_CONFIGS.iter().filter_map(|def| def.broker_synonym).collect();
    assert_eq!(result.configs.len(), 3 + behind.len());
    let given = find(&result, "num.partitions");
    assert_eq!((given.value.as_deref(), given.config_source, given.read_only), (Some("7"), 4, true));
    assert_eq!(synonyms(given), [("num.partitions", Some("7"), 4), ("num.partitions", Some("3"), 5)]);
    assert_eq!(given.documentation.as_deref(), Some("Says num.partitions."));
    let unset = find(&result, "log.roll.ms");
    assert_eq!((unset.value.as_deref(), unset.config_source, unset.read_only), (None, 5, false));
    let secret = find(&result, "ssl.password");
    assert!(secret.is_sensitive && secret.value.is_none());
    assert!(secret.synonyms.iter().all(|synonym| synonym.value.is_none()));
    let filtered = one(&fixture, 4, &ask(BROKER, "1", Some(&["num.partitions"])));
    assert_eq!(filtered.configs.len(), 1);
}

#[test]
fn resources_that_are_not_here_say_so() {
    let fixture = fixture();
    for (kind, name, expected) in [
        (TOPIC, "missing", ErrorCode::UnknownTopicOrPartition),
        (TOPIC, "no/slash", ErrorCode::InvalidTopicException),
        (TOPIC, "", ErrorCode::InvalidTopicException),
        (BROKER, "2", ErrorCode::InvalidRequest),
        (BROKER, "one", ErrorCode::InvalidRequest),
        (BROKER, "", ErrorCode::None),
        (BROKER_LOGGER, "", ErrorCode::InvalidRequest),
        (BROKER_LOGGER, "3", ErrorCode::InvalidRequest),
        (BROKER_LOGGER, "1", ErrorCode::None),
        (CLIENT_METRICS, "", ErrorCode::InvalidRequest),
        (CLIENT_METRICS, "m", ErrorCode::None),
        (GROUP, "", ErrorCode::InvalidRequest),
        (GROUP, "g", ErrorCode::None),
    ] {
        for version in 1..=4 {
            let result = one(&fixture, version, &ask(kind, name, None));
            assert_eq!(code(result.error_code), expected, "{kind} {name}");
            assert!(result.configs.is_empty());
            let has_words = result.error_message.is_some_and(|message| !message.is_empty());
            assert_eq!(has_words, expected != ErrorCode::None, "{kind} {name}");
        }
    }
}

#[test]
fn a_kind_that_nobody_knows_spoils_the_request() {
    let fixture = fixture();
    let mut request = ask(TOPIC, "a", None);
    request.resources.extend(ask(7, "x", None).resources);
    let response: DescribeConfigsResponse = fixture.call(4, &request);
    assert_eq!(response.results.len(), 2);
    for result in &response.results {
        assert_eq!(code(result.error_code), ErrorCode::InvalidRequest);
        assert!(result.configs.is_empty());
    }
}
