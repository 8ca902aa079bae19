//! Latency at a fixed rate: each record is stamped with the time at which it was due to be sent, so that a broker that
//! stalls is charged for all that waited meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use chronik_protocol::records::{BatchBuilder, BatchOptions, RecordIter};

use crate::client::Connection;
use crate::load::{self, Target};
use crate::stats::Figures;

/// No batch of these runs comes near this.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Bytes of the time in front of each record's value.
const TIME_BYTES: usize = 8;

/// The load of a latency run.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) records_per_second: u32,
    pub(crate) record_bytes: usize,
}

/// Milliseconds of many records.
#[derive(Default)]
pub(crate) struct Latencies(Vec<f64>);

impl Latencies {
    /// The value that a share of all is not above; 0 of nothing.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list, from a share between 0 and 1"
    )]
    fn percentile(&self, share: f64) -> f64 {
        let place = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// Notes the middle, the tail and the worst under four names.
    pub(crate) fn note(&mut self, figures: &mut Figures, names: [&'static str; 4]) {
        self.0.sort_by(f64::total_cmp);
        for (name, share) in names.into_iter().zip([0.5, 0.99, 0.999, 1.0]) {
            figures.note(name, self.percentile(share));
        }
    }
}

/// What a latency run found.
#[derive(Default)]
pub(crate) struct Found {
    /// From when each record was due until its producer was told that all in sync have it.
    pub(crate) produce: Latencies,
    /// From when each record was due until a consumer had it.
    pub(crate) end_to_end: Latencies,
}

/// Produces at a fixed rate with `acks=all`, one record a request, while consumers read along at the log's end; each
/// target has a producer's and a consumer's connection. Goes on as long as `goes_on` says.
pub(crate) fn run(
    targets: &[Target],
    topic: &str,
    rate: Rate,
    mut goes_on: impl FnMut(Duration) -> Result<bool>,
) -> Result<Found> {
    let began = Instant::now();
    let is_over = std::sync::Arc::new(AtomicBool::new(false));
    let mut consumers = Vec::new();
    let mut acknowledgements = Vec::new();
    let mut places = Vec::new();
    for target in targets {
        let partitions: Vec<i32> = target.requests.iter().flatten().copied().collect();
        let consumer = Consumer::at_the_end(target.port, topic, &partitions)?;
        let over = std::sync::Arc::clone(&is_over);
        consumers.push(thread::spawn(move || consumer.follow(began, &over)));
        let connection = Connection::open(target.port)?;
        let (sent, waiting) = channel();
        let other_end = connection.another_end()?;
        acknowledgements.push(thread::spawn(move || acknowledged(other_end, &waiting, began)));
        places.push((connection, sent, partitions));
    }
    let sent = send(&mut places, topic, rate, began, &mut goes_on);
    drop(places);
    // Consumers end once they have seen all that was acknowledged.
    let produce = gathered(acknowledgements);
    is_over.store(true, Ordering::SeqCst);
    let end_to_end = gathered(consumers)?;
    sent?;
    Ok(Found { produce: produce?, end_to_end })
}

fn gathered(threads: Vec<JoinHandle<Result<Vec<f64>>>>) -> Result<Latencies> {
    let mut all = Latencies::default();
    for thread in threads {
        all.0.extend(thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
    }
    Ok(all)
}

type Place = (Connection, Sender<Duration>, Vec<i32>);

fn send(
    places: &mut [Place],
    topic: &str,
    rate: Rate,
    began: Instant,
    goes_on: &mut impl FnMut(Duration) -> Result<bool>,
) -> Result<()> {
    let pause = Duration::from_secs(1) / rate.records_per_second;
    let mut due = began.elapsed();
    let mut number = 0_usize;
    let place_count = places.len();
    while goes_on(due)? {
        if let Some(early) = due.checked_sub(began.elapsed()) {
            sleep(early);
        }
        // Records go round the brokers, and within each round its partitions.
        let (connection, sent, partitions) = places.get_mut(number % place_count).context("a broker")?;
        let partition =
            partitions.get(number / place_count % partitions.len()).copied().context("a partition")?;
        let frame = load::produce_frame(topic, &[(partition, stamped(due, rate.record_bytes)?)])?;
        // Whoever waits for the answer must know of it before the answer can come.
        if sent.send(due).is_err() {
            // It failed, and says why when it is joined.
            return Ok(());
        }
        connection.send(&frame)?;
        due += pause;
        number += 1;
    }
    Ok(())
}

/// A batch of one record, whose value begins with `due` in nanoseconds.
fn stamped(due: Duration, record_bytes: usize) -> Result<Bytes> {
    let mut value = u64::try_from(due.as_nanos())?.to_be_bytes().to_vec();
    value.resize(record_bytes.max(TIME_BYTES), b'.');
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(load::wall_clock()?, None, Some(&value), &[])?;
    Ok(builder.finish()?.freeze())
}

fn acknowledged(
    mut connection: Connection,
    waiting: &Receiver<Duration>,
    began: Instant,
) -> Result<Vec<f64>> {
    let mut buffer = BytesMut::new();
    let mut latencies = Vec::new();
    for due in waiting {
        load::check_produced(&mut connection, &mut buffer)?;
        latencies.push(milliseconds_since(began, due));
    }
    Ok(latencies)
}

fn milliseconds_since(began: Instant, due: Duration) -> f64 {
    began.elapsed().saturating_sub(due).as_secs_f64() * 1_000.0
}

struct Consumer {
    connection: Connection,
    topic: String,
    /// Where it goes on, by partition.
    positions: BTreeMap<i32, i64>,
}

impl Consumer {
    fn at_the_end(port: u16, topic: &str, partitions: &[i32]) -> Result<Self> {
        let mut connection = Connection::open(port)?;
        let positions = connection.ends(topic, partitions)?.into_iter().collect();
        Ok(Self { connection, topic: topic.to_owned(), positions })
    }

    /// Reads along until it is over.
    fn follow(mut self, began: Instant, is_over: &AtomicBool) -> Result<Vec<f64>> {
        let mut buffer = BytesMut::new();
        let mut latencies = Vec::new();
        loop {
            // Looked at before, so that what came last is read.
            let last = is_over.load(Ordering::SeqCst);
            let positions: Vec<(i32, i64)> =
                self.positions.iter().map(|(at, offset)| (*at, *offset)).collect();
            let found = load::fetch(&mut self.connection, &self.topic, &positions, &mut buffer)?;
            let before = latencies.len();
            for found in found {
                let next = load::walk(&found.records, |batch| {
                    let mut records = RecordIter::new(batch, BATCH_BYTES_MAX)?;
                    while let Some(record) = records.next_record()? {
                        let time = record.value.and_then(|value| value.first_chunk().copied());
                        let due = Duration::from_nanos(u64::from_be_bytes(time.context("a stamped record")?));
                        latencies.push(milliseconds_since(began, due));
                    }
                    Ok(())
                })?;
                if let Some(next) = next {
                    self.positions.insert(found.partition, next);
                }
            }
            if last && latencies.len() == before {
                return Ok(latencies);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let latencies = Latencies((1..=1_000).map(f64::from).collect());
        let at = |share: f64| latencies.percentile(share);
        let expected = [500.0, 990.0, 999.0, 1_000.0];
        for (share, expected) in [0.5, 0.99, 0.999, 1.0].into_iter().zip(expected) {
            assert!((at(share) - expected).abs() < f64::EPSILON, "{share}: {}", at(share));
        }
        assert!(Latencies::default().percentile(0.5).abs() < f64::EPSILON);
    }
}
