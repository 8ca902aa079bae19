//! What a broker tells its cluster when it enters it.

use std::path::Path;

use chronik_disk::{Crash, Disk};
use chronik_raft::metadata::RegisterBroker;
use chronik_types::{NodeId, PartitionIndex};

use super::leadership::{TOPIC, apply, lead, three_brokers};
use super::{Fixture, LOG_DIR, NODE};
use crate::PreviousLife;

/// KIP-966, replication point 6. A full disk loses nothing, and may hide what is lost.
#[test]
fn kip_966_a_broker_tells_what_its_logs_hold_once_it_has_room_to_look_at_them() {
    for is_damaged in [false, true] {
        let fixture = three_brokers();
        lead(&fixture, 2);
        super::followers::follow_first(&fixture, "a");
        fixture.partition("shared", 0).log().sync().unwrap();
        fixture.pass(60_000);
        fixture.broker.logs.maintain(fixture.broker.clock.now());
        let epoch = fixture.broker.registered_epoch().unwrap();
        let Fixture { broker, metadata, clock, disk, .. } = fixture;
        let config = broker.config.clone();
        drop(broker);
        disk.crash(Crash::Process);
        let dir = Path::new(LOG_DIR).join("shared-0");
        disk.remove_file(&dir.join("partition.metadata")).unwrap();
        if is_damaged {
            disk.remove_file(&dir.join("00000000000000000000.log")).unwrap();
        }
        disk.set_capacity_bytes(Some(disk.used_bytes()));
        let previous_life = PreviousLife { epoch, incarnations: Vec::new() };
        let broker = Fixture::begin(config, &metadata, &clock, &disk, Some(previous_life));
        assert!(broker.waits_for_room() && !broker.may_register());
        disk.set_capacity_bytes(None);
        broker.logs.maintain(broker.clock.now());
        assert!(!broker.waits_for_room() && broker.may_register());
        broker.register(Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")));
        let image = broker.metadata.image();
        let state = image.topic_by_id(TOPIC).and_then(|topic| topic.partition(PartitionIndex(0))).unwrap();
        assert_eq!(state.isr.contains(&NODE), !is_damaged, "{:?}", state.isr);
        assert!(state.isr.contains(&NodeId(2)));
    }
}

/// An earlier life's message that was late puts it back; the proposal that corrects it may be lost, and the metadata need
/// not change any more.
#[test]
fn a_broker_registers_again_until_it_is_registered() {
    let fixture = three_brokers();
    let endpoints = fixture.image().broker(NODE).unwrap().endpoints.clone();
    apply(&fixture, vec![RegisterBroker::new(NODE, 99, endpoints).into()]);
    let minded = || fixture.broker.mind_registration(fixture.broker.clock.now(), &fixture.image());
    fixture.metadata.hold();
    assert!(minded().is_some(), "it looks again");
    assert!(minded().is_some(), "and while a proposal is under way");
    assert_eq!(fixture.metadata.refuse(), 1);
    fixture.metadata.hold();
    assert!(minded().is_some());
    assert_eq!(fixture.metadata.release(), 1);
    assert!(fixture.broker.registered_epoch().is_some());
    assert_eq!(minded(), None);
}
