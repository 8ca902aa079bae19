//! The memory of requests in flight, over all connections.
//!
//! A frame takes its length out of the budget before it is allocated and gives it back once its answer has been
//! sent. Whoever finds the budget spent stops reading its socket and waits in line: the client feels a full send
//! buffer, never an error. Answers are counted too but never wait, because only sending them frees memory.
//!
//! Small frames may use a reserve on top and do not stand in line: among them are the fetches of followers, which
//! release parked produce requests, so that a broker full of those still moves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Frames up to this length may use the reserve.
pub const SMALL_FRAME_BYTES_MAX: u64 = 16 * 1024;

/// The reserve is this part of the budget.
const RESERVE_DIVISOR: u64 = 4;

/// A frame costs at most this part of the budget, so that one larger than the rest still gets its turn.
const LARGEST_DIVISOR: u64 = 2;

/// The bytes in flight of all connections.
#[derive(Debug)]
pub struct Budget {
    capacity_bytes: u64,
    used_bytes: AtomicU64,
    waiting_count: AtomicUsize,
    /// Who waits, longest first. Each connection waits for one frame at a time, so connections bound its length.
    queue: Mutex<VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    sender: oneshot::Sender<Lease>,
}

/// What a request asks for and gets.
#[derive(Debug)]
pub enum Admission {
    /// It may go on.
    Granted(Lease),
    /// It gets its lease later, in turn.
    Waiting(oneshot::Receiver<Lease>),
}

