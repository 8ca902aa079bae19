"""An idempotent producer of librdkafka. Prints `milliseconds partition offset number` for each acknowledged record.

producer_confluent.py NAME BOOTSTRAP TOPIC PARTITIONS RECORDS_PER_SECOND
"""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from confluent_kafka import Producer


def main() -> None:
    """Send until SIGTERM, then wait for what is under way."""
    name, bootstrap, topic, partitions, rate = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 2,
            "message.timeout.ms": 120_000,
            "socket.timeout.ms": 5_000,
            "reconnect.backoff.max.ms": 200,
            "topic.metadata.refresh.interval.ms": 2_000,
            "log_level": 0,
        }
    )
    out = sys.stdout

    def told(error: Any, message: Any) -> None:
        if error is None:
            number = message.value().split(b":")[1].decode()
            out.write(f"{time.monotonic() * 1000:.0f} {message.partition()} {message.offset()} {number}\n")
        else:
            out.write(f"# {error}\n")

    number, began = 0, time.monotonic()
    while going:
        due = int((time.monotonic() - began) * rate)
        while number < due and going:
            try:
                producer.produce(topic, f"{name}:{number}".encode(), partition=number % partitions, on_delivery=told)
                number += 1
            except BufferError:
                break
        producer.poll(0.002)
    left = producer.flush(130)
    out.write(f"# sent {number} left {left}\n")
    out.flush()


main()
