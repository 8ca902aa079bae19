//! A request that waits for several proposals to the metadata log, each with an outcome of its own.
//!
//! The request is answered once: when the last outcome is there, or when the time that the client gave is up, with
//! what is there by then. Proposals that are under way go on; their outcomes reach nobody any more.

use std::sync::Arc;

use chronik_types::Now;
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::connection::{Connection, Parked};
use crate::context::RequestContext;
use crate::timers::{Expire, TimerKey};

/// Answers with the outcomes, in order; `None` stands for one that did not come in time.
type Finish<T> = Box<dyn FnOnce(RequestContext, Vec<Option<T>>) + Send>;

/// The outcomes that one request waits for, by their position.
pub(super) struct Outcomes<T: Send + 'static> {
    id: u64,
    broker: Arc<Broker>,
    connection: Arc<Connection>,
    /// `None` once the request is answered or its client gone.
    waiting: Mutex<Option<Waiting<T>>>,
}

struct Waiting<T> {
    context: RequestContext,
    outcomes: Vec<Option<T>>,
    missing_count: usize,
    timer: Option<TimerKey>,
    finish: Finish<T>,
}

impl<T: Send + 'static> Outcomes<T> {
    /// A request that waits for `count` outcomes; `finish` answers it.
    pub(super) fn new(
        broker: &Arc<Broker>,
        context: RequestContext,
        count: usize,
        finish: Finish<T>,
    ) -> Arc<Self> {
        let connection = Arc::clone(&context.connection);
        let outcomes = std::iter::repeat_with(|| None).take(count).collect();
        let waiting = Waiting { context, outcomes, missing_count: count, timer: None, finish };
        Arc::new(Self {
            id: broker.next_parked_id(),
            broker: Arc::clone(broker),
            connection,
            waiting: Mutex::new(Some(waiting)),
        })
    }

    /// Notes an outcome, once for each position. The last one answers the request.
    pub(super) fn set(&self, position: usize, outcome: T) {
        let complete = {
            let mut slot = self.waiting.lock();
            let Some(waiting) = slot.as_mut() else { return };
            if let Some(place) = waiting.outcomes.get_mut(position)
                && place.replace(outcome).is_none()
            {
                waiting.missing_count = waiting.missing_count.saturating_sub(1);
            }
            if waiting.missing_count == 0 { slot.take() } else { None }
        };
        if let Some(waiting) = complete {
            self.finish(waiting);
        }
    }

    /// Waits for what is still missing, for at most `timeout_ms` from when the request came. Called once, after
    /// everything has been proposed. A timeout of 0 or less waits for nothing.
    pub(super) fn wait(self: &Arc<Self>, timeout_ms: i32) {
        let complete = {
            let mut slot = self.waiting.lock();
            let Some(waiting) = slot.as_mut() else { return };
            if waiting.missing_count == 0 || timeout_ms <= 0 || self.connection.is_closed() {
                slot.take()
            } else {
                let deadline = waiting.context.now.monotonic.plus_ms(u64::from(timeout_ms.unsigned_abs()));
                let target: Arc<dyn Expire> = Arc::clone(self) as Arc<dyn Expire>;
                waiting.timer = Some(self.broker.timers.arm(deadline, target));
                self.connection.park(self.id, Arc::clone(self) as Arc<dyn Parked>);
                None
            }
        };
        if let Some(waiting) = complete {
            self.finish(waiting);
        } else if self.connection.is_closed() {
            // The client went between the look and the parking.
            self.cancel();
        }
    }

    fn take(&self) -> Option<Waiting<T>> {
        self.waiting.lock().take()
    }

    fn finish(&self, waiting: Waiting<T>) {
        let Waiting { context, outcomes, timer, finish, .. } = waiting;
        self.forget(timer);
        finish(context, outcomes);
    }

    fn forget(&self, timer: Option<TimerKey>) {
        if let Some(timer) = timer {
            self.broker.timers.disarm(timer);
            self.connection.unpark(self.id);
        }
    }
}

impl<T: Send + 'static> Expire for Outcomes<T> {
    fn expire(self: Arc<Self>, _now: Now) {
        if let Some(waiting) = self.take() {
            self.finish(waiting);
        }
    }
}

impl<T: Send + 'static> Parked for Outcomes<T> {
    fn cancel(&self) {
        if let Some(waiting) = self.take() {
            self.forget(waiting.timer);
        }
    }
}
