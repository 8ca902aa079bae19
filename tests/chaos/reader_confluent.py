"""A consumer of librdkafka that reads along. Writes down each record, and prints errors.

reader_confluent.py NAME DIRECTORY BOOTSTRAP TOPIC PARTITIONS
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
from pathlib import Path

from accounts import Accounts, code_of
from confluent_kafka import Consumer, TopicPartition


def main() -> None:
    """Read until SIGTERM, and then until nothing comes any more."""
    name, directory, bootstrap, topic, partitions = *sys.argv[1:5], int(sys.argv[5])
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
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    accounts = Accounts(Path(directory), name, partitions)
    positions = [0] * partitions
    while True:
        messages = consumer.consume(5_000, 0.2 if going else 3.0)
        if not going and not messages:
            break
        now_ms = int(time.monotonic() * 1000)
        for message in messages:
            if message.error() is not None:
                print(message.error(), flush=True)
                # An application that is told of an error goes on from where it is.
                consumer.assign([TopicPartition(topic, index, place) for index, place in enumerate(positions)])
            elif message.offset() >= positions[message.partition()]:
                positions[message.partition()] = message.offset() + 1
                accounts.write(message.partition(), message.offset(), code_of(message.value()), now_ms)
    # What was read counts, whatever becomes of the consumer.
    accounts.close()
    consumer.close()
    # Last, so that it says that all is written down.
    print("# read all", flush=True)


main()
