//! Making logs durable, many at a time.
//!
//! A sync never holds a log's lock while the disk works: it notes what is to be synced, lets appends go on, and
//! moves the recovery point to where the log ended when it began. What a failed sync leaves behind is not known, so
//! it takes the directory offline and is never tried again (LOG-3).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use chronik_disk::{DiskFile, OpenMode};
use chronik_types::Offset;
use parking_lot::Mutex;

use crate::dir::Waker;
use crate::index::encode_all;
use crate::log::{Log, replace_unsynced};
use crate::stats::add;
use crate::{LogError, names};

/// Runs once what it waits for is durable, or never will be.
pub type FlushDone = Box<dyn FnOnce(Result<Offset, LogError>) + Send>;

struct Request {
    log: Arc<Log>,
    up_to: Offset,
    done: Option<FlushDone>,
}

/// Logs that wait to be synced.
///
/// Any thread may [`request`](Self::request); one thread drives [`sync_batch`](Self::sync_batch). The queue is
/// bounded by what is in flight: a request with a `done` belongs to a client's request, one without to a log.
#[derive(Default)]
pub struct FlushQueue {
    requests: Mutex<Vec<Request>>,
    waker: OnceLock<Waker>,
}

/// What one pass synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncedBatch {
    /// Logs that were synced.
    pub log_count: usize,
    /// Logs that could not be; their directories are offline.
    pub failed_count: usize,
}

impl FlushQueue {
    /// Asks that `log` be durable up to (not including) `up_to`; `done` runs on the syncing thread, with the
    /// offset below which the log is durable. The syncing thread is woken when the queue was empty before; the answer
    /// says whether it was.
    pub fn request(&self, log: &Arc<Log>, up_to: Offset, done: Option<FlushDone>) -> bool {
        let mut requests = self.requests.lock();
        let was_empty = requests.is_empty();
        requests.push(Request { log: Arc::clone(log), up_to, done });
        drop(requests);
        if let (true, Some(wake)) = (was_empty, self.waker.get()) {
            wake();
        }
        was_empty
    }

    /// Sets what wakes the syncing thread; only the first one counts.
    pub fn set_waker(&self, wake: Box<dyn Fn() + Send + Sync>) {
        // A second waker would mean a second syncing thread, which there is not.
        drop(self.waker.set(wake));
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.requests.lock().is_empty()
    }

    /// Takes all that is queued and syncs each file of it once, then runs what waited.
    pub fn sync_batch(&self) -> SyncedBatch {
        let requests = std::mem::take(&mut *self.requests.lock());
        // In the order in which they have asked: what a simulation does must not depend on where its logs lie in memory.
        let mut positions: BTreeMap<*const Log, usize> = BTreeMap::new();
        let mut by_log: Vec<Vec<Request>> = Vec::new();
        for request in requests {
            let position = *positions.entry(Arc::as_ptr(&request.log)).or_insert(by_log.len());
            match by_log.get_mut(position) {
                Some(others) => others.push(request),
                None => by_log.push(vec![request]),
            }
        }
        let mut synced = SyncedBatch::default();
        for requests in by_log {
            let Some(first) = requests.first() else { continue };
            let up_to = requests.iter().map(|request| request.up_to).max().unwrap_or(first.up_to);
            let outcome = first.log.sync_up_to(up_to);
            match &outcome {
                Ok(_) => synced.log_count += 1,
                Err(_) => synced.failed_count += 1,
            }
            for done in requests.into_iter().filter_map(|request| request.done) {
                done(outcome.clone());
            }
        }
        synced
    }
}

/// What a sync has to do, noted under the writer's lock.
struct SyncPlan {
    files: Vec<(PathBuf, Option<Arc<dyn DiskFile>>)>,
    dir: bool,
    end_offset: Offset,
}

impl Log {
    /// Makes the log durable up to `up_to` at least, and gives the offset below which it is.
    pub fn sync_up_to(&self, up_to: Offset) -> Result<Offset, LogError> {
        let _syncing = self.syncing.lock();
        self.check_usable()?;
        if up_to <= self.recovery_point() {
            return Ok(self.recovery_point());
        }
        let plan = self.plan_sync();
        for (path, file) in &plan.files {
            let synced = match file {
                Some(file) => file.sync_data(),
                None => match self.dir.open(path, OpenMode::ReadWrite) {
                    Ok(file) => file.sync_data(),
                    // An index or snapshot that was never written, or a segment deleted meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => Err(error),
                },
            };
            add(&self.dir.shared.counters.sync_count, 1);
            synced.map_err(|source| self.dir.sync_failed(path, source))?;
        }
        if plan.dir {
            for path in [self.path(), self.dir.path.clone()] {
                self.dir.disk.sync_dir(&path).or_else(|source| {
                    if source.kind() == std::io::ErrorKind::NotFound {
                        // It has been deleted meanwhile: a deletion does not wait for syncs, and closes the log first.
                        self.check_usable()?;
                    }
                    Err(self.dir.sync_failed(&path, source))
                })?;
            }
        }
        self.recovery_point.fetch_max(plan.end_offset.get(), Ordering::AcqRel);
        self.dir.mark_changed();
        Ok(plan.end_offset)
    }

