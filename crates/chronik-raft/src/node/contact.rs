//! How long this node may take what it knows of the cluster for the truth.
//!
//! A node that is cut off, or was asleep, is replaced without being told. So it asks, again and again, whether the
//! cluster still listens: a barrier that nobody waits for. Its answer says that when it was asked, a majority took
//! the leader for the leader, and that leader heard this node. No other leader was elected before that moment, and none,
//! old or new, gives up on this node for at least [`CONTACT_TIMEOUT_MS`] from then on. What counts is when the question
//! was asked, not when the answer is read: an answer may have lain in a socket while the process slept.
//!
//! | silent | given up on by | at the earliest, counted from the last question that was answered |
//! |---|---|---|
//! | a follower | the leader, which heard a heartbeat of it at most [`HEARTBEAT_MS`](super::HEARTBEAT_MS) before | what is left then of [`SESSION_TIMEOUT_MS`](super::SESSION_TIMEOUT_MS) |
//! | a leader | the next one, elected when a majority had not heard of it for an election timeout | that, and [`FORMER_LEADER_MS`](super::FORMER_LEADER_MS) |

use chronik_types::MonotonicMs;

use super::RaftNode;

/// How long an answer counts. Shorter than what it takes to be given up on, so that of two leaders of a partition the
/// first has fallen silent when the second begins.
pub const CONTACT_TIMEOUT_MS: u64 = 1_500;

/// How often this node asks. Several questions fit into the timeout: one that is lost costs nothing.
pub const CONTACT_INTERVAL_MS: u64 = 250;

/// What is known of this node's contact with the cluster.
#[derive(Default)]
pub(super) struct Contact {
    /// When the newest question was asked that has been answered.
    confirmed_at: Option<MonotonicMs>,
    /// When the question was asked that has no answer yet.
    asking_since: Option<MonotonicMs>,
}

impl RaftNode {
    /// Until when this node may take what it knows for the truth; where it decides alone, for ever.
    pub fn contact_until(&self) -> MonotonicMs {
        if self.is_only_voter() {
            return MonotonicMs(u64::MAX);
        }
        self.contact.confirmed_at.map_or(MonotonicMs(0), |at| at.plus_ms(CONTACT_TIMEOUT_MS))
    }

    /// Whether it is time for another question.
    pub(super) fn is_contact_due(&mut self, now: MonotonicMs) -> bool {
        if self.is_only_voter() {
            return false;
        }
        let since = self.contact.asking_since;
        let is_open = since.is_some_and(|since| now.since_ms(since) < CONTACT_TIMEOUT_MS);
        let is_recent = self.contact.confirmed_at.is_some_and(|at| now.since_ms(at) < CONTACT_INTERVAL_MS);
        if is_open || is_recent {
            return false;
        }
        self.contact.asking_since = Some(now);
        true
    }

    /// A question that was asked at `asked_at` has been answered.
    pub(super) fn note_contact(&mut self, asked_at: MonotonicMs) {
        self.contact.confirmed_at = self.contact.confirmed_at.max(Some(asked_at));
        if self.contact.asking_since.is_some_and(|since| since <= asked_at) {
            self.contact.asking_since = None;
        }
    }
}
