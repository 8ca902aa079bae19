//! What a node's last process left behind: whether the logs can have lost what they acknowledged.
//!
//! A broker keeps the epoch of its registration beside its logs. It tells that epoch when it registers anew, unless the
//! machine has started again without the logs having been closed in good order: what was not synced is gone then, and the
//! cluster must not count on this node's copies (KIP-966). A process that was killed on a machine that went on has lost
//! nothing, unless its disk failed or its logs are found damaged: then the record is given up before anything else.
//! Whatever is missing, unreadable or of another registration counts as a loss.
//!
//! A process that asks to be registered and ends without an answer does not know its epoch, and may be registered long
//! after. So each process notes its incarnation before it asks, and the next one tells these with the last epoch known.

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

/// How many processes may have begun, one after the other, without hearing of a registration. One before these that is
/// registered after all counts as a loss, which costs a replica its place in the ISR until it has caught up.
const INCARNATIONS_MAX: usize = 64;

/// What the logs hold, if nothing of it can have been lost since it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousLife {
    /// The epoch of the last registration that a process has heard of.
    pub epoch: BrokerEpoch,
    /// The processes that have begun since, in this order.
    pub incarnations: Vec<u128>,
}

/// The record of this node's registration.
#[derive(Clone)]
pub struct LastLife {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    boot_id: String,
    /// Held while the record is written.
    process: Arc<Mutex<Process>>,
}

/// What is known of this process.
#[derive(Default)]
struct Process {
    incarnation: Option<u128>,
    /// Nothing that it notes is to be believed.
    is_given_up: bool,
}

impl LastLife {
    /// The record in a data directory, on a machine that calls this boot so (empty where it does not say: then every
    /// start counts as a boot).
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, boot_id: String) -> Self {
        Self { disk, path: dir.join(FILE), boot_id, process: Arc::default() }
    }

    /// Under what the logs were last written, if nothing of them can have been lost since.
    pub fn previous(&self) -> Option<PreviousLife> {
        let record = Record::parse(&self.disk.read_file(&self.path).ok()?)?;
        let is_same_boot = !record.boot_id.is_empty() && record.boot_id == self.boot_id;
        (record.is_clean || is_same_boot).then_some(record.life)
    }

    /// Notes that this process has begun, before it asks to be registered with what it takes for its previous life. It may
    /// write from then on, also where it cannot note its registration: from now on what the disk holds depends on the
    /// machine again.
    pub fn begin(&self, previous: Option<&PreviousLife>, incarnation: u128) -> io::Result<()> {
        let mut process = self.process.lock();
        process.incarnation = Some(incarnation);
        match previous.filter(|_| !process.is_given_up) {
            Some(PreviousLife { epoch, incarnations }) => {
                let forgotten = incarnations.len().saturating_sub(INCARNATIONS_MAX - 1);
                let incarnations = incarnations.iter().skip(forgotten).copied().chain([incarnation]);
                self.write(PreviousLife { epoch: *epoch, incarnations: incarnations.collect() }, false)
            }
            None => self.forget(),
        }
    }

    /// Notes that the logs were closed in good order, under this registration, or under none that this process has heard of.
    pub fn end(&self, epoch: Option<BrokerEpoch>) -> io::Result<()> {
        if let Some(epoch) = epoch {
            return self.note(epoch, true);
        }
        let process = self.process.lock();
        match self.previous() {
            Some(life) if !process.is_given_up => self.write(life, true),
            Some(_) | None => Ok(()),
        }
    }

    /// The logs may lack something from now on, whatever this process notes later.
    pub fn give_up(&self) -> io::Result<()> {
        let mut process = self.process.lock();
        process.is_given_up = true;
        self.forget()
    }

    /// The logs may lack something, until the next registration has told so.
    pub fn forget(&self) -> io::Result<()> {
        // A file without contents outlives a power loss. Where nothing can be written, no file is as good.
        self.disk.replace_file(&self.path, b"").or_else(|_| {
            self.disk.remove_file_if_there(&self.path)?;
            self.path.parent().map_or(Ok(()), |dir| self.disk.sync_dir(dir))
        })
    }

    /// Who notes the registrations of this process.
    pub fn keeper(&self) -> RegistrationKeeper {
        RegistrationKeeper { record: self.clone(), noted: Mutex::default() }
    }

    /// Notes the registration under which the logs are written from now on, or were when they were closed. This process
    /// may be registered once more without hearing of it.
    pub fn note(&self, epoch: BrokerEpoch, is_clean: bool) -> io::Result<()> {
        let process = self.process.lock();
        if process.is_given_up {
            return Ok(());
        }
        self.write(PreviousLife { epoch, incarnations: process.incarnation.into_iter().collect() }, is_clean)
    }

    fn write(&self, life: PreviousLife, is_clean: bool) -> io::Result<()> {
        let record = Record { life, boot_id: self.boot_id.clone(), is_clean };
        self.disk.replace_file(&self.path, record.to_text().as_bytes())
    }
}

/// What the file says.
struct Record {
    life: PreviousLife,
    boot_id: String,
    is_clean: bool,
}

impl Record {
    fn parse(contents: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(contents).ok()?.lines();
        if lines.next() != Some(VERSION) {
            return None;
        }
        let epoch = lines.next()?.strip_prefix("broker.epoch=")?.parse().ok().map(BrokerEpoch)?;
        let boot_id = lines.next()?.strip_prefix("boot.id=")?.to_owned();
        let is_clean = lines.next()?.strip_prefix("clean=")? == "true";
        let mut incarnations = Vec::new();
        loop {
            match lines.next()? {
                // The last line shows that the file is whole.
                "end" => {
                    return Some(Self { life: PreviousLife { epoch, incarnations }, boot_id, is_clean });
                }
                line => {
                    let digits = line.strip_prefix("incarnation=")?;
                    incarnations.push(u128::from_str_radix(digits, 16).ok()?);
                }
            }
        }
    }

