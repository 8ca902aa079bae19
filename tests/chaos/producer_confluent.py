"""An idempotent producer of librdkafka. Writes down each acknowledged record, and prints errors.

producer_confluent.py NAME DIRECTORY BOOTSTRAP TOPIC PARTITIONS RECORDS_PER_SECOND
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from accounts import Accounts, code_of, heirs
from confluent_kafka import KafkaError, KafkaException, Producer

# What becomes of records when their producer is ended by an error.
GIVEN_UP = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL)


def settings(bootstrap: str, rate: int) -> dict[str, Any]:
    """What a careful application sets."""
    return {
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


def say(error: object) -> None:
    """An error that an application was told, on one line; in the other file is where it came from."""
    if isinstance(error, Exception):
        traceback.print_exception(error)
    print(str(error).replace("\n", " "), flush=True)


def main() -> None:
    """Send until SIGTERM, then wait for what is under way."""
    (name, directory, bootstrap, topic), (partitions, rate) = sys.argv[1:5], map(int, sys.argv[5:7])
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    accounts = Accounts(Path(directory), name, partitions)
    given_up_count = 0

    def told(error: Any, message: Any) -> None:
        nonlocal given_up_count
        if error is None:
            some = code_of(message.value())
            accounts.write(message.partition(), message.offset(), some, int(time.monotonic() * 1000))
        elif error.code() in GIVEN_UP:
            given_up_count += 1
        else:
            say(error)

    number, began = 0, time.monotonic()

    def send(producer: Producer, letter: str) -> None:
        """Until SIGTERM, or the error that ends a producer."""
        nonlocal number
        while going:
            due = int((time.monotonic() - began) * rate)
            while number < due and going:
                try:
                    producer.produce(
                        topic, f"{letter}:{number}".encode(), partition=number % partitions, on_delivery=told
                    )
                except BufferError:
                    break
                number += 1
                if number % 1000 == 0:
                    producer.poll(0)
            producer.poll(0.005)

    left = 0
    for letter in heirs(name):
        producer = Producer(settings(bootstrap, rate))
        try:
            send(producer, letter)
            left = producer.flush(130)
            break
        except (KafkaException, SystemError) as error:
            # The latter is the binding's own.
            # It does not end an application, which gives up what was under way and goes on with another producer.
            say(error)
            with contextlib.suppress(KafkaException):
                producer.purge()
                producer.flush(10)
    accounts.close()
    if given_up_count:
        print(f"{given_up_count} records were given up")
    if left:
        print(f"{left} records have no answer")
    # Last, so that it says that all is written down.
    print(f"# sent {number}", flush=True)


faulthandler.enable()
main()
