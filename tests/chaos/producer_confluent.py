"""An idempotent producer of librdkafka. Writes down each acknowledged record, and prints errors.

producer_confluent.py NAME DIRECTORY BOOTSTRAP TOPIC PARTITIONS RECORDS_PER_SECOND
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from accounts import Accounts, code_of
from confluent_kafka import Producer


def main() -> None:
    """Send until SIGTERM, then wait for what is under way."""
    name, directory, bootstrap, topic = sys.argv[1:5]
    partitions, rate = int(sys.argv[5]), int(sys.argv[6])
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
            "linger.ms": 20,
            # Twenty seconds of an outage are made up for.
            "queue.buffering.max.messages": 20 * rate,
            "message.timeout.ms": 120_000,
            "socket.timeout.ms": 5_000,
            "reconnect.backoff.max.ms": 200,
            "topic.metadata.refresh.interval.ms": 2_000,
            "log_level": 0,
        }
    )
    accounts = Accounts(Path(directory), name, partitions)

    def told(error: Any, message: Any) -> None:
        if error is None:
            some = code_of(message.value())
            accounts.write(message.partition(), message.offset(), some, int(time.monotonic() * 1000))
        else:
            print(error, flush=True)

    number, began = 0, time.monotonic()
    while going:
        due = int((time.monotonic() - began) * rate)
        while number < due and going:
            try:
                producer.produce(topic, f"{name}:{number}".encode(), partition=number % partitions, on_delivery=told)
                number += 1
            except BufferError:
                break
            if number % 1000 == 0:
                producer.poll(0)
        producer.poll(0.005)
    left = producer.flush(130)
    accounts.close()
    if left:
        print(f"{left} records have no answer")
    # Last, so that it says that all is written down.
    print(f"# sent {number}", flush=True)


main()
