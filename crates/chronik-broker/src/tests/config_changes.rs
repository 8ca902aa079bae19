//! `AlterConfigs`, `IncrementalAlterConfigs` and `ListConfigResources`, and what they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_protocol::messages::alter_configs_request as legacy;
use chronik_protocol::messages::describe_configs_request::DescribeConfigsResource;
use chronik_protocol::messages::incremental_alter_configs_request as incremental;
use chronik_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListConfigResourcesRequest,
    ListConfigResourcesResponse,
};
use chronik_protocol::records::BatchOptions;
use chronik_raft::metadata::ConfigResource;
use chronik_types::{ErrorCode, NodeId, PartitionIndex, TopicPartition};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::{Fixture, code};
use crate::config::{
    Allowed, BrokerConfig, BrokerConfigEntry, ConfigType, LogLevel, Loggers, TopicConfigDef,
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

type Op<'a> = (i8, &'a str, Option<&'a str>);

/// A broker with a config that can be changed at run time and one that cannot.
fn fixture() -> Fixture {
    let entry = |name: &str, dynamic| BrokerConfigEntry {
        name: name.to_owned(),
        value: Some("5".to_owned()),
        default: Some("5".to_owned()),
        is_static: false,
        is_sensitive: false,
        config_type: ConfigType::Int,
        dynamic,
        documentation: String::new(),
    };
    let entries = vec![
        entry("num.partitions", None),
        entry("fetch.max.bytes", None),
        entry("max.connections", Some(Allowed::Int(0, i32::MAX))),
    ];
    let fixture = Fixture::with_config(BrokerConfig { entries, ..Default::default() });
    fixture.create_topic("a", 1, &[]);
    fixture
}

fn resource(kind: i8, name: &str, ops: &[Op<'_>]) -> incremental::AlterConfigsResource {
    incremental::AlterConfigsResource {
        resource_type: kind,
        resource_name: name.to_owned(),
        configs: ops
            .iter()
            .map(|(operation, name, value)| incremental::AlterableConfig {
                name: (*name).to_owned(),
                config_operation: *operation,
                value: value.map(str::to_owned),
            })
            .collect(),
    }
}

fn change(fixture: &Fixture, kind: i8, name: &str, ops: &[Op<'_>]) -> (ErrorCode, String) {
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource(kind, name, ops)], validate_only: false };
    let mut response: IncrementalAlterConfigsResponse = fixture.call(1, &request);
    let answer = response.responses.pop().unwrap();
    assert_eq!((answer.resource_type, answer.resource_name.as_str()), (kind, name));
    (code(answer.error_code), answer.error_message.unwrap_or_default())
}

fn set(fixture: &Fixture, kind: i8, name: &str, ops: &[Op<'_>]) {
    assert_eq!(change(fixture, kind, name, ops), (ErrorCode::None, String::new()), "{name} {ops:?}");
}

fn replace(
    fixture: &Fixture,
    version: i16,
    kind: i8,
    name: &str,
    configs: &[(&str, Option<&str>)],
) -> ErrorCode {
    let configs = configs
        .iter()
        .map(|(name, value)| legacy::AlterableConfig {
            name: (*name).to_owned(),
            value: value.map(str::to_owned),
        })
        .collect();
    let resource =
        legacy::AlterConfigsResource { resource_type: kind, resource_name: name.to_owned(), configs };
    let request = AlterConfigsRequest { resources: vec![resource], validate_only: false };
    let response: AlterConfigsResponse = fixture.call(version, &request);
    assert_eq!(response.responses.len(), 1);
    code(response.responses[0].error_code)
}

/// Value, source and synonyms as `name=value source`, of one config.
fn shown(fixture: &Fixture, kind: i8, name: &str, key: &str) -> Option<(Option<String>, i8, Vec<String>)> {
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.to_owned(),
        configuration_keys: Some(vec![key.to_owned()]),
    };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: false,
    };
    let mut response: DescribeConfigsResponse = fixture.call(4, &request);
    let mut configs = response.results.pop().unwrap().configs;
    let config = configs.pop()?;
    let synonyms = config
        .synonyms
        .into_iter()
        .map(|synonym| format!("{}={} {}", synonym.name, synonym.value.unwrap_or_default(), synonym.source));
    Some((config.value, config.config_source, synonyms.collect()))
}

