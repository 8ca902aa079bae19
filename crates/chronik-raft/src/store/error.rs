//! What goes wrong with the files of the metadata log.

use std::io;
use std::path::{Path, PathBuf};

use chronik_types::NodeId;
use thiserror::Error;

use crate::metadata::SnapshotError;

/// What goes wrong with the files of the metadata log.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The disk failed. What was being written may or may not be on it, and must not be counted on.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The disk is full. Nothing has changed, and the same may be tried again.
    #[error("the disk is full: cannot write {}", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{} is damaged at byte {position_bytes}: {reason}; restore the file, or remove this node's metadata directory and let it join again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, from its start.
        position_bytes: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The snapshot cannot be read.
    #[error("{} cannot be used", path.display())]
    SnapshotUnusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SnapshotError,
    },
    /// There is a snapshot and no log.
    #[error("{} is here without the log that stands on it; restore the log, or remove both and let this node join again", snapshot.display())]
    LogMissing {
        /// The snapshot.
        snapshot: PathBuf,
    },
    /// The directory is another node's.
    #[error("{} belongs to node {}, and this is node {}", path.display(), shown(*found), shown(*expected))]
    OtherNode {
        /// The file that says so.
        path: PathBuf,
        /// The node that wrote it.
        found: Option<NodeId>,
        /// This node.
        expected: Option<NodeId>,
    },
    /// The node was first started as one of other voters.
    #[error("{} was made for a cluster of nodes {found:?}, and this node is started for one of nodes {expected:?}; give it the list of peers that it was first started with, or another data directory", path.display())]
    OtherVoters {
        /// The file that says so.
        path: PathBuf,
        /// The voters that it names.
        found: Vec<NodeId>,
        /// Those of this start.
        expected: Vec<NodeId>,
    },
    /// A newer node wrote the file.
    #[error("{} has version {found}, and this build knows up to {known}: upgrade this node", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this build knows.
        known: u32,
    },
}

impl StoreError {
    pub(crate) fn io(attempt: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { attempt, path: path.to_owned(), source }
    }

    /// The error of a write that has been undone: one that may be tried again, if it was for lack of room.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            Self::NoSpace { path: path.to_owned(), source }
        } else {
            Self::io("write", path, source)
        }
    }
}

fn shown(node: Option<NodeId>) -> String {
    node.map_or("unknown".to_owned(), |node| node.to_string())
}
