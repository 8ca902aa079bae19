//! Threads that come to a partition while another one writes to it.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use chronik_log::{AppendError, AppendOrigin, Appended};
use chronik_raft::MetadataLog as _;
use chronik_raft::metadata::{CommandBatch, UpdateIsr};
use chronik_types::{ErrorCode, NodeId, Offset, PartitionIndex};
use parking_lot::Mutex;

use super::Fixture;
use super::followers::{answer, batch, stamped, take, write};
use super::leadership::{TOPIC, lead, three_brokers};
use crate::clock::Clock as _;
use crate::partition::{Confirmation, LeaderAnswer};

/// How long a thread is waited for that does not come if something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

type Outcome = Arc<Mutex<Option<Result<Appended, AppendError>>>>;

/// Does `work` on another thread, and whether it has come back.
fn elsewhere(work: impl FnOnce() + Send + 'static) -> bool {
    let (sender, receiver) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        work();
        drop(sender);
    });
    receiver.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Disconnected)
}

/// Has a client's batch come in the middle of the next write.
fn send_within_next_write(fixture: &Fixture) -> Outcome {
    let outcome = Outcome::default();
    let slot = Arc::clone(&outcome);
    let (partition, now) = (fixture.partition("shared", 0), fixture.clock.now());
    fixture.disk.within_next_write(move || {
        let came = elsewhere(move || {
            let done = Box::new(move |_, appended| *slot.lock() = Some(appended));
            let late = batch("late");
            partition.append_with(now, late, AppendOrigin::Client, Confirmation::Appended, done);
        });
        assert!(came, "it leaves its batch to the thread that writes");
    });
    outcome
}

/// Has the metadata say that the ISR has changed in the middle of the next write.
fn change_isr_within_next_write(fixture: &Fixture, isr: &'static [i32]) -> Arc<Mutex<bool>> {
    // It is opened before that, which writes too.
    assert_eq!(fixture.partition("shared", 0).log().log_end_offset(), Offset(0));
    let has_come = Arc::new(Mutex::new(false));
    let (slot, metadata) = (Arc::clone(&has_come), Arc::clone(&fixture.metadata));
    fixture.disk.within_next_write(move || {
        *slot.lock() = elsewhere(move || {
            let isr: Vec<NodeId> = isr.iter().copied().map(NodeId).collect();
            let change = UpdateIsr::new(TOPIC, PartitionIndex(0), &isr, None);
            let batch = CommandBatch::new(vec![change.into()]);
            metadata.propose(batch, Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")));
        });
    });
    has_come
}

/// Takes in a record from the leader of this epoch.
fn take_record(fixture: &Fixture, epoch: i32, offset: i64) {
    let records = stamped(batch("copied"), offset, epoch);
    let went_on = take(fixture, LeaderAnswer { records, ..answer(epoch, offset, offset) });
    assert_eq!(went_on, (offset + 1, epoch));
}

#[test]
fn a_producer_that_comes_while_a_follower_writes_is_sent_away() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let outcome = send_within_next_write(&fixture);
    take_record(&fixture, 1, 0);
    assert!(!fixture.disk.awaits_write());
    let refused = outcome.lock().take().expect("it is answered once the follower has written");
    assert_eq!(refused.unwrap_err().error_code(), ErrorCode::NotLeaderOrFollower);
    lead(&fixture, 1);
    assert_eq!(fixture.partition("shared", 0).log().log_end_offset(), Offset(1), "nothing is written later");
}

#[test]
fn a_producer_that_comes_while_a_lead_begins_is_answered() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let outcome = send_within_next_write(&fixture);
    lead(&fixture, 1);
    assert!(!fixture.disk.awaits_write());
    let appended = outcome.lock().take().expect("it is answered once the lead has begun");
    assert_eq!(appended.unwrap().first_offset, Offset(0));
}

#[test]
fn a_producer_that_comes_while_another_writes_is_answered() {
    let fixture = three_brokers();
    let outcome = send_within_next_write(&fixture);
    assert!(write(&fixture, batch("a")).is_ok());
    assert!(!fixture.disk.awaits_write());
    assert_eq!(outcome.lock().take().expect("by the other").unwrap().first_offset, Offset(1));
}

#[test]
fn metadata_do_not_wait_for_what_a_leader_writes() {
    let fixture = three_brokers();
    let has_come = change_isr_within_next_write(&fixture, &[1, 2]);
    assert!(write(&fixture, batch("a")).is_ok());
    assert!(*has_come.lock(), "an ISR change waits for a disk that stands still");
    let partition = fixture.partition("shared", 0);
    assert_eq!(partition.log().log_end_offset(), Offset(1));
}

#[test]
fn metadata_do_not_wait_for_what_a_follower_writes() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let has_come = change_isr_within_next_write(&fixture, &[2, 3]);
    take_record(&fixture, 1, 0);
    assert!(*has_come.lock(), "an ISR change waits for a disk that stands still");
    take_record(&fixture, 1, 1);
}
