//! A thread that runs one duty when it is woken or when its time has come.
//!
//! Everything that happens outside of requests has this one form: timers, upkeep of logs, group syncs and the
//! metadata log differ only in what they do when they run, and in when they want to run next.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use chronik_types::{MonotonicMs, Now};
use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;

/// What a thread does.
pub trait Duty: Send + 'static {
    /// Does what is due, and says when to run again unless woken before; `None` waits to be woken.
    fn run(&mut self, now: Now) -> Option<MonotonicMs>;

    /// Runs once, last, when the thread is stopped.
    fn finish(&mut self, _now: Now) {}
}

impl<F: FnMut(Now) -> Option<MonotonicMs> + Send + 'static> Duty for F {
    fn run(&mut self, now: Now) -> Option<MonotonicMs> {
        self(now)
    }
}

/// Told when a duty has panicked, by the name of its thread. The process cannot go on without any of its duties:
/// without timers parked requests stay for ever, without the metadata log nothing is decided.
pub type OnPanic = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

/// Wakes a [`Worker`]; cheap to clone and to call from any thread.
#[derive(Clone, Debug, Default)]
pub struct Waker(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    woken: bool,
    stopped: bool,
    /// When to run next.
    deadline: Option<MonotonicMs>,
}

impl Waker {
    /// A waker for a worker that is started later, so that a duty's own parts can hold it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the duty run now, or once more if it is running.
    pub fn wake(&self) {
        let mut state = self.0.state.lock();
        if !state.woken {
            state.woken = true;
            drop(state);
            self.0.changed.notify_one();
        }
    }

    /// Has the duty run at `deadline`, unless it runs before anyway.
    pub fn wake_at(&self, deadline: MonotonicMs) {
        let mut state = self.0.state.lock();
        if state.deadline.is_none_or(|current| deadline < current) {
            state.deadline = Some(deadline);
            drop(state);
            self.0.changed.notify_one();
        }
    }

    fn stop(&self) {
        self.0.state.lock().stopped = true;
        self.0.changed.notify_one();
    }

    /// Waits until it is time to run; false when the worker has been stopped.
    fn wait(&self, clock: &Clock) -> bool {
        let mut state = self.0.state.lock();
        loop {
            if state.stopped {
                return false;
            }
            let is_due = state.deadline.is_some_and(|deadline| deadline <= clock.monotonic());
            if state.woken || is_due {
                state.woken = false;
                // What the duty wants next, or who calls `wake_at` while it runs, sets it again.
                state.deadline = None;
                return true;
            }
            match state.deadline.and_then(|deadline| clock.instant_of(deadline)) {
                Some(instant) => {
                    self.0.changed.wait_until(&mut state, instant);
                }
                None => self.0.changed.wait(&mut state),
            }
        }
    }
}

/// A running thread with its duty. Dropping it stops the thread and waits for it.
pub struct Worker {
    waker: Waker,
    stop: Box<dyn Fn() + Send>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts a thread, which runs its duty at once.
    pub fn start(
        name: &'static str,
        clock: Clock,
        waker: Waker,
        mut duty: impl Duty,
        on_panic: OnPanic,
    ) -> io::Result<Self> {
        waker.wake();
        let own = waker.clone();
        let stopping = waker.clone();
        let body = move || {
            while own.wait(&clock) {
                if let Some(deadline) = duty.run(clock.now()) {
                    own.wake_at(deadline);
                }
            }
            duty.finish(clock.now());
            Ok(())
        };
        let mut worker = Self::run(name, body, move || stopping.stop(), on_panic)?;
        worker.waker = waker;
        Ok(worker)
    }

