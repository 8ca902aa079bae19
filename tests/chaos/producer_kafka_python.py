"""An idempotent producer of kafka-python. Prints `milliseconds partition offset number` for each acknowledged record.

producer_kafka_python.py NAME BOOTSTRAP TOPIC PARTITIONS RECORDS_PER_SECOND
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

OUT = threading.Lock()


def told(number: int, metadata: Any) -> None:
    """A record is acknowledged."""
    with OUT:
        sys.stdout.write(f"{time.monotonic() * 1000:.0f} {metadata.partition} {metadata.offset} {number}\n")


def failed(error: BaseException) -> None:
    """A record has no known place."""
    with OUT:
        sys.stdout.write(f"# {error}\n")


def main() -> None:
    """Send until SIGTERM, then wait for what is under way."""
    name, bootstrap, topic, partitions, rate = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    producer = KafkaProducer(
        bootstrap_servers=bootstrap.split(","),
        acks="all",
        enable_idempotence=True,
        retries=1_000_000,
        delivery_timeout_ms=120_000,
        request_timeout_ms=5_000,
        retry_backoff_ms=50,
        reconnect_backoff_max_ms=200,
        metadata_max_age_ms=2_000,
        max_block_ms=120_000,
    )
    number, began = 0, time.monotonic()
    while not stopping.is_set():
        due = int((time.monotonic() - began) * rate)
        while number < due and not stopping.is_set():
            try:
                future = producer.send(topic, f"{name}:{number}".encode(), partition=number % partitions)
            except KafkaError as error:
                failed(error)
                break
            future.add_callback(partial(told, number)).add_errback(failed)
            number += 1
        time.sleep(0.01)
    producer.close(130)
    sys.stdout.write(f"# sent {number} left 0\n")
    sys.stdout.flush()


main()
