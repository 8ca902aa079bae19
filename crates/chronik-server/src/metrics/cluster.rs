//! The cluster as this node sees it: brokers, the quorum, and where partitions are.

use std::collections::BTreeMap;
use std::fmt;

use chronik_raft::metadata::MetadataImage;
use chronik_raft::{LATENCY_BUCKETS_MS, MetadataLog as _};
use chronik_types::NodeId;

use super::NodeSources;
use super::exposition::Exposition;
use super::process::seconds;

/// What a look at all partitions gives.
#[derive(Default)]
struct Placement {
    by_node: BTreeMap<NodeId, NodeShare>,
    partition_count: usize,
    replica_count: usize,
    in_sync_count: usize,
    leaderless_count: usize,
    not_preferred_count: usize,
    /// Of the partitions that this node leads.
    led: Led,
}

/// How many of each a node has.
#[derive(Default)]
struct NodeShare {
    replicas: usize,
    leaders: usize,
    in_sync: usize,
}

/// Name, help and value of a family.
type ShareFamily = (&'static str, &'static str, fn(&NodeShare) -> usize);

/// How many partitions are so.
#[derive(Default)]
struct Led {
    under_replicated: usize,
    under_min_isr: usize,
    at_min_isr: usize,
}

impl Placement {
    fn of(node: &NodeSources, image: &MetadataImage) -> Self {
        let own = node.broker.node_id();
        let mut found = Self::default();
        for broker in image.brokers() {
            found.by_node.entry(broker.id).or_default();
        }
        for topic in image.topics() {
            let min_isr = node.broker.min_insync_replicas_of(image, topic);
            for (_, partition) in topic.partitions() {
                found.partition_count += 1;
                found.replica_count += partition.replicas.len();
                found.in_sync_count += partition.isr.len();
                for replica in partition.replicas.iter() {
                    found.by_node.entry(*replica).or_default().replicas += 1;
                }
                for replica in partition.isr.iter() {
                    found.by_node.entry(*replica).or_default().in_sync += 1;
                }
                let Some(leader) = partition.leader else {
                    found.leaderless_count += 1;
                    continue;
                };
                found.by_node.entry(leader).or_default().leaders += 1;
                found.not_preferred_count += usize::from(partition.replicas.first() != Some(&leader));
                if leader == own {
                    let in_sync = partition.isr.len();
                    let min_isr = min_isr.min(partition.replicas.len());
                    found.led.under_replicated += usize::from(in_sync < partition.replicas.len());
                    found.led.under_min_isr += usize::from(in_sync < min_isr);
                    found.led.at_min_isr += usize::from(in_sync == min_isr);
                }
            }
        }
        found
    }
}

pub(super) fn tell(into: &mut Exposition<'_>, node: &NodeSources) -> fmt::Result {
    let image = node.metadata.image();
    let placement = Placement::of(node, &image);
    tell_brokers(into, node, &image)?;
    tell_quorum(into, node, &image)?;
    tell_controller(into, node, &image, &placement)?;
    tell_replicas(into, node, &placement)
}

fn tell_brokers(into: &mut Exposition<'_>, node: &NodeSources, image: &MetadataImage) -> fmt::Result {
    let is_controller = node.metadata.is_leader();
    let fenced_count = image.brokers().filter(|broker| broker.fenced).count();
    into.gauge(
        "chronik_brokers_registered",
        "Brokers that have registered, fenced ones included.",
        image.brokers().count(),
    )?;
    into.gauge("chronik_brokers_fenced", "Registered brokers that are out of service.", fenced_count)?;
    into.gauges("kafka_brokers", "Brokers in service; told by the controller.", |sample| {
        if is_controller { sample(&[], image.live_brokers().count()) } else { Ok(()) }
    })?;
    into.gauges("kafka_broker_info", "1 for each broker in service; told by the controller.", |sample| {
        for broker in image.live_brokers().filter(|_| is_controller) {
            let Some(endpoint) = broker.endpoints.first() else { continue };
            let address = format!("{}:{}", endpoint.host, endpoint.port);
            sample(&[("id", &broker.id.to_string()), ("address", &address)], 1_u64)?;
        }
        Ok(())
    })?;
    into.gauges("kafka_topic_partitions", "Partitions of a topic; told by the controller.", |sample| {
        for topic in image.topics().filter(|_| is_controller).take(super::SeriesLimits::default().topics_max)
        {
            sample(&[("topic", &topic.name)], topic.partition_count())?;
        }
        Ok(())
    })
}

