"""An idempotent producer of kafka-python. Writes down each acknowledged record, and prints errors.

producer_kafka_python.py NAME DIRECTORY BOOTSTRAP TOPIC PARTITIONS RECORDS_PER_SECOND
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from accounts import Accounts, code
from kafka import KafkaProducer
from kafka.errors import KafkaError


def failed(error: BaseException) -> None:
    """A record has no known place."""
    print(error, flush=True)


def main() -> None:
    """Send until SIGTERM, then wait for what is under way."""
    name, directory, bootstrap, topic = sys.argv[1:5]
    partitions, rate = int(sys.argv[5]), int(sys.argv[6])
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
    accounts = Accounts(Path(directory), name, partitions)

    def told(number: int, metadata: Any) -> None:
        accounts.write(metadata.partition, metadata.offset, code(name, number), int(time.monotonic() * 1000))

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
    accounts.close()
    # Last, so that it says that all is written down.
    print(f"# sent {number}", flush=True)


main()
