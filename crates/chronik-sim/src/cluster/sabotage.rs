//! Ways to break a rule on purpose: each shows that a checker finds what it is there for.
//!
//! All of them work at the edges of the brokers: on what they write, send and are told. What ships has no switches.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chronik_broker::{LastLife, PreviousLife};
use chronik_disk::{DirEntry, Disk, DiskFile, DiskLock, DiskSpace, OpenMode, SimDisk};
use chronik_protocol::frame::{
    FRAME_LENGTH_BYTES, RequestHeader, decode_request, decode_response, encode_request, encode_response,
};
use chronik_protocol::messages::{FetchRequest, FetchResponse};
use chronik_protocol::records::BatchIter;
use chronik_protocol::wire::Reader;
use chronik_raft::metadata::{MetadataImage, PartitionImage};
use chronik_types::{NodeId, PartitionEpoch};

use crate::rng::Rng;

/// The version of followers' fetches.
const FETCH_VERSION: i16 = 16;
/// Where a batch has its checksum, and where what that covers begins.
const CRC_AT: std::ops::Range<usize> = 17..21;
const CRC_FROM: usize = 21;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Disks call logs synced that they have not synced.
    LyingDisk,
    /// A failed sync is told as a success.
    IgnoreFailedSyncs,
    /// A machine that has lost power does not say that it may have lost records (KIP-966).
    ForgetUncleanEnds,
    /// Producers are not told apart, so that what is sent again is stored again.
    ForgetProducers,
    /// Readers are not given every record.
    SkipRecords,
    /// Readers are told old high watermarks.
    TellOldWatermarks,
    /// Groups are told old offsets.
    ForgetCommits,
    /// The leader of a group gives a partition to all members.
    AssignTwice,
    /// Members are told of a generation that is over.
    TellOldGenerations,
    /// Members are told old offsets.
    ForgetGroupCommits,
    /// Followers say that they have more than they have.
    AcknowledgeAhead,
    /// Followers store other bytes than their leader.
    StoreOtherBytes,
    /// A node takes another for the leader than everybody else does.
    SeeAnotherLeader,
    /// A node sees another ISR than everybody else does.
    SeeAnotherIsr,
    /// Two nodes never reach each other again.
    NeverHeal,
    /// Bits have changed on a disk in the end.
    DamageDisks,
    /// A node panics.
    Panic,
    /// How long messages take depends on what the process has done before.
    DependOnThePast,
}

/// Counts on from history to history, as nothing may that a history depends on.
static PAST: AtomicU64 = AtomicU64::new(0);

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::LyingDisk,
        Self::IgnoreFailedSyncs,
        Self::ForgetUncleanEnds,
        Self::ForgetProducers,
        Self::SkipRecords,
        Self::TellOldWatermarks,
        Self::ForgetCommits,
        Self::AssignTwice,
        Self::TellOldGenerations,
        Self::ForgetGroupCommits,
        Self::AcknowledgeAhead,
        Self::StoreOtherBytes,
        Self::SeeAnotherLeader,
        Self::SeeAnotherIsr,
        Self::NeverHeal,
        Self::DamageDisks,
        Self::Panic,
        Self::DependOnThePast,
    ];

    /// The disk that a node is given.
    pub(super) fn disk(self, disk: SimDisk) -> Arc<dyn Disk> {
        match self {
            Self::LyingDisk => Arc::new(BrokenDisk { disk, syncs_nothing: true }),
            Self::IgnoreFailedSyncs => Arc::new(BrokenDisk { disk, syncs_nothing: false }),
            _ => Arc::new(disk),
        }
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
    pub(super) fn follower_request(self, frame: Bytes, rng: &mut Rng) -> Bytes {
        if self != Self::AcknowledgeAhead || !rng.chance(20) {
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
        if self != Self::StoreOtherBytes || !rng.chance(20) {
            return frame;
        }
        let Ok((id, mut response)) = decode_response::<FetchResponse>(&frame, FETCH_VERSION) else {
            return frame;
        };
        for partition in response.responses.iter_mut().flat_map(|topic| topic.partitions.iter_mut()) {
            partition.records = partition.records.take().map(|records| changed(&records));
        }
        match encode_response(id, &response, FETCH_VERSION) {
            Ok(frame) => frame.slice(FRAME_LENGTH_BYTES..),
            Err(_) => frame,
        }
    }

    /// What the checkers hear of a partition's state at a node.
    pub(super) fn seen(self, node: usize, state: &mut Arc<PartitionImage>) {
        if node != 0 || state.leader.is_none() {
            return;
        }
        if self == Self::SeeAnotherLeader {
            let state = Arc::make_mut(state);
            state.leader = state.replicas.last().copied();
            // A change that nobody else has seen.
            state.partition_epoch = PartitionEpoch(state.partition_epoch.get() + 1_000_000);
            state.isr = Arc::clone(&state.replicas);
        } else if self == Self::SeeAnotherIsr {
            let state = Arc::make_mut(state);
            state.isr = state.leader.into_iter().collect();
        }
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

/// Changes a bit in every log on a disk.
pub(super) fn damage(disk: &SimDisk) {
    let root = Path::new("/data");
    for dir in disk.read_dir(root).unwrap_or_default().iter().filter(|entry| entry.is_dir) {
        let dir = root.join(&dir.name);
        for file in disk.read_dir(&dir).unwrap_or_default() {
            if file.name.ends_with(".log") && file.len_bytes > 0 {
                // A file that has gone meanwhile needs no damage.
                drop(disk.corrupt(&dir.join(&file.name), file.len_bytes - 1, 1));
            }
        }
    }
}

/// A disk whose logs' syncs do nothing, or whose failures nobody hears of.
struct BrokenDisk {
    disk: SimDisk,
    syncs_nothing: bool,
}

struct BrokenFile {
    file: Arc<dyn DiskFile>,
    syncs_nothing: bool,
}

impl Disk for BrokenDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        if path.extension().is_some_and(|extension| extension == "log") {
            return Ok(Arc::new(BrokenFile { file, syncs_nothing: self.syncs_nothing }));
        }
        Ok(file)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.disk.space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }
}

impl DiskFile for BrokenFile {
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset_bytes)
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset_bytes)
    }

    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        self.file.write_all_vectored_at(slices, offset_bytes)
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.file.truncate(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.syncs_nothing {
            drop(self.file.sync_data());
        }
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }
}
