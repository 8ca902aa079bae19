//! The answers of one connection, put back into the order of its requests.
//!
//! Each request opens a slot; its [`Ticket`] fills the slot from whatever thread, at whatever time. The
//! connection's task takes what is ready at the front. A ticket that is dropped unanswered closes the connection,
//! because the client could tell no later answer apart from the missing one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use chronik_broker::{Reply, Response, ResponsePart};
use parking_lot::Mutex;

use super::budget::Lease;

/// Where the answers of one connection meet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Bytes of answers that are filled in and not yet taken, file regions included.
    answered_bytes: AtomicU64,
    /// The number of slots, for a look without the lock.
    open_count: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the request whose slot is at the front.
    first: u64,
    slots: VecDeque<Slot>,
    /// Set only while the task sleeps, so that an answer given on the task's own thread wakes nobody.
    waker: Option<Waker>,
    /// Somebody wanted to wake the task while it was awake.
    poked: bool,
    closed: bool,
}

#[derive(Debug)]
enum Slot {
    Pending,
    Answered(Reply, Lease),
    Dropped,
}

/// What the front of the outbox holds for the task.
#[derive(Debug)]
pub(crate) enum Taken {
    /// An answer to send, and its share of the memory budget.
    Response(Response, Lease),
    /// A request that has no answer.
    Nothing,
    /// The broker wants the connection closed.
    Close(String),
    /// The request was dropped without an answer.
    Dropped,
}

impl Outbox {
    /// Opens the next slot.
    pub(crate) fn open(self: &Arc<Self>, lease: Lease) -> Ticket {
        let mut state = self.state.lock();
        let sequence = state.first.wrapping_add(state.slots.len() as u64);
        state.slots.push_back(Slot::Pending);
        self.open_count.store(state.slots.len(), Ordering::Relaxed);
        Ticket { outbox: Arc::clone(self), sequence, lease: Some(lease) }
    }

    /// Takes the answer at the front, if it is there.
    pub(crate) fn take_front(&self) -> Option<Taken> {
        let mut state = self.state.lock();
        state.waker = None;
        if matches!(state.slots.front(), None | Some(Slot::Pending)) {
            return None;
        }
        state.first = state.first.wrapping_add(1);
        let slot = state.slots.pop_front();
        self.open_count.store(state.slots.len(), Ordering::Relaxed);
        drop(state);
        match slot {
            None | Some(Slot::Pending) => None,
            Some(Slot::Dropped) => Some(Taken::Dropped),
            Some(Slot::Answered(Reply::Nothing, _)) => Some(Taken::Nothing),
            Some(Slot::Answered(Reply::Close(reason), _)) => Some(Taken::Close(reason)),
            Some(Slot::Answered(Reply::Response(response), lease)) => {
                self.answered_bytes.fetch_sub(response.len_bytes(), Ordering::Relaxed);
                Some(Taken::Response(response, lease))
            }
        }
    }

    /// Requests that are being worked on or whose answer has not been taken.
    pub(crate) fn open_count(&self) -> usize {
        self.open_count.load(Ordering::Relaxed)
    }

    /// Bytes of answers that have not been taken.
    pub(crate) fn answered_bytes(&self) -> u64 {
        self.answered_bytes.load(Ordering::Relaxed)
    }

    /// Goes to sleep: remembers whom to wake. False if there is something to do already; an answer at the front
    /// is that only for a task that `can_take` it.
    pub(crate) fn sleep(&self, waker: &Waker, can_take: bool) -> bool {
        let mut state = self.state.lock();
        let is_ready = !matches!(state.slots.front(), None | Some(Slot::Pending));
        if state.poked || can_take && is_ready {
            state.poked = false;
            return false;
        }
        state.waker = Some(waker.clone());
        true
    }

