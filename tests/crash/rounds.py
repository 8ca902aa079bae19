"""Kill -9 under load, restart on the same data, compare; over and over.

Writers of two kinds run: some live through every crash and send again what was not acknowledged,
others end with the round. Half of them are idempotent. After each restart everything acknowledged
must be read back; at the end Kafka's own DumpLogSegments must find nothing wrong in any file.

    rounds.py chronik --binary target/release/chronik-server --rounds 50
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from history import History, check

from daemon import Daemon, add_arguments, from_arguments
from dumplog import check as check_dump
from report import unwind_when_terminated

ONCE, PLAIN = "crash-once", "crash-plain"
PARTITION_COUNT = 4
UNACKNOWLEDGED_MAX = 500
CODECS = ["none", "lz4", "zstd", "snappy", "gzip"]
# Read everything in each so many rounds; in the others only what is new since the last check.
FULL_READ_EVERY = 10
READ_TIMEOUT_S = 300.0

Log = dict[tuple[str, int], list[tuple[int, bytes]]]


class Writer(threading.Thread):
    """One producer that sends numbered values to all partitions and notes what is acknowledged."""

    def __init__(self, name: str, bootstrap: str, history: History, topic: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.history = history
        self.topic = topic
        self.noise = random.Random(seed)
        self.stop_now = threading.Event()
        self.number = 0
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": topic == ONCE,
                "compression.type": CODECS[seed % len(CODECS)],
                "linger.ms": 2,
                "message.timeout.ms": 300_000,
                "reconnect.backoff.max.ms": 200,
                "retry.backoff.max.ms": 200,
                # Refused connections are what this test is about, not news.
                "log_level": 0,
                "error_cb": self.on_error,
            }
        )

    def on_error(self, error: object) -> None:
        """Only a fatal error matters: it means that the broker forgot the producer's sequence."""
        if getattr(error, "fatal", lambda: False)():
            self.history.complaints.append(f"{self.name}: fatal error: {error}")

    def run(self) -> None:
        while not self.stop_now.is_set():
            size_bytes = self.noise.choice([10, 100, 1000, 3000])
            payload = self.noise.randbytes(size_bytes)
            value = f"{self.name}:{self.number}:".encode() + payload
            self.history.send(value)
            try:
                self.producer.produce(
                    self.topic, value, partition=self.number % PARTITION_COUNT, on_delivery=self.on_delivery
                )
            except BufferError:
                self.producer.poll(0.05)
                continue
            self.number += 1
            self.producer.poll(0)
            while len(self.producer) > UNACKNOWLEDGED_MAX and not self.stop_now.is_set():
                self.producer.poll(0.02)
            # A pace that leaves the other threads and the broker their turn.
            if self.number % 20 == 0:
                self.stop_now.wait(0.01)

    def on_delivery(self, error: object, message: object) -> None:
        """An error acknowledges nothing, so the record may be there or not."""
        if error is None:
            place = (message.topic(), message.partition(), message.offset())  # type: ignore[attr-defined]
            self.history.acknowledge(place, message.value())  # type: ignore[attr-defined]

    def end(self, flush_s: float) -> None:
        """Stop sending; with a time to flush, what is under way is still delivered."""
        self.stop_now.set()
        self.join()
        if flush_s > 0 and (left := self.producer.flush(flush_s)):
            self.history.complaints.append(
                f"{self.name}: {left} records not delivered {flush_s:.0f} s after the last start"
            )
        self.producer.purge()
        self.producer.poll(0)


