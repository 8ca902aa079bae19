//! How a node of a cluster ends in good order: partitions first, then the metadata log, then the clients.

use std::sync::Arc;
use std::time::Duration;

use chronik_broker::Broker;
use chronik_raft::{MetadataLog as _, RaftHandle};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::peers::PeerNetwork;

/// How long handing over may take, in milliseconds. It takes one entry of the metadata log; where that has no majority
/// there is nobody to hand over to.
const HAND_OVER_MS_MAX: u64 = 1_500;
/// How long a successor in the lead of the metadata log is awaited, in milliseconds: an election's time.
const SUCCESSOR_MS_MAX: u64 = 500;
/// How often it is looked for, in milliseconds.
const SUCCESSOR_CHECK_MS: u64 = 5;
/// How long clients may still send here what belongs elsewhere by now, in milliseconds. They hear the new leader from
/// the answer, which is faster for them than a connection that closes under their requests.
const LINGER_MS: u64 = 150;

/// Hands over what this node leads. A single node has nobody to hand over to.
pub(crate) async fn leave(
    broker: Arc<Broker>,
    metadata: RaftHandle,
    clock: Clock,
    network: Option<Arc<PeerNetwork>>,
) {
    let Some(network) = network else { return };
    let began = clock.monotonic();
    let (sender, handed_over) = oneshot::channel();
    broker.hand_over(Box::new(move |outcome| {
        // The receiver is gone only when nobody waits for the outcome any more.
        drop(sender.send(outcome));
    }));
    match timeout(Duration::from_millis(HAND_OVER_MS_MAX), handed_over).await {
        Ok(Ok(Ok(kept_count))) => {
            let took_ms = clock.monotonic().since_ms(began);
            if kept_count == 0 {
                tracing::info!("Handed over everything that this node led in {took_ms} ms");
            } else {
                tracing::info!(
                    "Handed over what others have in sync in {took_ms} ms; {kept_count} partitions have no other \
                     leader"
                );
            }
        }
        Ok(Ok(Err(error))) => tracing::warn!("Stopping without handing over: {error}"),
        Ok(Err(_)) => tracing::warn!("Stopping without handing over: the metadata log has ended"),
        Err(_) => {
            tracing::warn!(
                "Stopping without handing over: no majority of nodes within {HAND_OVER_MS_MAX} ms"
            );
        }
    }
    hand_over_metadata(&metadata, clock, &network).await;
    sleep(Duration::from_millis(LINGER_MS)).await;
}

/// Makes another node lead the metadata log. A successor that is told is there at once; one that has to find out takes
/// its time.
async fn hand_over_metadata(metadata: &RaftHandle, clock: Clock, network: &PeerNetwork) {
    let image = metadata.image();
    let is_active = |node: &_| image.broker(*node).is_some_and(|broker| broker.is_active());
    let connected = network.connected();
    let successor = connected.iter().find(|node| is_active(node)).or(connected.first()).copied();
    let Some(successor) = successor.filter(|_| metadata.is_leader()) else { return };
    let began = clock.monotonic();
    metadata.transfer_leadership(successor);
    while metadata.quorum().leader != Some(successor) && clock.monotonic().since_ms(began) < SUCCESSOR_MS_MAX
    {
        sleep(Duration::from_millis(SUCCESSOR_CHECK_MS)).await;
    }
}
