//! Producer ids: blocks from the metadata log, given out one by one (KIP-730).

use std::sync::Arc;

use chronik_raft::ProposeError;
use chronik_raft::metadata::{AllocateProducerIds, CommandBatch, CommandOutput};
use chronik_types::{ErrorCode, ProducerId};
use parking_lot::Mutex;

use crate::broker::Broker;

/// How many ids one block has. A restart skips what is left of a block; the ids are 63 bits wide.
const BLOCK_COUNT: i32 = 1_000;

type IdDone = Box<dyn FnOnce(Result<ProducerId, ErrorCode>) + Send>;

/// The block in hand, and who waits for the next.
#[derive(Default)]
pub(crate) struct ProducerIds(Mutex<State>);

#[derive(Default)]
struct State {
    next: i64,
    end: i64,
    /// Requests that wait for a block: at most one for each request that is in flight on a connection.
    waiting: Vec<IdDone>,
    is_fetching: bool,
}

impl Broker {
    /// Gives `done` an id that no producer has had, at once or when the next block has come.
    pub(crate) fn allocate_producer_id(self: &Arc<Self>, done: IdDone) {
        let mut state = self.producer_ids.0.lock();
        if state.next < state.end {
            let id = ProducerId(state.next);
            state.next += 1;
            drop(state);
            done(Ok(id));
            return;
        }
        state.waiting.push(done);
        if state.is_fetching {
            return;
        }
        state.is_fetching = true;
        drop(state);
        let image = self.metadata.image();
        let Some(registration) = image.broker(self.node_id()) else {
            self.producer_ids_fetched(Err(ErrorCode::BrokerNotAvailable));
            return;
        };
        let command = AllocateProducerIds::new(self.node_id(), registration.epoch, BLOCK_COUNT);
        let broker = Arc::clone(self);
        self.metadata.propose(
            CommandBatch::new(vec![command.into()]),
            Box::new(move |outcome| {
                let block = outcome.map_err(|error| refused(&error)).and_then(|applied| {
                    let block = applied.outputs.into_iter().find_map(|output| match output {
                        CommandOutput::ProducerIdsAllocated { first, count } => {
                            Some((first.get(), i64::from(count)))
                        }
                        CommandOutput::Done | CommandOutput::BrokerRegistered { .. } => None,
                    });
                    block.ok_or(ErrorCode::UnknownServerError)
                });
                broker.producer_ids_fetched(block);
            }),
        );
    }

    fn producer_ids_fetched(&self, block: Result<(i64, i64), ErrorCode>) {
        let (waiting, given) = {
            let mut state = self.producer_ids.0.lock();
            state.is_fetching = false;
            let waiting = std::mem::take(&mut state.waiting);
            let given = block.map(|(first, count)| {
                // A block serves those who wait first; more than a block's worth are told to try again.
                let served = count.min(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
                state.next = first.saturating_add(served);
                state.end = first.saturating_add(count);
                (first, served)
            });
            (waiting, given)
        };
        for (position, done) in (0_i64..).zip(waiting) {
            done(match given {
                Ok((first, served)) if position < served => Ok(ProducerId(first.saturating_add(position))),
                Ok(_) => Err(ErrorCode::CoordinatorLoadInProgress),
                Err(error) => Err(error),
            });
        }
    }
}

/// Errors of the metadata log are passing; a producer that is told so tries again.
fn refused(error: &ProposeError) -> ErrorCode {
    tracing::warn!("cannot get a block of producer ids: {error}");
    ErrorCode::CoordinatorNotAvailable
}
