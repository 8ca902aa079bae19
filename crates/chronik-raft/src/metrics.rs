//! What a node counts of itself.

/// Upper bounds of the buckets of [`LatencyHistogram`], in milliseconds; one more bucket takes what is above.
pub const LATENCY_BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// What a node has counted since it started, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftMetrics {
    /// How often it has asked for votes, or whether it would get them.
    pub elections_started_count: u64,
    /// How often it has become leader.
    pub elections_won_count: u64,
    /// Its own proposals that have no answer yet.
    pub proposals_in_flight_count: usize,
    /// How long its own proposals took until they were applied here, refused ones included.
    pub proposal_latency_ms: LatencyHistogram,
    /// Snapshots that it has written of its own image.
    pub snapshots_written_count: u64,
    /// Snapshots that it was sent and has taken.
    pub snapshots_installed_count: u64,
    /// The size of its log on disk, snapshot aside.
    pub log_bytes: u64,
}

/// Counts of durations by size; how many are at most each of [`LATENCY_BUCKETS_MS`] and above the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// The counts, one for each bound and one for what is above all.
    pub counts: [u64; LATENCY_BUCKETS_MS.len() + 1],
    /// The sum of all durations.
    pub sum_ms: u64,
}

impl LatencyHistogram {
    pub(crate) fn record(&mut self, latency_ms: u64) {
        let bucket = LATENCY_BUCKETS_MS.partition_point(|bound_ms| *bound_ms < latency_ms);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
        self.sum_ms = self.sum_ms.saturating_add(latency_ms);
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let mut histogram = LatencyHistogram::default();
        for latency_ms in [0, 1, 2, 3, 5, 5_000, 5_001] {
            histogram.record(latency_ms);
        }
        assert_eq!(histogram.counts[..3], [2, 1, 2]);
        assert_eq!(histogram.counts[11..], [1, 1]);
        assert_eq!((histogram.count(), histogram.sum_ms), (7, 10_012));
    }
}
