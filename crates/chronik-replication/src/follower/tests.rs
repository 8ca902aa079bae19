use super::*;

/// Epochs with the offsets where they start; the last one ends at `end`.
struct Model {
    epochs: Vec<(i32, i64)>,
    start: i64,
    end: i64,
}

impl OwnLog for Model {
    fn log_end_offset(&self) -> Offset {
        Offset(self.end)
    }

    fn log_start_offset(&self) -> Offset {
        Offset(self.start)
    }

    fn epoch_end(&self, leader_epoch: LeaderEpoch) -> Option<EpochEnd> {
        let at = self.epochs.iter().rposition(|(epoch, _)| *epoch <= leader_epoch.get())?;
        let end = self.epochs.get(at + 1).map_or(self.end, |(_, start)| *start);
        Some(EpochEnd { leader_epoch: LeaderEpoch(self.epochs[at].0), end_offset: Offset(end) })
    }

    fn last_record_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.iter().rev().find(|(_, start)| *start < self.end).map(|(epoch, _)| LeaderEpoch(*epoch))
    }
}

fn model(epochs: &[(i32, i64)], end: i64) -> Model {
    Model { epochs: epochs.to_vec(), start: epochs.first().map_or(end, |(_, start)| *start), end }
}

fn diverging(epoch: i32, end: i64) -> Answer {
    Answer {
        error: ErrorCode::None,
        log_start_offset: Offset(0),
        diverging: Some(EpochEnd { leader_epoch: LeaderEpoch(epoch), end_offset: Offset(end) }),
    }
}

fn failed(error: ErrorCode, log_start_offset: i64) -> Answer {
    Answer { error, log_start_offset: Offset(log_start_offset), diverging: None }
}

#[test]
fn kip_101_the_log_is_cut_where_the_epochs_part_and_not_at_the_high_watermark() {
    let log = model(&[(1, 0), (2, 10)], 20);
    let step = |answer| next_step(&log, Offset(20), &answer);
    assert_eq!(step(diverging(2, 15)), Step::TruncateTo(Offset(15)));
    assert_eq!(step(diverging(1, 12)), Step::TruncateTo(Offset(10)), "the follower's epoch 1 ends sooner");
    assert_eq!(step(diverging(1, 7)), Step::TruncateTo(Offset(7)));
    assert_eq!(step(failed(ErrorCode::None, 0)), Step::Append);
}

#[test]
fn kip_279_an_epoch_that_the_follower_lacks_takes_one_more_round() {
    // The leader's largest epoch not above ours is 3, which we never saw: go to where our epoch 2 ends.
    let log = model(&[(2, 0), (5, 30)], 40);
    assert_eq!(next_step(&log, Offset(40), &diverging(3, 60)), Step::TruncateTo(Offset(30)));
    let log = model(&[(2, 0)], 30);
    assert_eq!(next_step(&log, Offset(30), &diverging(2, 25)), Step::TruncateTo(Offset(25)));
}

#[test]
fn a_log_that_shares_nothing_with_the_leaders_begins_anew() {
    let log = model(&[(5, 10)], 20);
    assert_eq!(next_step(&log, Offset(20), &diverging(3, 8)), Step::StartAt(Offset(8)));
    assert_eq!(next_step(&log, Offset(20), &diverging(3, 15)), Step::TruncateTo(Offset(10)));
}

#[test]
fn a_follower_outside_the_leaders_log_starts_where_that_starts() {
    let log = model(&[(1, 0)], 5);
    let step = |start| next_step(&log, Offset(5), &failed(ErrorCode::OffsetOutOfRange, start));
    assert_eq!(step(100), Step::StartAt(Offset(100)));
    assert_eq!(step(-1), Step::Wait { delay_ms: BACKOFF_MS });
    assert_eq!(step(5), Step::Wait { delay_ms: BACKOFF_MS });
}

/// An epoch that was read wrongly, say.
#[test]
fn an_epoch_that_the_leader_has_never_heard_of_goes_and_nothing_else() {
    let answer = failed(ErrorCode::OffsetOutOfRange, 0);
    let log = model(&[(1, 0), (3, 4), (1 << 20, 5)], 7);
    assert_eq!(next_step(&log, Offset(7), &answer), Step::TruncateTo(Offset(5)));
    let log = model(&[(1 << 20, 0)], 7);
    assert_eq!(next_step(&log, Offset(7), &answer), Step::StartAt(Offset(0)));
    let empty = Model { epochs: vec![], start: 7, end: 7 };
    assert_eq!(next_step(&empty, Offset(7), &answer), Step::StartAt(Offset(0)));
}

#[test]
fn late_answers_and_errors_change_nothing() {
    let log = model(&[(1, 0)], 5);
    assert_eq!(next_step(&log, Offset(4), &diverging(1, 2)), Step::Wait { delay_ms: 0 });
    for error in [ErrorCode::NotLeaderOrFollower, ErrorCode::FencedLeaderEpoch, ErrorCode::UnknownTopicId] {
        assert_eq!(next_step(&log, Offset(5), &failed(error, -1)), Step::Wait { delay_ms: BACKOFF_MS });
    }
    let early = failed(ErrorCode::UnknownLeaderEpoch, -1);
    assert_eq!(next_step(&log, Offset(5), &early), Step::Wait { delay_ms: NEWS_BACKOFF_MS });
    let storage = failed(ErrorCode::KafkaStorageError, -1);
    assert_eq!(next_step(&log, Offset(5), &storage), Step::Wait { delay_ms: STORAGE_BACKOFF_MS });
}

#[test]
fn an_epoch_in_which_nothing_was_written_is_cut_away() {
    // It led in epoch 3 and wrote nothing; the leader knows epoch 1 only, and its log goes further.
    let log = model(&[(1, 0), (3, 5)], 5);
    assert_eq!(next_step(&log, Offset(5), &diverging(1, 9)), Step::TruncateTo(Offset(5)));
}

#[test]
fn the_high_watermark_of_a_follower_stays_within_its_log() {
    assert_eq!(high_watermark(Offset(9), Offset(5)), Offset(5));
    assert_eq!(high_watermark(Offset(3), Offset(5)), Offset(3));
}
