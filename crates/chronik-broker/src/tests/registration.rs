//! What a broker tells its cluster when it enters it.

use std::path::Path;

use chronik_disk::{Crash, Disk};
use chronik_types::{NodeId, PartitionIndex};

use super::leadership::{TOPIC, lead, three_brokers};
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
