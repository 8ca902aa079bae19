use super::*;

const LAG_MS: u64 = 10_000;

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "it stands for a lookup")]
/// All three are registered, each in the epoch of its id times ten.
fn all(node: NodeId) -> Option<BrokerEpoch> {
    Some(BrokerEpoch(i64::from(node.get()) * 10))
}

fn without(gone: i32) -> impl Fn(NodeId) -> Option<BrokerEpoch> {
    move |node| all(node).filter(|_| node.get() != gone)
}

fn at(ms: u64) -> MonotonicMs {
    MonotonicMs(ms)
}

fn leader(isr: &[i32], end: i64, high_watermark: i64, min_insync: usize) -> Leader {
    let term = LeaderTerm {
        replicas: nodes(&[1, 2, 3]),
        isr: nodes(isr),
        elr: Vec::new(),
        is_recovering: false,
        leader_epoch: LeaderEpoch(4),
        partition_epoch: PartitionEpoch(7),
    };
    Leader::new(
        at(0),
        NodeId(1),
        &term,
        &all,
        Offset(end),
        Offset(high_watermark),
        LeaderSettings { min_insync, lag_ms_max: LAG_MS },
    )
}

fn fetch(leader: &mut Leader, now_ms: u64, node: i32, offset: i64) -> Effects {
    let fetch = FollowerFetch {
        node: NodeId(node),
        broker_epoch: Some(BrokerEpoch(i64::from(node) * 10)),
        fetch_offset: Offset(offset),
        log_start_offset: Offset(0),
    };
    leader.fetched(at(now_ms), fetch)
}

/// The metadata log has another ISR and ELR.
fn change(leader: &mut Leader, now: MonotonicMs, isr: &[i32], elr: &[i32], partition_epoch: i32) -> Effects {
    let term = LeaderTerm {
        replicas: nodes(&[1, 2, 3]),
        isr: nodes(isr),
        elr: nodes(elr),
        is_recovering: false,
        leader_epoch: leader.leader_epoch(),
        partition_epoch: PartitionEpoch(partition_epoch),
    };
    leader.changed(now, &term)
}

fn moved(to: i64) -> Effects {
    Effects { high_watermark: Some(Offset(to)), propose: None }
}

#[test]
fn the_high_watermark_is_the_smallest_end_of_the_isr() {
    let mut leader = leader(&[1, 2, 3], 0, 0, 2);
    assert_eq!(leader.appended(at(1), Offset(10)), Effects::default());
    assert_eq!(fetch(&mut leader, 2, 2, 10), Effects::default(), "replica 3 has said nothing yet");
    assert_eq!(fetch(&mut leader, 3, 3, 6), moved(6));
    assert_eq!(fetch(&mut leader, 4, 3, 10), moved(10));
    assert_eq!(fetch(&mut leader, 5, 3, 2), Effects::default(), "REPL-1");
    assert_eq!(leader.high_watermark(), Offset(10));
}

#[test]
fn kip_966_nothing_is_committed_while_too_few_are_in_sync() {
    let mut leader = leader(&[1], 5, 5, 2);
    assert_eq!(leader.appended(at(1), Offset(9)), Effects::default());
    assert!(!leader.has_enough_in_sync());
    let effects = fetch(&mut leader, 2, 2, 9);
    let proposal = effects.propose.expect("replica 2 has caught up");
    assert_eq!((proposal.isr, effects.high_watermark), (nodes(&[1, 2]), None));
    assert_eq!(change(&mut leader, at(3), &[1, 2], &[], 8), moved(9));
}

#[test]
fn kip_497_a_replica_about_to_enter_counts_before_it_is_in() {
    let mut leader = leader(&[1, 2], 10, 10, 1);
    fetch(&mut leader, 1, 2, 10);
    let proposal = fetch(&mut leader, 1, 3, 10).propose.expect("caught up");
    assert_eq!((proposal.isr, proposal.partition_epoch), (nodes(&[1, 2, 3]), PartitionEpoch(7)));
    leader.appended(at(2), Offset(20));
    assert_eq!(fetch(&mut leader, 3, 2, 20), Effects::default(), "replica 3 may be in the ISR already");
    assert_eq!(fetch(&mut leader, 4, 3, 20), moved(20));
    assert_eq!(leader.again(PartitionEpoch(7)).map(|proposal| proposal.isr), Some(nodes(&[1, 2, 3])));
    assert!(leader.is_changing());
    leader.refused(at(5), PartitionEpoch(7));
    assert!(!leader.is_changing());
}

