//! Files and directories that are out of the log already and wait for their removal.
//!
//! They keep their bytes under another name for `file.delete.delay.ms`, so that a reader that is about to open one
//! finds it gone at worst and never half gone. What is still there at a restart is removed then.

use std::io;
use std::path::PathBuf;

use chronik_disk::Disk;
use chronik_types::MonotonicMs;
use parking_lot::Mutex;

#[derive(Debug)]
struct Removal {
    due: MonotonicMs,
    path: PathBuf,
    is_dir: bool,
}

/// What waits for its removal.
#[derive(Debug, Default)]
pub(crate) struct RemovalQueue {
    entries: Mutex<Vec<Removal>>,
}

impl RemovalQueue {
    pub(crate) fn push_file(&self, due: MonotonicMs, path: PathBuf) {
        self.entries.lock().push(Removal { due, path, is_dir: false });
    }

    pub(crate) fn push_dir(&self, due: MonotonicMs, path: PathBuf) {
        self.entries.lock().push(Removal { due, path, is_dir: true });
    }

    /// Removes what is due. What cannot be removed is reported once and left for the next start.
    pub(crate) fn remove_due(&self, disk: &dyn Disk, now: MonotonicMs) {
        let due: Vec<Removal> = {
            let mut entries = self.entries.lock();
            let (due, later) = entries.drain(..).partition(|entry| entry.due <= now);
            *entries = later;
            due
        };
        for entry in due {
            let removed =
                if entry.is_dir { disk.remove_dir_all(&entry.path) } else { disk.remove_file(&entry.path) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %entry.path.display(), %error, "cannot remove; the next start tries again");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// When the next removal is due.
    pub(crate) fn next_due(&self) -> Option<MonotonicMs> {
        self.entries.lock().iter().map(|entry| entry.due).min()
    }
}
