//! A disk in memory that behaves like the worst real one: what was not synced may be lost, by sectors and by
//! names; writes tear; syncs fail and take the unsynced bytes with them; it fills up; bits flip.
//!
//! Everything that looks random comes from seeds, so a failing run can be run again. A [`SimDisk`] is a handle:
//! clones show the same disk, and handles to files die with the crash that they lived through.

mod tree;

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{DirEntry, Disk, DiskFile, DiskLock, DiskSpace, OpenMode};
use tree::{Inode, InodeId, Tree};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// The size that [`Disk::space`] tells where no capacity is set.
const UNLIMITED_BYTES: u64 = 1 << 50;

/// Linux's error numbers, so that callers see what a real disk would tell them.
const EIO: i32 = 5;
const EBADF: i32 = 9;
const ENOSPC: i32 = 28;

/// How the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies and the kernel lives on: every written byte and every name is found again.
    Process,
    /// The power fails: a part of what was not synced, drawn from `seed`, is lost.
    PowerLoss {
        /// Decides which sectors, lengths and names survive.
        seed: u64,
    },
}

/// The kinds of operation that a fault can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening a file, creating it or not.
    Open,
    /// Making a directory.
    CreateDir,
    /// Listing a directory.
    ReadDir,
    /// Renaming.
    Rename,
    /// Removing a file or a directory.
    Remove,
    /// Making names durable.
    SyncDir,
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Setting a file's length.
    Truncate,
    /// Making a file's bytes durable.
    Sync,
}

impl Operation {
    /// Whether the operation can change what is found after a crash; only these are counted.
    const fn changes_disk(self) -> bool {
        match self {
            Self::Open | Self::ReadDir | Self::Read => false,
            Self::CreateDir
            | Self::Rename
            | Self::Remove
            | Self::SyncDir
            | Self::Write
            | Self::Truncate
            | Self::Sync => true,
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with EIO and changes nothing, except that a failed sync marks the unsynced bytes as
    /// clean: no later sync makes them durable (Rebello et al., "Can Applications Recover from fsync Failures?",
    /// USENIX ATC 2020).
    Io,
    /// The operation fails with ENOSPC and changes nothing.
    NoSpace,
    /// A write leaves its first `written_bytes` behind and fails with EIO.
    Torn {
        /// How much of the write is found in the file.
        written_bytes: usize,
    },
    /// A read or write succeeds with one bit of its byte at `position_bytes` (modulo its length) inverted.
    FlipBit {
        /// Which byte of the transfer.
        position_bytes: usize,
        /// Which bit of the byte, 0 to 7.
        bit: u8,
    },
}

/// When a fault strikes.
#[derive(Clone, Debug)]
pub struct FaultRule {
    /// The kind of operation.
    pub operation: Operation,
    /// Only paths that contain this text; the empty text is in all of them.
    pub path_contains: String,
    /// How many matching operations pass before the first fault.
    pub skip_count: u64,
    /// How many matching operations fail after that.
    pub fault_count: u64,
    /// What happens to them.
    pub fault: Fault,
}

impl FaultRule {
    /// The next `operation` on a path that contains `path_contains` meets `fault`, once.
    pub fn once(operation: Operation, path_contains: impl Into<String>, fault: Fault) -> Self {
        Self { operation, path_contains: path_contains.into(), skip_count: 0, fault_count: 1, fault }
    }

    /// Every `operation` on a path that contains `path_contains` meets `fault` until the rules are cleared.
    pub fn always(operation: Operation, path_contains: impl Into<String>, fault: Fault) -> Self {
        Self { operation, path_contains: path_contains.into(), skip_count: 0, fault_count: u64::MAX, fault }
    }

    /// The same rule with the first `skip_count` matches let through.
    #[must_use]
    pub fn after(mut self, skip_count: u64) -> Self {
        self.skip_count = skip_count;
        self
    }
}

/// A disk in memory; see the module's text.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tree: Tree,
    /// Goes up by one with every crash; handles of an earlier generation are dead.
    generation: u64,
    rules: Vec<FaultRule>,
    capacity_bytes: Option<u64>,
    /// Paths of held locks.
    locks: BTreeSet<PathBuf>,
    /// Operations that changed the disk so far.
    operation_count: u64,
    /// Those of them that made something durable.
    sync_count: u64,
    /// Syncs of files that a fault has struck.
    failed_sync_count: u64,
    /// The disk stops when `operation_count` reaches this.
    stop_at: Option<u64>,
    /// Nothing works until the next crash.
    stopped: bool,
}

impl SimDisk {
    /// An empty disk without faults or limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the machine and starts it again: handles and locks are gone, and so is what `crash` takes. Fault
    /// rules and the capacity stay; a disk that had stopped works again.
    pub fn crash(&self, crash: Crash) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.locks.clear();
        state.stopped = false;
        state.stop_at = None;
        match crash {
            Crash::Process => {}
            Crash::PowerLoss { seed } => state.tree.lose_power(&mut SplitMix64(seed)),
        }
        state.tree.forget_unreachable();
    }

