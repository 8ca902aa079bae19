//! What Prometheus is told of this node.
//!
//! Counters lie where things are counted, as plain atomic numbers; a scrape reads them, and whatever else it tells is
//! read from the metadata image and the logs at that moment. Nothing is kept up to date between scrapes.
//!
//! Names come from three places, so that dashboards that exist keep working: those that a JMX exporter gives to Kafka's
//! own metrics (`kafka_server_…`, `kafka_controller_…`, `kafka_network_…`, `kafka_log_…`), those of `kafka_exporter`
//! (`kafka_brokers`, `kafka_topic_…`, `kafka_consumergroup_…`), and `chronik_…` for the rest. What `kafka_exporter` tells
//! of a whole cluster is told here by one node each: a partition's series by its leader, a group's by its coordinator,
//! the others by the controller. So the nodes of a cluster together tell each thing once.

mod cluster;
mod exposition;
mod groups;
mod partitions;
mod process;
mod requests;
mod rows;
mod sockets;
mod traffic;

use std::fmt;
use std::sync::{Arc, OnceLock};

use chronik_broker::Broker;
use chronik_log::LogManager;
use chronik_raft::RaftHandle;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use crate::clock::Clock;
use crate::health::Health;
use crate::net::Gauges;

pub use exposition::{OPENMETRICS, PLAIN};
pub use requests::{API_KEYS_MAX, ApiStats, LATENCY_BOUNDS_US, Outcome, RequestStats};
pub use rows::SeriesLimits;

use exposition::Exposition;
use rows::Omitted;

/// The parts of a node that are asked at each scrape.
#[derive(Clone)]
pub struct NodeSources {
    /// The broker.
    pub broker: Arc<Broker>,
    /// Its logs.
    pub logs: Arc<LogManager>,
    /// Its metadata log.
    pub metadata: RaftHandle,
}

impl fmt::Debug for NodeSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeSources").finish_non_exhaustive()
    }
}

/// All that is told of this process. It is there before the node is, and learns of its parts as they come.
#[derive(Debug)]
pub struct Telemetry {
    /// How far the node has come.
    pub health: Arc<Health>,
    /// The counters of connections and requests.
    pub requests: Arc<RequestStats>,
    clock: Clock,
    limits: SeriesLimits,
    node: OnceLock<NodeSources>,
    sockets: OnceLock<Gauges>,
}

impl Telemetry {
    /// Of a process that serves its connections with so many threads.
    pub fn new(clock: Clock, network_thread_count: usize) -> Arc<Self> {
        Self::with_limits(clock, network_thread_count, SeriesLimits::default())
    }

    /// The same, with other bounds on what is told.
    pub fn with_limits(clock: Clock, network_thread_count: usize, limits: SeriesLimits) -> Arc<Self> {
        Arc::new(Self {
            health: Arc::default(),
            requests: Arc::new(RequestStats::new(network_thread_count)),
            clock,
            limits,
            node: OnceLock::new(),
            sockets: OnceLock::new(),
        })
    }

    /// Learns of the node. Only the first call counts.
    pub fn set_node(&self, node: NodeSources) {
        // There is one node in a process.
        drop(self.node.set(node));
    }

    /// Learns of the sockets. Only the first call counts.
    pub fn set_sockets(&self, sockets: Gauges) {
        // There is one listener in a process.
        drop(self.sockets.set(sockets));
    }

    /// The node, once it is there.
    pub fn node(&self) -> Option<&NodeSources> {
        self.node.get()
    }

    /// The clock of the process.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Writes everything down, in the `OpenMetrics` format or in the older one.
    pub fn expose(self: &Arc<Self>, as_openmetrics: bool) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(NodeCollector(Arc::clone(self))));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(if as_openmetrics { text } else { exposition::plain(&text) })
    }
}

#[derive(Debug)]
struct NodeCollector(Arc<Telemetry>);

impl Collector for NodeCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let telemetry = &*self.0;
        let mut into = Exposition::new(encoder);
        process::tell(&mut into, telemetry)?;
        sockets::tell(&mut into, &telemetry.requests, telemetry.sockets.get())?;
        let Some(node) = telemetry.node() else { return Ok(()) };
        let mut omitted = Omitted::default();
        cluster::tell(&mut into, node)?;
        traffic::tell(&mut into, node, &telemetry.limits, &mut omitted)?;
        partitions::tell(&mut into, node, &telemetry.limits, &mut omitted)?;
        groups::tell(&mut into, node, &telemetry.limits, &mut omitted)?;
        omitted.tell(&mut into)
    }
}
