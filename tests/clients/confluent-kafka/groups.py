"""confluent-kafka (librdkafka) in groups of the classic protocol."""

from __future__ import annotations

import sys

import group_scenarios
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from group_scenarios import Place
from suite import Confluent

import report
from data import Record


class ConfluentMember:
    """`group_scenarios.Member` for confluent-kafka."""

    def __init__(self, settings: dict[str, object], topic: str) -> None:
        self.consumer = Consumer(settings)
        self.consumer.subscribe([topic])

    def poll(self) -> list[Place]:
        messages = self.consumer.consume(200, timeout=0.5)
        for message in messages:
            if message.error():
                raise KafkaException(message.error())
        return [(message.partition(), message.offset()) for message in messages]

    def commit(self) -> None:
        try:
            self.consumer.commit(asynchronous=False)
        except KafkaException as error:
            moved = [
                KafkaError._NO_OFFSET,
                KafkaError.ILLEGAL_GENERATION,
                KafkaError.REBALANCE_IN_PROGRESS,
                KafkaError.UNKNOWN_MEMBER_ID,
            ]
            if error.args[0].code() not in moved:
                raise

    def owned(self) -> set[int]:
        return {place.partition for place in self.consumer.assignment()}

    def close(self) -> None:
        self.consumer.close()


class ConfluentGroups:
    """`group_scenarios.GroupAdapter` for confluent-kafka."""

    assignors = ["range", "roundrobin", "cooperative-sticky"]

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.client = Confluent(bootstrap)

    def create_topic(self, topic: str, partitions: int) -> None:
        self.client.create_topic(topic, partitions, 1, {})

    def produce(self, topic: str, count: int) -> None:
        partitions = group_scenarios.PARTITION_COUNT
        self.client.produce(topic, [Record(str(n).encode(), partition=n % partitions) for n in range(count)])

    def member(self, group: str, topic: str, assignor: str, instance: str | None = None) -> ConfluentMember:
        settings: dict[str, object] = {
            "bootstrap.servers": self.bootstrap,
            "group.id": group,
            "partition.assignment.strategy": assignor,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 10_000,
            "heartbeat.interval.ms": 500,
            "topic.metadata.refresh.interval.ms": 1000,
        }
        if instance is not None:
            settings["group.instance.id"] = instance
        return ConfluentMember(settings, topic)

    def committed(self, group: str, topic: str, partitions: int) -> dict[int, int]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group})
        try:
            places = [TopicPartition(topic, partition) for partition in range(partitions)]
            return {place.partition: place.offset for place in consumer.committed(places, timeout=30)}
        finally:
            consumer.close()


if __name__ == "__main__":
    sys.exit(report.run(group_scenarios.cases(ConfluentGroups(sys.argv[1])), *sys.argv[2:]))
