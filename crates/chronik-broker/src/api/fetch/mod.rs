//! Fetch (key 1, versions 4–18): records, from memory or as regions of segment files.
//!
//! Topics are named up to version 12 and identified from 13 on (KIP-516); sessions exist from version 7 on
//! (KIP-227). A fetch that finds fewer than `min_bytes` waits until they have arrived or its time is up. It never
//! waits when some partition has an error or diverges, nor when it asks for no partition that exists.

mod parked;
mod read;
mod respond;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::FetchRequest;
use chronik_types::{BrokerEpoch, NodeId, TopicId};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::fetch_session::{FetchContext, PartitionFetch, SessionKey, SessionRequest};

use read::{FetchLimits, Replica, Target, note_replica, read_all};

/// The first version that identifies topics by id.
const TOPIC_IDS_FROM: i16 = 13;

/// A fetch whose request has been understood.
struct FetchPlan {
    limits: FetchLimits,
    session: FetchContext,
    targets: Vec<Target>,
    /// How far each target could be read before it was read, in the order of the targets.
    seen_ends: Vec<i64>,
}

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, body: Bytes) {
    let Some((context, request)) = context.decode::<FetchRequest>(&body) else { return };
    drop(body);
    let version = context.version();
    let max_bytes = request.max_bytes.min(broker.config.fetch_max_bytes);
    let limits = FetchLimits {
        max_wait_ms: request.max_wait_ms,
        // More than the answer may hold is never there.
        min_bytes: request.min_bytes.min(max_bytes),
        max_bytes,
        read_committed: request.isolation_level == 1,
        replica: replica_of(&request),
    };
    let by_id = version >= TOPIC_IDS_FROM;
    let (named, forgotten) = name_partitions(broker, &request, by_id);
    let session_request = SessionRequest {
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        uses_topic_ids: by_id,
        partitions: &named,
        forgotten: &forgotten,
    };
    let session = match broker.fetch_sessions.context(context.now.monotonic, &session_request) {
        Ok(session) => session,
        Err(error) => {
            respond::error(context, error);
            return;
        }
    };
    let wanted = match &session {
        FetchContext::Sessionless | FetchContext::Full => named,
        FetchContext::Incremental(session) => session.lock().partitions(),
    };
    let targets = wanted.into_iter().map(|(key, fetch)| target(broker, key, fetch, by_id)).collect();
    let mut plan = FetchPlan { limits, session, targets, seen_ends: Vec::new() };
    if let Some(replica) = limits.replica {
        for target in &plan.targets {
            note_replica(context.now, replica, target);
        }
    }
    // Looked at before the data is read: whatever comes later is news to a fetch that parks.
    let seen_ends = plan.targets.iter().map(|target| target.readable_end(&plan.limits)).collect();
    let reading = read_all(&plan.limits, &plan.targets);
    let has_partitions = plan.targets.iter().any(|target| target.partition.is_ok());
    if limits.max_wait_ms <= 0 || broker.is_stopping() || !has_partitions || reading.is_enough(&limits) {
        respond::fetched(broker, context, &plan, reading);
    } else {
        plan.seen_ends = seen_ends;
        parked::park(broker, context, plan, reading.bytes);
    }
}

/// The follower that asks, where it is one. Consumers are −1; other negative ids belong to tools, which read as
/// consumers do.
fn replica_of(request: &FetchRequest) -> Option<Replica> {
    let state = &request.replica_state;
    if state.replica_id >= 0 {
        let broker_epoch = (state.replica_epoch >= 0).then_some(BrokerEpoch(state.replica_epoch));
        return Some(Replica { node: NodeId(state.replica_id), broker_epoch });
    }
    (request.replica_id >= 0).then_some(Replica { node: NodeId(request.replica_id), broker_epoch: None })
}

/// The other broker of this cluster that a follower says it is, where there is such a one and its registration is the one
/// that the follower speaks of. Anyone can say so; what it gets by that is bounded.
fn known_follower(broker: &Broker, replica: Replica) -> Option<NodeId> {
    let image = broker.metadata.image();
    let known = image.broker(replica.node).filter(|known| known.id != broker.node_id())?;
    replica.broker_epoch.is_none_or(|epoch| epoch == known.epoch).then_some(known.id)
}

/// Reads again and answers with what there is now.
fn answer(broker: &Broker, context: RequestContext, plan: &FetchPlan) {
    let reading = read_all(&plan.limits, &plan.targets);
    respond::fetched(broker, context, plan, reading);
}

/// What a request names: partitions with what is wanted of them, and partitions that its session is to forget.
type Named = (Vec<(SessionKey, PartitionFetch)>, Vec<SessionKey>);

/// Gives every partition the key under which a session knows it: by id, or by a name that is shared by all partitions
/// of a topic and with the metadata image where the topic exists.
fn name_partitions(broker: &Broker, request: &FetchRequest, by_id: bool) -> Named {
    let image = broker.metadata.image();
    let nameless: Arc<str> = Arc::from("");
    let shared = |name: &str| {
        if by_id {
            return Arc::clone(&nameless);
        }
        image.topic(name).map_or_else(|| Arc::from(name), |topic| Arc::clone(&topic.name))
    };
    let id = |topic_id: TopicId| if by_id { topic_id } else { TopicId::ZERO };
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let name = shared(&topic.topic);
        for partition in &topic.partitions {
            let key = SessionKey {
                topic_id: id(topic.topic_id),
                topic: Arc::clone(&name),
                partition: partition.partition,
            };
            let fetch = PartitionFetch {
                current_leader_epoch: partition.current_leader_epoch,
                fetch_offset: partition.fetch_offset,
                last_fetched_epoch: partition.last_fetched_epoch,
                log_start_offset: partition.log_start_offset,
                max_bytes: partition.partition_max_bytes,
            };
            wanted.push((key, fetch));
        }
    }
    keep_last(&mut wanted);
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let name = shared(&topic.topic);
        forgotten.extend(topic.partitions.iter().map(|partition| SessionKey {
            topic_id: id(topic.topic_id),
            topic: Arc::clone(&name),
            partition: *partition,
        }));
    }
    (wanted, forgotten)
}

/// Makes each partition appear once, where it is first named, with what is last asked of it: so Kafka reads a request
/// that names one more often.
fn keep_last(wanted: &mut Vec<(SessionKey, PartitionFetch)>) {
    if wanted.len() < 2 {
        return;
    }
    let mut last = BTreeMap::<SessionKey, PartitionFetch>::new();
    for (key, fetch) in &*wanted {
        last.insert(key.clone(), *fetch);
    }
    if last.len() == wanted.len() {
        return;
    }
    wanted.retain_mut(|(key, fetch)| {
        last.remove(key).is_some_and(|found| {
            *fetch = found;
            true
        })
    });
}

fn target(broker: &Arc<Broker>, key: SessionKey, fetch: PartitionFetch, by_id: bool) -> Target {
    let partition = if by_id {
        broker.partition_by_id(key.topic_id, key.partition)
    } else {
        broker.partition_by_name(&key.topic, key.partition)
    };
    Target { key, fetch, partition }
}