    fn to_text(&self) -> String {
        let Self { life: PreviousLife { epoch, incarnations }, boot_id, is_clean } = self;
        let mut lines = vec![
            VERSION.to_owned(),
            format!("broker.epoch={epoch}"),
            format!("boot.id={boot_id}"),
            format!("clean={is_clean}"),
        ];
        lines.extend(incarnations.iter().map(|incarnation| format!("incarnation={incarnation:032x}")));
        lines.push("end\n".to_owned());
        lines.join("\n")
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

    const DIR: &str = "/data";

    /// A disk, and the record on it as of a boot.
    fn machine() -> (SimDisk, impl Fn(&str) -> LastLife) {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        (disk, move |boot: &str| LastLife::new(Arc::clone(&as_disk), Path::new(DIR), boot.to_owned()))
    }

    fn epoch(record: &LastLife) -> Option<BrokerEpoch> {
        record.previous().map(|life| life.epoch)
    }

    /// A process may be registered after its end, when nobody is left to note that.
    #[test]
    fn processes_that_heard_of_no_registration_are_known() {
        let (_, on) = machine();
        let begin = |boot: &str, incarnation: u128| {
            let record = on(boot);
            record.begin(record.previous().as_ref(), incarnation).unwrap();
            record
        };
        let known = |epoch: i64, incarnations: &[u128]| {
            Some(PreviousLife { epoch: BrokerEpoch(epoch), incarnations: incarnations.to_vec() })
        };
        let first = begin("a", 1);
        assert_eq!(on("a").previous(), None, "there was no registration before it");
        first.end(Some(BrokerEpoch(7))).unwrap();
        assert_eq!(on("b").previous(), known(7, &[1]), "it may have been registered once more");
        begin("b", 2);
        let third = begin("b", u128::MAX);
        assert_eq!(on("b").previous(), known(7, &[1, 2, u128::MAX]));
        assert_eq!(on("c").previous(), None, "the last of them may have written, and lost it with the power");
        third.end(None).unwrap();
        assert_eq!(on("c").previous(), known(7, &[1, 2, u128::MAX]), "but it has ended in good order");
        third.note(BrokerEpoch(9), false).unwrap();
        assert_eq!(on("b").previous(), known(9, &[u128::MAX]));
        for incarnation in 0..100 {
            begin("b", incarnation);
        }
        let last: Vec<u128> = (36..100).collect();
        assert_eq!(on("b").previous(), known(9, &last));
        on("b").begin(None, 3).unwrap();
        assert_eq!(on("b").previous(), None, "its logs were found damaged");
        let failing = on("b");
        failing.note(BrokerEpoch(11), false).unwrap();
        failing.give_up().unwrap();
        failing.begin(known(11, &[]).as_ref(), 3).unwrap();
        failing.end(None).unwrap();
        assert_eq!(on("b").previous(), None);
    }

    #[test]
    fn each_registration_is_noted_once_and_none_after_a_loss() {
        let (disk, on) = machine();
        let record = on("boot");
        let keeper = record.keeper();
        keeper.see(None);
        assert_eq!(epoch(&record), None);
        keeper.see(Some(BrokerEpoch(7)));
        assert_eq!(epoch(&record), Some(BrokerEpoch(7)));
        let before = disk.operation_count();
        keeper.see(Some(BrokerEpoch(7)));
        keeper.see(None);
        assert_eq!(disk.operation_count(), before, "nothing is new");
        keeper.see(Some(BrokerEpoch(9)));
        assert_eq!(epoch(&record), Some(BrokerEpoch(9)));
        record.give_up().expect("it is forgotten");
        keeper.see(Some(BrokerEpoch(11)));
        assert_eq!(epoch(&record), None);
    }

    /// Replication point 6.
    #[test]
    fn only_a_whole_record_of_this_boot_or_of_a_clean_end_counts() {
        let (disk, on) = machine();
        assert_eq!(epoch(&on("a")), None, "there is none");
        on("a").note(BrokerEpoch(7), false).unwrap();
        assert_eq!(epoch(&on("a")), Some(BrokerEpoch(7)), "the process was killed");
        assert_eq!(epoch(&on("b")), None, "the machine has started again");
        on("b").note(BrokerEpoch(9), true).unwrap();
        assert_eq!(epoch(&on("c")), Some(BrokerEpoch(9)), "it was closed before that");
        on("c").forget().unwrap();
        assert_eq!(epoch(&on("c")), None);
        let failing = on("c");
        failing.note(BrokerEpoch(9), false).unwrap();
        assert_eq!(epoch(&on("c")), Some(BrokerEpoch(9)), "it has registered since, and told so");
        failing.give_up().unwrap();
        failing.clone().note(BrokerEpoch(9), true).unwrap();
        assert_eq!(epoch(&on("c")), None, "its disk has failed");
        on("").note(BrokerEpoch(9), false).unwrap();
        assert_eq!(epoch(&on("")), None, "boots cannot be told apart");
        on("a").note(BrokerEpoch(11), false).unwrap();
        on("a").begin(on("a").previous().as_ref(), 12).unwrap();
        let whole = disk.read_file(&Path::new(DIR).join(FILE)).unwrap();
        for len in 0..whole.len() - 1 {
            disk.replace_file(&Path::new(DIR).join(FILE), &whole[..len]).unwrap();
            assert_eq!(epoch(&on("a")), None, "cut off after {len} bytes");
        }
    }
}
