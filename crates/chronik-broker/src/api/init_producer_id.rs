//! `InitProducerId` (key 22, versions 0–5): the id under which a producer's batches are told apart (KIP-98).
//!
//! A producer without a transactional id gets a new id each time it asks, with epoch 0. Transactions are not
//! possible yet, and a transactional id is refused with `TRANSACTIONAL_ID_AUTHORIZATION_FAILED`: it is the one code
//! that every client takes for final, where others are tried again for ever by one client or another.

use std::sync::Arc;

use chronik_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use chronik_types::{ErrorCode, ProducerEpoch, ProducerId};

use crate::broker::Broker;
use crate::context::RequestContext;

/// The epoch of an id that nobody has used.
const FIRST_EPOCH: ProducerEpoch = ProducerEpoch(0);

#[expect(clippy::needless_pass_by_value, reason = "a request belongs to its handler, as with every API")]
pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: InitProducerIdRequest) {
    if let Err(error) = check(&request) {
        answer(context, Err(error));
        return;
    }
    broker.allocate_producer_id(Box::new(move |allocated| answer(context, allocated)));
}

fn check(request: &InitProducerIdRequest) -> Result<(), ErrorCode> {
    // A producer that had an id says so with its epoch (version 3 on, KIP-360); half of that means nothing.
    let has_id = request.producer_id != ProducerId::NONE.get();
    let has_epoch = request.producer_epoch != ProducerEpoch::NONE.get();
    if has_id != has_epoch {
        return Err(ErrorCode::InvalidRequest);
    }
    match request.transactional_id.as_deref() {
        None => Ok(()),
        Some("") => Err(ErrorCode::InvalidRequest),
        Some(_) if request.transaction_timeout_ms <= 0 => Err(ErrorCode::InvalidTransactionTimeout),
        Some(_) => Err(ErrorCode::TransactionalIdAuthorizationFailed),
    }
}

fn answer(context: RequestContext, allocated: Result<ProducerId, ErrorCode>) {
    let response = match allocated {
        Ok(producer_id) => InitProducerIdResponse {
            producer_id: producer_id.get(),
            producer_epoch: FIRST_EPOCH.get(),
            ..Default::default()
        },
        Err(error) => InitProducerIdResponse {
            error_code: error.code(),
            producer_id: ProducerId::NONE.get(),
            producer_epoch: ProducerEpoch::NONE.get(),
            ..Default::default()
        },
    };
    context.reply(&response);
}
