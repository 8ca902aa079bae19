"""A consumer of librdkafka that reads along, from where one before it ended. Writes down records, and prints errors.

reader_confluent.py DIRECTORY BOOTSTRAP TOPIC,TOPIC PARTITIONS
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
from pathlib import Path

from accounts import Accounts, code_of, of_reader
from confluent_kafka import Consumer, TopicPartition


def main() -> None:
    """Read until SIGTERM, and then until nothing comes any more."""
    directory, bootstrap, topics, partitions = *sys.argv[1:4], int(sys.argv[4])
    faulthandler.enable()
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "reconnect.backoff.max.ms": 200,
            "topic.metadata.refresh.interval.ms": 2_000,
            "log_level": 0,
        }
    )
    accounts: dict[str, Accounts] = {}
    positions: dict[tuple[str, int], int] = {}
    for topic in topics.split(","):
        accounts[topic], offsets = Accounts.of_heir(Path(directory), of_reader(topic), partitions)
        positions |= {(topic, partition): offset for partition, offset in enumerate(offsets)}

    def go_on() -> None:
        """From where it is."""
        consumer.assign([TopicPartition(*place, offset) for place, offset in positions.items()])

    go_on()
    while True:
        messages = consumer.consume(5_000, 0.2 if going else 3.0)
        if not going and not messages:
            break
        now_ms = int(time.monotonic() * 1000)
        for message in messages:
            if message.error() is not None:
                print(message.error(), flush=True)
                continue
            place = message.topic(), message.partition()
            if message.offset() < positions[place]:
                print(f"{place[0]}-{place[1]} goes back from {positions[place]} to {message.offset()}", flush=True)
                continue
            positions[place] = message.offset() + 1
            accounts[place[0]].write(place[1], message.offset(), code_of(message.value()), now_ms)
        # An application that is told of an error goes on; behind what it was given with it, which comes once.
        if any(message.error() is not None for message in messages):
            go_on()
    # What was read counts, whatever becomes of the consumer.
    for account in accounts.values():
        account.close()
    consumer.close()
    # Last, so that it says that all is written down.
    print("# read all", flush=True)


main()