fn value(fixture: &Fixture, kind: i8, name: &str, key: &str) -> Option<String> {
    shown(fixture, kind, name, key).and_then(|(value, ..)| value)
}

#[test]
fn a_topics_configs_are_set_and_unset_in_every_version() {
    let fixture = fixture();
    for version in 0..=1 {
        let topic =
            resource(TOPIC, "a", &[(SET, "retention.ms", Some(" +7 ")), (SET, "segment.ms", Some("9"))]);
        let request = IncrementalAlterConfigsRequest { resources: vec![topic], validate_only: false };
        let response: IncrementalAlterConfigsResponse = fixture.call(version, &request);
        assert_eq!((response.responses[0].error_code, &response.responses[0].error_message), (0, &None));
        let retention = shown(&fixture, TOPIC, "a", "retention.ms").unwrap();
        assert_eq!((retention.0.as_deref(), retention.1), (Some("7"), 1));
        set(&fixture, TOPIC, "a", &[(DELETE, "retention.ms", None), (DELETE, "no.such", None)]);
        assert_eq!(shown(&fixture, TOPIC, "a", "retention.ms").unwrap().1, 5);
        assert_eq!(value(&fixture, TOPIC, "a", "segment.ms").as_deref(), Some("9"));
        set(&fixture, TOPIC, "a", &[(DELETE, "segment.ms", None)]);
    }
    for version in 0..=2 {
        set(&fixture, TOPIC, "a", &[(SET, "retention.ms", Some("7"))]);
        let configs = [("segment.ms", Some("11")), ("cleanup.policy", Some("compact"))];
        assert_eq!(replace(&fixture, version, TOPIC, "a", &configs), ErrorCode::None);
        assert_eq!(shown(&fixture, TOPIC, "a", "retention.ms").unwrap().1, 5, "what is not named goes");
        assert_eq!(value(&fixture, TOPIC, "a", "segment.ms").as_deref(), Some("11"));
        assert_eq!(replace(&fixture, version, TOPIC, "a", &[]), ErrorCode::None);
        assert_eq!(fixture.image().configs(&ConfigResource::Topic("a".into())), None);
    }
}

#[test]
fn lists_are_added_to_and_taken_from() {
    let fixture = fixture();
    let policy = |op: i8, change: &str| {
        set(&fixture, TOPIC, "a", &[(op, "cleanup.policy", Some(change))]);
        value(&fixture, TOPIC, "a", "cleanup.policy").unwrap()
    };
    assert_eq!(policy(APPEND, "compact"), "delete,compact", "the default is added to");
    assert_eq!(policy(APPEND, "compact"), "delete,compact");
    assert_eq!(policy(SUBTRACT, "delete"), "compact");
    assert_eq!(policy(SUBTRACT, "compact"), "");
    assert_eq!(policy(APPEND, "delete"), "delete");
    set(&fixture, BROKER, "1", &[(APPEND, "log.cleanup.policy", Some("compact"))]);
    assert_eq!(value(&fixture, BROKER, "1", "log.cleanup.policy").as_deref(), Some("delete,compact"));
}

