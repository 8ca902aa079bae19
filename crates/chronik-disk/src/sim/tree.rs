//! What is on the simulated disk: what programs see now, and what a power loss would leave of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::{SECTOR_BYTES, SplitMix64};
use crate::DirEntry;

/// The largest file of the simulated disk: far above any test's need, far below the machine's memory.
const FILE_BYTES_MAX: usize = 1 << 30;

/// Names a file or directory for as long as it exists, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InodeId(u64);

/// The directory that has no name.
const ROOT: InodeId = InodeId(0);

/// The entries of a directory.
pub(super) type Names = BTreeMap<String, InodeId>;

#[derive(Clone, Debug)]
pub(super) enum Inode {
    File(File),
    /// As programs see it now.
    Dir(Names),
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
struct NameChange {
    /// Entries to set (`Some`) or to remove (`None`), by directory: all of them at once or none.
    entries: Vec<(InodeId, String, Option<InodeId>)>,
}

impl NameChange {
    fn touches(&self, dirs: &BTreeSet<InodeId>) -> bool {
        self.entries.iter().any(|(dir, _, _)| dirs.contains(dir))
    }
}

/// All files and directories.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    inodes: BTreeMap<InodeId, Inode>,
    /// The entries of each directory that a power loss leaves for certain.
    durable_names: BTreeMap<InodeId, Names>,
    /// Changes of names since then, oldest first.
    pending: Vec<NameChange>,
    next_id: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            inodes: BTreeMap::from([(ROOT, Inode::Dir(Names::new()))]),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            next_id: 1,
        }
    }
}

impl Tree {
    pub(super) fn lookup(&self, path: &Path) -> io::Result<InodeId> {
        let mut current = ROOT;
        for name in names(path)? {
            current = *self.names_of(current)?.get(&name).ok_or_else(|| not_found(path))?;
        }
        Ok(current)
    }

    pub(super) fn inode_mut(&mut self, id: InodeId) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn file_mut(&mut self, id: InodeId) -> io::Result<&mut File> {
        match self.inode_mut(id)? {
            Inode::File(file) => Ok(file),
            Inode::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<InodeId> {
        let (dir, name) = self.parent(path)?;
        let id = self.add(Inode::File(File::default()));
        self.change(vec![(dir, name, Some(id))])?;
        Ok(id)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut current = ROOT;
        for name in names(path)? {
            current = if let Some(&id) = self.names_of(current)?.get(&name) {
                id
            } else {
                let id = self.add(Inode::Dir(Names::new()));
                self.change(vec![(current, name, Some(id))])?;
                id
            };
        }
        self.names_of(current).map(|_| ())
    }

    pub(super) fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.lookup(path)?;
        let mut entries = Vec::new();
        for (name, id) in self.names_of(dir)? {
            entries.push(match self.inodes.get(id) {
                Some(Inode::File(file)) => {
                    DirEntry { name: name.clone(), is_dir: false, len_bytes: file.contents.len() as u64 }
                }
                Some(Inode::Dir(_)) | None => DirEntry { name: name.clone(), is_dir: true, len_bytes: 0 },
            });
        }
        Ok(entries)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = self.lookup(from)?;
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        if let Ok(replaced) = self.lookup(to) {
            if replaced == moved {
                return Ok(());
            }
            if matches!(self.inode_mut(replaced)?, Inode::Dir(_)) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        self.change(vec![(from_dir, from_name, None), (to_dir, to_name, Some(moved))])
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let id = self.lookup(path)?;
        self.file_mut(id)?;
        let (dir, name) = self.parent(path)?;
        self.change(vec![(dir, name, None)])
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let id = self.lookup(path)?;
        let (dir, name) = self.parent(path)?;
        // Inside out and one by one, so that a power loss can leave half of it.
        let mut directories = vec![id];
        let mut position = 0;
        while let Some(&current) = directories.get(position) {
            for child in self.names_of(current)?.values() {
                if matches!(self.inodes.get(child), Some(Inode::Dir(_))) {
                    directories.push(*child);
                }
            }
            position += 1;
        }
        for current in directories.into_iter().rev() {
            let children: Vec<String> = self.names_of(current)?.keys().cloned().collect();
            for child in children {
                self.change(vec![(current, child, None)])?;
            }
        }
        self.change(vec![(dir, name, None)])
    }

    /// Makes the changes of names that touch the directory durable, with those before them that share a
    /// directory with them, as a journalling file system would.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.lookup(path)?;
        self.names_of(dir)?;
        let mut dirs = BTreeSet::from([dir]);
        let mut kept = Vec::new();
        let mut durable = Vec::new();
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if change.touches(&dirs) {
                dirs.extend(change.entries.iter().map(|(touched, _, _)| *touched));
                durable.push(change);
            } else {
                kept.push(change);
            }
        }
        kept.reverse();
        self.pending = kept;
        for change in durable.into_iter().rev() {
            self.make_durable(change);
        }
        Ok(())
    }