    /// Another disk with only what is durable on this one for certain: what a checker holds promises against.
    #[must_use]
    pub fn durable_copy(&self) -> Self {
        let tree = self.state.lock().tree.durable();
        Self { state: Arc::new(Mutex::new(State { tree, ..State::default() })) }
    }

    /// Adds a fault. Of several rules that match an operation the first that is due decides; all of them count it.
    pub fn inject(&self, rule: FaultRule) {
        self.state.lock().rules.push(rule);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.state.lock().rules.clear();
    }

    /// Lets files hold `capacity_bytes` in all; a write beyond that fills the disk and fails with ENOSPC.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.state.lock().capacity_bytes = capacity_bytes;
    }

    /// How many operations have changed, or tried to change, what a crash leaves.
    pub fn operation_count(&self) -> u64 {
        self.state.lock().operation_count
    }

    /// How many of these were syncs, of files or directories: what a caller waits for on a real disk.
    pub fn sync_count(&self) -> u64 {
        self.state.lock().sync_count
    }

    /// How many syncs of files a fault has struck.
    pub fn failed_sync_count(&self) -> u64 {
        self.state.lock().failed_sync_count
    }

    /// Lets `count` further changing operations through and fails all that follow, until [`SimDisk::crash`]. A
    /// write that comes first after the stop leaves a part of itself behind, as a process that is killed in
    /// the middle of one does.
    pub fn stop_after(&self, count: u64) {
        let mut state = self.state.lock();
        state.stop_at = Some(state.operation_count.saturating_add(count));
    }

    /// Inverts bits of a byte at rest, in what is seen now and in what a power loss leaves.
    pub fn corrupt(&self, path: &Path, offset_bytes: u64, mask: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let id = state.tree.lookup(path)?;
        let Inode::File(file) = state.tree.inode_mut(id)? else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        file.corrupt(usize_from(offset_bytes)?, mask)
    }

    /// Lets bits of a byte at rest be read inverted until the byte is written again, or [`SimDisk::restore`] is called.
    pub fn rot(&self, path: &Path, offset_bytes: u64, mask: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let id = state.tree.lookup(path)?;
        state.tree.file_mut(id)?.rot(usize_from(offset_bytes)?, mask)
    }

    /// Lets every byte that has rotted, and was not written since, be read as it was.
    pub fn restore(&self) {
        self.state.lock().tree.restore();
    }

    /// Whether there are bytes that have rotted and were not written since.
    pub fn is_rotten(&self) -> bool {
        self.state.lock().tree.is_rotten()
    }

    /// The bytes held in files.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().tree.used_bytes()
    }
}

impl State {
    /// Counts an operation and tells which fault it meets.
    fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<Option<Fault>> {
        if self.stopped {
            return Err(stopped());
        }
        if operation.changes_disk() {
            if self.stop_at.is_some_and(|stop_at| stop_at <= self.operation_count) {
                self.stopped = true;
                if operation == Operation::Write {
                    // Which part is left depends on the place of the stop alone.
                    let seed = self.operation_count;
                    let written_bytes = usize_from(SplitMix64(seed).next() % 8192)?;
                    return Ok(Some(Fault::Torn { written_bytes }));
                }
                return Err(stopped());
            }
            self.operation_count += 1;
            if matches!(operation, Operation::Sync | Operation::SyncDir) {
                self.sync_count += 1;
            }
        }
        let path = path.to_string_lossy();
        let mut struck = None;
        for rule in &mut self.rules {
            if rule.operation != operation || !path.contains(&rule.path_contains) {
                continue;
            }
            if rule.skip_count > 0 {
                rule.skip_count -= 1;
            } else if rule.fault_count > 0 && struck.is_none() {
                rule.fault_count -= 1;
                struck = Some(rule.fault);
            }
        }
        Ok(struck)
    }

    /// As [`State::begin`], for operations on names, which either happen or fail.
    fn begin_name(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        match self.begin(operation, path)? {
            None => Ok(()),
            Some(Fault::NoSpace) => Err(io::Error::from_raw_os_error(ENOSPC)),
            Some(Fault::Io | Fault::Torn { .. } | Fault::FlipBit { .. }) => {
                Err(io::Error::from_raw_os_error(EIO))
            }
        }
    }

