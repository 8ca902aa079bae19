//! What disks do to records that are synced: bits rot, and files are gone.

use std::path::{Path, PathBuf};

use chronik_disk::{Disk, OpenMode, SimDisk};
use chronik_protocol::records::BatchIter;

use crate::rng::Rng;

/// The first byte of a batch that its checksum covers. What stands before it, Kafka's readers cannot check either.
const COVERED_FROM: usize = 21;

/// Inverts a bit of a batch that is synced, in one of the logs, and says where. `None` where there is no such batch yet.
pub(super) fn strike(disk: &SimDisk, rng: &mut Rng) -> Option<String> {
    let durable = disk.durable_copy();
    let segments = segments(&durable);
    if segments.is_empty() {
        return None;
    }
    let path = &segments[rng.index(segments.len())];
    let bytes = contents(&durable, path);
    let mut places = Vec::new();
    let mut start = 0;
    for batch in BatchIter::new(&bytes).map_while(Result::ok) {
        let end = start + batch.bytes.len();
        places.push(start + COVERED_FROM..end);
        start = end;
    }
    if places.is_empty() {
        return None;
    }
    let place = places.swap_remove(rng.index(places.len()));
    let position = place.start + rng.index(place.len());
    disk.rot(path, position as u64, 1 << rng.below(8)).ok()?;
    Some(format!("{} at byte {position}", path.display()))
}

/// Takes one of the logs' segments away, for good.
pub(super) fn lose_file(disk: &SimDisk, rng: &mut Rng) -> Option<PathBuf> {
    let mut segments = segments(disk);
    if segments.is_empty() {
        return None;
    }
    let path = segments.swap_remove(rng.index(segments.len()));
    disk.remove_file(&path).ok()?;
    disk.sync_dir(path.parent()?).ok()?;
    Some(path)
}

/// The segments of all logs.
pub(super) fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let root = Path::new("/data");
    let mut found = Vec::new();
    for dir in disk.read_dir(root).unwrap_or_default().iter().filter(|entry| entry.is_dir) {
        let dir = root.join(&dir.name);
        let files = disk.read_dir(&dir).unwrap_or_default();
        let logs = files.iter().filter(|file| file.name.ends_with(".log") && file.len_bytes > 0);
        found.extend(logs.map(|file| dir.join(&file.name)));
    }
    found
}

fn contents(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let read = || {
        let file = disk.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len_bytes()?).unwrap_or(0)];
        let count = file.read_at(&mut bytes, 0)?;
        bytes.truncate(count);
        Ok::<_, std::io::Error>(bytes)
    };
    read().unwrap_or_default()
}
