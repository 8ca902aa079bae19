//! Signals. They are waited for on a thread of their own, so that a node that hangs can still be ended.

use std::fmt;
use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

/// Why the process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked for it.
    Signal(&'static str),
    /// A part of the process has failed that it cannot do without.
    Failed,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "got {name}; a second one ends the process at once"),
            Self::Failed => f.write_str("a part of this node has failed"),
        }
    }
}

/// What shells report for a process that this signal ended.
fn exit_code(kind: SignalKind) -> i32 {
    128 + kind.as_raw_value()
}

/// Begins to listen to signals: the first SIGTERM or SIGINT is passed on, the second ends the process there and
/// then. SIGHUP, which a closed terminal sends, is ignored, as SIGPIPE is by the Rust runtime.
pub(crate) fn start(stops: UnboundedSender<Stop>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt, mut hang_up) = {
        let _runtime = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut is_stopping = false;
            loop {
                let (name, kind) = std::future::poll_fn(|cx| {
                    if terminate.poll_recv(cx).is_ready() {
                        return std::task::Poll::Ready(("SIGTERM", SignalKind::terminate()));
                    }
                    if interrupt.poll_recv(cx).is_ready() {
                        return std::task::Poll::Ready(("SIGINT", SignalKind::interrupt()));
                    }
                    while hang_up.poll_recv(cx).is_ready() {}
                    std::task::Poll::Pending
                })
                .await;
                if is_stopping || stops.send(Stop::Signal(name)).is_err() {
                    std::process::exit(exit_code(kind));
                }
                is_stopping = true;
            }
        });
    })?;
    Ok(())
}
