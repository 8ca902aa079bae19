//! A broker that is told to end hands over what it leads before it does (KIP-841).
//!
//! One proposal says that the broker is about to stop, gives its partitions to others that have them in sync, and takes
//! it out of the ISRs in which others remain. From then on nothing is waited for on its account, so that its end is no
//! event for anybody. What nobody else has in sync it leads until the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_raft::ProposeError;
use chronik_raft::metadata::{BeginControlledShutdown, Command, CommandBatch, MetadataImage};

use crate::broker::Broker;

use super::elections::{Leaving, TopicRules, elections};
use super::fencing::PLANS_MAX;

/// Called once with the number of partitions that this broker still leads, or with why nothing was handed over.
pub type HandedOver = Box<dyn FnOnce(Result<usize, ProposeError>) + Send>;

impl Broker {
    /// Hands over what this broker leads. `done` is called when this node has applied that: whoever waits for a
    /// partition that moved has been told the new leader by then. A broker that is not registered has nothing to hand
    /// over.
    pub fn hand_over(self: &Arc<Self>, done: HandedOver) {
        let broker = Arc::clone(self);
        // The newest image saves a plan that would meet other partition epochs.
        self.with_fresh_image(move |image| match image {
            Ok(image) => broker.propose_hand_over(&image, PLANS_MAX, done),
            Err(error) => done(Err(error)),
        });
    }

    fn propose_hand_over(self: &Arc<Self>, image: &MetadataImage, plans_left: u32, done: HandedOver) {
        let own = image.broker(self.node_id()).filter(|own| own.incarnation == self.incarnation);
        let Some(own) = own else { return done(Ok(0)) };
        let mut commands: Vec<Command> = vec![BeginControlledShutdown::new(own.id, own.epoch).into()];
        if plans_left > 0 {
            // Nobody is elected here who lacks anything: the broker can still do better than that.
            let leaving = Leaving { stopping: BTreeSet::from([own.id]), ..Leaving::default() };
            let rules = |topic: &Arc<str>| TopicRules {
                is_unclean_allowed: false,
                min_insync: self.min_insync_replicas(image, topic),
            };
            commands.extend(elections(image, &leaving, &rules));
        }
        let broker = Arc::clone(self);
        self.metadata.propose(
            CommandBatch::new(commands),
            Box::new(move |outcome| match outcome {
                Ok(_) => done(Ok(led_by(&broker))),
                // A partition has changed since the image that this was planned on. After the last plan the broker
                // only says that it stops, and the controller's oversight moves its partitions.
                Err(ProposeError::Refused { .. }) if plans_left > 0 => {
                    let image = broker.metadata.image();
                    broker.propose_hand_over(&image, plans_left - 1, done);
                }
                Err(error) => done(Err(error)),
            }),
        );
    }
}

/// How many partitions this broker leads.
fn led_by(broker: &Broker) -> usize {
    let image = broker.metadata.image();
    let partitions = image.topics().flat_map(|topic| topic.partitions());
    partitions.filter(|(_, state)| state.leader == Some(broker.node_id())).count()
}
