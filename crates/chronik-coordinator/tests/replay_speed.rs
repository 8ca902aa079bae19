//! How long a coordinator takes to come up. The figure is printed, not asserted:
//! `cargo test --release -p chronik-coordinator --test replay_speed -- --nocapture`.

mod common;

use std::time::Instant;

use bytes::Bytes;
use chronik_coordinator::{GroupConfig, Record};
use chronik_protocol::messages::group_metadata_value::MemberMetadata;
use chronik_protocol::messages::{
    GroupMetadataKey, GroupMetadataValue, Message, OffsetCommitKey, OffsetCommitValue,
};
use chronik_protocol::wire::Writer;
use chronik_types::Now;
use common::{SUBSCRIBED_TO_T0, replayed};

const GROUPS: usize = 1_000;
/// An unoptimized build takes a part of them: it shows that the test works, and says nothing about speed.
const OFFSETS: usize = if cfg!(debug_assertions) { 5_000 } else { 100_000 };

#[test]
fn a_thousand_groups_with_a_hundred_thousand_offsets_are_replayed() {
    let mut log: Vec<Record> = (0..OFFSETS).map(offset).collect();
    log.extend((0..GROUPS).map(group));
    #[expect(
        clippy::disallowed_methods,
        reason = "this test measures, and asserts nothing of what it measures"
    )]
    let start = Instant::now();
    let mut coordinator = replayed(&log, &GroupConfig::default(), 0);
    drop(coordinator.loaded(Now::default()));
    println!("replayed {GROUPS} groups and {OFFSETS} offsets in {:?}", start.elapsed());
    assert_eq!(coordinator.list_groups(&["Stable".to_owned()], &[]).map(|groups| groups.len()), Ok(GROUPS));
}

fn offset(number: usize) -> Record {
    let key = OffsetCommitKey {
        group: format!("group-{}", number % GROUPS),
        topic: format!("a-topic-of-usual-length-{}", number / GROUPS / 20),
        partition: i32::try_from(number / GROUPS % 20).unwrap_or_default(),
    };
    let value = OffsetCommitValue { offset: 1, ..OffsetCommitValue::default() };
    Record { key: encode(1, &key, 0), value: Some(encode(4, &value, 4)) }
}

fn group(number: usize) -> Record {
    let member = |member: usize| MemberMetadata {
        member_id: format!("consumer-{number}-0d0f1a2b-3c4d-4e5f-8a9b-{member:012}"),
        client_id: format!("consumer-{number}"),
        client_host: "/10.0.0.1".to_owned(),
        rebalance_timeout: 300_000,
        session_timeout: 45_000,
        subscription: Bytes::from_static(SUBSCRIBED_TO_T0),
        assignment: Bytes::from_static(&[0; 64]),
        ..MemberMetadata::default()
    };
    let value = GroupMetadataValue {
        protocol_type: "consumer".to_owned(),
        generation: 5,
        protocol: Some("range".to_owned()),
        leader: Some(member(0).member_id),
        members: (0..5).map(member).collect(),
        ..GroupMetadataValue::default()
    };
    let key = GroupMetadataKey { group: format!("group-{number}") };
    Record { key: encode(2, &key, 0), value: Some(encode(3, &value, 3)) }
}

fn encode<M: Message>(prefix: i16, message: &M, version: i16) -> Bytes {
    let mut writer = Writer::new();
    writer.i16(prefix);
    message.encode(&mut writer, version).expect("the record can be written");
    writer.into_bytes()
}
