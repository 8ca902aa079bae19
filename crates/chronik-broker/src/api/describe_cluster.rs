//! `DescribeCluster` (key 60, versions 0–2): the brokers, the controller and the cluster's name (KIP-700).
//!
//! From version 1 on the client says whether it means brokers or controllers (KIP-919); this is the brokers' side.
//! From version 2 on it may ask for fenced brokers too (KIP-1073).

use std::sync::Arc;

use chronik_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use chronik_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};
use chronik_types::ErrorCode;

use crate::broker::Broker;
use crate::context::RequestContext;

use super::authorized_operations::{CLUSTER_OPERATIONS, OPERATIONS_UNKNOWN};

/// The client means the brokers.
const ENDPOINT_BROKER: i8 = 1;
/// The client means the controllers.
const ENDPOINT_CONTROLLER: i8 = 2;

#[expect(clippy::needless_pass_by_value, reason = "a request belongs to its handler, as with every API")]
pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DescribeClusterRequest) {
    let refusal = match request.endpoint_type {
        ENDPOINT_BROKER => None,
        ENDPOINT_CONTROLLER => Some((
            ErrorCode::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
                .to_owned(),
        )),
        other => Some((ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {other}"))),
    };
    if let Some((code, message)) = refusal {
        let response = DescribeClusterResponse {
            error_code: code.code(),
            error_message: Some(message),
            ..Default::default()
        };
        context.reply(&response);
        return;
    }
    let image = broker.metadata.image();
    let brokers: Vec<DescribeClusterBroker> = image
        .brokers()
        .filter(|registered| request.include_fenced_brokers || !registered.fenced)
        .filter_map(|registered| {
            let (host, port) = broker.endpoint_for(registered, &context.connection)?;
            Some(DescribeClusterBroker {
                broker_id: registered.id.get(),
                host,
                port,
                rack: registered.rack.clone(),
                is_fenced: registered.fenced,
            })
        })
        .collect();
    // A controller that is not among the brokers told would be one that the client cannot reach.
    let controller_id = broker.controller_id(&image);
    let is_told = brokers.iter().any(|told| told.broker_id == controller_id);
    let response = DescribeClusterResponse {
        cluster_id: image.cluster_id().unwrap_or_default().to_owned(),
        controller_id: if is_told { controller_id } else { -1 },
        brokers,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_UNKNOWN
        },
        ..Default::default()
    };
    context.reply(&response);
}
