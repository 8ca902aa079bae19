use super::*;

fn run_with(flags: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> Result<Command, ConfigError> {
    let arguments = ["chronik-server"].iter().chain(flags).map(OsString::from);
    let environment = [("PATH", "/bin"), ("KAFKA_HEAP_OPTS", "-Xmx1g")]
        .iter()
        .chain(variables)
        .map(|(name, value)| (name.into(), value.into()));
    load(arguments, environment, |path| match file {
        Some(text) => Ok(text.to_owned()),
        None => Err(io::Error::new(io::ErrorKind::NotFound, format!("no {}", path.display()))),
    })
}

fn config(flags: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> Config {
    match run_with(flags, variables, file) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

/// Checks that the start stops with one line that holds all of `parts`.
fn stops(flags: &[&str], variables: &[(&str, &str)], file: Option<&str>, parts: &[&str]) {
    match run_with(flags, variables, file) {
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains('\n'), "{line}");
            for part in parts {
                assert!(line.contains(part), "'{line}' lacks '{part}'");
            }
        }
        Ok(command) => panic!("{flags:?} {variables:?} {file:?} was taken: {command:?}"),
    }
}

#[test]
fn nothing_need_be_set() {
    let config = config(&[], &[], None);
    assert_eq!((config.kafka_port, config.node_id.0, config.num_partitions), (9092, 1, 3));
    assert_eq!(config.data_dir, PathBuf::from("./chronik-data"));
    assert_eq!((config.advertise, config.rack), (None, None));
    assert!(!config.cluster_enabled);
}

#[test]
fn every_default_lies_within_its_own_range_and_names_are_unique() {
    let mut names = Vec::new();
    for spec in OPTIONS {
        // A single node has no Raft port to set.
        if !spec.default.is_empty() && spec.name != "raft.port" {
            run_with(&[&format!("--{}={}", spec.flag_name(), spec.default)], &[], None)
                .unwrap_or_else(|error| panic!("{}: {error}", spec.name));
        }
        names.extend([Some(spec.name), spec.alias].into_iter().flatten().map(options::env_name));
        assert!(spec.doc_line().ends_with('.'), "{}", spec.name);
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn a_flag_comes_before_a_variable_before_the_file_before_the_default() {
    let file = Some("num.partitions = 7\nkafka.port = 7777\nrack = \"file\"");
    let variables = [("CHRONIK_NUM_PARTITIONS", "8"), ("CHRONIK_KAFKA_PORT", "8888")];
    let config = config(&["--num-partitions", "9", "--config", "x.toml"], &variables, file);
    assert_eq!((config.num_partitions, config.kafka_port), (9, 8888));
    assert_eq!(config.rack.as_deref(), Some("file"));
    assert_eq!(config.min_insync_replicas, 1);
    let origin = |name| config.values.written(name).origin;
    assert_eq!(origin("num.partitions"), Origin::Flag);
    assert_eq!(origin("kafka.port"), Origin::Environment);
    assert_eq!(origin("rack"), Origin::File("x.toml".into()));
    assert_eq!(origin("min.insync.replicas"), Origin::Default);
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    assert_eq!(config(&[], &[("CHRONIK_CONFIG", "y.toml")], Some("node.id = 5")).node_id.0, 5);
    assert_eq!(config(&[], &[("CHRONIK_CONFIG", "")], None).node_id.0, 1);
    stops(&[], &[("CHRONIK_CONFIG", "y.toml")], None, &["y.toml", "CHRONIK_CONFIG"]);
    stops(&["--config", "z.toml"], &[], None, &["z.toml", "--config"]);
}

#[test]
fn every_setting_can_be_given_in_all_three_ways_and_by_kafkas_name() {
    assert_eq!(config(&["--broker-rack", "a"], &[], None).rack.as_deref(), Some("a"));
    assert_eq!(config(&["--broker.rack=a"], &[], None).rack.as_deref(), Some("a"));
    assert_eq!(config(&[], &[("CHRONIK_BROKER_RACK", "a")], None).rack.as_deref(), Some("a"));
    let file = "default.replication.factor = 2\n[log]\nsegment.bytes = 1048576\n";
    let config = config(&["--config=x"], &[], Some(file));
    assert_eq!((config.replication_factor, config.log_segment_bytes), (2, 1_048_576));
    stops(
        &[],
        &[("CHRONIK_RACK", "a"), ("CHRONIK_BROKER_RACK", "b")],
        None,
        &["CHRONIK_RACK", "CHRONIK_BROKER_RACK", "leave one"],
    );
    // In different places they are one setting, and the usual order of rank decides.
    assert_eq!(self::config(&["--rack=b"], &[("CHRONIK_BROKER_RACK", "a")], None).rack.as_deref(), Some("b"));
}

#[test]
fn booleans_may_stand_alone_as_flags() {
    assert!(!config(&["--auto-create-topics-enable", "false"], &[], None).auto_create_topics_enable);
    let file = Some("auto.create.topics.enable = false");
    assert!(config(&["--auto-create-topics-enable", "--config=x"], &[], file).auto_create_topics_enable);
    assert!(!config(&[], &[("CHRONIK_DELETE_TOPIC_ENABLE", "FALSE")], None).delete_topic_enable);
}

#[test]
fn negative_numbers_and_an_empty_variable() {
    assert_eq!(config(&["--log-retention-ms", "-1"], &[], None).log_retention_ms, Some(-1));
    assert_eq!(config(&[], &[("CHRONIK_NODE_ID", "")], None).node_id.0, 1);
}

#[test]
fn impossible_values_are_named_with_the_form_that_they_should_have() {
    let whole = "a whole number from 0 to 65535";
    for value in ["99999", "-1", "9092.5", "http", "0x10", " 9092"] {
        stops(
            &[],
            &[("CHRONIK_KAFKA_PORT", value)],
            None,
            &["CHRONIK_KAFKA_PORT", &format!("'{value}'"), whole],
        );
    }
    stops(&["--kafka-port", "99999"], &[], None, &["--kafka-port", "'99999'", whole]);
    stops(&["--config=c.toml"], &[], Some("kafka.port = 99999"), &["kafka.port in c.toml", "'99999'", whole]);
    stops(&["--config=c.toml"], &[], Some("kafka.port = true"), &["kafka.port in c.toml", "'true'", whole]);
    stops(&[], &[("CHRONIK_NODE_ID", "2147483648")], None, &["CHRONIK_NODE_ID", "from 0 to 2147483647"]);
    stops(&[], &[("CHRONIK_NODE_ID", "4294967297")], None, &["CHRONIK_NODE_ID", "from 0 to 2147483647"]);
    stops(
        &[],
        &[("CHRONIK_CLUSTER_ENABLED", "yes")],
        None,
        &["CHRONIK_CLUSTER_ENABLED", "'yes'", "true or false"],
    );
    stops(&[], &[("CHRONIK_LOG", "loud")], None, &["CHRONIK_LOG", "'loud'", "debug"]);
    stops(&[], &[("CHRONIK_LOG_FORMAT", "xml")], None, &["CHRONIK_LOG_FORMAT", "'xml'", "text or json"]);
    stops(
        &[],
        &[("CHRONIK_ADVERTISE", "0.0.0.0:9092")],
        None,
        &["CHRONIK_ADVERTISE", "host:port", "stands for all"],
    );
    stops(&[], &[("CHRONIK_BIND", "not a host")], None, &["CHRONIK_BIND", "'not a host'"]);
    stops(&[], &[("CHRONIK_LOG_SEGMENT_BYTES", "100")], None, &["CHRONIK_LOG_SEGMENT_BYTES", "from 1048576"]);
    stops(&[], &[("CHRONIK_LOG_CLEANUP_POLICY", "compact")], None, &["CHRONIK_LOG_CLEANUP_POLICY", "delete"]);
    stops(
        &[],
        &[("CHRONIK_CLUSTER_PEERS", "node1:9092"), ("CHRONIK_CLUSTER_ENABLED", "true")],
        None,
        &["CHRONIK_CLUSTER_PEERS", "'node1:9092'", "host:kafka_port:raft_port"],
    );
}

#[test]
fn unknown_names_are_named_with_what_may_have_been_meant() {
    stops(
        &[],
        &[("CHRONIK_KAFKA_PROT", "1")],
        None,
        &["CHRONIK_KAFKA_PROT", "did you mean CHRONIK_KAFKA_PORT?"],
    );
    stops(&[], &[("CHRONIK_XYZZY", "1")], None, &["CHRONIK_XYZZY is no setting"]);
    stops(&["--kafka-prot", "1"], &[], None, &["--kafka-prot", "did you mean --kafka-port?"]);
    stops(&["start"], &[], None, &["start"]);
    stops(
        &["--config=c.toml"],
        &[],
        Some("num.partition = 1"),
        &["num.partition in c.toml", "did you mean num.partitions?"],
    );
    stops(&["--config=c.toml"], &[], Some("[kafka]\nport = 1\nhost = 2"), &["kafka.host in c.toml"]);
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    stops(&["--config=c.toml"], &[], Some("kafka.port = 1\nrack = no quotes\n"), &["c.toml, line 2"]);
    stops(&["--config=c.toml"], &[], Some("kafka.port = 1\n\nkafka.port = 2\n"), &["c.toml, line 3"]);
    stops(&["--config=c.toml"], &[], Some("kafka.port\n"), &["c.toml, line 1", "num.partitions = 3"]);
}

#[test]
fn a_command_line_that_lacks_a_value_is_told() {
    stops(&["--kafka-port"], &[], None, &["--kafka-port"]);
    stops(&["--rack", "a", "--rack", "b"], &[], None, &["--rack"]);
}

const PEERS: (&str, &str) = ("CHRONIK_CLUSTER_PEERS", "a:9092:9093,b:9092:9093");
const ENABLED: (&str, &str) = ("CHRONIK_CLUSTER_ENABLED", "true");
const NODE_2: (&str, &str) = ("CHRONIK_NODE_ID", "2");

#[test]
fn half_a_cluster_is_refused() {
    stops(
        &[],
        &[ENABLED, NODE_2],
        None,
        &[
            "CHRONIK_CLUSTER_ENABLED is 'true'",
            "CHRONIK_CLUSTER_PEERS is not set",
            "host:kafka_port:raft_port",
        ],
    );
    stops(
        &[],
        &[PEERS, NODE_2],
        None,
        &["CHRONIK_CLUSTER_PEERS is '1@a:9092:9093,2@b:9092:9093'", "CHRONIK_CLUSTER_ENABLED is not true"],
    );
    stops(
        &[],
        &[PEERS, ENABLED],
        None,
        &["CHRONIK_NODE_ID is not set", "CHRONIK_CLUSTER_PEERS", "one of 1, 2"],
    );
    stops(&[], &[("CHRONIK_RAFT_PORT", "7")], None, &["CHRONIK_RAFT_PORT is '7'", "CHRONIK_CLUSTER_PEERS"]);
    stops(
        &["--cluster-enabled=true"],
        &[],
        None,
        &["--cluster-enabled is 'true'", "--cluster-peers is not set"],
    );
}

#[test]
fn a_node_must_be_what_the_list_says() {
    stops(
        &[],
        &[PEERS, ENABLED, ("CHRONIK_NODE_ID", "3")],
        None,
        &["CHRONIK_NODE_ID is '3'", "the nodes 1, 2", "3@host:kafka_port:raft_port"],
    );
    stops(
        &[],
        &[PEERS, ENABLED, ("CHRONIK_NODE_ID", "2147483648")],
        None,
        &["CHRONIK_NODE_ID is '2147483648'", "from 0 to 2147483647"],
    );
    stops(
        &[],
        &[PEERS, ENABLED, NODE_2, ("CHRONIK_KAFKA_PORT", "9094")],
        None,
        &["CHRONIK_KAFKA_PORT is '9094'", "9092"],
    );
    stops(
        &[],
        &[PEERS, ENABLED, NODE_2, ("CHRONIK_RAFT_PORT", "9094")],
        None,
        &["CHRONIK_RAFT_PORT is '9094'", "9093"],
    );
    stops(
        &[],
        &[("CHRONIK_CLUSTER_PEERS", "a:1:2,a:3:2"), ENABLED, NODE_2],
        None,
        &["CHRONIK_CLUSTER_PEERS is 'a:1:2,a:3:2'", "port 2 of a is given twice"],
    );
}

#[test]
fn the_list_fills_in_what_is_not_set() {
    let listed = config(&[], &[("CHRONIK_CLUSTER_PEERS", "a:1:2,b:3:4"), ENABLED, NODE_2], None);
    assert_eq!((listed.kafka_port, listed.raft_port), (3, 4));
    assert_eq!(listed.advertise.as_ref().map(ToString::to_string).as_deref(), Some("b:3"));
    assert_eq!(listed.data_dir, Path::new("./chronik-data-2"));
    assert_eq!((listed.num_partitions, listed.replication_factor), (3, 3));
    let given = config(
        &["--data-dir=d", "--advertise=c"],
        &[("CHRONIK_CLUSTER_PEERS", "a:1:2,b:3:4"), ENABLED, NODE_2, ("CHRONIK_KAFKA_PORT", "3")],
        None,
    );
    assert_eq!(given.advertise.as_ref().map(ToString::to_string).as_deref(), Some("c:3"));
    assert_eq!(given.data_dir, Path::new("d"));
    let single = config(&[], &[], None);
    assert_eq!((single.kafka_port, single.advertise), (9092, None));
    assert_eq!(single.data_dir, Path::new("./chronik-data"));
}

#[test]
fn contradictions_are_told() {
    stops(
        &["--min-insync-replicas", "3"],
        &[("CHRONIK_REPLICATION_FACTOR", "2")],
        None,
        &["--min-insync-replicas is '3'", "CHRONIK_REPLICATION_FACTOR is '2'"],
    );
}

#[test]
fn help_and_version_are_printed() {
    let print = |flag| match run_with(&[flag], &[("CHRONIK_NONSENSE", "1")], None) {
        Ok(Command::Print(text)) => text,
        other => panic!("{other:?}"),
    };
    let help = print("--help");
    for spec in OPTIONS {
        assert!(help.contains(&format!("--{}", spec.flag_name())), "{}", spec.name);
        assert!(help.contains(&spec.env_name()), "{}", spec.name);
    }
    assert!(print("--version").starts_with("chronik-server 0."));
    assert_eq!(print("config-docs"), markdown());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the committed page is compared with the table")]
fn the_committed_page_is_the_one_that_the_table_makes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == markdown(),
        "docs/configuration.md is out of date; make it anew with \
         `cargo run -p chronik-server -- config-docs > docs/configuration.md`"
    );
}