fn tell_quorum(into: &mut Exposition<'_>, node: &NodeSources, image: &MetadataImage) -> fmt::Result {
    let quorum = node.metadata.quorum();
    let leader = quorum.leader.map_or(-1, |leader| i64::from(leader.get()));
    into.gauge(
        "chronik_controller_id",
        "The node that leads the metadata log, -1 where none is known.",
        leader,
    )?;
    into.gauge(
        "chronik_raft_is_leader",
        "1 where this node leads the metadata log.",
        u64::from(quorum.is_leader),
    )?;
    into.gauge("chronik_raft_term", "The term of the metadata log.", quorum.term.get())?;
    into.gauge(
        "chronik_raft_commit_index",
        "The last metadata entry known to be decided.",
        quorum.commit_index.get(),
    )?;
    into.gauge(
        "chronik_raft_applied_index",
        "The last metadata entry applied here.",
        quorum.applied_index.get(),
    )?;
    into.gauge("chronik_raft_voters", "Nodes that vote on metadata.", quorum.voters.len())?;
    into.gauge(
        "chronik_raft_learners",
        "Nodes that follow the metadata without a vote.",
        quorum.learners.len(),
    )?;
    let metrics = node.metadata.metrics();
    into.counter(
        "chronik_raft_elections_started",
        "Elections of a metadata leader that this node has started.",
        metrics.elections_started_count,
    )?;
    into.counter(
        "chronik_raft_elections_won",
        "Elections that this node has won.",
        metrics.elections_won_count,
    )?;
    into.counter(
        "chronik_raft_snapshots_written",
        "Snapshots of the metadata written.",
        metrics.snapshots_written_count,
    )?;
    into.counter(
        "chronik_raft_snapshots_installed",
        "Snapshots of the metadata taken from a leader.",
        metrics.snapshots_installed_count,
    )?;
    into.gauge("chronik_raft_log_bytes", "The size of the metadata log on disk.", metrics.log_bytes)?;
    into.gauge(
        "chronik_raft_proposals_in_flight",
        "Changes of the metadata that this node waits for.",
        metrics.proposals_in_flight_count,
    )?;
    into.histograms(
        "chronik_raft_proposal_duration_seconds",
        "From a change proposed on this node to its being applied here, refused ones included.",
        |sample| {
            let bounds = LATENCY_BUCKETS_MS.iter().map(|ms| seconds(*ms)).chain([f64::INFINITY]);
            let classes: Vec<(f64, u64)> = bounds.zip(metrics.proposal_latency_ms.counts).collect();
            sample(&[], seconds(metrics.proposal_latency_ms.sum_ms), &classes)
        },
    )?;
    into.gauges(
        "chronik_raft_replica_lag",
        "Metadata entries that a node's log is behind the leader's; told by the leader.",
        |sample| {
            let end = quorum.replicas.iter().map(|replica| replica.log_end_index.get()).max().unwrap_or(0);
            quorum.replicas.iter().try_for_each(|replica| {
                sample(&[("node", &replica.node.to_string())], end - replica.log_end_index.get().min(end))
            })
        },
    )?;
    into.gauge(
        "chronik_metadata_config_resources",
        "Resources with configs of their own.",
        image.config_resources().count(),
    )
}

fn tell_controller(
    into: &mut Exposition<'_>,
    node: &NodeSources,
    image: &MetadataImage,
    placement: &Placement,
) -> fmt::Result {
    let fenced_count = image.brokers().filter(|broker| broker.fenced).count();
    let gauges: [(&str, &str, usize); 7] = [
        (
            "activecontrollercount",
            "1 on the node that is the controller.",
            usize::from(node.metadata.is_leader()),
        ),
        ("activebrokercount", "Brokers in service.", image.live_brokers().count()),
        ("fencedbrokercount", "Registered brokers that are out of service.", fenced_count),
        ("globaltopiccount", "Topics of the cluster.", image.topic_count()),
        ("globalpartitioncount", "Partitions of the cluster.", placement.partition_count),
        ("offlinepartitionscount", "Partitions without a leader.", placement.leaderless_count),
        (
            "preferredreplicaimbalancecount",
            "Partitions whose leader is not the first of their replicas.",
            placement.not_preferred_count,
        ),
    ];
    for (name, help, value) in gauges {
        into.gauge(&format!("kafka_controller_kafkacontroller_{name}"), help, value)?;
    }
    let changes = node.broker.partition_changes();
    into.counter(
        "chronik_partition_elections",
        "Partitions of the cluster that got another leader while this process ran.",
        changes.elections,
    )?;
    into.counter(
        "kafka_controller_controllerstats_uncleanleaderelections",
        "Partitions that got a leader which was not in sync while this process ran.",
        changes.unclean_elections,
    )?;
    into.counter(
        "kafka_server_replicamanager_isrshrinks",
        "Times that replicas left the ISR of a partition of the cluster.",
        changes.isr_shrinks,
    )?;
    into.counter(
        "kafka_server_replicamanager_isrexpands",
        "Times that replicas came back into the ISR of a partition of the cluster.",
        changes.isr_expands,
    )
}

fn tell_replicas(into: &mut Exposition<'_>, node: &NodeSources, placement: &Placement) -> fmt::Result {
    let own = placement.by_node.get(&node.broker.node_id());
    let gauges: [(&str, &str, usize); 6] = [
        ("partitioncount", "Replicas on this node.", own.map_or(0, |share| share.replicas)),
        ("leadercount", "Partitions that this node leads.", own.map_or(0, |share| share.leaders)),
        (
            "underreplicatedpartitions",
            "Partitions led here with fewer replicas in sync than there are.",
            placement.led.under_replicated,
        ),
        (
            "underminisrpartitioncount",
            "Partitions led here with fewer replicas in sync than min.insync.replicas.",
            placement.led.under_min_isr,
        ),
        (
            "atminisrpartitioncount",
            "Partitions led here with just min.insync.replicas in sync.",
            placement.led.at_min_isr,
        ),
        ("offlinereplicacount", "Replicas here whose log could not be recovered.", node.logs.failed().len()),
    ];
    for (name, help, value) in gauges {
        into.gauge(&format!("kafka_server_replicamanager_{name}"), help, value)?;
    }
    into.gauge("chronik_replicas", "Replicas of all partitions of the cluster.", placement.replica_count)?;
    into.gauge("chronik_in_sync_replicas", "Those of them that are in sync.", placement.in_sync_count)?;
    let shares: [ShareFamily; 3] = [
        ("chronik_node_replicas", "Replicas assigned to a node.", |share| share.replicas),
        ("chronik_node_leaders", "Partitions that a node leads.", |share| share.leaders),
        ("chronik_node_in_sync_replicas", "Replicas on a node that are in sync.", |share| share.in_sync),
    ];
    for (name, help, value) in shares {
        into.gauges(name, help, |sample| {
            placement
                .by_node
                .iter()
                .try_for_each(|(id, share)| sample(&[("node", &id.to_string())], value(share)))
        })?;
    }
    Ok(())
}
