"""confluent-kafka (librdkafka): the shared scenarios."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic

import config_scenarios
import report
import scenarios
from config_scenarios import Change
from data import Record
from scenarios import KafkaError

TIMEOUT_S = 30.0


def asked(call: Callable[[], Any]) -> Any:
    """Run one call; its error becomes the protocol's code."""
    try:
        return call()
    except KafkaException as error:
        raise KafkaError(error.args[0].code(), error.args[0].str()) from error


def only_result(futures: dict[Any, Future[Any]]) -> Any:
    """The answer of an admin call about one thing."""
    (future,) = futures.values()
    return asked(lambda: future.result(timeout=TIMEOUT_S))


class Confluent:
    """`scenarios.Adapter` for confluent-kafka."""

    compressions = ["none", "gzip", "snappy", "lz4", "zstd"]
    null_header = True
    both_null = True
    idempotent = True
    incremental = True

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = AdminClient({"bootstrap.servers": bootstrap})

    def create_topic(self, topic: str, partitions: int, replication: int, configs: dict[str, str]) -> None:
        # librdkafka itself refuses 0 partitions, with its own error code.
        if partitions == 0:
            raise KafkaError(scenarios.ERROR_INVALID_PARTITIONS, "refused by the client")
        only_result(self.admin.create_topics([NewTopic(topic, partitions, replication, config=configs)]))

    def delete_topic(self, topic: str) -> None:
        only_result(self.admin.delete_topics([topic]))

    def grow_topic(self, topic: str, partitions: int) -> None:
        only_result(self.admin.create_partitions([NewPartitions(topic, partitions)]))

    def topics(self) -> dict[str, int]:
        found = asked(lambda: self.admin.list_topics(timeout=TIMEOUT_S)).topics
        return {name: len(about.partitions) for name, about in found.items()}

    def topic_configs(self, topic: str) -> dict[str, str]:
        entries = only_result(self.admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]))
        return {name: entry.value for name, entry in entries.items()}

    def alter(self, kind: str, name: str, changes: list[Change]) -> None:
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType[operation])
            for operation, key, value in changes
        ]
        resource = ConfigResource(ConfigResource.Type[kind.upper()], name, incremental_configs=entries)
        only_result(self.admin.incremental_alter_configs([resource]))

    def replace(self, topic: str, configs: dict[str, str]) -> None:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, set_config=configs)
        only_result(self.admin.alter_configs([resource]))

    def described(self, kind: str, name: str) -> dict[str, tuple[str | None, int]]:
        resource = ConfigResource(ConfigResource.Type[kind.upper()], name)
        entries = only_result(self.admin.describe_configs([resource]))
        return {key: (entry.value, int(entry.source)) for key, entry in entries.items()}

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        only_result(self.admin.delete_records([TopicPartition(topic, partition, before_offset)]))

    def broker_count(self) -> int:
        described = asked(lambda: self.admin.describe_cluster().result(timeout=TIMEOUT_S))
        return len(described.nodes)

    def produce(
        self, topic: str, records: list[Record], compression: str = "none", acks: int = -1, idempotent: bool = False
    ) -> list[int]:
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "compression.type": compression,
                "acks": acks,
                "enable.idempotence": idempotent,
                # Without sequence numbers a retry may overtake the batch behind it.
                "max.in.flight.requests.per.connection": 5 if idempotent else 1,
                "linger.ms": 20,
                "message.max.bytes": 4 * scenarios.MAX_MESSAGE_BYTES,
                "message.timeout.ms": int(TIMEOUT_S * 1000),
            }
        )
        offsets = [-1] * len(records)
        errors = []

        def delivered(index: int) -> Callable[[Any, Any], None]:
            def report_of(error: Any, message: Any) -> None:
                if error is not None:
                    errors.append(KafkaError(error.code(), error.str()))
                elif message.offset() is not None:
                    offsets[index] = message.offset()

            return report_of

        for index, record in enumerate(records):
            producer.produce(
                topic,
                value=record.value,
                key=record.key,
                headers=record.headers,
                timestamp=record.timestamp_ms,
                partition=record.partition,
                on_delivery=delivered(index),
            )
            producer.poll(0)
        unsent_count = producer.flush(TIMEOUT_S)
        if errors:
            raise errors[0]
        report.expect("records without a delivery report", unsent_count, 0)
        return offsets

    def consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                # librdkafka wants a name even where no group is used.
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "allow.auto.create.topics": False,
                "check.crcs": True,
            }
        )

    def consume(self, topic: str, partition: int, offset: int, count: int) -> list[tuple[int, Record]]:
        consumer = self.consumer()
        consumed: list[tuple[int, Record]] = []
        deadline = time.monotonic() + TIMEOUT_S
        try:
            consumer.assign([TopicPartition(topic, partition, offset or OFFSET_BEGINNING)])
            while len(consumed) < count and time.monotonic() < deadline:
                for message in consumer.consume(count - len(consumed), timeout=1.0):
                    if message.error():
                        raise KafkaError(message.error().code(), message.error().str())
                    record = Record(
                        value=message.value(),
                        key=message.key(),
                        headers=message.headers() or [],
                        timestamp_ms=message.timestamp()[1],
                        partition=message.partition(),
                    )
                    consumed.append((message.offset(), record))
        finally:
            consumer.close()
        return consumed

    def offsets(self, topic: str, partition: int) -> tuple[int, int]:
        consumer = self.consumer()
        try:
            return asked(lambda: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S))
        finally:
            consumer.close()

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        consumer = self.consumer()
        try:
            asking = [TopicPartition(topic, partition, timestamp_ms)]
            (answer,) = asked(lambda: consumer.offsets_for_times(asking, timeout=TIMEOUT_S))
            return answer.offset if answer.offset >= 0 else None
        finally:
            consumer.close()


if __name__ == "__main__":
    client = Confluent(sys.argv[1])
    sys.exit(report.run([*scenarios.cases(client), *config_scenarios.cases(client)], *sys.argv[2:]))
