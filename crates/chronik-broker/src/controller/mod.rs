//! What the controller decides before it proposes: names, ids, placement, who is registered.
//!
//! The metadata state machine never chooses. Everything that is a choice is made here, by the node that leads the
//! metadata log, and put into commands.

mod change_lines;
mod controlled_shutdown;
mod duties;
mod elections;
mod fencing;
mod forwarding;
mod log_lines;
mod ordered_elections;
mod oversight;
mod placement;
mod registration;
mod topic_creation;

pub(crate) use change_lines::ChangeLines;
pub use controlled_shutdown::HandedOver;
pub(crate) use duties::Duties;
pub use forwarding::{Answered, ControllerLink};
pub(crate) use log_lines::AssignmentLines;
pub(crate) use ordered_elections::{ElectionError, ElectionType, OrderedElections};
pub(crate) use oversight::Oversight;
pub(crate) use placement::{check_manual, place};
pub(crate) use topic_creation::{
    CreationError, NewTopic, PARTITIONS_PER_REQUEST_MAX, PlannedTopic, assignment_commands,
};

/// The first topic of every cluster: it shows that partitions can be assigned.
pub(crate) const META_TOPIC: &str = "__meta";

/// Topics that belong to the broker itself.
const INTERNAL_TOPICS: &[&str] =
    &[META_TOPIC, "__consumer_offsets", "__transaction_state", "__share_group_state"];

/// Whether a topic belongs to the broker itself.
pub(crate) fn is_internal_topic(name: &str) -> bool {
    INTERNAL_TOPICS.contains(&name)
}