def create_topics(bootstrap: str) -> None:
    """Small segments, so that many files are rolled and recovered."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    settings = {"segment.bytes": "1048576"}
    wanted = [NewTopic(topic, PARTITION_COUNT, 1, config=settings) for topic in (ONCE, PLAIN)]
    for future in admin.create_topics(wanted).values():
        future.result(timeout=30)


def read(bootstrap: str, log: Log) -> None:
    """Extend `log` by everything behind what it holds."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "log_level": 0,
        }
    )
    try:
        ends = {}
        places = []
        for place, records in log.items():
            low, high = watermarks(consumer, TopicPartition(*place))
            start = records[-1][0] + 1 if records else low
            if start < high:
                ends[place] = high
                places.append(TopicPartition(*place, start))
        consumer.assign(places)
        deadline = time.monotonic() + READ_TIMEOUT_S
        while ends and time.monotonic() < deadline:
            for message in consumer.consume(5000, timeout=0.2):
                if message.error():
                    raise KafkaException(message.error())
                place = (str(message.topic()), int(message.partition() or 0))
                offset = int(message.offset() or 0)
                log[place].append((offset, message.value() or b""))
                if offset + 1 >= ends.get(place, 1 << 62):
                    del ends[place]
        if ends:
            raise AssertionError(f"no records up to {ends} within {READ_TIMEOUT_S:.0f} s")
    finally:
        consumer.close()


def watermarks(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """The ends of a partition; for a moment after a start its leader may not be known."""
    deadline = time.monotonic() + READ_TIMEOUT_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=5)
            return low, high
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def empty_log() -> Log:
    return {(topic, partition): [] for topic in (ONCE, PLAIN) for partition in range(PARTITION_COUNT)}


def compare(daemon: Daemon, history: History, log: Log) -> list[str]:
    """Read what is there and judge it by what had been acknowledged before the reading began."""
    before = History(dict(history.acknowledged), history.sent, list(history.complaints))
    read(daemon.bootstrap, log)
    return check(before, log, once={ONCE})


def crash_rounds(daemon: Daemon, rounds: int, seed: int) -> list[str]:
    """All rounds; the first complaints end them."""
    noise = random.Random(seed)
    history = History()
    log = empty_log()
    daemon.start()
    create_topics(daemon.bootstrap)
    lasting = [
        Writer(f"lasting{number}", daemon.bootstrap, history, topic, seed=number)
        for number, topic in enumerate([ONCE, PLAIN, ONCE, PLAIN])
    ]
    for writer in lasting:
        writer.start()
    for number in range(1, rounds + 1):
        passing = [
            Writer(f"round{number}{topic}", daemon.bootstrap, history, topic, seed=seed + number)
            for topic in (ONCE, PLAIN)
        ]
        for writer in passing:
            writer.start()
        time.sleep(noise.uniform(0.1, 1.0))
        daemon.kill()
        for writer in passing:
            writer.end(flush_s=0)
        if number % 5 == 0:
            # Recovery itself may be cut short.
            daemon.spawn()
            time.sleep(noise.uniform(0.0, 0.15))
            daemon.kill()
        started = time.monotonic()
        daemon.start()
        ready_s = time.monotonic() - started
        if number % FULL_READ_EVERY == 0:
            log = empty_log()
        complaints = compare(daemon, history, log)
        read_count = sum(map(len, log.values()))
        print(
            f"round {number}: ready after {ready_s:.2f} s, {len(history.acknowledged)} acknowledged, "
            f"{read_count} in the log, {len(complaints)} complaints",
            flush=True,
        )
        if complaints:
            return complaints
    for writer in lasting:
        writer.end(flush_s=60)
    complaints = compare(daemon, history, empty_log())
    if daemon.stop() != 0 and "chronik" in str(daemon.command()[0]):
        complaints.append("the broker did not exit with 0 after SIGTERM")
    daemon.start()
    complaints += compare(daemon, history, empty_log())
    daemon.stop()
    return complaints + check_dump([daemon.data_dir])


def main() -> int:
    """Run the rounds that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true", help="leave the data directory of a failed run")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="chronik-crash-"))
    daemon = from_arguments(options, directory / "data")
    unwind_when_terminated()
    complaints = ["the rounds did not end"]
    try:
        complaints = crash_rounds(daemon, options.rounds, options.seed)
    finally:
        daemon.kill()
        if complaints:
            print(daemon.log_tail())
        if complaints and options.keep:
            print(f"data kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    for complaint in complaints[:30]:
        print(f"not ok crash: {complaint}")
    if not complaints:
        print(f"ok crash: {options.rounds} rounds")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
