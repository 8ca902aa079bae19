//! Raft's durable state: one directory with the write-ahead log and the snapshot that it stands on.
//!
//! Entries since the snapshot, and some before it for slow followers, are in memory too; the files are read only
//! when the node starts. What [`LogStore::append`] and [`LogStore::install`] have returned from is on disk.

mod error;
mod snapshot_file;
mod wal;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use chronik_disk::Disk;
use chronik_types::{LogIndex, NodeId, Term};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::metadata::MetadataImage;
use crate::wire::{self, Reader, WireError};
pub use error::StoreError;
use snapshot_file::SnapshotFile;
use wal::Wal;

/// How many bytes the entries kept before a snapshot may have: sending more than this costs more than a snapshot of
/// a usual cluster.
const RETAINED_BYTES_MAX: usize = 1 << 20;

/// The place that every cluster starts from: a snapshot of nothing, at index 1. A node that joins later has an
/// empty log, and is sent a snapshot because of it.
const BOOTSTRAP_INDEX: u64 = 1;
const BOOTSTRAP_TERM: u64 = 1;

/// What entries cost beside their data.
const ENTRY_OVERHEAD_BYTES: usize = 32;

/// The kinds of record in a frame of the write-ahead log.
const RECORD_BASE: u8 = 1;
const RECORD_HARD_STATE: u8 = 2;
const RECORD_ENTRY: u8 = 3;
/// The voters that the node was first started with.
const RECORD_VOTERS: u8 = 4;
/// The cluster that the node belongs to.
const RECORD_CLUSTER: u8 = 5;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    index: u64,
    term: u64,
}

/// Raft's durable state.
pub(crate) struct LogStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    raft_id: u64,
    /// `None` until a new node has something to keep.
    wal: Option<Wal>,
    next_sequence: u64,
    /// The entry before the first that is kept.
    base: Place,
    entries: VecDeque<Entry>,
    /// The snapshot that the log stands on; not before `base`.
    snapshot: Place,
    /// Whether the snapshot has a file; the one that every cluster starts from has none.
    snapshot_in_file: bool,
    snapshot_bytes: u64,
    snapshot_conf_state: ConfState,
    hard_state: HardState,
    /// The voters that this node was first started with; `None` in a directory of a build that did not note them.
    first_voters: Option<Vec<u64>>,
    /// The cluster that this node belongs to, once it is known.
    cluster_id: Option<Arc<str>>,
    /// Whether the cluster's id is still to be written.
    cluster_id_unwritten: bool,
}

/// A node's raft id. Raft reserves 0, which is a legal node id.
pub(crate) fn raft_id(node: NodeId) -> u64 {
    u64::from(node.get().unsigned_abs()).saturating_add(1)
}

fn sorted_ids(nodes: &[NodeId]) -> Vec<u64> {
    let ids: BTreeSet<u64> = nodes.iter().copied().map(raft_id).collect();
    ids.into_iter().collect()
}

/// The node that a raft id stands for, where it stands for one.
pub(crate) fn node_id(raft_id: u64) -> Option<NodeId> {
    i32::try_from(raft_id.checked_sub(1)?).ok().map(NodeId)
}