#[test]
fn kip_497_a_replica_on_its_way_out_counts_until_it_is_out() {
    let mut leader = leader(&[1, 2, 3], 10, 10, 1);
    leader.appended(at(1), Offset(20));
    fetch(&mut leader, LAG_MS + 1, 2, 20);
    let proposal = leader.check(at(LAG_MS + 2)).propose.expect("replica 3 lags");
    assert_eq!((proposal.isr, proposal.cause), (nodes(&[1, 2]), IsrCause::Lagging(nodes(&[3]))));
    assert_eq!(leader.high_watermark(), Offset(10));
    assert_eq!(leader.check(at(LAG_MS + 3)).propose, None, "one change at a time");
    assert_eq!(change(&mut leader, at(LAG_MS + 4), &[1, 2], &[], 8), moved(20));
}

#[test]
fn a_replica_at_the_end_of_a_quiet_log_stays_in_sync() {
    let mut leader = leader(&[1, 2, 3], 10, 10, 1);
    fetch(&mut leader, 1, 2, 10);
    fetch(&mut leader, 1, 3, 10);
    assert_eq!(leader.check(at(LAG_MS * 100)).propose, None);
}

#[test]
fn a_replica_that_keeps_up_with_a_busy_log_stays_in_sync() {
    let mut leader = leader(&[1, 2], 0, 0, 1);
    for round in 1..100 {
        let now_ms = u64::try_from(round).expect("small") * LAG_MS / 4;
        leader.appended(at(now_ms), Offset(round * 10));
        // It is always one round behind.
        fetch(&mut leader, now_ms, 2, (round - 1) * 10);
        assert_eq!(leader.check(at(now_ms)).propose, None, "round {round}");
    }
    let stuck = LAG_MS / 4 * 99;
    assert_eq!(leader.check(at(stuck + LAG_MS / 2)).propose, None);
    assert!(leader.check(at(stuck + 2 * LAG_MS)).propose.is_some());
}

#[test]
fn kip_841_and_903_a_replica_that_is_fenced_or_reborn_does_not_enter() {
    let mut leader = leader(&[1, 2], 10, 10, 1);
    leader.membership_changed(at(1), &without(3));
    assert_eq!(fetch(&mut leader, 1, 3, 10).propose, None, "it is fenced");
    leader.membership_changed(at(2), &|_: NodeId| Some(BrokerEpoch(99)));
    assert_eq!(fetch(&mut leader, 2, 3, 10).propose, None, "it fetches for an earlier life");
    leader.membership_changed(at(3), &all);
    assert!(fetch(&mut leader, 3, 3, 10).propose.is_some());
}

/// Replication points 1 and 5: a fetch that was delayed on its way must not speak for a log that came after it.
#[test]
fn kip_903_a_fetch_of_an_earlier_life_acknowledges_nothing() {
    let reborn =
        |node: NodeId| all(node).map(|epoch| if node == NodeId(2) { BrokerEpoch(25) } else { epoch });
    let mut leader = leader(&[1, 2, 3], 10, 10, 1);
    leader.appended(at(1), Offset(20));
    fetch(&mut leader, 1, 3, 20);
    let of_new_life = FollowerFetch {
        node: NodeId(2),
        broker_epoch: Some(BrokerEpoch(25)),
        fetch_offset: Offset(10),
        log_start_offset: Offset(0),
    };
    // The image may tell of the new life before its first fetch does, or after it.
    for is_told_first in [true, false] {
        let mut leader = leader.clone();
        if is_told_first {
            leader.membership_changed(at(2), &reborn);
        }
        leader.fetched(at(2), of_new_life);
        assert_eq!(fetch(&mut leader, 3, 2, 20), Effects::default(), "replica 2 has lost these");
        leader.membership_changed(at(3), &reborn);
        assert_eq!(leader.high_watermark(), Offset(10));
        let caught_up = FollowerFetch { fetch_offset: Offset(20), ..of_new_life };
        assert_eq!(leader.fetched(at(4), caught_up), moved(20));
    }
    leader.membership_changed(at(2), &reborn);
    assert_eq!(fetch(&mut leader, 3, 2, 20), Effects::default(), "before the new life has said anything");
    assert_eq!(leader.high_watermark(), Offset(10));
}