    /// Starts a thread that waits in a way of its own. `stop` makes `body` return; an error that it returns is told
    /// as a panic would be.
    pub fn run(
        name: &'static str,
        body: impl FnOnce() -> Result<(), String> + Send + 'static,
        stop: impl Fn() + Send + 'static,
        on_panic: OnPanic,
    ) -> io::Result<Self> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            match catch_unwind(AssertUnwindSafe(body)) {
                Ok(Ok(())) => {}
                Ok(Err(text)) => on_panic(name, &text),
                Err(panic) => on_panic(name, &panic_text(panic.as_ref())),
            }
        })?;
        Ok(Self { waker: Waker::new(), stop: Box::new(stop), thread: Some(thread) })
    }

    /// Wakes the thread.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Has the duty finish, and waits for that.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        (self.stop)();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by `on_panic` already.
            drop(thread.join());
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn no_panic() -> OnPanic {
        Arc::new(|name, text| panic!("{name}: {text}"))
    }

    #[test]
    fn runs_at_once_when_woken_and_when_its_time_has_come() {
        let clock = Clock::start();
        let (sender, runs) = mpsc::channel();
        let mut count = 0;
        let duty = move |now: Now| {
            count += 1;
            sender.send((count, now.monotonic)).expect("the test listens");
            // After the second run it asks for a third.
            (count == 2).then(|| now.monotonic.plus_ms(5))
        };
        let worker = Worker::start("test", clock, Waker::new(), duty, no_panic()).expect("started");
        assert_eq!(runs.recv_timeout(PATIENCE).expect("at once").0, 1);
        assert!(runs.recv_timeout(Duration::from_millis(30)).is_err(), "nothing is due");
        worker.waker().wake();
        let (_, second) = runs.recv_timeout(PATIENCE).expect("woken");
        let (_, third) = runs.recv_timeout(PATIENCE).expect("in time");
        assert!(second.plus_ms(5) <= third, "{second:?} {third:?}");
        worker.waker().wake_at(clock.monotonic().plus_ms(60_000));
        worker.waker().wake_at(clock.monotonic().plus_ms(1));
        assert_eq!(runs.recv_timeout(PATIENCE).expect("the earlier of two").0, 4);
    }

    #[test]
    fn no_wake_up_is_lost() {
        let (sender, runs) = mpsc::channel();
        let queue = Arc::new(Mutex::new(0_u64));
        let counter = Arc::clone(&queue);
        let duty = move |_now: Now| {
            let taken = std::mem::take(&mut *counter.lock());
            if taken > 0 {
                sender.send(taken).expect("the test listens");
            }
            None
        };
        let worker = Worker::start("test", Clock::start(), Waker::new(), duty, no_panic()).expect("started");
        let mut seen = 0;
        for _ in 0..5_000 {
            *queue.lock() += 1;
            worker.waker().wake();
            if seen % 7 == 0 {
                seen += runs.recv_timeout(PATIENCE).expect("woken");
            }
        }
        while seen < 5_000 {
            seen += runs.recv_timeout(PATIENCE).expect("all of them");
        }
        assert_eq!(seen, 5_000);
    }

    #[test]
    fn finishes_when_stopped() {
        struct Finish(mpsc::Sender<&'static str>);
        impl Duty for Finish {
            fn run(&mut self, _now: Now) -> Option<MonotonicMs> {
                None
            }
            fn finish(&mut self, _now: Now) {
                self.0.send("finished").expect("the test listens");
            }
        }
        let (sender, said) = mpsc::channel();
        let worker =
            Worker::start("test", Clock::start(), Waker::new(), Finish(sender), no_panic()).expect("started");
        worker.stop();
        assert_eq!(said.try_recv(), Ok("finished"));
    }

    #[test]
    fn a_panic_is_reported_with_the_name_of_the_thread() {
        let (sender, said) = mpsc::channel();
        let sender = Mutex::new(sender);
        let on_panic: OnPanic = Arc::new(move |name, text| {
            sender.lock().send(format!("{name}: {text}")).expect("the test listens");
        });
        let duty = |_now: Now| -> Option<MonotonicMs> { panic!("cannot go on") };
        let _worker = Worker::start("doomed", Clock::start(), Waker::new(), duty, on_panic).expect("started");
        assert_eq!(said.recv_timeout(PATIENCE).as_deref(), Ok("doomed: cannot go on"));
    }
}