    /// Wakes the task to look around.
    pub(crate) fn poke(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.poked = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Forgets all answers, those to come included.
    pub(crate) fn close(&self) {
        let slots = {
            let mut state = self.state.lock();
            state.closed = true;
            state.waker = None;
            self.open_count.store(0, Ordering::Relaxed);
            std::mem::take(&mut state.slots)
        };
        // Outside the lock, since dropping a lease may wake others.
        drop(slots);
    }

    fn fill(&self, sequence: u64, slot: Slot) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            drop(slot);
            return;
        }
        let place = sequence.wrapping_sub(state.first);
        if let Some(open) = usize::try_from(place).ok().and_then(|place| state.slots.get_mut(place)) {
            if let Slot::Answered(Reply::Response(response), _) = &slot {
                self.answered_bytes.fetch_add(response.len_bytes(), Ordering::Relaxed);
            }
            *open = slot;
        }
        let waker = if place == 0 { state.waker.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The right, and the duty, to answer one request.
#[derive(Debug)]
pub(crate) struct Ticket {
    outbox: Arc<Outbox>,
    sequence: u64,
    lease: Option<Lease>,
}

impl Ticket {
    /// Answers the request.
    pub(crate) fn answer(mut self, reply: Reply) {
        if let Some(mut lease) = self.lease.take() {
            lease.resize(match &reply {
                Reply::Response(response) => memory_bytes(response),
                Reply::Nothing | Reply::Close(_) => 0,
            });
            self.outbox.fill(self.sequence, Slot::Answered(reply, lease));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.lease.take().is_some() {
            self.outbox.fill(self.sequence, Slot::Dropped);
        }
    }
}

/// The part of a response that is held in memory.
fn memory_bytes(response: &Response) -> u64 {
    response
        .parts
        .iter()
        .map(|part| match part {
            ResponsePart::Bytes(bytes) => bytes.len() as u64,
            ResponsePart::File { .. } => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use bytes::Bytes;

    use super::super::budget::{Admission, Budget};
    use super::*;

    fn lease(budget: &Arc<Budget>, bytes: u64) -> Lease {
        match budget.acquire(bytes) {
            Admission::Granted(lease) => lease,
            Admission::Waiting(_) => panic!("the budget is large"),
        }
    }

    fn response(text: &'static str) -> Reply {
        Reply::Response(Bytes::from_static(text.as_bytes()).into())
    }

    fn taken(outbox: &Outbox) -> String {
        match outbox.take_front() {
            None => "-".to_owned(),
            Some(Taken::Response(response, _)) => match response.parts.first() {
                Some(ResponsePart::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                Some(ResponsePart::File { .. }) | None => "?".to_owned(),
            },
            Some(Taken::Nothing) => "nothing".to_owned(),
            Some(Taken::Close(reason)) => format!("close {reason}"),
            Some(Taken::Dropped) => "dropped".to_owned(),
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn answers_come_out_in_request_order_whatever_the_order_they_were_given_in() {
        let budget = Budget::new(1000);
        let outbox = Arc::new(Outbox::default());
        let [a, b, c, d] = std::array::from_fn(|_| outbox.open(lease(&budget, 10)));
        c.answer(Reply::Nothing);
        b.answer(response("b"));
        assert_eq!(taken(&outbox), "-");
        a.answer(response("a"));
        assert_eq!((taken(&outbox), taken(&outbox)), ("a".to_owned(), "b".to_owned()));
        assert_eq!((taken(&outbox), taken(&outbox)), ("nothing".to_owned(), "-".to_owned()));
        d.answer(Reply::Close("enough".to_owned()));
        assert_eq!(taken(&outbox), "close enough");
        assert_eq!((budget.used_bytes(), outbox.answered_bytes()), (0, 0));
    }

    #[test]
    fn the_lease_follows_the_request_then_the_answer() {
        let budget = Budget::new(1000);
        let outbox = Arc::new(Outbox::default());
        let ticket = outbox.open(lease(&budget, 100));
        assert_eq!(budget.used_bytes(), 100);
        ticket.answer(response("12345"));
        assert_eq!((budget.used_bytes(), outbox.answered_bytes()), (5, 5));
        drop(outbox.take_front());
        assert_eq!((budget.used_bytes(), outbox.answered_bytes()), (0, 0));
    }

    #[test]
    fn a_dropped_ticket_is_told() {
        let budget = Budget::new(1000);
        let outbox = Arc::new(Outbox::default());
        drop(outbox.open(lease(&budget, 100)));
        assert_eq!(taken(&outbox), "dropped");
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn only_a_sleeping_task_is_woken_and_only_for_the_front() {
        let budget = Budget::new(1000);
        let outbox = Arc::new(Outbox::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let woken = || count.0.load(Ordering::SeqCst);
        let [a, b, c] = std::array::from_fn(|_| outbox.open(lease(&budget, 10)));

        assert!(outbox.sleep(&waker, true));
        b.answer(response("b"));
        assert_eq!(woken(), 0, "b is not at the front");
        a.answer(response("a"));
        assert_eq!(woken(), 1);
        assert!(!outbox.sleep(&waker, true), "there is something to send");
        assert!(outbox.sleep(&waker, false), "and no room for it");
        assert_eq!((taken(&outbox), taken(&outbox)), ("a".to_owned(), "b".to_owned()));
        c.answer(response("c"));
        assert_eq!(woken(), 1, "the task is awake");
        assert_eq!(taken(&outbox), "c");

        outbox.poke();
        assert!(!outbox.sleep(&waker, true), "poked while awake");
        assert!(outbox.sleep(&waker, true));
        outbox.poke();
        assert_eq!(woken(), 2);
    }

    #[test]
    fn after_the_end_answers_go_nowhere_and_hold_no_memory() {
        let budget = Budget::new(1000);
        let outbox = Arc::new(Outbox::default());
        let ticket = outbox.open(lease(&budget, 100));
        outbox.open(lease(&budget, 100)).answer(response("x"));
        outbox.close();
        assert_eq!(budget.used_bytes(), 100, "the parked request still holds its frame");
        ticket.answer(response("late"));
        assert_eq!((budget.used_bytes(), taken(&outbox)), (0, "-".to_owned()));
    }
}