#[test]
fn kip_207_a_new_leader_is_settled_once_its_own_start_is_committed() {
    let mut leader = leader(&[1, 2], 10, 4, 1);
    assert!(!leader.is_settled());
    assert_eq!(fetch(&mut leader, 1, 2, 10), moved(10));
    assert!(leader.is_settled());
}

#[test]
fn a_replica_below_the_start_of_the_epoch_does_not_enter() {
    let mut leader = leader(&[1], 10, 4, 1);
    // Alone in the ISR, the leader commits what it has as soon as it looks.
    assert_eq!(fetch(&mut leader, 1, 3, 6), moved(10));
    assert_eq!(fetch(&mut leader, 2, 3, 9).propose, None);
    assert!(fetch(&mut leader, 3, 3, 10).propose.is_some());
}

/// Replicas 1 and 2 are in sync. Replica 3 has caught up too, and has been kept out for the moment.
fn leader_with_close_third() -> Leader {
    let mut leader = leader(&[1, 2], 10, 10, 1);
    fetch(&mut leader, 1, 2, 10);
    fetch(&mut leader, 1, 3, 10);
    leader.refused(at(1), PartitionEpoch(7));
    leader
}

#[test]
fn a_replica_that_is_close_is_waited_for_while_it_lives() {
    let mut leader = leader_with_close_third();
    leader.appended(at(2), Offset(12));
    assert_eq!(fetch(&mut leader, 3, 2, 12), Effects::default());
    assert_eq!(leader.membership_changed(at(4), &without(3)), moved(12), "the dead hold nobody up");
}

#[test]
fn a_replica_that_comes_back_is_waited_for_once_it_has_caught_up() {
    let mut leader = leader_with_close_third();
    leader.membership_changed(at(2), &without(3));
    leader.appended(at(2), Offset(20));
    assert_eq!(fetch(&mut leader, 3, 2, 20), moved(20));
    leader.membership_changed(at(4), &all);
    leader.appended(at(5), Offset(30));
    fetch(&mut leader, 6, 3, 12);
    assert_eq!(fetch(&mut leader, 7, 2, 30), moved(30), "it is far behind, if not for long");
}

#[test]
fn a_partition_with_few_replicas_needs_all_of_them_at_most() {
    let term = LeaderTerm {
        replicas: nodes(&[1]),
        isr: nodes(&[1]),
        elr: Vec::new(),
        is_recovering: false,
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
    };
    let mut leader = Leader::new(
        at(0),
        NodeId(1),
        &term,
        &all,
        Offset(0),
        Offset(0),
        LeaderSettings { min_insync: 2, lag_ms_max: LAG_MS },
    );
    assert_eq!(leader.min_insync(), 1);
    assert_eq!(leader.appended(at(1), Offset(3)), moved(3));
}

#[test]
fn late_news_of_the_partition_changes_nothing() {
    let mut leader = leader(&[1, 2, 3], 10, 10, 1);
    assert_eq!(change(&mut leader, at(1), &[1], &[], 7), Effects::default());
    assert_eq!(leader.isr(), nodes(&[1, 2, 3]));
    assert_eq!(leader.refused(at(1), PartitionEpoch(3)), Effects::default());
    assert_eq!(fetch(&mut leader, 1, 9, 10), Effects::default(), "no replica");
}

#[test]
fn the_lag_is_that_of_the_replica_furthest_behind() {
    let mut leader = leader(&[1, 2], 10, 6, 1);
    assert_eq!(leader.replica_lag_max(), 10, "nothing is known of replica 3");
    fetch(&mut leader, 1, 3, 8);
    assert_eq!(leader.replica_lag_max(), 4, "replica 2 is in sync");
    fetch(&mut leader, 2, 2, 10);
    assert_eq!(leader.replica_lag_max(), 2);
    fetch(&mut leader, 3, 3, 10);
    assert_eq!(leader.replica_lag_max(), 0);
}

#[test]
fn kip_107_the_low_watermark_is_that_of_the_live_replicas() {
    let mut leader = leader(&[1, 2, 3], 10, 10, 1);
    assert_eq!(leader.low_watermark(Offset(5)), Offset(0));
    for (node, start) in [(2, 4), (3, 3)] {
        leader.fetched(
            at(1),
            FollowerFetch {
                node: NodeId(node),
                broker_epoch: None,
                fetch_offset: Offset(10),
                log_start_offset: Offset(start),
            },
        );
    }
    assert_eq!(leader.low_watermark(Offset(5)), Offset(3));
    leader.membership_changed(at(2), &without(3));
    assert_eq!(leader.low_watermark(Offset(5)), Offset(4));
    assert_eq!(leader.replica(NodeId(2)).and_then(|state| state.log_start_offset), Some(Offset(4)));
}

