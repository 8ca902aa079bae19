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
#[expect(clippy::disallowed_methods, reason = "before there is a disk to go through")]
pub(crate) fn prepare_data_dir(path: &Path) -> Result<PathBuf, DataDirError> {
    let path =
        std::path::absolute(path).map_err(|source| DataDirError::Create { path: path.to_owned(), source })?;
    if path.exists() && !path.is_dir() {
        return Err(DataDirError::NotADirectory { path });
    }
    if let Err(source) = std::fs::create_dir_all(&path) {
        return Err(DataDirError::Create { path, source });
    }
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    match rustix::fs::access(&path, access) {
        Ok(()) => Ok(path),
        Err(errno) => Err(DataDirError::NotWritable { path, source: errno.into() }),
    }
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

/// The cores that this process may use.
pub(crate) fn core_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

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