    /// How many of `wanted_bytes` at `offset_bytes` of a file fit on the disk.
    fn room(&self, file_len_bytes: u64, offset_bytes: u64, wanted_bytes: usize) -> io::Result<usize> {
        let Some(capacity_bytes) = self.capacity_bytes else {
            return Ok(wanted_bytes);
        };
        let free_bytes = capacity_bytes.saturating_sub(self.tree.used_bytes());
        let end_max = file_len_bytes.saturating_add(free_bytes);
        Ok(wanted_bytes.min(usize_from(end_max.saturating_sub(offset_bytes))?))
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.begin_name(Operation::Open, path)?;
        let inode = match (state.tree.lookup(path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(id), OpenMode::Read | OpenMode::ReadWrite | OpenMode::Create) => id,
            (Err(error), OpenMode::Create | OpenMode::CreateNew)
                if error.kind() == io::ErrorKind::NotFound =>
            {
                // A new name is a change of the disk, unlike the opening of an old one.
                if state.stop_at.is_some_and(|stop_at| stop_at <= state.operation_count) {
                    state.stopped = true;
                    return Err(stopped());
                }
                state.operation_count += 1;
                state.tree.create_file(path)?
            }
            (Err(error), _) => return Err(error),
        };
        if matches!(state.tree.inode_mut(inode)?, Inode::Dir(_)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
            generation: state.generation,
            writable: mode != OpenMode::Read,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin_name(Operation::CreateDir, path)?;
        state.tree.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.state.lock();
        state.begin_name(Operation::ReadDir, path)?;
        state.tree.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin_name(Operation::Rename, from)?;
        state.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin_name(Operation::Remove, path)?;
        state.tree.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin_name(Operation::Remove, path)?;
        state.tree.remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state.lock();
        if state.stopped {
            return Err(stopped());
        }
        match state.tree.lookup(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin_name(Operation::SyncDir, path)?;
        state.tree.sync_dir(path)
    }

    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        let state = self.state.lock();
        let total_bytes = state.capacity_bytes.unwrap_or(UNLIMITED_BYTES);
        Ok(DiskSpace { usable_bytes: total_bytes.saturating_sub(state.tree.used_bytes()), total_bytes })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        // The lock's file exists afterwards, as on a real disk.
        self.open(path, OpenMode::Create)?;
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_owned()) {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is locked by another process", path.display()),
            ));
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), generation: state.generation }))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    generation: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    inode: InodeId,
    generation: u64,
    writable: bool,
}

impl SimFile {
    /// Runs `work` on the disk's state unless this handle died in a crash.
    fn with_state<R>(&self, work: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other(format!(
                "{}: the handle is from before a crash",
                self.path.display()
            )));
        }
        work(&mut state)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::Error::from_raw_os_error(EBADF)) }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.with_state(|state| {
            let fault = state.begin(Operation::Read, &self.path)?;
            let count = state.tree.file_mut(self.inode)?.read(buffer, usize_from(offset_bytes)?);
            match fault {
                None => Ok(count),
                Some(Fault::FlipBit { position_bytes, bit }) => {
                    flip_bit(&mut buffer[..count], position_bytes, bit);
                    Ok(count)
                }
                Some(Fault::Io | Fault::NoSpace | Fault::Torn { .. }) => {
                    Err(io::Error::from_raw_os_error(EIO))
                }
            }
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        self.with_state(|state| {
            let fault = state.begin(Operation::Write, &self.path)?;
            let stopped_now = state.stopped;
            let start = usize_from(offset_bytes)?;
            let file_len_bytes = state.tree.file_mut(self.inode)?.contents().len() as u64;
            let fitting = state.room(file_len_bytes, offset_bytes, bytes.len())?;
            let file = state.tree.file_mut(self.inode)?;
            match fault {
                None => file.write(&bytes[..fitting], start)?,
                Some(Fault::FlipBit { position_bytes, bit }) => {
                    let mut flipped = bytes[..fitting].to_vec();
                    flip_bit(&mut flipped, position_bytes, bit);
                    file.write(&flipped, start)?;
                }
                Some(Fault::Io) => return Err(io::Error::from_raw_os_error(EIO)),
                Some(Fault::NoSpace) => return Err(io::Error::from_raw_os_error(ENOSPC)),
                Some(Fault::Torn { written_bytes }) => {
                    file.write(&bytes[..fitting.min(written_bytes)], start)?;
                    return Err(if stopped_now { stopped() } else { io::Error::from_raw_os_error(EIO) });
                }
            }
            if fitting < bytes.len() { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
        })
    }

    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        let joined: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write_all_at(&joined, offset_bytes)
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        self.with_state(|state| {
            state.begin_name(Operation::Truncate, &self.path)?;
            state.tree.file_mut(self.inode)?.truncate(usize_from(len_bytes)?)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with_state(|state| {
            let outcome = state.begin_name(Operation::Sync, &self.path);
            let stopped_now = state.stopped;
            if outcome.is_err() && !stopped_now {
                state.failed_sync_count += 1;
            }
            let file = state.tree.file_mut(self.inode)?;
            match outcome {
                Ok(()) => file.sync(),
                // The kernel reports the failure once and calls the pages clean.
                Err(_) if !stopped_now => file.forget_dirty(),
                Err(_) => {}
            }
            outcome
        })
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.with_state(|state| {
            if state.stopped {
                return Err(stopped());
            }
            Ok(state.tree.file_mut(self.inode)?.contents().len() as u64)
        })
    }
}

/// Steele, Lea and Flood's `SplitMix64`: small, and good enough to choose what a crash takes.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True once in `one_in` draws.
    fn chance(&mut self, one_in: u64) -> bool {
        self.next().is_multiple_of(one_in)
    }
}

fn flip_bit(bytes: &mut [u8], position_bytes: usize, bit: u8) {
    if let Some(position) = position_bytes.checked_rem(bytes.len())
        && let Some(byte) = bytes.get_mut(position)
    {
        *byte ^= 1 << (bit % 8);
    }
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

fn usize_from(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(io::Error::other)
}
