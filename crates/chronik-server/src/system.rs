//! What the process asks of the operating system, other than sockets and clocks.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::process::{Resource, getrlimit, setrlimit};
use thiserror::Error;

/// More open files than this are not asked for, however many the system would allow: some kernels keep a table
/// of that size.
const OPEN_FILES_MAX: u64 = 1024 * 1024;

/// Why the data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// There is something else in its place.
    #[error("the data directory {} is not a directory; choose another with CHRONIK_DATA_DIR", path.display())]
    NotADirectory {
        /// The directory.
        path: PathBuf,
    },
    /// It is not there and cannot be made.
    #[error("cannot create the data directory {}: {source}; choose another with CHRONIK_DATA_DIR", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error(
        "cannot write to the data directory {}: {source}; make it writable for this user, or choose another \
         with CHRONIK_DATA_DIR",
        path.display()
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data directory {} is in use by another process; stop that, or choose another directory with \
         CHRONIK_DATA_DIR",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

/// What the operating system calls this boot; empty where it does not say, which makes every start one after a power
/// loss.
#[expect(clippy::disallowed_methods, reason = "the kernel's own file, of which no simulated disk knows")]
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// A seed that no other process has, from the operating system.
pub(crate) fn random_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

/// Makes sure that there is a directory that can be written to, and returns its absolute path.
pub(crate) fn prepare_data_dir(path: &Path) -> Result<PathBuf, DataDirError> {
    let path =
        std::path::absolute(path).map_err(|source| DataDirError::Create { path: path.to_owned(), source })?;
    if path.exists() && !path.is_dir() {
        return Err(DataDirError::NotADirectory { path });
    }
    if let Err(source) = make_dir(&path) {
        return Err(DataDirError::Create { path, source });
    }
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    match rustix::fs::access(&path, access) {
        Ok(()) => Ok(path),
        Err(errno) => Err(DataDirError::NotWritable { path, source: errno.into() }),
    }
}

/// Makes a directory and those above it, and their names durable: whatever is synced within hangs on them.
#[expect(
    clippy::disallowed_methods,
    reason = "the data directory is made before there is a disk to go through"
)]
fn make_dir(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    std::fs::create_dir_all(path)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Reads a file that the user names.
#[expect(
    clippy::disallowed_methods,
    reason = "the configuration is read before there is a disk to go through"
)]
pub(crate) fn read_text_file(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// Raises the limit on open files as far as it goes, and returns it; `None` where there is none.
pub(crate) fn raise_open_files_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES_MAX, |maximum| maximum.min(OPEN_FILES_MAX));
    if limit.current.is_some_and(|current| current < wanted) {
        let before = limit.current;
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!("Cannot raise the limit on open files to {wanted}: {error}");
            limit.current = before;
        }
    }
    limit.current
}

/// What this process uses of the machine; `None` where the system does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time, in milliseconds.
    pub(crate) cpu_ms: Option<u64>,
    /// Memory in use.
    pub(crate) resident_bytes: Option<u64>,
    /// Memory mapped.
    pub(crate) virtual_bytes: Option<u64>,
    /// Threads.
    pub(crate) thread_count: Option<u64>,
    /// Open descriptors.
    pub(crate) open_file_count: Option<u64>,
    /// How many may be open.
    pub(crate) open_files_max: Option<u64>,
}

/// Asks the system what this process uses.
#[expect(clippy::disallowed_methods, reason = "the kernel's own files, of which no simulated disk knows")]
pub(crate) fn usage() -> Usage {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let open_file_count = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
    let open_files_max = getrlimit(Resource::Nofile).current;
    Usage { open_file_count, open_files_max, ..parse_stat(&stat, rustix::param::page_size() as u64) }
}

/// Reads a line of `/proc/PID/stat`. The second field, the program's name, may hold anything, so fields are counted from
/// behind it.
fn parse_stat(stat: &str, page_bytes: u64) -> Usage {
    let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
    // Numbered as in proc(5), where the state is field 3.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    let ticks = field(14).zip(field(15)).map(|(user, system)| user.saturating_add(system));
    Usage {
        cpu_ms: ticks.map(|ticks| {
            ticks.saturating_mul(1_000 / rustix::param::clock_ticks_per_second().clamp(1, 1_000))
        }),
        thread_count: field(20),
        virtual_bytes: field(23),
        resident_bytes: field(24).map(|pages| pages.saturating_mul(page_bytes)),
        ..Usage::default()
    }
}

/// The cores that this process may use.
pub(crate) fn core_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_uses_is_read_behind_its_name() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1000 4096000 300 1";
        let usage = parse_stat(line, 4096);
        assert_eq!((usage.thread_count, usage.virtual_bytes), (Some(9), Some(4_096_000)));
        assert_eq!(usage.resident_bytes, Some(300 * 4096));
        assert_eq!(usage.cpu_ms, Some(300 * (1_000 / rustix::param::clock_ticks_per_second())));
        let nothing = parse_stat("", 4096);
        assert!(nothing.cpu_ms.is_none() && nothing.resident_bytes.is_none());
        assert!(super::usage().resident_bytes.is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn data_directories() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = prepare_data_dir(&dir.path().join("a/b")).expect("made");
        assert!(made.is_absolute() && made.is_dir());
        assert_eq!(prepare_data_dir(&made).expect("there already"), made);

        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = prepare_data_dir(file.path()).expect_err("a file");
        assert!(
            matches!(error, DataDirError::NotADirectory { .. })
                && error.to_string().contains("CHRONIK_DATA_DIR")
        );
        let error = prepare_data_dir(&file.path().join("below")).expect_err("below a file");
        assert!(matches!(error, DataDirError::Create { .. }), "{error}");
        let error = prepare_data_dir(Path::new("/proc/nothing/here")).expect_err("nobody may make one there");
        assert!(matches!(error, DataDirError::Create { .. }), "{error}");
    }

    #[test]
    fn the_limit_on_open_files_is_raised_to_what_is_allowed() {
        let raised = raise_open_files_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, raised);
        assert_eq!(
            raised,
            Some(
                limit
                    .maximum
                    .map_or(OPEN_FILES_MAX, |maximum| maximum.min(OPEN_FILES_MAX))
                    .max(raised.unwrap_or(0))
            )
        );
    }
}