    /// Makes all of the log durable.
    pub fn sync(&self) -> Result<Offset, LogError> {
        self.sync_up_to(self.log_end_offset())
    }

    fn plan_sync(&self) -> SyncPlan {
        let mut writer = self.writer.lock();
        let active = self.view.lock().segments.last().map(|segment| segment.base_offset);
        let mut files = Vec::new();
        for base_offset in std::mem::take(&mut writer.unsynced) {
            let path = |extension| self.file_path(base_offset, extension);
            if Some(base_offset) == active {
                files.push((path(names::LOG), writer.active_file.clone()));
            } else {
                // A closed segment is believed after a reboot with its indexes, so these must be durable too.
                files.push((path(names::LOG), None));
                files.push((path(names::INDEX), None));
                files.push((path(names::TIME_INDEX), None));
            }
        }
        if writer.dir_unsynced {
            files.push((self.path().join(names::LEADER_EPOCH_CHECKPOINT), None));
            // Without its topic id a log would be nobody's after a power loss.
            files.push((self.path().join(names::PARTITION_METADATA), None));
            if let Some(&snapshot) = writer.snapshots.last() {
                files.push((self.file_path(snapshot, names::SNAPSHOT), None));
            }
        }
        writer.unsynced_record_count = 0;
        writer.unsynced_since = None;
        SyncPlan { files, dir: std::mem::take(&mut writer.dir_unsynced), end_offset: self.log_end_offset() }
    }

    /// Writes the index entries of a segment that are not in its files yet, making the files where there are none.
    /// The caller holds the writer's lock.
    pub(crate) fn write_indexes(&self, base_offset: i64) -> Result<(), LogError> {
        let (offsets, times) = {
            let view = self.view.lock();
            let Some(segment) = view.segments.iter().rev().find(|s| s.base_offset == base_offset) else {
                return Ok(());
            };
            let offsets = segment.offset_index.unwritten();
            let times = segment.time_index.unwritten();
            (
                (u64::from(segment.offset_index.on_disk_count()) * 8, offsets.len(), encode_all(offsets)),
                (u64::from(segment.time_index.on_disk_count()) * 12, times.len(), encode_all(times)),
            )
        };
        self.write_index(base_offset, names::INDEX, offsets.0, &offsets.2)?;
        self.write_index(base_offset, names::TIME_INDEX, times.0, &times.2)?;
        let mut view = self.view.lock();
        if let Some(segment) = view.segments.iter_mut().rev().find(|s| s.base_offset == base_offset) {
            segment.offset_index.mark_written(offsets.1);
            segment.time_index.mark_written(times.1);
        }
        Ok(())
    }

    fn write_index(
        &self,
        base_offset: i64,
        extension: &str,
        position: u64,
        bytes: &[u8],
    ) -> Result<(), LogError> {
        let path = self.file_path(base_offset, extension);
        let write = || {
            let file = self.dir.open(&path, OpenMode::Create)?;
            if bytes.is_empty() { Ok(()) } else { file.write_all_at(bytes, position) }
        };
        write().map_err(|source| self.dir.write_failed("write", &path, source))
    }

    /// Writes a snapshot of the producers' state as of `offset`, the log's end.
    pub(crate) fn take_snapshot(&self, writer: &mut crate::log::Writer, offset: i64) -> Result<(), LogError> {
        if !writer.snapshots.contains(&offset) {
            let path = self.file_path(offset, names::SNAPSHOT);
            replace_unsynced(&self.dir, &path, &writer.producers.to_snapshot())?;
            writer.dir_unsynced = true;
            // As in Kafka, each segment keeps the snapshot that it begins with; others make way for a newer one.
            let bases: Vec<i64> = self.view.lock().segments.iter().map(|s| s.base_offset).collect();
            self.remove_snapshots(writer, |snapshot| bases.binary_search(&snapshot).is_err())?;
            writer.snapshots.insert(offset);
        }
        Ok(())
    }
}
