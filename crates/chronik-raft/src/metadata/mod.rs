//! The metadata state machine: an immutable image, and the commands that give the next one.
//!
//! [`MetadataImage::apply`] is a total, deterministic function of an image and a batch of commands. It never
//! chooses: placement, leaders and ids are decided by whoever proposes. Its laws, asserted where they could break:
//!
//! - META-1: equal applied index ⇒ equal image.
//! - META-2: every change of a partition adds one to its partition epoch.
//! - META-3: `isr ⊆ replicas`; the leader is in the ISR, or there is none.
//! - META-4: a partition is assigned once.

mod apply;
mod command;
mod delta;
mod error;
mod image;
mod requests;
mod snapshot;

pub use apply::{Application, BatchOutcome, CommandOutput};
pub use command::{
    AllocateProducerIds, AssignPartition, BeginControlledShutdown, COMMANDS_PER_BATCH_MAX, Command,
    CommandBatch, CommandKind, CreateTopic, DeleteTopic, Endpoint, ExpectedConfig, FORMAT_VERSION_MAX,
    FenceBroker, RegisterBroker, RequestId, SetClusterId, SetConfig, SetFormatVersion, SetPartitionLeader,
    UnfenceBroker, UpdateIsr,
};
pub use delta::{Delta, PartitionChange};
pub use error::{ApplyError, CommandError};
pub use image::{BrokerImage, ConfigMap, ConfigResource, MetadataImage, PartitionImage, TopicImage};
pub(crate) use requests::Known;
pub use requests::REQUESTS_OUTSTANDING_MAX;
pub use snapshot::{SNAPSHOT_VERSION_MAX, SnapshotError};