#[test]
fn kip_966_below_the_minimum_those_who_leave_stay_eligible_and_nothing_is_committed() {
    let mut leader = leader(&[1, 2], 10, 10, 2);
    leader.appended(at(1), Offset(12));
    let proposal = leader.check(at(LAG_MS + 1)).propose.expect("replica 2 lags");
    assert_eq!((proposal.isr, proposal.elr), (nodes(&[1]), nodes(&[2])));
    let now = at(LAG_MS + 2);
    assert_eq!(change(&mut leader, now, &[1], &[2], 8), Effects::default());
    let settings = LeaderSettings { min_insync: 1, lag_ms_max: LAG_MS };
    let effects = leader.configure(now, settings);
    let proposal = effects.propose.expect("one is enough now, and nobody else need be eligible");
    assert_eq!((effects.high_watermark, proposal.cause), (None, IsrCause::EnoughInSync));
    assert_eq!((proposal.isr, proposal.elr), (nodes(&[1]), nodes(&[])));
    assert_eq!(leader.appended(now, Offset(13)), Effects::default(), "not before the metadata log says so");
    assert_eq!(change(&mut leader, now, &[1], &[], 9), moved(13));
}

#[test]
fn kip_966_enough_in_sync_again_leave_nobody_else_eligible() {
    let mut leader = leader(&[1], 10, 10, 2);
    assert_eq!(change(&mut leader, at(1), &[1], &[2], 8), Effects::default());
    let proposal = fetch(&mut leader, 2, 3, 10).propose.expect("replica 3 has caught up");
    assert_eq!((proposal.isr, proposal.elr), (nodes(&[1, 3]), nodes(&[])));
}

#[test]
fn kip_966_a_leader_with_enough_in_sync_does_not_wait_for_the_next_look() {
    let mut leader = leader(&[1, 2], 10, 10, 1);
    leader.appended(at(1), Offset(12));
    let effects = change(&mut leader, at(LAG_MS + 2), &[1], &[2], 8);
    assert_eq!(effects.high_watermark, None);
    let proposal = effects.propose.expect("the controller knew of a larger minimum");
    assert_eq!(
        (proposal.isr, proposal.elr, proposal.cause),
        (nodes(&[1]), nodes(&[]), IsrCause::EnoughInSync)
    );
    assert_eq!(change(&mut leader, at(LAG_MS + 3), &[1], &[], 9), moved(12));
}

/// Replication point 10.
#[test]
fn kip_704_nobody_enters_the_isr_of_a_leader_that_may_lack_records_before_it_has_said_so() {
    let mut term = LeaderTerm {
        replicas: nodes(&[1, 2, 3]),
        isr: nodes(&[1]),
        elr: Vec::new(),
        is_recovering: true,
        leader_epoch: LeaderEpoch(4),
        partition_epoch: PartitionEpoch(7),
    };
    let settings = LeaderSettings { min_insync: 1, lag_ms_max: LAG_MS };
    let mut leader = Leader::new(at(0), NodeId(1), &term, &all, Offset(10), Offset(4), settings);
    let said = leader.configure(at(0), settings).propose.expect("it makes do with what it has");
    assert_eq!((said.isr, said.cause), (nodes(&[1]), IsrCause::Recovered));
    assert_eq!(fetch(&mut leader, 1, 2, 10).propose, None, "one change at a time");
    leader.refused(at(2), PartitionEpoch(7));
    assert_eq!(fetch(&mut leader, 3, 2, 10).propose, None, "the metadata log does not know yet");
    assert_eq!(leader.check(at(4)).propose.map(|said| said.cause), Some(IsrCause::Recovered), "said again");
    term.is_recovering = false;
    term.partition_epoch = PartitionEpoch(8);
    leader.changed(at(5), &term);
    let proposal = fetch(&mut leader, 6, 2, 10).propose.expect("replica 2 may enter");
    assert_eq!((proposal.isr, proposal.cause), (nodes(&[1, 2]), IsrCause::CaughtUp(NodeId(2))));
}
