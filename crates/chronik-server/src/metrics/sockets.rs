//! Connections, requests and the memory that they hold.

use std::fmt;

use chronik_broker::OFFERS;

use super::exposition::Exposition;
use super::requests::{ApiStats, LATENCY_BOUNDS_US, RequestStats};
use crate::net::Gauges;

/// The name that requests of unknown APIs are told under.
const UNKNOWN: &str = "Unknown";

/// Name, help and value of a family.
type Family = (&'static str, &'static str, fn(&ApiStats) -> u64);

pub(super) fn tell(into: &mut Exposition<'_>, stats: &RequestStats, sockets: Option<&Gauges>) -> fmt::Result {
    let (accepted, refused) = stats.connections();
    into.counter("chronik_connections_accepted", "Clients that were let in.", accepted)?;
    into.counter("chronik_connections_refused", "Clients sent away by max.connections.per.ip.", refused)?;
    if let Some(sockets) = sockets {
        into.gauge(
            "kafka_server_socketservermetrics_connection_count",
            "Clients that are connected.",
            sockets.connection_count(),
        )?;
        into.gauge(
            "chronik_request_memory_bytes",
            "Bytes of requests and unsent answers of all connections.",
            sockets.bytes_in_flight(),
        )?;
        into.gauge(
            "chronik_request_memory_max_bytes",
            "What they may come to (queued.max.request.bytes).",
            sockets.bytes_in_flight_max(),
        )?;
        into.gauge(
            "chronik_request_memory_waiting",
            "Connections that wait for that memory.",
            sockets.waiting_count(),
        )?;
    }
    tell_requests(into, stats)
}

fn tell_requests(into: &mut Exposition<'_>, stats: &RequestStats) -> fmt::Result {
    let offered = OFFERS.iter().map(|offer| (offer.api_key.name(), Some(offer.api_key as i16)));
    let apis: Vec<(&str, ApiStats)> = offered
        .chain([(UNKNOWN, None)])
        .map(|(name, key)| (name, stats.of(key)))
        .filter(|(_, stats)| stats.requests > 0)
        .collect();
    let counters: [Family; 4] = [
        ("kafka_network_requestmetrics_requests", "Requests that have ended.", |stats| stats.requests),
        ("chronik_requests_closed", "Requests over which the connection was closed.", |stats| stats.closed),
        ("chronik_request_bytes", "Bytes of requests.", |stats| stats.request_bytes),
        ("chronik_response_bytes", "Bytes of answers.", |stats| stats.response_bytes),
    ];
    for (name, help, value) in counters {
        into.counters(name, help, |sample| {
            apis.iter().try_for_each(|(api, stats)| sample(&[("request", api)], value(stats)))
        })?;
    }
    into.histograms(
        "chronik_request_duration_seconds",
        "From the end of a request to its answer, waiting for records included.",
        |sample| {
            for (api, stats) in &apis {
                let bounds = LATENCY_BOUNDS_US.iter().map(|us| seconds(*us)).chain([f64::INFINITY]);
                let classes: Vec<(f64, u64)> = bounds.zip(stats.classes).collect();
                sample(&[("request", api)], seconds(stats.latency_us), &classes)?;
            }
            Ok(())
        },
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a sum of microseconds is exact for 285 years, and then nearly so"
)]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