    /// Leaves what the disk holds for certain and a drawn part of the rest.
    pub(super) fn lose_power(&mut self, random: &mut SplitMix64) {
        // Within one directory names become durable in order: what follows a lost change is lost too.
        let mut lost_dirs = BTreeSet::new();
        let halt_one_in = 2 + random.next() % 6;
        for change in std::mem::take(&mut self.pending) {
            if change.touches(&lost_dirs) || random.chance(halt_one_in) {
                lost_dirs.extend(change.entries.iter().map(|(dir, _, _)| *dir));
            } else {
                self.make_durable(change);
            }
        }
        for (id, inode) in &mut self.inodes {
            match inode {
                Inode::File(file) => file.lose_power(random),
                Inode::Dir(names) => *names = self.durable_names.get(id).cloned().unwrap_or_default(),
            }
        }
    }

    /// What is durable for certain, and nothing else.
    pub(super) fn durable(&self) -> Self {
        let mut durable = self.clone();
        durable.pending.clear();
        for (id, inode) in &mut durable.inodes {
            match inode {
                Inode::File(file) => {
                    file.contents.clone_from(&file.durable);
                    file.dirty.clear();
                }
                Inode::Dir(names) => *names = self.durable_names.get(id).cloned().unwrap_or_default(),
            }
        }
        durable
    }

    /// Frees what no name leads to, now or after a power loss.
    pub(super) fn forget_unreachable(&mut self) {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            let mut children: Vec<InodeId> = Vec::new();
            if let Some(Inode::Dir(names)) = self.inodes.get(&id) {
                children.extend(names.values());
            }
            if let Some(names) = self.durable_names.get(&id) {
                children.extend(names.values());
            }
            for change in &self.pending {
                let of_this = change.entries.iter().filter(|(dir, _, _)| *dir == id);
                children.extend(of_this.filter_map(|(_, _, inode)| *inode));
            }
            todo.extend(children.into_iter().filter(|child| reachable.insert(*child)));
        }
        self.inodes.retain(|id, _| reachable.contains(id));
        self.durable_names.retain(|id, _| reachable.contains(id));
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let mut used_bytes = 0_u64;
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            match self.inodes.get(&id) {
                Some(Inode::Dir(names)) => todo.extend(names.values()),
                Some(Inode::File(file)) => used_bytes += file.contents.len() as u64,
                None => {}
            }
        }
        used_bytes
    }

    /// Takes all rot back.
    pub(super) fn restore(&mut self) {
        for inode in self.inodes.values_mut() {
            if let Inode::File(file) = inode {
                file.rot.clear();
            }
        }
    }

    /// Whether any file that there is, or that a power loss brings back, has rot.
    pub(super) fn is_rotten(&self) -> bool {
        self.inodes.values().any(|inode| matches!(inode, Inode::File(file) if !file.rot.is_empty()))
    }

    fn add(&mut self, inode: Inode) -> InodeId {
        let id = InodeId(self.next_id);
        self.next_id += 1;
        self.inodes.insert(id, inode);
        id
    }

    fn names_of(&self, id: InodeId) -> io::Result<&Names> {
        match self.inodes.get(&id) {
            Some(Inode::Dir(names)) => Ok(names),
            Some(Inode::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The directory that holds, or will hold, the last name of `path`.
    fn parent(&self, path: &Path) -> io::Result<(InodeId, String)> {
        let mut all = names(path)?;
        let Some(last) = all.pop() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root has no name"));
        };
        let mut current = ROOT;
        for name in all {
            current = *self.names_of(current)?.get(&name).ok_or_else(|| not_found(path))?;
        }
        self.names_of(current)?;
        Ok((current, last))
    }

    /// Changes what programs see and notes what is not durable yet.
    fn change(&mut self, entries: Vec<(InodeId, String, Option<InodeId>)>) -> io::Result<()> {
        for (dir, name, target) in &entries {
            let Inode::Dir(names) = self.inode_mut(*dir)? else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            match target {
                Some(id) => names.insert(name.clone(), *id),
                None => names.remove(name),
            };
        }
        self.pending.push(NameChange { entries });
        Ok(())
    }

    fn make_durable(&mut self, change: NameChange) {
        for (dir, name, target) in change.entries {
            let names = self.durable_names.entry(dir).or_default();
            match target {
                Some(id) => names.insert(name, id),
                None => names.remove(&name),
            };
        }
    }
}

/// A file's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    /// What programs read.
    contents: Vec<u8>,
    /// What a power loss leaves for certain.
    durable: Vec<u8>,
    /// The sectors that the next sync will make durable.
    dirty: BTreeSet<usize>,
    /// The bits of bytes that are read inverted until the bytes are written again.
    rot: BTreeMap<usize, u8>,
}

