//! What a node's last process left behind: whether the logs can have lost what they acknowledged.
//!
//! A broker keeps the epoch of its registration beside its logs. It tells that epoch when it registers anew, unless the
//! machine has started again without the logs having been closed in good order: what was not synced is gone then, and the
//! cluster must not count on this node's copies (KIP-966). A process that was killed on a machine that went on has lost
//! nothing, unless its disk failed or its logs are found damaged: then the record is given up before anything else.
//! Whatever is missing, unreadable or of another registration counts as a loss.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chronik_disk::Disk;
use chronik_types::BrokerEpoch;
use parking_lot::Mutex;

/// The file, in the data directory. No partition's directory can have this name.
const FILE: &str = "registration";
/// What the first line says.
const VERSION: &str = "version=1";

/// The record of this node's registration.
#[derive(Clone)]
pub struct LastLife {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    boot_id: String,
    /// Whether nothing that this process notes is to be believed. Held while the record is written.
    is_given_up: Arc<Mutex<bool>>,
}

impl LastLife {
    /// The record in a data directory, on a machine that calls this boot so (empty where it does not say: then every
    /// start counts as a boot).
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, boot_id: String) -> Self {
        Self { disk, path: dir.join(FILE), boot_id, is_given_up: Arc::default() }
    }

    /// The epoch under which the logs were last written, if nothing of them can have been lost since.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        let text = String::from_utf8(self.disk.read_file(&self.path).ok()?).ok()?;
        let mut lines = text.lines();
        if lines.next() != Some(VERSION) {
            return None;
        }
        let epoch = lines.next()?.strip_prefix("broker.epoch=")?.parse().ok().map(BrokerEpoch)?;
        let boot_id = lines.next()?.strip_prefix("boot.id=")?;
        let is_clean = lines.next()?.strip_prefix("clean=")? == "true";
        let is_same_boot = !boot_id.is_empty() && boot_id == self.boot_id;
        // The last line shows that the file is whole.
        (lines.next() == Some("end") && (is_clean || is_same_boot)).then_some(epoch)
    }

    /// The logs may lack something from now on, whatever this process notes later.
    pub fn give_up(&self) -> io::Result<()> {
        let mut is_given_up = self.is_given_up.lock();
        *is_given_up = true;
        self.forget()
    }

    /// The logs may lack something, until the next registration has told so.
    pub fn forget(&self) -> io::Result<()> {
        // A file without contents outlives a power loss. Where nothing can be written, no file is as good.
        self.disk.replace_file(&self.path, b"").or_else(|_| match self.disk.remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
    }

    /// Who notes the registrations of this process.
    pub fn keeper(&self) -> RegistrationKeeper {
        RegistrationKeeper { record: self.clone(), noted: Mutex::default() }
    }

    /// Notes the registration under which the logs are written from now on, or were when they were closed.
    pub fn note(&self, epoch: BrokerEpoch, is_clean: bool) -> io::Result<()> {
        let is_given_up = self.is_given_up.lock();
        if *is_given_up {
            return Ok(());
        }
        let boot_id = &self.boot_id;
        let text = format!("{VERSION}\nbroker.epoch={epoch}\nboot.id={boot_id}\nclean={is_clean}\nend\n");
        self.disk.replace_file(&self.path, text.as_bytes())
    }
}

/// Keeps the record up to date while the process runs. It hears of each registration before anybody counts on what this
/// process replicates under it: the end of a process that was heard of and had noted nothing would look like a loss.
pub struct RegistrationKeeper {
    record: LastLife,
    noted: Mutex<Option<BrokerEpoch>>,
}

impl RegistrationKeeper {
    /// This process's registration in the newest image. Writes to the disk where it is a new one.
    pub fn see(&self, epoch: Option<BrokerEpoch>) {
        let Some(new) = epoch else { return };
        let mut noted = self.noted.lock();
        if *noted == epoch {
            return;
        }
        *noted = epoch;
        if let Err(error) = self.record.note(new, false) {
            tracing::warn!(
                "After its next start this node will have to catch up as if it had lost records: cannot note its registration: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use chronik_disk::SimDisk;

    use super::*;

    #[test]
    fn each_registration_is_noted_once_and_none_after_a_loss() {
        let disk = SimDisk::new();
        let (as_disk, dir): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new("/data"));
        as_disk.create_dir_all(dir).expect("a directory is made");
        let record = LastLife::new(as_disk, dir, "boot".to_owned());
        let keeper = record.keeper();
        keeper.see(None);
        assert_eq!(record.epoch(), None);
        keeper.see(Some(BrokerEpoch(7)));
        assert_eq!(record.epoch(), Some(BrokerEpoch(7)));
        let before = disk.operation_count();
        keeper.see(Some(BrokerEpoch(7)));
        keeper.see(None);
        assert_eq!(disk.operation_count(), before, "nothing is new");
        keeper.see(Some(BrokerEpoch(9)));
        assert_eq!(record.epoch(), Some(BrokerEpoch(9)));
        record.give_up().expect("it is forgotten");
        keeper.see(Some(BrokerEpoch(11)));
        assert_eq!(record.epoch(), None);
    }

    /// Replication point 6.
    #[test]
    fn only_a_whole_record_of_this_boot_or_of_a_clean_end_counts() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let dir = Path::new("/data");
        disk.create_dir_all(dir).unwrap();
        let on = |boot: &str| LastLife::new(Arc::clone(&disk), dir, boot.to_owned());
        assert_eq!(on("a").epoch(), None, "there is none");
        on("a").note(BrokerEpoch(7), false).unwrap();
        assert_eq!(on("a").epoch(), Some(BrokerEpoch(7)), "the process was killed");
        assert_eq!(on("b").epoch(), None, "the machine has started again");
        on("b").note(BrokerEpoch(9), true).unwrap();
        assert_eq!(on("c").epoch(), Some(BrokerEpoch(9)), "it was closed before that");
        on("c").forget().unwrap();
        assert_eq!(on("c").epoch(), None);
        let failing = on("c");
        failing.note(BrokerEpoch(9), false).unwrap();
        assert_eq!(on("c").epoch(), Some(BrokerEpoch(9)), "it has registered since, and told so");
        failing.give_up().unwrap();
        failing.clone().note(BrokerEpoch(9), true).unwrap();
        assert_eq!(on("c").epoch(), None, "its disk has failed");
        on("").note(BrokerEpoch(9), false).unwrap();
        assert_eq!(on("").epoch(), None, "boots cannot be told apart");
        on("a").note(BrokerEpoch(11), false).unwrap();
        let whole = disk.read_file(&dir.join(FILE)).unwrap();
        for len in 0..whole.len() - 1 {
            disk.replace_file(&dir.join(FILE), &whole[..len]).unwrap();
            assert_eq!(on("a").epoch(), None, "cut off after {len} bytes");
        }
    }
}
