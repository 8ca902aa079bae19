//! Brokers: registration, fencing, and the producer ids that they are given.

use std::sync::Arc;

use chronik_types::{BrokerEpoch, NodeId, ProducerId};

use super::{CommandOutput, Draft};
use crate::metadata::command::{AllocateProducerIds, BeginControlledShutdown, RegisterBroker};
use crate::metadata::error::CommandError;
use crate::metadata::image::BrokerImage;

impl Draft<'_> {
    pub(super) fn register_broker(
        &mut self,
        command: &RegisterBroker,
    ) -> Result<CommandOutput, CommandError> {
        let id = NodeId(command.broker_id);
        let invalid =
            |reason: &str| CommandError::InvalidRegistration { node: id, reason: reason.to_owned() };
        if command.broker_id < 0 {
            return Err(invalid("a node id is not negative"));
        }
        if command.endpoints.is_empty() {
            return Err(invalid("it listens nowhere"));
        }
        for endpoint in &command.endpoints {
            if endpoint.host.is_empty() {
                return Err(invalid("an endpoint has no host"));
            }
            if !(1..=65535).contains(&endpoint.port) {
                return Err(invalid("an endpoint's port is outside 1 to 65535"));
            }
        }
        let incarnation = command.incarnation();
        if let Some(known) = self.next.brokers.get(&id)
            && known.incarnation == incarnation
            && known.endpoints == command.endpoints
            && known.rack == command.rack
        {
            return Ok(CommandOutput::BrokerRegistered { epoch: known.epoch });
        }
        if let (Some(known), Some(previous)) = (self.next.brokers.get(&id), command.previous_broker_epoch)
            && known.epoch.get() != previous
            && !command.previous_incarnations.contains(&known.incarnation.into())
        {
            self.lose_records_of(id)?;
        }
        let epoch = BrokerEpoch(i64::try_from(self.next.applied_index.get()).unwrap_or(i64::MAX));
        let broker = BrokerImage {
            id,
            epoch,
            incarnation,
            endpoints: command.endpoints.clone(),
            rack: command.rack.clone(),
            fenced: true,
            in_controlled_shutdown: false,
        };
        self.next.brokers.insert_mut(id, Arc::new(broker));
        self.touched.brokers.insert(id);
        Ok(CommandOutput::BrokerRegistered { epoch })
    }

    pub(super) fn set_fenced(
        &mut self,
        broker_id: i32,
        broker_epoch: Option<i64>,
        fenced: bool,
    ) -> Result<CommandOutput, CommandError> {
        let broker = self.broker(NodeId(broker_id), broker_epoch)?;
        if broker.fenced != fenced {
            let changed = BrokerImage { fenced, ..BrokerImage::clone(broker) };
            self.touched.brokers.insert(changed.id);
            self.next.brokers.insert_mut(changed.id, Arc::new(changed));
        }
        Ok(CommandOutput::Done)
    }

    pub(super) fn begin_controlled_shutdown(
        &mut self,
        command: &BeginControlledShutdown,
    ) -> Result<CommandOutput, CommandError> {
        let broker = self.broker(NodeId(command.broker_id), Some(command.broker_epoch))?;
        if !broker.in_controlled_shutdown {
            let changed = BrokerImage { in_controlled_shutdown: true, ..BrokerImage::clone(broker) };
            self.touched.brokers.insert(changed.id);
            self.next.brokers.insert_mut(changed.id, Arc::new(changed));
        }
        Ok(CommandOutput::Done)
    }

    pub(super) fn allocate_producer_ids(
        &mut self,
        command: &AllocateProducerIds,
    ) -> Result<CommandOutput, CommandError> {
        self.broker(NodeId(command.broker_id), Some(command.broker_epoch))?;
        let first = self.next.next_producer_id;
        let after = first.get().checked_add(i64::from(command.count)).filter(|_| 0 < command.count);
        let after = after.ok_or(CommandError::InvalidProducerIdBlock { count: command.count })?;
        self.next.next_producer_id = ProducerId(after);
        Ok(CommandOutput::ProducerIdsAllocated { first, count: command.count })
    }

    /// A registered broker, if its epoch is the one meant.
    fn broker(&self, node: NodeId, epoch: Option<i64>) -> Result<&Arc<BrokerImage>, CommandError> {
        let broker = self.next.brokers.get(&node).ok_or(CommandError::UnknownBroker { node })?;
        match epoch {
            Some(proposed) if proposed != broker.epoch.get() => {
                Err(CommandError::StaleBrokerEpoch { node, proposed, current: broker.epoch.get() })
            }
            Some(_) | None => Ok(broker),
        }
    }
}