impl File {
    pub(super) fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// Fills the buffer with what a program reads at `start`, and says how many bytes there are.
    pub(super) fn read(&self, buffer: &mut [u8], start: usize) -> usize {
        let available = self.contents.get(start..).unwrap_or_default();
        let count = available.len().min(buffer.len());
        for (target, source) in buffer.iter_mut().zip(available) {
            *target = *source;
        }
        for (position, mask) in self.rot.range(start..start.saturating_add(count)) {
            if let Some(byte) = buffer.get_mut(position - start) {
                *byte ^= mask;
            }
        }
        count
    }

    pub(super) fn write(&mut self, bytes: &[u8], start: usize) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = start.checked_add(bytes.len()).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let old_len = self.contents.len();
        if old_len < end {
            self.contents.resize(end, 0);
        }
        if let Some(target) = self.contents.get_mut(start..end) {
            target.copy_from_slice(bytes);
        }
        self.rot.retain(|position, _| !(start..end).contains(position));
        // A gap before the write is part of what changed.
        self.mark_dirty(start.min(old_len), end);
        Ok(())
    }

    pub(super) fn truncate(&mut self, len: usize) -> io::Result<()> {
        if len > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let old_len = self.contents.len();
        self.contents.resize(len, 0);
        self.rot.retain(|position, _| *position < len);
        self.mark_dirty(len.min(old_len), len.max(old_len));
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.contents.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&mut self.durable, &self.contents, sector);
        }
    }

    /// After a failed sync: programs still read the bytes, and no sync will ever write them.
    pub(super) fn forget_dirty(&mut self) {
        self.dirty.clear();
    }

    fn lose_power(&mut self, random: &mut SplitMix64) {
        let (durable_len, seen_len) = (self.durable.len(), self.contents.len());
        let len = match random.next() % 3 {
            0 => durable_len,
            1 => seen_len,
            _ => {
                let shortest = durable_len.min(seen_len);
                let span = durable_len.abs_diff(seen_len) as u64;
                shortest + usize::try_from(random.next() % (span + 1)).unwrap_or_default()
            }
        };
        self.durable.resize(len, 0);
        let keep_one_in = 1 + random.next() % 3;
        for sector in std::mem::take(&mut self.dirty) {
            if random.chance(keep_one_in) {
                copy_sector(&mut self.durable, &self.contents, sector);
            }
        }
        self.contents = self.durable.clone();
        self.rot.retain(|position, _| *position < len);
    }

    pub(super) fn corrupt(&mut self, position: usize, mask: u8) -> io::Result<()> {
        let byte = self.contents.get_mut(position);
        *byte.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))? ^= mask;
        if let Some(byte) = self.durable.get_mut(position) {
            *byte ^= mask;
        }
        Ok(())
    }

    pub(super) fn rot(&mut self, position: usize, mask: u8) -> io::Result<()> {
        if self.contents.len() <= position {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.rot.insert(position, mask);
        Ok(())
    }

    fn mark_dirty(&mut self, start: usize, end: usize) {
        self.dirty.extend(start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
    }
}

/// Copies what of the sector lies in both.
fn copy_sector(target: &mut [u8], source: &[u8], sector: usize) {
    let start = sector.saturating_mul(SECTOR_BYTES);
    let end = start.saturating_add(SECTOR_BYTES).min(target.len()).min(source.len());
    if let (Some(target), Some(source)) = (target.get_mut(start..end), source.get(start..end)) {
        target.copy_from_slice(source);
    }
}

/// The names along a path; absolute and relative paths mean the same here.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => found.push(name.to_string_lossy().into_owned()),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{}: \"..\" has no meaning on the simulated disk", path.display()),
                ));
            }
        }
    }
    Ok(found)
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}
