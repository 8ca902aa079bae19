"""kafka-python, 2.0.2 and the newest: the shared scenarios."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any

import kafka
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions, NewTopic
from kafka.errors import KafkaError as ClientError

import config_scenarios
import report
import scenarios
from config_scenarios import Change
from data import Record
from scenarios import KafkaError

TIMEOUT_S = 30.0
# By Kafka's numbers.
CONFIG_SOURCES = [
    "UNKNOWN",
    "DYNAMIC_TOPIC_CONFIG",
    "DYNAMIC_BROKER_CONFIG",
    "DYNAMIC_DEFAULT_BROKER_CONFIG",
    "STATIC_BROKER_CONFIG",
    "DEFAULT_CONFIG",
]
OLD = kafka.__version__.startswith("2.0.")


def asked(call: Callable[[], Any]) -> Any:
    """Run one call; its error becomes the protocol's code."""
    try:
        return call()
    except ClientError as error:
        raise KafkaError(getattr(error, "errno", -1), str(error)) from error


class KafkaPython:
    """`scenarios.Adapter` for kafka-python."""

    compressions = ["none", "gzip", "snappy", "lz4", "zstd"]
    null_header = False
    both_null = False
    idempotent = not OLD
    incremental = not OLD

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)

    def create_topic(self, topic: str, partitions: int, replication: int, configs: dict[str, str]) -> None:
        new = NewTopic(topic, partitions, replication, topic_configs=configs)
        asked(lambda: self.admin.create_topics([new]))

    def delete_topic(self, topic: str) -> None:
        asked(lambda: self.admin.delete_topics([topic]))

    def grow_topic(self, topic: str, partitions: int) -> None:
        asked(lambda: self.admin.create_partitions({topic: NewPartitions(partitions)}))

    def topics(self) -> dict[str, int]:
        name = "topic" if OLD else "name"
        return {about[name]: len(about["partitions"]) for about in asked(self.admin.describe_topics)}

    def topic_configs(self, topic: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        settings = {} if OLD else {"config_filter": "all"}
        answer = asked(lambda: self.admin.describe_configs([resource], **settings))
        if OLD:
            ((_code, _text, _type, _name, entries),) = answer[0].resources
            return {entry[0]: entry[1] for entry in entries}
        return {name: about["value"] for name, about in answer["topic"][topic].items()}

    def alter(self, kind: str, name: str, changes: list[Change]) -> None:
        configs = {key: (operation, value) for operation, key, value in changes}
        resource = ConfigResource(kind, name, configs)
        answer = asked(lambda: self.admin.alter_configs([resource], raise_on_unknown=False, incremental=True))
        self.raise_refusal(answer[kind][name])

    def replace(self, topic: str, configs: dict[str, str]) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs)
        if OLD:
            answer = asked(lambda: self.admin.alter_configs([resource]))
            ((code, text, _type, _name),) = answer.resources
            if code != 0:
                raise KafkaError(code, text)
            return
        # The client itself would add all that is set already.
        replacing = self.admin._send_alter_configs_requests([resource], incremental=False)
        answer = asked(lambda: self.admin._manager.run(lambda: replacing))
        self.raise_refusal(answer["topic"][topic])

    @staticmethod
    def raise_refusal(result: str) -> None:
        """Errors of single resources come as text, such as `[Error 40] InvalidConfigurationError: …`."""
        if result != "OK":
            code = re.search(r"\[Error (\d+)\]", result)
            raise KafkaError(int(code.group(1)) if code else -1, result)

    def described(self, kind: str, name: str) -> dict[str, tuple[str | None, int]]:
        resource = ConfigResource(ConfigResourceType[kind.upper()], name)
        if OLD:
            answer = asked(lambda: self.admin.describe_configs([resource], include_synonyms=True))
            ((_code, _text, _type, _name, entries),) = answer[0].resources
            return {entry[0]: (entry[1], entry[3]) for entry in entries}
        answer = asked(lambda: self.admin.describe_configs([resource], include_synonyms=True, config_filter="all"))
        return {
            key: (about["value"], CONFIG_SOURCES.index(about["config_source"]))
            for key, about in answer[kind][name].items()
        }

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        if OLD:
            raise report.Skip("this version has no delete_records")
        asked(lambda: self.admin.delete_records({TopicPartition(topic, partition): before_offset}))

    def broker_count(self) -> int:
        return len(asked(self.admin.describe_cluster)["brokers"])

    def produce(
        self, topic: str, records: list[Record], compression: str = "none", acks: int = -1, idempotent: bool = False
    ) -> list[int]:
        settings: dict[str, Any] = {} if OLD else {"enable_idempotence": idempotent}
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap,
            compression_type=None if compression == "none" else compression,
            acks="all" if acks == -1 else acks,
            linger_ms=20,
            # Without sequence numbers a retry may overtake the batch behind it.
            max_in_flight_requests_per_connection=5 if idempotent else 1,
            retries=10,
            max_request_size=4 * scenarios.MAX_MESSAGE_BYTES,
            **settings,
        )
        try:
            sent = [
                producer.send(
                    topic,
                    value=record.value,
                    key=record.key,
                    headers=record.headers,
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
                for record in records
            ]
            producer.flush(timeout=TIMEOUT_S)
            return [asked(lambda future=future: future.get(timeout=TIMEOUT_S)).offset for future in sent]
        finally:
            producer.close(timeout=TIMEOUT_S)

    def consumer(self) -> KafkaConsumer:
        return KafkaConsumer(
            bootstrap_servers=self.bootstrap, enable_auto_commit=False, auto_offset_reset="none", check_crcs=True
        )

    def consume(self, topic: str, partition: int, offset: int, count: int) -> list[tuple[int, Record]]:
        consumer = self.consumer()
        consumed: list[tuple[int, Record]] = []
        deadline = time.monotonic() + TIMEOUT_S
        place = TopicPartition(topic, partition)
        try:
            consumer.assign([place])
            asked(lambda: consumer.seek(place, offset))
            while len(consumed) < count and time.monotonic() < deadline:
                polled = asked(lambda: consumer.poll(timeout_ms=1000, max_records=count - len(consumed)))
                for message in polled.get(place, []):
                    record = Record(
                        value=message.value,
                        key=message.key,
                        headers=[(name, value) for name, value in message.headers],
                        timestamp_ms=message.timestamp,
                        partition=message.partition,
                    )
                    consumed.append((message.offset, record))
        finally:
            consumer.close()
        return consumed

    def offsets(self, topic: str, partition: int) -> tuple[int, int]:
        consumer = self.consumer()
        place = TopicPartition(topic, partition)
        try:
            earliest = asked(lambda: consumer.beginning_offsets([place]))[place]
            return earliest, asked(lambda: consumer.end_offsets([place]))[place]
        finally:
            consumer.close()

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        consumer = self.consumer()
        place = TopicPartition(topic, partition)
        try:
            found = asked(lambda: consumer.offsets_for_times({place: timestamp_ms}))[place]
            return None if found is None or found.offset < 0 else found.offset
        finally:
            consumer.close()


if __name__ == "__main__":
    client = KafkaPython(sys.argv[1])
    sys.exit(report.run([*scenarios.cases(client), *config_scenarios.cases(client)], *sys.argv[2:]))
