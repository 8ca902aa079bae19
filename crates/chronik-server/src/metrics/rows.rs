//! How much is told, and what is left out.

use std::collections::BTreeMap;
use std::fmt;

use super::exposition::Exposition;

/// Bounds on what one scrape tells. What is beyond them is left out, from the end of the order of names, so that the
/// same series are told each time; `chronik_metrics_omitted` says how many things that were.
#[derive(Clone, Debug)]
pub struct SeriesLimits {
    /// Topics with series of their own: 8 series each.
    pub topics_max: usize,
    /// Partitions with series of their own: 8 series each, which makes some 4 MB of text.
    pub partitions_max: usize,
    /// Groups with series of their own.
    pub groups_max: usize,
    /// Partitions of groups with series of their own, all groups together.
    pub group_partitions_max: usize,
    /// The longest name of a group that is told, in bytes; Kafka's own tools and consoles stay well below it.
    pub label_bytes_max: usize,
}

impl Default for SeriesLimits {
    fn default() -> Self {
        Self {
            topics_max: 1_000,
            partitions_max: 5_000,
            groups_max: 1_000,
            group_partitions_max: 10_000,
            label_bytes_max: 256,
        }
    }
}

/// How many things were left out, by kind.
#[derive(Debug, Default)]
pub(super) struct Omitted(BTreeMap<&'static str, u64>);

impl Omitted {
    /// Notes that `count` things of a kind were left out.
    pub(super) fn note(&mut self, kind: &'static str, count: usize) {
        *self.0.entry(kind).or_default() += count as u64;
    }

    pub(super) fn tell(&self, into: &mut Exposition<'_>) -> fmt::Result {
        into.gauges(
            "chronik_metrics_omitted",
            "Things without series of their own at this scrape, because there are more than are told.",
            |sample| {
                for (kind, count) in &self.0 {
                    sample(&[("kind", kind)], *count)?;
                }
                Ok(())
            },
        )
    }
}
