"""A consumer of librdkafka that reads along. Prints `partition offset value` for each record.

reader_confluent.py BOOTSTRAP TOPIC PARTITIONS
"""

from __future__ import annotations

import signal
import sys

from confluent_kafka import Consumer, TopicPartition


def main() -> None:
    """Read until SIGTERM."""
    bootstrap, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
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
            "reconnect.backoff.max.ms": 200,
            "topic.metadata.refresh.interval.ms": 2_000,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    while going:
        for message in consumer.consume(500, 0.2):
            if message.error() is not None:
                sys.stdout.write(f"# {message.error()}\n")
            else:
                value = message.value().decode()
                sys.stdout.write(f"{message.partition()} {message.offset()} {value}\n")
    consumer.close()
    sys.stdout.flush()


main()
