//! Ways to break a rule on purpose: each shows that a checker finds what it is there for.
//!
//! All of them work at the edges of the brokers: on what they write, send and are told. What ships has no switches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chronik_broker::{LastLife, PreviousLife};
use chronik_disk::Disk;
use chronik_protocol::frame::{
    FRAME_LENGTH_BYTES, RequestHeader, decode_request, decode_response, encode_request, encode_response,
};
use chronik_protocol::messages::{FetchRequest, FetchResponse};
use chronik_protocol::records::BatchIter;
use chronik_protocol::wire::Reader;
use chronik_raft::metadata::{MetadataImage, PartitionImage};
use chronik_types::{ErrorCode, NodeId, PartitionEpoch};

use super::broken_disk::{Breakage, BrokenDisk};
use super::effects::Life;
use crate::rng::Rng;

/// The version of followers' fetches.
const FETCH_VERSION: i16 = 16;
/// Where a batch has its checksum, and where what that covers begins.
const CRC_AT: std::ops::Range<usize> = 17..21;
const CRC_FROM: usize = 21;
/// A node that is not in any cluster.
const NO_NODE: NodeId = NodeId(99);
/// What the metadata log says of a node that was registered.
const HOST: &[u8] = b"node-";

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Disks call logs synced that they have not synced.
    LyingDisk,
    /// A failed sync is told as a success.
    IgnoreFailedSyncs,
    /// A machine that has lost power does not say that it may have lost records (KIP-966).
    ForgetUncleanEnds,
    /// A sync of each log fails where no fault was struck,
    FailLogSyncs,
    /// or of each segment of the metadata log.
    FailMetadataSyncs,
    /// No process can lock its directory.
    RefuseLocks,
    /// Producers are not told apart, so that what is sent again is stored again.
    ForgetProducers,
    /// Producers that are content with the leader's word send again what was not answered.
    SendTwice,
    /// All producers are given the same id.
    GiveIdsAgain,
    /// Producers are told that what was refused is acknowledged.
    AcknowledgeRefused,
    /// Producers are told that what was refused had been there before.
    CallRefusedKnown,
    /// Records get into another topic than their producer's.
    WriteToAnotherTopic,
    /// Readers are not given every record.
    SkipRecords,
    /// Who reads when all is over is given other records.
    GiveOthersLate,
    /// Readers are told old high watermarks.
    TellOldWatermarks,
    /// Readers are not given the last record.
    HideLastRecords,
    /// Readers are given damaged records.
    DamageReads,
    /// Readers are told of log starts as they were.
    TellOldBeginnings,
    /// Readers are answered for partitions that they have not asked for.
    AnswerUnasked,
    /// Clients are told of errors that nothing has led to.
    TellErrors,
    /// Records are deleted that nobody wanted deleted.
    DeleteUnasked,
    /// Records are deleted of another partition than was wanted.
    DeleteElsewhere,
    /// Topics are deleted that nobody wanted deleted.
    DeleteTopicsUnasked,
    /// All topics are told to have the same id.
    GiveTopicIdsAgain,
    /// Groups are told old offsets.
    ForgetCommits,
    /// The leader of a group gives a partition to all members.
    AssignTwice,
    /// The leader of a group gives a partition to nobody.
    AssignNever,
    /// Members are told of a generation that is over.
    TellOldGenerations,
    /// Members are told old offsets,
    ForgetGroupCommits,
    /// or so only in the end.
    ForgetLastGroupCommits,
    /// Followers say that they have more than they have,
    AcknowledgeAhead,
    /// or so only once they have been started again.
    AcknowledgeAheadAgain,
    /// Followers store other bytes than their leader.
    StoreOtherBytes,
    /// Followers never hear that the last record is committed.
    TellFollowersOldWatermarks,
    /// A node takes another for the leader than everybody else does.
    SeeAnotherLeader,
    /// A node sees another ISR than everybody else does.
    SeeAnotherIsr,
    /// All nodes see a member of the ISR that is no replica,
    SeeForeignIsr,
    /// or a leader that is not in the ISR.
    SeeLeaderOutOfIsr,
    /// Entries of the metadata log change on their way.
    ChangeEntries,
    /// The controller does nothing any more, once everything is mended.
    StopControllers,
    /// Nobody looks after logs any more, once everything is mended.
    StopMaintenance,
    /// A node reaches no other from the beginning.
    StartApart,
    /// Two nodes never reach each other again.
    NeverHeal,
    /// Bits have changed on a disk in the end.
    DamageDisks,
    /// Batches have other offsets on a disk in the end,
    MoveBatches,
    /// or older epochs,
    AgeBatches,
    /// or the last of a log is not whole,
    TearLogs,
    /// or one replica of each partition begins where it ends,
    LoseBeginnings,
    /// or has lost its first segment.
    LoseFirstSegments,
    /// A node panics.
    Panic,
    /// A duty is due again as soon as it is done.
    NeverWait,
    /// How long messages take depends on what the process has done before.
    DependOnThePast,
}

