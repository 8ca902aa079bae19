//! What makes a node part of a cluster: settings that need one another, and what the list of peers says for them.

use std::path::PathBuf;

use super::advertise::Advertise;
use super::load::{ConfigError, Origin, Written};
use super::options::Config;
use super::peers::Peer;

impl Config {
    /// Finds half a cluster configuration, and one that contradicts its own list of peers.
    pub(super) fn check_cluster(&self) -> Result<(), ConfigError> {
        let values = &self.values;
        let written = |name: &str| values.written(name);
        // How the setting would be written in the place where its partner stands.
        let partner = |of: &str, name: &str| Written { origin: written(of).origin, name: name.to_owned() };
        let refuse = |text: String| Err(ConfigError::Contradiction(text));
        let Some(peers) = &self.cluster_peers else {
            if self.cluster_enabled {
                return refuse(format!(
                    "{} is 'true', but {} is not set; it should list all nodes of the cluster as \
                     host:kafka_port:raft_port, such as node1:9092:9093,node2:9092:9093,node3:9092:9093",
                    written("cluster.enabled"),
                    partner("cluster.enabled", "cluster.peers"),
                ));
            }
            if values.is_set("raft.port") {
                return refuse(format!(
                    "{} is '{}', but a single node has no such port; leave it out, or set {} to true and {} to the \
                     list of nodes",
                    written("raft.port"),
                    self.raft_port,
                    partner("raft.port", "cluster.enabled"),
                    partner("raft.port", "cluster.peers"),
                ));
            }
            return Ok(());
        };
        if !self.cluster_enabled {
            return refuse(format!(
                "{} is '{peers}', but {} is not true; set it to true for a cluster, or leave out the list for a \
                 single node",
                written("cluster.peers"),
                partner("cluster.peers", "cluster.enabled"),
            ));
        }
        let ids = || peers.as_slice().iter().map(|peer| peer.id.to_string()).collect::<Vec<_>>().join(", ");
        if written("node.id").origin == Origin::Default {
            return refuse(format!(
                "{} is not set, but {} is '{peers}'; it should say which node of the list this is, one of {}",
                partner("cluster.peers", "node.id"),
                written("cluster.peers"),
                ids(),
            ));
        }
        let Some(own) = peers.get(self.node_id) else {
            return refuse(format!(
                "{} is '{}', but {} is '{peers}', which has the nodes {}; write one of these, or add this node to \
                 the list as {}@host:kafka_port:raft_port",
                written("node.id"),
                self.node_id,
                written("cluster.peers"),
                ids(),
                self.node_id,
            ));
        };
        for (name, own_port, listed_port) in
            [("kafka.port", self.kafka_port, own.kafka_port), ("raft.port", self.raft_port, own.raft_port)]
        {
            if values.is_set(name) && own_port != listed_port {
                return refuse(format!(
                    "{} is '{own_port}', but {} gives node {} port {listed_port}; they should be the same, or {} \
                     be left out",
                    written(name),
                    written("cluster.peers"),
                    self.node_id,
                    written(name),
                ));
            }
        }
        Ok(())
    }

    /// Fills in what nobody set and the list of peers says.
    pub(super) fn take_from_peers(&mut self) {
        let Some(own) = self.own_peer().cloned() else { return };
        // Checked before: where they are set, they are the same.
        self.kafka_port = own.kafka_port;
        self.raft_port = own.raft_port;
        let advertise = self.advertise.get_or_insert(Advertise { host: own.host, port: None });
        advertise.port.get_or_insert(own.kafka_port);
        if !self.values.is_set("data.dir") {
            // Nodes that are started from one directory must not share their data. It lies beside the directory of a
            // single node and not within, where it would look like a partition.
            let mut name = std::mem::take(&mut self.data_dir).into_os_string();
            name.push(format!("-{}", own.id));
            self.data_dir = PathBuf::from(name);
        }
    }

    /// This node in the list of peers; `None` for a single node.
    pub fn own_peer(&self) -> Option<&Peer> {
        self.cluster_peers.as_ref()?.get(self.node_id)
    }
}