impl LogStore {
    /// Opens a node's directory and gives the image that its snapshot holds. A directory without a log is a new
    /// node's: it starts from the snapshot of nothing, with `voters`.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        node: NodeId,
        voters: &[NodeId],
    ) -> Result<(Self, MetadataImage), StoreError> {
        disk.create_dir_all(dir).map_err(|source| StoreError::io("create", dir, source))?;
        // An earlier process may have died between making a name or writing a frame and syncing it. What this
        // node finds it will promise to others, so it is made durable before anything else.
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent).map_err(|source| StoreError::io("sync", parent, source))?;
        }
        let listed = disk.read_dir(dir).map_err(|source| StoreError::io("list", dir, source))?;
        let names: BTreeSet<String> = listed.into_iter().map(|entry| entry.name).collect();
        let newest = names.iter().filter_map(|name| wal::sequence_of(name)).max();
        let Some(sequence) = newest else {
            if let Some(orphan) = names.iter().find(|name| snapshot_file::is_name(name)) {
                return Err(StoreError::LogMissing { snapshot: dir.join(orphan) });
            }
            return Ok((Self::bootstrap(disk, dir, node, voters), Self::first_image()));
        };
        let (wal, frames) = Wal::open(disk.as_ref(), dir, sequence)?;
        let expected = sorted_ids(voters);
        disk.sync_dir(dir).map_err(|source| StoreError::io("sync", dir, source))?;
        let mut store = Self::bootstrap(Arc::clone(&disk), dir, node, &[]);
        store.first_voters = None;
        store.next_sequence = sequence.saturating_add(1);
        for frame in frames {
            store.replay(&wal, frame.position_bytes, frame.payload)?;
        }
        if let Some(found) =
            store.first_voters.as_ref().filter(|found| !voters.is_empty() && **found != expected)
        {
            return Err(StoreError::OtherVoters {
                path: wal.path().to_owned(),
                found: found.iter().filter_map(|id| node_id(*id)).collect(),
                expected: expected.iter().filter_map(|id| node_id(*id)).collect(),
            });
        }
        if store.last_index() < store.hard_state.commit || store.snapshot.index < store.base.index {
            let reason = format!(
                "it knows of commits up to entry {} and snapshots up to {}, and ends at entry {}",
                store.hard_state.commit,
                store.snapshot.index,
                store.last_index()
            );
            return Err(StoreError::Damaged { path: wal.path().to_owned(), position_bytes: 0, reason });
        }
        store.wal = Some(wal);
        let image = store.load_snapshot()?;
        // A crash between the durable write of entries and that of the snapshot below them cannot be; but the
        // commit index is written lazily, and a snapshot holds committed entries only.
        store.hard_state.commit = store.hard_state.commit.max(store.snapshot.index);
        store.remove_leftovers(&names);
        Ok((store, image))
    }

    fn bootstrap(disk: Arc<dyn Disk>, dir: &Path, node: NodeId, voters: &[NodeId]) -> Self {
        let start = Place { index: BOOTSTRAP_INDEX, term: BOOTSTRAP_TERM };
        let voters = sorted_ids(voters);
        let conf_state = ConfState { voters: voters.clone(), ..ConfState::default() };
        let hard_state = HardState { commit: BOOTSTRAP_INDEX, ..HardState::default() };
        Self {
            disk,
            dir: dir.to_owned(),
            raft_id: raft_id(node),
            wal: None,
            next_sequence: 1,
            base: start,
            entries: VecDeque::new(),
            snapshot: start,
            snapshot_in_file: false,
            snapshot_bytes: 0,
            snapshot_conf_state: conf_state,
            hard_state,
            first_voters: Some(voters),
            cluster_id: None,
            cluster_id_unwritten: false,
        }
    }

    /// The cluster that this node belongs to, once it is known.
    pub(crate) fn cluster_id(&self) -> Option<&Arc<str>> {
        self.cluster_id.as_ref()
    }

    /// Notes, durably, which cluster this node belongs to. Where the disk is full it is written with what comes
    /// next.
    pub(crate) fn set_cluster_id(&mut self, cluster_id: &Arc<str>) -> Result<(), StoreError> {
        self.cluster_id = Some(Arc::clone(cluster_id));
        self.cluster_id_unwritten = true;
        match self.append(None, &[]) {
            Err(StoreError::NoSpace { .. }) => Ok(()),
            written => written,
        }
    }

    /// The image of a cluster that has done nothing yet.
    fn first_image() -> MetadataImage {
        MetadataImage::default().skip(LogIndex(BOOTSTRAP_INDEX), Term(BOOTSTRAP_TERM))
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.entries.back().map_or(self.base.index, |entry| entry.index)
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.index
    }

    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    pub(crate) fn wal_bytes(&self) -> u64 {
        self.wal.as_ref().map_or(0, Wal::len_bytes)
    }

    /// Makes entries and the hard state durable, by one write and one sync. Entries that the new ones contradict
    /// are forgotten. [`StoreError::NoSpace`] says that nothing has changed and that it may be tried again; after
    /// any other error the store must not be used.
    pub(crate) fn append(
        &mut self,
        hard_state: Option<&HardState>,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let hard_state = hard_state.unwrap_or(&self.hard_state).clone();
        if let Some(wal) = &mut self.wal {
            let cluster_id = self.cluster_id.as_ref().filter(|_| self.cluster_id_unwritten);
            wal.append(&frame_of(None, cluster_id, &hard_state, entries))?;
        } else {
            let base = self.base_record();
            let first_frame = frame_of(Some(base), self.cluster_id.as_ref(), &hard_state, entries);
            let (sequence, disk) = (self.next_sequence, Arc::clone(&self.disk));
            self.wal = Some(Wal::create(disk.as_ref(), &self.dir, sequence, &first_frame)?);
            self.next_sequence = sequence.saturating_add(1);
        }
        self.hard_state = hard_state;
        self.cluster_id_unwritten = false;
        self.take(entries);
        Ok(())
    }

    /// Notes how far the log is committed; it reaches the disk with the next entries. Nothing depends on it: what
    /// is committed is found out again after a restart.
    pub(crate) fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = self.hard_state.commit.max(commit);
    }

    /// Replaces everything by a snapshot of the leader, durably.
    pub(crate) fn install(
        &mut self,
        snapshot: &Snapshot,
        hard_state: Option<&HardState>,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let metadata = snapshot.get_metadata();
        let place = Place { index: metadata.index, term: metadata.term };
        let mut hard_state = hard_state.unwrap_or(&self.hard_state).clone();
        hard_state.commit = hard_state.commit.max(place.index);
        self.move_to(
            place,
            place,
            metadata.get_conf_state().clone(),
            &snapshot.data,
            hard_state,
            entries.to_vec(),
        )
    }

    /// Puts a snapshot in place of the log up to `index`, which must have been applied, durably. The last few
    /// entries before it stay, `retained_max` of them at most.
    pub(crate) fn compact(
        &mut self,
        index: u64,
        conf_state: ConfState,
        data: &Bytes,
        retained_max: usize,
    ) -> Result<(), StoreError> {
        let Some(term) = self.term_of(index).filter(|_| self.snapshot.index < index) else {
            return Ok(());
        };
        let kept_behind = self.entries.iter().rev().skip_while(|entry| index < entry.index);
        let (mut retained_bytes, mut base) = (0_usize, Place { index, term });
        for entry in kept_behind.take(retained_max) {
            retained_bytes = retained_bytes.saturating_add(cost_bytes(entry));
            if RETAINED_BYTES_MAX < retained_bytes {
                break;
            }
            let before = entry.index.saturating_sub(1);
            let Some(term_before) = self.term_of(before) else { break };
            base = Place { index: before, term: term_before };
        }
        let kept = self.entries.iter().filter(|entry| base.index < entry.index).cloned().collect();
        let snapshot = Place { index, term };
        self.move_to(snapshot, base, conf_state, data, self.hard_state.clone(), kept)
    }

    /// Writes the snapshot, then a log that stands on it, then drops what was before.
    fn move_to(
        &mut self,
        snapshot: Place,
        base: Place,
        conf_state: ConfState,
        data: &Bytes,
        hard_state: HardState,
        entries: Vec<Entry>,
    ) -> Result<(), StoreError> {
        let (disk, sequence) = (Arc::clone(&self.disk), self.next_sequence);
        let path = snapshot_file::path(&self.dir, snapshot.index, sequence);
        let file = SnapshotFile { index: snapshot.index, term: snapshot.term, data: data.clone() };
        file.write(disk.as_ref(), &path)?;
        let record = BaseRecord {
            raft_id: self.raft_id,
            base,
            snapshot,
            snapshot_sequence: sequence,
            conf_state: conf_state.clone(),
            first_voters: self.first_voters.clone(),
        };
        let first_frame = frame_of(Some(record), self.cluster_id.as_ref(), &hard_state, &entries);
        let wal = Wal::create(disk.as_ref(), &self.dir, sequence, &first_frame)?;
        self.wal = Some(wal);
        self.next_sequence = sequence.saturating_add(1);
        self.base = base;
        self.snapshot = snapshot;
        self.snapshot_in_file = true;
        self.snapshot_bytes = data.len() as u64;
        self.snapshot_conf_state = conf_state;
        self.hard_state = hard_state;
        self.cluster_id_unwritten = false;
        self.entries = entries.into();
        match disk.read_dir(&self.dir) {
            Ok(listed) => self.remove_leftovers(&listed.into_iter().map(|entry| entry.name).collect()),
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "old files of the metadata log stay");
            }
        }
        Ok(())
    }

    /// Removes what an earlier state has left. A file that stays is only in the way, and is tried again later.
    fn remove_leftovers(&self, names: &BTreeSet<String>) {
        let current_sequence = self.next_sequence.saturating_sub(1);
        let snapshot_name = snapshot_file::name(self.snapshot.index, self.snapshot_sequence());
        for name in names {
            let old_log = wal::sequence_of(name).is_some_and(|sequence| sequence < current_sequence);
            let old_snapshot = snapshot_file::is_name(name) && *name != snapshot_name;
            let unfinished = Path::new(name).extension().is_some_and(|extension| extension == "tmp");
            if old_log || old_snapshot || unfinished {
                let path = self.dir.join(name);
                if let Err(error) = self.disk.remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "an old file of the metadata log stays");
                }
            }
        }
    }

    /// A log and the snapshot that it stands on have the same number.
    fn snapshot_sequence(&self) -> u64 {
        if self.snapshot_in_file { self.next_sequence.saturating_sub(1) } else { 0 }
    }

    fn base_record(&self) -> BaseRecord {
        BaseRecord {
            raft_id: self.raft_id,
            base: self.base,
            snapshot: self.snapshot,
            snapshot_sequence: self.snapshot_sequence(),
            conf_state: self.snapshot_conf_state.clone(),
            first_voters: self.first_voters.clone(),
        }
    }

    /// Takes the records of one frame in, as the node starts.
    fn replay(&mut self, wal: &Wal, position_bytes: u64, payload: Bytes) -> Result<(), StoreError> {
        let damaged =
            |reason: String| StoreError::Damaged { path: wal.path().to_owned(), position_bytes, reason };
        let from_wire = |error: WireError| damaged(error.to_string());
        let mut reader = Reader::new("a frame of the metadata log", payload);
        while !reader.is_empty() {
            match reader.u8().map_err(from_wire)? {
                RECORD_BASE => {
                    let record = BaseRecord::read(&mut reader).map_err(from_wire)?;
                    if record.raft_id != self.raft_id {
                        return Err(StoreError::OtherNode {
                            path: wal.path().to_owned(),
                            found: node_id(record.raft_id),
                            expected: node_id(self.raft_id),
                        });
                    }
                    self.base = record.base;
                    self.snapshot = record.snapshot;
                    self.snapshot_in_file = record.snapshot_sequence != 0;
                    self.snapshot_conf_state = record.conf_state;
                }
                RECORD_VOTERS => self.first_voters = Some(reader.ids().map_err(from_wire)?),
                RECORD_CLUSTER => {
                    let cluster_id = reader.bytes().map_err(from_wire)?;
                    let cluster_id = std::str::from_utf8(&cluster_id)
                        .map_err(|_| damaged("the cluster id is no text".to_owned()))?;
                    self.cluster_id = Some(cluster_id.into());
                }
                RECORD_HARD_STATE => self.hard_state = reader.hard_state().map_err(from_wire)?,
                RECORD_ENTRY => {
                    let entry = reader.entry().map_err(from_wire)?;
                    let next = self.last_index().saturating_add(1);
                    if entry.index <= self.base.index || next < entry.index {
                        let found = entry.index;
                        return Err(damaged(format!("entry {found} stands where entry {next} belongs")));
                    }
                    self.take(&[entry]);
                }
                other => return Err(damaged(format!("{other} is no kind of record"))),
            }
        }
        Ok(())
    }

    /// Puts entries at their places, and forgets those that were there or after.
    fn take(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.base.index).saturating_sub(1);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.entries.extend(entries.iter().cloned());
    }

    fn load_snapshot(&mut self) -> Result<MetadataImage, StoreError> {
        if !self.snapshot_in_file {
            return Ok(Self::first_image());
        }
        let path = snapshot_file::path(&self.dir, self.snapshot.index, self.snapshot_sequence());
        let file = SnapshotFile::read(self.disk.as_ref(), &path)?;
        if file.index != self.snapshot.index || file.term != self.snapshot.term {
            return Err(StoreError::Damaged {
                path,
                position_bytes: 0,
                reason: format!("it is of entry {} and not of entry {}", file.index, self.snapshot.index),
            });
        }
        self.snapshot_bytes = file.data.len() as u64;
        let image = MetadataImage::decode_snapshot(&file.data)
            .map_err(|source| StoreError::SnapshotUnusable { path: path.clone(), source })?;
        if image.applied_index() != LogIndex(self.snapshot.index) {
            return Err(StoreError::Damaged {
                path,
                position_bytes: 0,
                reason: format!("its image is of entry {}", image.applied_index()),
            });
        }
        Ok(image)
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let place = index.checked_sub(self.base.index)?.checked_sub(1)?;
        self.entries.get(usize::try_from(place).ok()?).map(|entry| entry.term)
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.snapshot_conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if self.last_index().saturating_add(1) < high {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        let first = usize::try_from(low - self.base.index - 1).unwrap_or(usize::MAX);
        let count = usize::try_from(high.saturating_sub(low)).unwrap_or(usize::MAX);
        let mut found: Vec<Entry> = Vec::new();
        let mut found_bytes = 0_u64;
        for entry in self.entries.iter().skip(first).take(count) {
            found_bytes = found_bytes.saturating_add(cost_bytes(entry) as u64);
            // One entry at least, or the log would never move.
            if max_bytes < found_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing =
            if index < self.base.index { StorageError::Compacted } else { StorageError::Unavailable };
        self.term_of(index).ok_or(raft::Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index.saturating_add(1))
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.index < request_index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let data = if self.snapshot_in_file {
            let path = snapshot_file::path(&self.dir, self.snapshot.index, self.snapshot_sequence());
            match SnapshotFile::read(self.disk.as_ref(), &path) {
                Ok(file) => file.data,
                Err(error) => {
                    let to = node_id(to).unwrap_or_default();
                    tracing::error!(%error, %to, "the metadata snapshot cannot be sent");
                    return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
                }
            }
        } else {
            Self::first_image().encode_snapshot().into()
        };
        let mut metadata = SnapshotMetadata {
            index: self.snapshot.index,
            term: self.snapshot.term,
            ..SnapshotMetadata::default()
        };
        metadata.set_conf_state(self.snapshot_conf_state.clone());
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata);
        snapshot.data = data;
        Ok(snapshot)
    }
}

