//! What a follower does with an answer of the leader.

use chronik_types::{ErrorCode, LeaderEpoch, Offset};

/// How long a follower leaves a partition alone after an answer that it can do nothing about. The leader it knows
/// has stepped down; the metadata log will tell (Kafka's `replica.fetch.backoff.ms`).
pub const BACKOFF_MS: u64 = 100;

/// How long it waits for a leader that does not know its epoch: the metadata log tells all nodes of a new leader at about
/// the same time, and producers wait until its followers have come.
pub const NEWS_BACKOFF_MS: u64 = 10;

/// How long it leaves one alone whose log could not be read or written, here or there.
pub const STORAGE_BACKOFF_MS: u64 = 1_000;

/// The last offset of an epoch: where the next epoch starts, or where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch.
    pub leader_epoch: LeaderEpoch,
    /// One past its last record.
    pub end_offset: Offset,
}

/// The follower's own log, as far as the decision needs it.
pub trait OwnLog {
    /// Where it ends.
    fn log_end_offset(&self) -> Offset;
    /// Where it starts.
    fn log_start_offset(&self) -> Offset;
    /// The largest epoch in it that is not above `leader_epoch`, and where that ends; `None` where there is none.
    fn epoch_end(&self, leader_epoch: LeaderEpoch) -> Option<EpochEnd>;
    /// The epoch of its last record.
    fn last_record_epoch(&self) -> Option<LeaderEpoch>;
}

/// One partition of the leader's answer, its records aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether there is an error.
    pub error: ErrorCode,
    /// The leader's log start; −1 where it does not say.
    pub log_start_offset: Offset,
    /// Where the two logs part (KIP-595, Fetch version 12): the largest epoch of the leader's log that is not above
    /// the one that the follower fetched last, and its end there.
    pub diverging: Option<EpochEnd>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Append the records verbatim, take over the high watermark (as far as the log goes) and the log start.
    Append,
    /// Cut the log to this offset and ask again.
    TruncateTo(Offset),
    /// Nothing of the log is of use: begin anew, empty, at this offset.
    StartAt(Offset),
    /// Ask again after this time.
    Wait {
        /// Milliseconds.
        delay_ms: u64,
    },
}

/// Decides what to do with an answer to a fetch from `fetched_from`. Answers to fetches from anywhere but the log's
/// end are late, and nothing is done about them.
pub fn next_step(log: &dyn OwnLog, fetched_from: Offset, answer: &Answer) -> Step {
    let end = log.log_end_offset();
    if fetched_from != end {
        return Step::Wait { delay_ms: 0 };
    }
    if answer.error == ErrorCode::OffsetOutOfRange {
        // With epochs compared first, the leader's log starts beyond the end of this one, or this one is empty and
        // starts beyond the leader's end.
        if answer.log_start_offset < Offset::ZERO || answer.log_start_offset == end {
            return Step::Wait { delay_ms: BACKOFF_MS };
        }
        if end < answer.log_start_offset || log.log_start_offset() == end {
            return Step::StartAt(answer.log_start_offset);
        }
        // Or the leader does not know the epoch that was fetched last, as no leader has been in it. What is before it
        // may be all right.
        let before = log.last_record_epoch().and_then(|epoch| epoch.get().checked_sub(1)).map(LeaderEpoch);
        return match before.and_then(|epoch| log.epoch_end(epoch)) {
            Some(before) if log.log_start_offset() < before.end_offset => Step::TruncateTo(before.end_offset),
            Some(_) | None => Step::StartAt(answer.log_start_offset),
        };
    }
    if matches!(answer.error, ErrorCode::KafkaStorageError | ErrorCode::CorruptMessage) {
        return Step::Wait { delay_ms: STORAGE_BACKOFF_MS };
    }
    if answer.error == ErrorCode::UnknownLeaderEpoch {
        return Step::Wait { delay_ms: NEWS_BACKOFF_MS };
    }
    if !answer.error.is_none() {
        return Step::Wait { delay_ms: BACKOFF_MS };
    }
    let Some(theirs) = answer.diverging else { return Step::Append };
    // KIP-279: go to the largest epoch that both know, and to the smaller of its ends; ask again from there, until
    // the logs agree. An epoch may have been skipped here, so that one round is not always enough.
    let target = match log.epoch_end(theirs.leader_epoch) {
        Some(ours) => ours.end_offset.min(theirs.end_offset),
        // All that is here is newer than that: it was written under leaders that this one never followed.
        None => theirs.end_offset.min(log.log_start_offset()),
    };
    // Cutting where the log ends is no mistake: an epoch in which nothing was written may begin there, and has to go.
    if target < log.log_start_offset() { Step::StartAt(theirs.end_offset) } else { Step::TruncateTo(target) }
}

/// The follower's high watermark: what the leader says, as far as the own log goes. It is never a reason to cut.
pub fn high_watermark(leaders: Offset, log_end_offset: Offset) -> Offset {
    leaders.min(log_end_offset)
}

#[cfg(test)]
mod tests;
