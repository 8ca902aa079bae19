//! Writing metrics down: families of samples for `prometheus-client`, and its text for readers of the older format.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The content type of what `prometheus-client` writes.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the older format, which every reader knows.
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Name and value of each label of a sample.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// Where a collector writes to.
pub(super) struct Exposition<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl<'a> Exposition<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    /// A family of gauges; `write` is called with what takes its samples.
    pub(super) fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl FnOnce(&mut dyn FnMut(Labels<'_>, V) -> fmt::Result) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples(&mut |labels, value| {
            if labels.is_empty() {
                encoder.encode_gauge(&value)
            } else {
                encoder.encode_family(&labels)?.encode_gauge(&value)
            }
        })
    }

    /// One gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauges(name, help, |sample| sample(&[], value))
    }

    /// A family of counters. `name` is without `_total`, which the format adds.
    pub(super) fn counters<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl FnOnce(&mut dyn FnMut(Labels<'_>, V) -> fmt::Result) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples(&mut |labels, value| {
            if labels.is_empty() {
                encoder.encode_counter::<NoLabelSet, V, f64>(&value, None)
            } else {
                encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, V, f64>(&value, None)
            }
        })
    }

    /// One counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, |sample| sample(&[], value))
    }

    /// A family of histograms. Each sample is its sum and the number in each class, with the class's upper bound.
    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl FnOnce(&mut dyn FnMut(Labels<'_>, f64, &[(f64, u64)]) -> fmt::Result) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        samples(&mut |labels, sum, classes| {
            let count = classes.iter().map(|(_, count)| count).sum();
            if labels.is_empty() {
                encoder.encode_histogram::<NoLabelSet>(sum, count, classes, None)
            } else {
                encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, classes, None)
            }
        })
    }
}

/// Turns the `OpenMetrics` text into the older format. They differ in little: there, a counter's name has its `_total`
/// in the lines that describe it too, and nothing marks the end.
pub(super) fn plain(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 4096);
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let Some(description) = line.strip_prefix("# HELP ") else {
            push(&mut text, &[line]);
            continue;
        };
        // The type follows the help, and says whether the name is a counter's.
        let (name, help) = description.split_once(' ').unwrap_or((description, ""));
        let kind =
            lines.peek().and_then(|next| next.strip_prefix("# TYPE ")).and_then(|next| next.split_once(' '));
        match kind {
            Some((_, "counter")) => {
                push(&mut text, &["# HELP ", name, "_total ", help]);
                push(&mut text, &["# TYPE ", name, "_total counter"]);
                lines.next();
            }
            Some(_) | None => push(&mut text, &[line]),
        }
    }
    text
}

fn push(text: &mut String, parts: &[&str]) {
    text.extend(parts.iter().copied());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_has_total_in_the_description() {
        let openmetrics = "# HELP a Counts.\n# TYPE a counter\na_total{x=\"# EOF\"} 1\n# HELP b Shows.\n\
                           # TYPE b gauge\nb 2\n# EOF\n";
        let expected = "# HELP a_total Counts.\n# TYPE a_total counter\na_total{x=\"# EOF\"} 1\n\
                        # HELP b Shows.\n# TYPE b gauge\nb 2\n";
        assert_eq!(plain(openmetrics), expected);
    }
}