/// What the rest of a log stands on: the first record of each file.
struct BaseRecord {
    raft_id: u64,
    base: Place,
    snapshot: Place,
    /// Part of the snapshot's file name; 0 where it has no file.
    snapshot_sequence: u64,
    conf_state: ConfState,
    /// A record of its own, which logs of earlier builds do not have.
    first_voters: Option<Vec<u64>>,
}

impl BaseRecord {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(RECORD_BASE);
        out.put_u64(self.raft_id);
        for place in [self.base, self.snapshot] {
            out.put_u64(place.index);
            out.put_u64(place.term);
        }
        out.put_u64(self.snapshot_sequence);
        wire::put_conf_state(out, &self.conf_state);
        if let Some(voters) = &self.first_voters {
            out.put_u8(RECORD_VOTERS);
            wire::put_ids(out, voters);
        }
    }

    fn read(reader: &mut Reader) -> Result<Self, WireError> {
        Ok(Self {
            raft_id: reader.u64()?,
            base: Place { index: reader.u64()?, term: reader.u64()? },
            snapshot: Place { index: reader.u64()?, term: reader.u64()? },
            snapshot_sequence: reader.u64()?,
            conf_state: reader.conf_state()?,
            first_voters: None,
        })
    }
}

fn frame_of(
    base: Option<BaseRecord>,
    cluster_id: Option<&Arc<str>>,
    hard_state: &HardState,
    entries: &[Entry],
) -> Bytes {
    let entry_bytes: usize = entries.iter().map(cost_bytes).sum();
    let mut out = BytesMut::with_capacity(entry_bytes.saturating_add(256));
    if let Some(base) = base {
        base.put(&mut out);
    }
    if let Some(cluster_id) = cluster_id {
        out.put_u8(RECORD_CLUSTER);
        wire::put_bytes(&mut out, cluster_id.as_bytes());
    }
    out.put_u8(RECORD_HARD_STATE);
    wire::put_hard_state(&mut out, hard_state);
    for entry in entries {
        out.put_u8(RECORD_ENTRY);
        wire::put_entry(&mut out, entry);
    }
    out.freeze()
}

fn cost_bytes(entry: &Entry) -> usize {
    entry.data.len().saturating_add(entry.context.len()).saturating_add(ENTRY_OVERHEAD_BYTES)
}