impl Budget {
    /// A budget of `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            capacity_bytes,
            used_bytes: AtomicU64::new(0),
            waiting_count: AtomicUsize::new(0),
            queue: Mutex::new(VecDeque::new()),
        })
    }

    /// Bytes in flight now.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// What it holds.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// How many connections wait for memory.
    pub fn waiting_count(&self) -> usize {
        self.waiting_count.load(Ordering::SeqCst)
    }

    /// Asks for the memory of a frame.
    pub fn acquire(self: &Arc<Self>, frame_bytes: u64) -> Admission {
        let bytes = frame_bytes.min(self.capacity_bytes / LARGEST_DIVISOR);
        let may_pass = frame_bytes <= SMALL_FRAME_BYTES_MAX || self.waiting_count() == 0;
        if may_pass && let Some(lease) = self.admit(bytes) {
            return Admission::Granted(lease);
        }
        let (sender, receiver) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            queue.push_back(Waiter { bytes, sender });
            self.waiting_count.fetch_add(1, Ordering::SeqCst);
        }
        // Memory that came back before the line was joined would otherwise wake nobody.
        self.serve_queue();
        Admission::Waiting(receiver)
    }

    /// Counts bytes that exist already; never waits.
    pub fn count(self: &Arc<Self>, bytes: u64) -> Lease {
        self.used_bytes.fetch_add(bytes, Ordering::SeqCst);
        Lease { budget: Arc::clone(self), bytes }
    }

    fn admit(self: &Arc<Self>, bytes: u64) -> Option<Lease> {
        let reserve = if bytes <= SMALL_FRAME_BYTES_MAX { self.capacity_bytes / RESERVE_DIVISOR } else { 0 };
        let limit = self.capacity_bytes.saturating_add(reserve);
        self.used_bytes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                let after = used.saturating_add(bytes);
                (used == 0 || after <= limit).then_some(after)
            })
            .ok()
            .map(|_| Lease { budget: Arc::clone(self), bytes })
    }

    fn release(self: &Arc<Self>, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting_count() > 0 {
            self.serve_queue();
        }
    }

    fn serve_queue(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        while let Some(front) = queue.front() {
            let gone = front.sender.is_closed();
            let lease = if gone { None } else { self.admit(front.bytes) };
            if !gone && lease.is_none() {
                return;
            }
            let waiter = queue.pop_front();
            self.waiting_count.fetch_sub(1, Ordering::SeqCst);
            if let (Some(waiter), Some(lease)) = (waiter, lease)
                && let Err(mut unwanted) = waiter.sender.send(lease)
            {
                // Its connection closed this instant. Giving the bytes back by hand, since dropping the lease
                // would come back here for the lock that is held.
                self.used_bytes.fetch_sub(unwanted.bytes, Ordering::SeqCst);
                unwanted.bytes = 0;
            }
        }
    }
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Lease {
    /// Makes the lease stand for `bytes` from now on; never waits.
    pub fn resize(&mut self, bytes: u64) {
        if self.bytes < bytes {
            self.budget.used_bytes.fetch_add(bytes - self.bytes, Ordering::SeqCst);
            self.bytes = bytes;
        } else {
            let back = self.bytes - bytes;
            self.bytes = bytes;
            self.give_back(back);
        }
    }

    /// Takes another lease of the same budget into this one.
    pub fn absorb(&mut self, mut other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        other.bytes = 0;
    }

    /// What it stands for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.budget.release(bytes);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn granted(admission: Admission) -> Lease {
        match admission {
            Admission::Granted(lease) => lease,
            Admission::Waiting(_) => panic!("had to wait"),
        }
    }

    fn waiting(admission: Admission) -> oneshot::Receiver<Lease> {
        match admission {
            Admission::Granted(_) => panic!("did not have to wait"),
            Admission::Waiting(receiver) => receiver,
        }
    }

    #[test]
    fn waits_in_line_when_spent_and_is_served_in_turn() {
        let budget = Budget::new(1000 * KIB);
        let first = granted(budget.acquire(400 * KIB));
        let second = granted(budget.acquire(400 * KIB));
        let mut third = waiting(budget.acquire(300 * KIB));
        let mut fourth = waiting(budget.acquire(100 * KIB));
        assert!(fourth.try_recv().is_err(), "100 KiB would fit, but it came later");
        drop(first);
        let third = third.try_recv().expect("served");
        let fourth = fourth.try_recv().expect("served as well");
        assert_eq!((budget.used_bytes(), budget.waiting_count()), (800 * KIB, 0));
        drop((second, third, fourth));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_frame_larger_than_the_budget_gets_its_turn() {
        let budget = Budget::new(100 * KIB);
        let small = budget.count(60 * KIB);
        let mut huge = waiting(budget.acquire(u64::MAX));
        drop(small);
        let huge = huge.try_recv().expect("served");
        assert_eq!(huge.bytes(), 50 * KIB);
    }

    #[test]
    fn small_frames_pass_the_line_and_use_the_reserve_but_not_more() {
        let budget = Budget::new(100 * KIB);
        let _held = budget.count(100 * KIB);
        let _large = waiting(budget.acquire(50 * KIB));
        let _small = granted(budget.acquire(16 * KIB));
        let _small = granted(budget.acquire(9 * KIB));
        let mut last = waiting(budget.acquire(KIB));
        assert!(last.try_recv().is_err());
    }

    #[test]
    fn one_that_gave_up_waiting_costs_nothing_and_holds_up_nobody() {
        let budget = Budget::new(100 * KIB);
        let held = budget.count(100 * KIB);
        drop(waiting(budget.acquire(50 * KIB)));
        let mut next = waiting(budget.acquire(40 * KIB));
        drop(held);
        let next = next.try_recv().expect("served");
        assert_eq!(budget.used_bytes(), next.bytes());
    }

    #[test]
    fn a_lease_grows_without_waiting_and_wakes_others_when_it_shrinks() {
        let budget = Budget::new(100 * KIB);
        let mut lease = granted(budget.acquire(10 * KIB));
        lease.resize(500 * KIB);
        assert_eq!(budget.used_bytes(), 500 * KIB);
        let mut other = waiting(budget.acquire(30 * KIB));
        lease.resize(20 * KIB);
        assert!(other.try_recv().is_ok());
    }

    #[test]
    fn threads_that_acquire_and_release_leave_nothing_behind() {
        let budget = Budget::new(64 * KIB);
        std::thread::scope(|scope| {
            for seed in 1..=4_u64 {
                let budget = &budget;
                scope.spawn(move || {
                    for round in 0..2_000_u64 {
                        match budget.acquire((seed * 7_919 * (round + 1)) % (40 * KIB)) {
                            Admission::Granted(lease) => drop(lease),
                            Admission::Waiting(receiver) => drop(receiver.blocking_recv().expect("served")),
                        }
                    }
                });
            }
        });
        assert_eq!((budget.used_bytes(), budget.waiting_count()), (0, 0));
    }
}
