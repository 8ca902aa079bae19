//! `DescribeLogDirs`.

use std::collections::BTreeMap;

use chronik_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use chronik_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use chronik_protocol::records::BatchOptions;

use super::{Fixture, LOG_DIR};

fn ask(topics: Option<&[(&str, &[i32])]>) -> DescribeLogDirsRequest {
    let topics = topics.map(|topics| {
        topics
            .iter()
            .map(|(topic, partitions)| DescribableLogDirTopic {
                topic: (*topic).to_owned(),
                partitions: partitions.to_vec(),
            })
            .collect()
    });
    DescribeLogDirsRequest { topics }
}

fn sizes(response: &DescribeLogDirsResponse) -> BTreeMap<(String, i32), i64> {
    let topics = response.results.iter().flat_map(|result| &result.topics);
    topics
        .flat_map(|topic| {
            topic
                .partitions
                .iter()
                .map(|found| ((topic.name.clone(), found.partition_index), found.partition_size))
        })
        .collect()
}

#[test]
fn every_partition_is_found_in_every_version() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 2, &[]);
    fixture.create_topic("b", 1, &[]);
    fixture.append("a", 1, &[1, 2, 3], BatchOptions::default());
    let size_bytes = i64::try_from(fixture.partition("a", 1).log().size_bytes()).unwrap();
    assert!(size_bytes > 61);
    for version in 1..=5 {
        let response: DescribeLogDirsResponse = fixture.call(version, &ask(None));
        assert_eq!(response.results.len(), 1);
        let dir = &response.results[0];
        assert_eq!((response.error_code, dir.error_code, dir.log_dir.as_str()), (0, 0, LOG_DIR));
        let expected = [(("a", 0), 0), (("a", 1), size_bytes), (("b", 0), 0)];
        let expected = expected.map(|((name, index), size)| ((name.to_owned(), index), size));
        assert_eq!(sizes(&response), BTreeMap::from(expected));
        assert!(
            dir.topics
                .iter()
                .flat_map(|topic| &topic.partitions)
                .all(|found| { found.offset_lag == 0 && !found.is_future_key })
        );
        let described = &fixture.broker.logs.describe_dirs()[0];
        let space = if version >= 4 { (described.total_bytes, described.usable_bytes) } else { (-1, -1) };
        assert_eq!((dir.total_bytes, dir.usable_bytes), space);
        assert!(!dir.is_cordoned);
    }
}

#[test]
fn only_what_is_asked_for_is_told() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 3, &[]);
    fixture.append("a", 1, &[1], BatchOptions::default());
    let found = |request| {
        let response: DescribeLogDirsResponse = fixture.call(5, &request);
        assert_eq!(response.results.len(), 1, "the directory is told even when nothing is in it");
        sizes(&response).into_keys().map(|(_, index)| index).collect::<Vec<_>>()
    };
    assert!(found(ask(Some(&[]))).is_empty());
    assert_eq!(found(ask(Some(&[("a", &[1, 2, 9]), ("missing", &[0])]))), [1, 2]);
    assert_eq!(found(ask(Some(&[("a", &[1]), ("a", &[0])]))), [0, 1]);
}

#[test]
fn a_deleted_topic_is_in_no_directory() {
    let fixture = Fixture::new();
    fixture.create_topic("a", 1, &[]);
    fixture.append("a", 0, &[1], BatchOptions::default());
    let topic_id = fixture.image().topic("a").unwrap().id;
    let delete = chronik_raft::metadata::DeleteTopic::new(topic_id);
    fixture.broker.metadata.propose(
        chronik_raft::metadata::CommandBatch::new(vec![delete.into()]),
        Box::new(|outcome| assert!(outcome.is_ok())),
    );
    assert!(sizes(&fixture.call(5, &ask(None))).is_empty());
}