/// Counts on from history to history, as nothing may that a history depends on.
static PAST: AtomicU64 = AtomicU64::new(0);

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 52] = [
        Self::LyingDisk,
        Self::IgnoreFailedSyncs,
        Self::ForgetUncleanEnds,
        Self::FailLogSyncs,
        Self::FailMetadataSyncs,
        Self::RefuseLocks,
        Self::ForgetProducers,
        Self::SendTwice,
        Self::GiveIdsAgain,
        Self::AcknowledgeRefused,
        Self::CallRefusedKnown,
        Self::WriteToAnotherTopic,
        Self::SkipRecords,
        Self::GiveOthersLate,
        Self::TellOldWatermarks,
        Self::HideLastRecords,
        Self::DamageReads,
        Self::TellOldBeginnings,
        Self::AnswerUnasked,
        Self::TellErrors,
        Self::DeleteUnasked,
        Self::DeleteElsewhere,
        Self::DeleteTopicsUnasked,
        Self::GiveTopicIdsAgain,
        Self::ForgetCommits,
        Self::AssignTwice,
        Self::AssignNever,
        Self::TellOldGenerations,
        Self::ForgetGroupCommits,
        Self::ForgetLastGroupCommits,
        Self::AcknowledgeAhead,
        Self::AcknowledgeAheadAgain,
        Self::StoreOtherBytes,
        Self::TellFollowersOldWatermarks,
        Self::SeeAnotherLeader,
        Self::SeeAnotherIsr,
        Self::SeeForeignIsr,
        Self::SeeLeaderOutOfIsr,
        Self::ChangeEntries,
        Self::StopControllers,
        Self::StopMaintenance,
        Self::StartApart,
        Self::NeverHeal,
        Self::DamageDisks,
        Self::MoveBatches,
        Self::AgeBatches,
        Self::TearLogs,
        Self::LoseBeginnings,
        Self::LoseFirstSegments,
        Self::Panic,
        Self::NeverWait,
        Self::DependOnThePast,
    ];

    /// The disk that a node is given.
    pub(super) fn disk(self, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        let breakage = match self {
            Self::LyingDisk => Breakage::SyncsNothing,
            Self::IgnoreFailedSyncs => Breakage::HidesFailedSyncs,
            Self::FailLogSyncs => Breakage::FailsSyncs(".log"),
            Self::FailMetadataSyncs => Breakage::FailsSyncs("wal-"),
            Self::RefuseLocks => Breakage::LocksNothing,
            _ => return disk,
        };
        Arc::new(BrokenDisk { disk, breakage })
    }

    /// What a node says of the end of its last process.
    pub(super) fn previous_life(
        self,
        last_life: &LastLife,
        image: &MetadataImage,
        node: NodeId,
    ) -> Option<PreviousLife> {
        if self == Self::ForgetUncleanEnds {
            let broker = image.broker(node)?;
            return Some(PreviousLife { epoch: broker.epoch, incarnations: Vec::new() });
        }
        last_life.previous()
    }

    /// What a leader hears of a follower.
    pub(super) fn follower_request(self, life: Life, frame: Bytes, rng: &mut Rng) -> Bytes {
        let is_again = self == Self::AcknowledgeAheadAgain && 1 < life.number;
        if self != Self::AcknowledgeAhead && !is_again || !rng.chance(20) {
            return frame;
        }
        let body = frame.slice(FRAME_LENGTH_BYTES..);
        let mut reader = Reader::new(&body);
        let Ok(header) = RequestHeader::decode(&mut reader) else { return frame };
        let Ok(mut request) = decode_request::<FetchRequest>(&mut reader, &header) else { return frame };
        for partition in request.topics.iter_mut().flat_map(|topic| topic.partitions.iter_mut()) {
            partition.fetch_offset += 1;
        }
        encode_request(header.correlation_id, None, &request, FETCH_VERSION).unwrap_or(frame)
    }

    /// What a follower hears of its leader.
    pub(super) fn follower_answer(self, frame: Bytes, rng: &mut Rng) -> Bytes {
        assert!(self != Self::Panic || !rng.chance(2), "sabotage");
        let is_struck = match self {
            Self::StoreOtherBytes => rng.chance(20),
            Self::TellFollowersOldWatermarks => true,
            _ => false,
        };
        if !is_struck {
            return frame;
        }
        let Ok((id, mut response)) = decode_response::<FetchResponse>(&frame, FETCH_VERSION) else {
            return frame;
        };
        for partition in response.responses.iter_mut().flat_map(|topic| topic.partitions.iter_mut()) {
            if self == Self::TellFollowersOldWatermarks {
                partition.high_watermark = partition.high_watermark.saturating_sub(1).max(0);
            } else {
                partition.records = partition.records.take().map(|records| changed(&records));
            }
        }
        match encode_response(id, &response, FETCH_VERSION) {
            Ok(frame) => frame.slice(FRAME_LENGTH_BYTES..),
            Err(_) => frame,
        }
    }

    /// What the checkers hear of a partition's state at a node.
    pub(super) fn seen(self, node: usize, state: &mut Arc<PartitionImage>) {
        let Some(leader) = state.leader else { return };
        match self {
            Self::SeeAnotherLeader if node == 0 => {
                let state = Arc::make_mut(state);
                state.leader = state.replicas.last().copied();
                // A change that nobody else has seen.
                state.partition_epoch = PartitionEpoch(state.partition_epoch.get() + 1_000_000);
                state.isr = Arc::clone(&state.replicas);
            }
            Self::SeeAnotherIsr if node == 0 => Arc::make_mut(state).isr = [leader].into(),
            Self::SeeForeignIsr => Arc::make_mut(state).isr = [leader, NO_NODE].into(),
            Self::SeeLeaderOutOfIsr => {
                let others = state.replicas.iter().copied().filter(|replica| *replica != leader).collect();
                Arc::make_mut(state).isr = others;
            }
            _ => {}
        }
    }

    /// What a node hears of the metadata log.
    pub(super) fn raft_message(self, bytes: Bytes, rng: &mut Rng) -> Bytes {
        if self != Self::ChangeEntries || !rng.chance(50) {
            return bytes;
        }
        let place = bytes.windows(HOST.len()).position(|window| window == HOST);
        let Some(place) = place else { return bytes };
        let mut bytes = bytes.to_vec();
        bytes[place] = b'N';
        bytes.into()
    }

    /// What a producer is told of a batch: an error, and the offset of its first record.
    pub(super) fn told_outcome(self, (code, offset): (i16, i64), rng: &mut Rng) -> (i16, i64) {
        // What follows from such an acknowledgement is told as it is.
        let follows = code == ErrorCode::OutOfOrderSequenceNumber.code();
        if self == Self::AcknowledgeRefused && code != 0 && !follows {
            (0, -1)
        } else if self == Self::CallRefusedKnown && code != 0 && !follows {
            (ErrorCode::DuplicateSequenceNumber.code(), -1)
        } else {
            (self.told_error(code, rng), offset)
        }
    }

    /// Which error a client is told.
    pub(super) fn told_error(self, code: i16, rng: &mut Rng) -> i16 {
        if self == Self::TellErrors && rng.chance(10) { ErrorCode::UnknownServerError.code() } else { code }
    }

    /// How much longer a message takes.
    pub(super) fn delay_ms(self) -> u64 {
        if self == Self::DependOnThePast { PAST.fetch_add(1, Ordering::Relaxed) % 7 } else { 0 }
    }
}

/// The same batches with another byte in the last record of the first, and a checksum that fits.
fn changed(records: &[u8]) -> Bytes {
    let mut bytes = records.to_vec();
    let size = BatchIter::new(records).next().and_then(Result::ok).map_or(0, |batch| batch.bytes.len());
    if CRC_FROM + 50 < size {
        // The last byte says that there are no headers; what comes before it is of the value.
        bytes[size - 2] ^= 0x55;
        let crc = crc32c::crc32c(&bytes[CRC_FROM..size]);
        bytes[CRC_AT].copy_from_slice(&crc.to_be_bytes());
    }
    bytes.into()
}