#[test]
fn what_cannot_be_is_refused_in_kafkas_words() {
    use ErrorCode::{
        InvalidConfig, InvalidRequest, InvalidTopicException, UnknownTopicOrPartition as Unknown,
    };
    let fixture = fixture();
    let (set, delete) = (SET, DELETE);
    let cases: &[(i8, &str, &[Op<'_>], ErrorCode, &str)] = &[
        (TOPIC, "a", &[(set, "retention.ms", Some("abc"))], InvalidConfig, "Not a number of type LONG"),
        (TOPIC, "a", &[(set, "bogus", Some("1"))], InvalidConfig, "Unknown topic config name: bogus"),
        (TOPIC, "b", &[(set, "retention.ms", Some("5"))], Unknown, "The topic 'b' does not exist."),
        (TOPIC, "b", &[(delete, "retention.ms", None)], Unknown, "The topic 'b' does not exist."),
        (TOPIC, "", &[], InvalidRequest, "Default topic resources are not allowed."),
        (TOPIC, "a/b", &[], InvalidTopicException, "Topic name is invalid"),
        (
            TOPIC,
            "a",
            &[(set, "x", None), (APPEND, "y", None)],
            InvalidRequest,
            "Null value not supported for : x, y",
        ),
        (TOPIC, "a", &[(set, "x", Some("")), (delete, "x", None)], InvalidRequest, "duplicate config keys"),
        (
            TOPIC,
            "a",
            &[(APPEND, "retention.ms", Some("5"))],
            InvalidConfig,
            "Can't APPEND to key retention.ms",
        ),
        (TOPIC, "a", &[(SUBTRACT, "bogus", Some("5"))], InvalidConfig, "Can't SUBTRACT to key bogus"),
        (TOPIC, "a", &[(APPEND, "cleanup.policy", Some("shred"))], InvalidConfig, "Invalid value shred"),
        (TOPIC, "a", &[(9, "retention.ms", Some("5"))], InvalidRequest, "Unknown operations type 9"),
        (TOPIC, "a", &[(set, "remote.storage.enable", Some("true"))], InvalidConfig, "remote.storage.enable"),
        (
            TOPIC,
            "a",
            &[(set, "min.compaction.lag.ms", Some("10")), (set, "max.compaction.lag.ms", Some("5"))],
            InvalidConfig,
            "conflict topic config setting",
        ),
        (
            BROKER,
            "1",
            &[(set, "num.partitions", Some("5")), (set, "fetch.max.bytes", Some("5"))],
            InvalidRequest,
            "Cannot update these configs dynamically: [fetch.max.bytes, num.partitions]",
        ),
        (BROKER, "", &[(set, "num.io.threads", Some("5"))], InvalidRequest, "dynamically: [num.io.threads]"),
        (BROKER, "1", &[(set, "bogus", Some("5"))], InvalidConfig, "Unknown broker config name: bogus"),
        (BROKER, "2", &[], InvalidRequest, "Unexpected broker id, expected 1, but received 2"),
        (BROKER, "x", &[], InvalidRequest, "Node id must be an integer, but it is: x"),
        (BROKER, "1", &[(set, "max.connections", Some("-1"))], InvalidRequest, "Value must be at least 0"),
        (BROKER, "1", &[(set, "log.retention.ms", Some("x"))], InvalidRequest, "Not a number of type LONG"),
        (
            BROKER,
            "1",
            &[(APPEND, "log.retention.ms", Some("1"))],
            InvalidConfig,
            "Config value append is not allowed for config key: log.retention.ms",
        ),
        (CLIENT_METRICS, "", &[], InvalidRequest, "Subscription name can't be empty"),
        (CLIENT_METRICS, "m", &[(set, "interval.ms", Some("500"))], InvalidRequest, "no metrics of clients"),
        (GROUP, "", &[], InvalidRequest, "Default group resources are not allowed."),
        (GROUP, "g", &[(set, "bogus", Some("5"))], InvalidConfig, "Unknown group config name: bogus"),
        (7, "a", &[], InvalidRequest, "Unknown resource type 7"),
    ];
    for (kind, name, ops, expected, words) in cases {
        let before = fixture.image().configs(&ConfigResource::Topic("a".into())).cloned();
        let (found, message) = change(&fixture, *kind, name, ops);
        assert_eq!(found, *expected, "{kind} {name} {ops:?}: {message}");
        assert!(message.contains(words), "{kind} {name} {ops:?}: {message}");
        assert_eq!(fixture.image().configs(&ConfigResource::Topic("a".into())).cloned(), before);
    }
    assert_eq!(fixture.image().config_resources().count(), 0, "nothing of all that was stored");
    assert_eq!(replace(&fixture, 2, BROKER_LOGGER, "1", &[]), InvalidRequest);
    assert_eq!(replace(&fixture, 2, TOPIC, "a", &[("retention.ms", None)]), InvalidRequest);
    assert_eq!(replace(&fixture, 2, BROKER, "1", &[("num.partitions", Some("1"))]), InvalidRequest);
}

#[test]
fn one_bad_config_spoils_its_resource_and_no_other() {
    let fixture = fixture();
    fixture.create_topic("b", 1, &[]);
    let resources = vec![
        resource(TOPIC, "a", &[(SET, "retention.ms", Some("5")), (SET, "segment.ms", Some("-5"))]),
        resource(TOPIC, "b", &[(SET, "retention.ms", Some("5"))]),
    ];
    let request = IncrementalAlterConfigsRequest { resources, validate_only: false };
    let response: IncrementalAlterConfigsResponse = fixture.call(1, &request);
    let codes: Vec<ErrorCode> = response.responses.iter().map(|answer| code(answer.error_code)).collect();
    assert_eq!(codes, [ErrorCode::InvalidConfig, ErrorCode::None]);
    assert_eq!(shown(&fixture, TOPIC, "a", "retention.ms").unwrap().1, 5);
    assert_eq!(shown(&fixture, TOPIC, "b", "retention.ms").unwrap().1, 1);
}

#[test]
fn a_resource_that_is_named_twice_is_refused_and_answered_once() {
    let fixture = fixture();
    let mut resources: Vec<_> =
        (0..1_000).map(|_| resource(TOPIC, "a", &[(SET, "retention.ms", Some("5"))])).collect();
    resources.push(resource(BROKER, "1", &[(SET, "log.retention.ms", Some("5"))]));
    let request = IncrementalAlterConfigsRequest { resources, validate_only: false };
    let response: IncrementalAlterConfigsResponse = fixture.call(1, &request);
    assert_eq!(response.responses.len(), 2);
    assert_eq!(code(response.responses[0].error_code), ErrorCode::InvalidRequest);
    assert_eq!(
        response.responses[0].error_message.as_deref(),
        Some("Each resource must appear at most once.")
    );
    assert_eq!(response.responses[1].error_code, 0);
    assert_eq!(fixture.image().config_resources().count(), 1);
}

#[test]
fn errors_do_not_repeat_all_that_the_request_said() {
    let fixture = fixture();
    let long = "x".repeat(30_000);
    let (found, message) = change(&fixture, TOPIC, "a", &[(SET, &long, Some("1"))]);
    assert_eq!(found, ErrorCode::InvalidConfig);
    assert!(message.len() <= 1_000);
}

#[test]
fn validation_changes_nothing() {
    let fixture = fixture();
    let bad = resource(BROKER, "1", &[(SET, "num.partitions", Some("5"))]);
    let good = resource(TOPIC, "a", &[(SET, "retention.ms", Some("5"))]);
    let request = IncrementalAlterConfigsRequest { resources: vec![bad, good], validate_only: true };
    let response: IncrementalAlterConfigsResponse = fixture.call(1, &request);
    let codes: Vec<ErrorCode> = response.responses.iter().map(|answer| code(answer.error_code)).collect();
    assert_eq!(codes, [ErrorCode::InvalidRequest, ErrorCode::None]);
    assert_eq!(fixture.image().config_resources().count(), 0);
}

#[test]
fn a_topic_comes_before_its_broker_and_one_broker_before_all() {
    let fixture = fixture();
    let described = || shown(&fixture, TOPIC, "a", "max.message.bytes").unwrap();
    let default = "message.max.bytes=1048588 5".to_owned();
    assert_eq!(described(), (Some("1048588".to_owned()), 5, vec![default.clone()]));
    set(&fixture, BROKER, "", &[(SET, "message.max.bytes", Some("2000000"))]);
    let all = "message.max.bytes=2000000 3".to_owned();
    assert_eq!(described(), (Some("2000000".to_owned()), 3, vec![all.clone(), default.clone()]));
    set(&fixture, BROKER, "1", &[(SET, "message.max.bytes", Some("3000000"))]);
    let one = "message.max.bytes=3000000 2".to_owned();
    assert_eq!(described(), (Some("3000000".to_owned()), 2, vec![one.clone(), all.clone(), default.clone()]));
    set(&fixture, TOPIC, "a", &[(SET, "max.message.bytes", Some("4"))]);
    let own = "max.message.bytes=4 1".to_owned();
    assert_eq!(described(), (Some("4".to_owned()), 1, vec![own, one.clone(), all.clone(), default.clone()]));

    let broker = shown(&fixture, BROKER, "1", "message.max.bytes").unwrap();
    assert_eq!(broker, (Some("3000000".to_owned()), 2, vec![one, all.clone(), default]));
    let everyone = shown(&fixture, BROKER, "", "message.max.bytes").unwrap();
    assert_eq!(everyone, (Some("2000000".to_owned()), 3, vec![all]));
    assert_eq!(shown(&fixture, BROKER, "", "log.retention.ms"), None);

    set(&fixture, BROKER, "1", &[(DELETE, "message.max.bytes", None)]);
    set(&fixture, TOPIC, "a", &[(DELETE, "max.message.bytes", None)]);
    assert_eq!(described().1, 3);
}

#[test]
fn changes_reach_logs_whether_or_not_anybody_uses_them() {
    let fixture = fixture();
    fixture.create_topic("b", 1, &[("retention.ms", "77")]);
    for topic in ["a", "b"] {
        fixture.append(topic, 0, &[1], BatchOptions::default());
    }
    let check = |fixture: &Fixture, expected: [u64; 2]| {
        for (topic, retention_ms) in ["a", "b"].into_iter().zip(expected) {
            let name = TopicPartition { topic: topic.into(), partition: PartitionIndex(0) };
            let log = fixture.broker.logs.get(&name).unwrap();
            assert_eq!(log.config().retention_ms, Some(retention_ms), "{topic}");
        }
    };
    set(&fixture, BROKER, "", &[(SET, "log.retention.ms", Some("50"))]);
    check(&fixture, [50, 77]);
    set(&fixture, TOPIC, "a", &[(SET, "retention.ms", Some("60"))]);
    check(&fixture, [60, 77]);

    // The logs are recovered, and nobody has asked for their partitions.
    let fixture = fixture.restart();
    set(&fixture, TOPIC, "b", &[(DELETE, "retention.ms", None)]);
    set(&fixture, BROKER, "1", &[(SET, "log.retention.ms", Some("40"))]);
    check(&fixture, [60, 40]);
    set(&fixture, TOPIC, "a", &[(SET, "retention.ms", Some("30"))]);
    check(&fixture, [30, 40]);
    fixture.partition("b", 0);
    fixture.create_topic("c", 1, &[]);
    assert_eq!(fixture.partition("c", 0).log().config().retention_ms, Some(40));
    check(&fixture, [30, 40]);
}

#[test]
fn what_was_set_outlives_the_process() {
    let fixture = fixture();
    set(&fixture, TOPIC, "a", &[(SET, "retention.ms", Some("60"))]);
    set(&fixture, BROKER, "1", &[(SET, "min.insync.replicas", Some("2"))]);
    set(&fixture, BROKER, "", &[(SET, "log.segment.bytes", Some("2000000"))]);
    let fixture = fixture.restart();
    assert_eq!(value(&fixture, TOPIC, "a", "retention.ms").as_deref(), Some("60"));
    assert_eq!(shown(&fixture, TOPIC, "a", "min.insync.replicas").unwrap().1, 2);
    assert_eq!(value(&fixture, TOPIC, "a", "segment.bytes").as_deref(), Some("2000000"));
    assert_eq!(fixture.partition("a", 0).log().config().segment_bytes, 2_000_000);
    let image = fixture.image();
    assert_eq!(fixture.broker.min_insync_replicas(&image, &"a".into()), 2);
    set(&fixture, TOPIC, "a", &[(SET, "min.insync.replicas", Some("1"))]);
    assert_eq!(fixture.broker.min_insync_replicas(&fixture.image(), &"a".into()), 1);
}

#[test]
fn the_process_hears_of_broker_configs() {
    let fixture = fixture();
    let heard: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let sink = Arc::clone(&heard);
    fixture.broker.set_values_listener(Box::new(move |values| {
        sink.lock().push(values.get("max.connections").map(str::to_owned));
    }));
    set(&fixture, BROKER, "1", &[(SET, "max.connections", Some("9"))]);
    set(&fixture, TOPIC, "a", &[(SET, "retention.ms", Some("9"))]);
    set(&fixture, BROKER, "1", &[(DELETE, "max.connections", None)]);
    assert_eq!(*heard.lock(), [None, Some("9".to_owned()), None]);
}

/// Loggers that remember.
#[derive(Clone, Default)]
struct FakeLoggers(Arc<Mutex<BTreeMap<String, LogLevel>>>);

impl Loggers for FakeLoggers {
    fn levels(&self) -> BTreeMap<String, LogLevel> {
        let mut levels = self.0.lock().clone();
        levels.entry("root".to_owned()).or_insert(LogLevel::Info);
        levels
    }

    fn exists(&self, name: &str) -> bool {
        ["root", "here"].contains(&name)
    }

    fn set(&self, changes: &[(String, Option<LogLevel>)]) {
        for (name, level) in changes {
            match level {
                Some(level) => self.0.lock().insert(name.clone(), *level),
                None => self.0.lock().remove(name),
            };
        }
    }
}

#[test]
fn loggers_are_configs_of_their_own() {
    let fixture = fixture();
    assert_eq!(
        change(&fixture, BROKER_LOGGER, "1", &[(SET, "here", Some("INFO"))]).0,
        ErrorCode::InvalidConfig
    );
    let loggers = FakeLoggers::default();
    fixture.broker.set_loggers(Box::new(loggers.clone()));
    set(&fixture, BROKER_LOGGER, "1", &[(SET, "here", Some("DEBUG")), (SET, "root", Some("WARN"))]);
    assert_eq!(
        shown(&fixture, BROKER_LOGGER, "1", "here").unwrap(),
        (Some("DEBUG".to_owned()), 6, Vec::new())
    );
    assert_eq!(value(&fixture, BROKER_LOGGER, "1", "root").as_deref(), Some("WARN"));
    for (ops, expected, words) in [
        ((SET, "there", Some("DEBUG")), ErrorCode::InvalidConfig, "Logger there does not exist!"),
        ((DELETE, "there", None), ErrorCode::InvalidConfig, "Logger there does not exist!"),
        (
            (SET, "here", Some("LOUD")),
            ErrorCode::InvalidConfig,
            "TRACE, DEBUG, INFO, WARN, ERROR, FATAL, OFF",
        ),
        ((SET, "here", Some("debug")), ErrorCode::InvalidConfig, "not a supported log level"),
        ((DELETE, "root", None), ErrorCode::InvalidRequest, "root logger is not allowed"),
        ((APPEND, "here", Some("INFO")), ErrorCode::InvalidRequest, "APPEND operation is not allowed"),
    ] {
        let (found, message) = change(&fixture, BROKER_LOGGER, "1", &[(SET, "root", Some("OFF")), ops]);
        // A key that stands twice is the first thing to be found.
        if ops.1 != "root" {
            assert_eq!(found, expected, "{ops:?}");
            assert!(message.contains(words), "{message}");
        }
        let (found, message) = change(&fixture, BROKER_LOGGER, "1", &[ops]);
        assert_eq!(found, expected, "{ops:?}");
        assert!(message.contains(words), "{message}");
        assert_eq!(value(&fixture, BROKER_LOGGER, "1", "root").as_deref(), Some("WARN"), "all or nothing");
    }
    let request = IncrementalAlterConfigsRequest {
        resources: vec![resource(BROKER_LOGGER, "1", &[(DELETE, "here", None)])],
        validate_only: true,
    };
    let response: IncrementalAlterConfigsResponse = fixture.call(1, &request);
    assert_eq!(response.responses[0].error_code, 0);
    assert!(shown(&fixture, BROKER_LOGGER, "1", "here").is_some(), "validation changes nothing");
    set(&fixture, BROKER_LOGGER, "1", &[(DELETE, "here", None)]);
    assert_eq!(shown(&fixture, BROKER_LOGGER, "1", "here"), None);
    assert_eq!(change(&fixture, BROKER_LOGGER, "2", &[]).0, ErrorCode::InvalidRequest);
    assert_eq!(change(&fixture, BROKER_LOGGER, "", &[]).0, ErrorCode::InvalidRequest);
    assert_eq!(fixture.image().config_resources().count(), 0, "levels are not stored");
}

#[test]
fn resources_are_listed_by_kind() {
    let fixture = fixture();
    fixture.create_topic("b", 1, &[]);
    let list = |version: i16, kinds: &[i8]| {
        let request = ListConfigResourcesRequest { resource_types: kinds.to_vec() };
        let response: ListConfigResourcesResponse = fixture.call(version, &request);
        let listed = response.config_resources.into_iter();
        let listed: Vec<_> =
            listed.map(|resource| (resource.resource_type, resource.resource_name)).collect();
        (code(response.error_code), listed)
    };
    let entry = |kind: i8, name: &str| (kind, name.to_owned());
    assert_eq!(list(0, &[]), (ErrorCode::None, Vec::new()), "no subscription to client metrics");
    let all = vec![entry(TOPIC, "a"), entry(TOPIC, "b"), entry(BROKER, "1"), entry(BROKER_LOGGER, "1")];
    assert_eq!(list(1, &[]), (ErrorCode::None, all));
    assert_eq!(list(1, &[BROKER, BROKER]), (ErrorCode::None, vec![entry(BROKER, "1")]));
    assert_eq!(list(1, &[GROUP, CLIENT_METRICS]), (ErrorCode::None, Vec::new()));
    assert_eq!(list(1, &[TOPIC, 7]), (ErrorCode::UnsupportedVersion, Vec::new()));
}

#[test]
fn a_change_that_is_not_applied_in_time_says_so() {
    let fixture = fixture();
    fixture.metadata.hold();
    let request = IncrementalAlterConfigsRequest {
        resources: vec![resource(TOPIC, "a", &[(SET, "retention.ms", Some("5"))])],
        validate_only: false,
    };
    let pending = fixture.send(1, &request);
    assert!(pending.lock().is_none());
    fixture.pass(30_000);
    let response: IncrementalAlterConfigsResponse = super::response(&pending, 1);
    assert_eq!(code(response.responses[0].error_code), ErrorCode::RequestTimedOut);
    assert_eq!(fixture.metadata.release(), 1);
}

/// What a topic's configs are after any changes, in a few lines.
fn model(configs: &mut BTreeMap<String, String>, ops: &[(i8, usize, usize)]) -> bool {
    let mut next = configs.clone();
    let mut keys = Vec::new();
    for (op, key, value) in ops {
        let (key, is_list) = KEYS[*key];
        let value = VALUES[*value];
        if keys.contains(&key) {
            return false;
        }
        keys.push(key);
        let items = |text: &str| -> Vec<String> {
            text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        let default = TopicConfigDef::find(key).map_or("", |def| def.default).to_owned();
        let present = items(next.get(key).unwrap_or(&default));
        match *op {
            SET => {
                next.insert(key.to_owned(), value.to_owned());
            }
            DELETE => {
                next.remove(key);
            }
            _ if !is_list => return false,
            APPEND => {
                let mut list = present;
                list.extend(items(value));
                let mut unique: Vec<String> = Vec::new();
                for item in list {
                    if !unique.contains(&item) {
                        unique.push(item);
                    }
                }
                next.insert(key.to_owned(), unique.join(","));
            }
            _ => {
                let gone = items(value);
                let rest: Vec<String> = present.into_iter().filter(|item| !gone.contains(item)).collect();
                next.insert(key.to_owned(), rest.join(","));
            }
        }
    }
    let is_possible = next.iter().all(|(key, value)| match key.as_str() {
        "cleanup.policy" => {
            value.is_empty() || value.split(',').all(|item| ["compact", "delete"].contains(&item))
        }
        "no.such" => false,
        _ => value.parse::<i64>().is_ok_and(|number| 0 <= number),
    });
    if is_possible {
        *configs = next;
    }
    is_possible
}

const KEYS: [(&str, bool); 5] = [
    ("cleanup.policy", true),
    ("retention.ms", false),
    ("segment.jitter.ms", false),
    ("flush.ms", false),
    ("no.such", false),
];
const VALUES: [&str; 7] = ["compact", "delete", "delete,compact", "0", "17", "-7", "shred"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changes_do_what_the_model_says(
        requests in prop::collection::vec(
            prop::collection::vec((0_i8..4, 0..KEYS.len(), 0..VALUES.len()), 0..4),
            1..20,
        )
    ) {
        let mut fixture = Fixture::new();
        fixture.create_topic("a", 1, &[]);
        let mut expected = BTreeMap::new();
        for (count, ops) in requests.iter().enumerate() {
            let asked: Vec<Op<'_>> =
                ops.iter().map(|(op, key, value)| (*op, KEYS[*key].0, Some(VALUES[*value]))).collect();
            let is_possible = model(&mut expected, ops);
            let (found, message) = change(&fixture, TOPIC, "a", &asked);
            prop_assert_eq!(found == ErrorCode::None, is_possible, "{:?}: {}", asked, message);
            let stored = fixture.image().configs(&ConfigResource::Topic("a".into())).cloned();
            prop_assert_eq!(&*stored.unwrap_or_default(), &expected);
            if count == 7 {
                fixture = fixture.restart();
            }
        }
    }
}

#[test]
fn other_brokers_configs_are_not_ours() {
    let fixture = fixture();
    let other = ConfigResource::Broker(NodeId(2));
    let command = chronik_raft::metadata::SetConfig::new(&other, "log.retention.ms", Some("5".to_owned()));
    let batch = chronik_raft::metadata::CommandBatch::new(vec![command.into()]);
    chronik_raft::MetadataLog::propose(
        &*fixture.metadata,
        batch,
        Box::new(|outcome| assert!(outcome.is_ok())),
    );
    assert_eq!(shown(&fixture, TOPIC, "a", "retention.ms").unwrap().1, 5);
}
