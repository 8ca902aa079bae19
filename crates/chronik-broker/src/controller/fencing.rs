//! Who is in service: what the leader of the metadata log hears of the brokers becomes fencing and unfencing.
//!
//! | heard | command | together with |
//! |---|---|---|
//! | `Silent`: not heard of for the session timeout | `FenceBroker` | what its partitions need |
//! | `Gone`: its process has ended | `FenceBroker` | what its partitions need |
//! | `Returned`: fenced, heard of, and up to date | `UnfenceBroker` | |
//!
//! All that was heard at once becomes one proposal, so that no image shows a broker fenced and its partitions not yet
//! seen to. What is lost on the way is heard again.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_raft::metadata::{Command, CommandBatch, FenceBroker, MetadataImage, UnfenceBroker};
use chronik_raft::{LivenessChange, ProposeError};
use chronik_types::{NodeId, Term};

use crate::broker::Broker;

use super::elections::{Leaving, elections};

/// How often fencing is planned anew because partitions changed meanwhile. After that brokers are fenced alone, and the
/// controller's oversight moves their partitions.
pub(super) const PLANS_MAX: u32 = 10;

impl Broker {
    /// The leader of the metadata log, which is this node in `term`, has heard what the image does not say yet.
    /// Called on the metadata log's own thread.
    pub fn liveness_changed(self: &Arc<Self>, term: Term, changes: &[LivenessChange]) {
        self.propose_fencing(term, changes.to_vec(), PLANS_MAX);
    }

    fn propose_fencing(self: &Arc<Self>, term: Term, changes: Vec<LivenessChange>, plans_left: u32) {
        let image = self.metadata.image();
        let mut commands = fencing_commands(&image, &changes);
        if commands.is_empty() {
            return;
        }
        let fenced: BTreeSet<NodeId> = changes
            .iter()
            .filter(|change| !matches!(change, LivenessChange::Returned { .. }))
            .map(|change| change.node())
            .collect();
        if plans_left > 0 {
            // Before anybody is back in service: a broker that was away leaves the ISRs first, whatever it has lost.
            let leaving = Leaving { fenced, ..Leaving::default() };
            let moves = elections(&image, &leaving, &|topic| self.topic_rules(&image, topic));
            if !moves.is_empty() {
                tracing::debug!("Moving partitions to brokers in service: {} changes", moves.len());
            }
            let first_return = commands.iter().position(|command| command.name() == "UnfenceBroker");
            let place = first_return.unwrap_or(commands.len());
            commands.splice(place..place, moves);
        }
        let broker = Arc::clone(self);
        self.metadata.propose_as_leader(
            term,
            CommandBatch::new(commands),
            Box::new(move |outcome| match outcome {
                Ok(_) => {}
                // A partition has changed since the image that this was planned on.
                Err(ProposeError::Refused { .. }) if plans_left > 0 => {
                    broker.propose_fencing(term, changes, plans_left - 1);
                }
                Err(error) => tracing::debug!("Fencing is tried again when it is heard again: {error}"),
            }),
        );
    }
}

/// The commands that make the image say what was heard. Each is for the broker's present epoch: one that registers
/// anew meanwhile is another process, of which nothing was heard yet.
fn fencing_commands(image: &MetadataImage, changes: &[LivenessChange]) -> Vec<Command> {
    let mut commands = Vec::with_capacity(changes.len());
    // Whoever returns comes last.
    let mut changes: Vec<&LivenessChange> = changes.iter().collect();
    changes.sort_by_key(|change| matches!(change, LivenessChange::Returned { .. }));
    for change in changes {
        let Some(broker) = image.broker(change.node()) else { continue };
        let epoch = Some(broker.epoch);
        match change {
            LivenessChange::Silent { node } if !broker.fenced => {
                tracing::info!("Fencing broker {node}: it was not heard of for the session timeout");
                commands.push(FenceBroker::new(*node, epoch).into());
            }
            LivenessChange::Gone { node } if !broker.fenced => {
                tracing::info!("Fencing broker {node}: its process has ended");
                commands.push(FenceBroker::new(*node, epoch).into());
            }
            LivenessChange::Returned { node } if broker.fenced => {
                tracing::info!("Unfencing broker {node}");
                commands.push(UnfenceBroker::new(*node, epoch).into());
            }
            LivenessChange::Silent { .. } | LivenessChange::Gone { .. } | LivenessChange::Returned { .. } => {
            }
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use chronik_raft::metadata::{Endpoint, RegisterBroker};
    use chronik_raft::{InMemoryMetadata, MetadataLog as _};
    use chronik_types::NodeId;

    use super::*;

    fn image(brokers: &[(i32, bool)]) -> Arc<MetadataImage> {
        let log = InMemoryMetadata::new(NodeId(1));
        for (id, fenced) in brokers {
            let endpoint = Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "h".to_owned(),
                port: 1,
                security_protocol: 0,
            };
            let mut commands = vec![RegisterBroker::new(NodeId(*id), 1, vec![endpoint]).into()];
            if !fenced {
                commands.push(UnfenceBroker::new(NodeId(*id), None).into());
            }
            log.propose(CommandBatch::new(commands), Box::new(|outcome| assert!(outcome.is_ok())));
        }
        log.image()
    }

    fn check(change: LivenessChange, expected: &[&str]) {
        let image = image(&[(1, false), (2, true)]);
        let names: Vec<&str> = fencing_commands(&image, &[change]).iter().map(Command::name).collect();
        assert_eq!(names, expected, "{change:?}");
    }

    #[test]
    fn what_is_heard_becomes_a_command_unless_the_image_says_it_already() {
        let node = NodeId;
        check(LivenessChange::Silent { node: node(1) }, &["FenceBroker"]);
        check(LivenessChange::Gone { node: node(1) }, &["FenceBroker"]);
        check(LivenessChange::Returned { node: node(2) }, &["UnfenceBroker"]);
        check(LivenessChange::Silent { node: node(2) }, &[]);
        check(LivenessChange::Gone { node: node(2) }, &[]);
        check(LivenessChange::Returned { node: node(1) }, &[]);
        check(LivenessChange::Gone { node: node(3) }, &[]);
    }

    #[test]
    fn all_that_is_heard_at_once_is_one_proposal_for_the_present_epochs() {
        let image = image(&[(1, false), (2, true), (3, false)]);
        let heard = [
            LivenessChange::Gone { node: NodeId(1) },
            LivenessChange::Returned { node: NodeId(2) },
            LivenessChange::Silent { node: NodeId(3) },
        ];
        let epoch = |id| image.broker(NodeId(id)).map(|broker| broker.epoch);
        let expected: Vec<Command> = vec![
            FenceBroker::new(NodeId(1), epoch(1)).into(),
            FenceBroker::new(NodeId(3), epoch(3)).into(),
            UnfenceBroker::new(NodeId(2), epoch(2)).into(),
        ];
        assert_eq!(fencing_commands(&image, &heard), expected);
    }
}
