//! Whether this node lives, and whether it is ready for clients.
//!
//! A node lives while its metadata thread still turns; nothing else can stop unnoticed, because a thread that panics
//! ends the process. It is ready once it has recovered its logs, is registered and in service, and knows what the
//! cluster has decided.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use chronik_raft::MetadataLog as _;
use chronik_types::MonotonicMs;
use serde_json::{Value, json};

use crate::metrics::NodeSources;

/// A node this many metadata entries behind what it knows to be decided is not ready. An idle node is behind by none;
/// one that follows a busy controller by some dozens.
pub const ENTRIES_BEHIND_MAX: u64 = 1_000;

/// How far the life of the node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The metadata log is read.
    OpeningMetadata,
    /// The partitions' logs are recovered.
    RecoveringLogs,
    /// The node waits for its cluster and to be registered in it.
    Registering,
    /// Clients are served.
    Serving,
    /// The process is about to end.
    Stopping,
}

/// How far this node has come; set by whoever brings it there.
#[derive(Default)]
pub struct Health {
    step: AtomicU8,
    recovered_count: AtomicUsize,
    to_recover_count: AtomicUsize,
    /// When the metadata thread last turned, in milliseconds of the monotonic clock.
    /// One more than the time, so that 0 is never.
    turned_at_ms: AtomicU64,
    wake_metadata: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("step", &self.step()).finish_non_exhaustive()
    }
}

impl Health {
    /// Goes on to a later step; steps are never taken back.
    pub fn enter(&self, step: Step) {
        self.step.fetch_max(step as u8, Ordering::Relaxed);
    }

    /// Where the node is.
    pub fn step(&self) -> Step {
        match self.step.load(Ordering::Relaxed) {
            0 => Step::OpeningMetadata,
            1 => Step::RecoveringLogs,
            2 => Step::Registering,
            3 => Step::Serving,
            _ => Step::Stopping,
        }
    }

    /// Says how many partitions there are to recover.
    pub fn recovering(&self, partition_count: usize) {
        self.to_recover_count.store(partition_count, Ordering::Relaxed);
        self.enter(Step::RecoveringLogs);
    }

    /// Says that one more of them has been recovered.
    pub fn recovered_one(&self) {
        self.recovered_count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many partitions have been recovered, and how many there are in all.
    pub fn recovery(&self) -> (usize, usize) {
        (self.recovered_count.load(Ordering::Relaxed), self.to_recover_count.load(Ordering::Relaxed))
    }

    /// Says that the metadata thread has turned.
    pub fn metadata_turned(&self, now: MonotonicMs) {
        self.turned_at_ms.fetch_max(now.0.saturating_add(1), Ordering::Relaxed);
    }

    /// Says how to have the metadata thread turn. Only the first call counts.
    pub fn set_metadata_waker(&self, wake: Box<dyn Fn() + Send + Sync>) {
        // There is one metadata thread.
        drop(self.wake_metadata.set(wake));
    }

    /// Asks the metadata thread to turn; false where there is none yet.
    pub fn ask_metadata(&self) -> bool {
        let wake = self.wake_metadata.get();
        if let Some(wake) = wake {
            wake();
        }
        wake.is_some()
    }

    /// Whether the metadata thread has turned at `moment` or later.
    pub fn has_turned_since(&self, moment: MonotonicMs) -> bool {
        moment.0 < self.turned_at_ms.load(Ordering::Relaxed)
    }

    /// Whether the node is ready for clients.
    pub fn readiness(&self, node: Option<&NodeSources>) -> Readiness {
        let (recovered, to_recover) = self.recovery();
        let recovery = json!({ "partitions_recovered": recovered, "partitions": to_recover });
        let refusal = match (self.step(), node) {
            (Step::OpeningMetadata, _) => Some(("starting", "the metadata log is being read".to_owned())),
            (Step::RecoveringLogs, _) => {
                Some(("recovering", format!("{recovered} of {to_recover} partitions have been recovered")))
            }
            (Step::Stopping, _) => Some(("stopping", "the process is about to end".to_owned())),
            (Step::Registering | Step::Serving, None) => {
                Some(("starting", "the broker is being put together".to_owned()))
            }
            (Step::Registering, Some(node)) => Some(not_in_service(node).unwrap_or((
                "registering",
                "the broker is registered and waits for its cluster to be set up".to_owned(),
            ))),
            (Step::Serving, Some(node)) => not_in_service(node),
        };
        let mut body = json!({ "recovery": recovery });
        if let Some(fields) = body.as_object_mut() {
            if let Some(node) = node {
                let quorum = node.metadata.quorum();
                fields.insert("node_id".to_owned(), json!(node.broker.node_id().get()));
                fields.insert("cluster_id".to_owned(), json!(node.metadata.image().cluster_id()));
                fields.insert(
                    "metadata".to_owned(),
                    json!({
                        "controller_id": quorum.leader.map(chronik_types::NodeId::get),
                        "term": quorum.term.get(),
                        "commit_index": quorum.commit_index.get(),
                        "applied_index": quorum.applied_index.get(),
                    }),
                );
            }
            match &refusal {
                None => {
                    fields.insert("status".to_owned(), json!("ready"));
                }
                Some((reason, message)) => {
                    fields.insert("status".to_owned(), json!("not ready"));
                    fields.insert("reason".to_owned(), json!(reason));
                    fields.insert("message".to_owned(), json!(message));
                }
            }
        }
        Readiness { is_ready: refusal.is_none(), body }
    }
}

/// The answer to whether a node is ready.
#[derive(Clone, Debug, PartialEq)]
pub struct Readiness {
    /// Whether it is.
    pub is_ready: bool,
    /// What is told, with the reason where it is not.
    pub body: Value,
}

/// Why clients must not be sent to a node that runs, if so: a word for machines and a sentence for people.
fn not_in_service(node: &NodeSources) -> Option<(&'static str, String)> {
    let image = node.metadata.image();
    let quorum = node.metadata.quorum();
    if quorum.leader.is_none() {
        let message = "no controller is known: no majority of the cluster's voters is reached";
        return Some(("no_controller", message.to_owned()));
    }
    match node.broker.registration(&image) {
        None => {
            return Some(("not_registered", "the broker is not registered in its cluster yet".to_owned()));
        }
        Some(true) => {
            return Some(("fenced", "the controller has taken the broker out of service".to_owned()));
        }
        Some(false) => {}
    }
    let behind = quorum.commit_index.get().saturating_sub(quorum.applied_index.get());
    if behind > ENTRIES_BEHIND_MAX {
        return Some(("catching_up", format!("{behind} metadata entries are still to be applied")));
    }
    let offline = node.logs.offline_dirs();
    if let Some((path, reason)) = offline.first() {
        return Some(("log_dir_offline", format!("{} is offline: {reason}", path.display())));
    }
    None
}
