//! How a broker enters the cluster, and where clients are told to find it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chronik_raft::ProposalDone;
use chronik_raft::metadata::{
    BrokerImage, CommandBatch, Endpoint, MetadataImage, RegisterBroker, SetClusterId, UnfenceBroker,
};

use chronik_types::{BrokerEpoch, MonotonicMs, NodeId, Now};

use crate::PreviousLife;
use crate::broker::Broker;
use crate::connection::Connection;

/// The name of the listener that every broker has.
const LISTENER: &str = "PLAINTEXT";
/// How long until a broker in whose place an earlier life of it is registered looks whether it still is.
const REGISTRATION_CHECK_MS: u64 = 500;
/// No broker is ever registered under it.
const UNKNOWN_EPOCH: i64 = -1;

impl Broker {
    /// Whether it makes sense to register now: the cluster has its name, or this node is the one to give it; and it can say
    /// whether its logs have lost something.
    pub fn may_register(&self) -> bool {
        let is_known = self.metadata.is_leader() || self.metadata.image().cluster_id().is_some();
        is_known && !self.waits_for_room()
    }

    /// Whether this node stays out of its cluster until there is room on its disk to recover its logs. Had it said already
    /// that they may have lost something, the cluster would go on without its copies, which may be the last; had it said
    /// that they have not, the cluster would count on what nobody has looked at.
    pub fn waits_for_room(&self) -> bool {
        self.is_in_cluster() && self.previous_life().is_some() && self.logs.waits_for_room()
    }

    /// What the logs hold, if nothing of it can have been lost since it was written.
    fn previous_life(&self) -> Option<&PreviousLife> {
        self.previous_life.as_ref().filter(|_| !self.logs.has_lost_records())
    }

    /// Whether this process, and not an earlier one of this node, is registered and in service.
    pub fn is_in_service(&self) -> bool {
        let image = self.metadata.image();
        let own = image.broker(self.node_id());
        own.is_some_and(|broker| broker.incarnation == self.incarnation && !broker.fenced)
    }

    /// The epoch of this process's registration, while it stands.
    pub fn registered_epoch(&self) -> Option<BrokerEpoch> {
        self.epoch_in(&self.metadata.image())
    }

    /// The epoch of this process's registration, if it stands in this image.
    pub fn epoch_in(&self, image: &MetadataImage) -> Option<BrokerEpoch> {
        let own = image.broker(self.node_id()).filter(|own| own.incarnation == self.incarnation);
        own.map(|own| own.epoch)
    }

    /// Registers this broker anew where the image shows an earlier life of it: a message of that life that was late has
    /// put it back, and nobody would hear of this one. Says when to look again, for as long as that is so: the proposal
    /// may fail.
    pub(crate) fn mind_registration(
        self: &Arc<Self>,
        now: Now,
        image: &MetadataImage,
    ) -> Option<MonotonicMs> {
        let is_ours =
            image.broker(self.node_id()).is_none_or(|broker| broker.incarnation == self.incarnation);
        if is_ours || !self.has_registered.load(Ordering::Acquire) {
            return None;
        }
        let again = Some(now.monotonic.plus_ms(REGISTRATION_CHECK_MS));
        if self.is_registering.swap(true, Ordering::AcqRel) {
            return again;
        }
        tracing::warn!("An earlier life of this node is registered in its place; registering again");
        let broker = Arc::clone(self);
        self.register(Box::new(move |outcome| {
            if let Err(error) = outcome {
                tracing::debug!("Registration is tried again: {error}");
            }
            broker.is_registering.store(false, Ordering::Release);
        }));
        again
    }

    /// Registers this broker; names the cluster where it has no name yet. `done` is called once this is so. A single
    /// node is in service then; in a cluster the controller puts it into service when it has heard of it.
    pub fn register(&self, done: ProposalDone) {
        self.has_registered.store(true, Ordering::Release);
        let (host, port) = self.config.advertised.as_ref().unwrap_or(&self.config.reached_at);
        let endpoint = Endpoint {
            listener: LISTENER.to_owned(),
            host: host.clone(),
            port: u32::from(*port),
            security_protocol: 0,
        };
        let external = self.config.external_endpoints.iter().map(|external| Endpoint {
            listener: external.listener.clone(),
            host: external.host.clone(),
            port: u32::from(external.port),
            security_protocol: 0,
        });
        let endpoints = std::iter::once(endpoint).chain(external).collect();
        let mut registration = RegisterBroker::new(self.node_id(), self.incarnation, endpoints);
        registration.rack.clone_from(&self.config.rack);
        if self.is_in_cluster() {
            // A node without others has no better copy of anything.
            let previous = self.previous_life();
            registration.previous_broker_epoch =
                Some(previous.map_or(UNKNOWN_EPOCH, |life| life.epoch.get()));
            let incarnations = previous.iter().flat_map(|life| &life.incarnations);
            registration.previous_incarnations = incarnations.copied().map(Into::into).collect();
        }
        let mut commands = Vec::new();
        if self.metadata.image().cluster_id().is_none() {
            commands.push(SetClusterId::new(self.random.uuid().to_string()).into());
        }
        commands.push(registration.into());
        if !self.is_in_cluster() {
            commands.push(UnfenceBroker::new(self.node_id(), None).into());
        }
        self.metadata.set_broker_incarnation(self.incarnation);
        self.metadata.propose(CommandBatch::new(commands), done);
    }

    /// Where the client behind `connection` finds a broker. This broker, unless it advertises something else, is
    /// found where that client has found it already: it works for every name and address that leads here. A client
    /// that came by a listener with a name of its own is told what brokers advertise for that name, and nothing of
    /// brokers that have no such listener.
    pub(crate) fn endpoint_for(
        &self,
        registered: &BrokerImage,
        connection: &Connection,
    ) -> Option<(String, i32)> {
        if let Some(listener) = &connection.listener {
            let endpoint = registered.endpoints.iter().find(|endpoint| *endpoint.listener == **listener)?;
            return Some((endpoint.host.clone(), i32::try_from(endpoint.port).ok()?));
        }
        if registered.id == self.node_id() && self.config.advertised.is_none() {
            let host = match connection.local.ip() {
                IpAddr::V4(address) => address.to_string(),
                // A socket that listens on IPv6 shows IPv4 clients in this form; they want to hear their own.
                IpAddr::V6(address) => match address.to_ipv4_mapped() {
                    Some(mapped) => mapped.to_string(),
                    None => address.to_string(),
                },
            };
            return Some((host, i32::from(connection.local.port())));
        }
        let endpoint = registered.endpoints.first()?;
        Some((endpoint.host.clone(), i32::try_from(endpoint.port).ok()?))
    }

    /// The node that clients are to take for the controller: the one that leads the metadata log. While there is
    /// none in service it is this one, which finds it when there is; −1 where this one is not in service either.
    pub(crate) fn controller_id(&self, image: &MetadataImage) -> i32 {
        let leader = self.metadata.quorum().leader;
        let is_live = |node: &NodeId| image.broker(*node).is_some_and(|broker| !broker.fenced);
        leader.filter(is_live).or(Some(self.node_id()).filter(is_live)).map_or(-1, NodeId::get)
    }
}
