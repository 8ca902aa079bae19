//! What clients write and read, as Kafka's `BrokerTopicMetrics`: in all, and by topic.

use std::fmt;

use chronik_broker::Traffic;

use super::NodeSources;
use super::exposition::Exposition;
use super::rows::{Omitted, SeriesLimits};

/// Name, help and value of each family.
type Family = (&'static str, &'static str, fn(&Traffic) -> u64);

const FAMILIES: [Family; 7] = [
    ("messagesin", "Records appended.", |traffic| traffic.messages_in),
    ("bytesin", "Bytes of record batches appended.", |traffic| traffic.bytes_in),
    ("bytesout", "Bytes of record batches given to consumers.", |traffic| traffic.bytes_out),
    (
        "totalproducerequests",
        "Batches that were to be appended, one for each partition of a request.",
        |traffic| traffic.produce_requests,
    ),
    ("failedproducerequests", "Batches that could not be appended.", |traffic| {
        traffic.failed_produce_requests
    }),
    ("totalfetchrequests", "Reads, one for each partition of a fetch.", |traffic| traffic.fetch_requests),
    ("failedfetchrequests", "Reads that failed.", |traffic| traffic.failed_fetch_requests),
];

pub(super) fn tell(
    into: &mut Exposition<'_>,
    node: &NodeSources,
    limits: &SeriesLimits,
    omitted: &mut Omitted,
) -> fmt::Result {
    let traffic = node.broker.traffic();
    omitted.note("topic", traffic.topics.len().saturating_sub(limits.topics_max));
    for (name, help, value) in FAMILIES {
        into.counters(&format!("kafka_server_brokertopicmetrics_{name}"), help, |sample| {
            sample(&[], value(&traffic.total))?;
            for (topic, traffic) in traffic.topics.iter().take(limits.topics_max) {
                sample(&[("topic", topic)], value(traffic))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
