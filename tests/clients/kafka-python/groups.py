"""kafka-python in groups."""

from __future__ import annotations

import contextlib
import sys

import group_scenarios
from group_scenarios import Place
from kafka import KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from suite import OLD, KafkaPython

import report
from data import Record

PARTITIONS_MOVED = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


class KafkaPythonMember:
    """`group_scenarios.Member` for kafka-python."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self.consumer = consumer

    def poll(self) -> list[Place]:
        polled = self.consumer.poll(timeout_ms=500, max_records=200)
        return [(message.partition, message.offset) for messages in polled.values() for message in messages]

    def commit(self) -> None:
        with contextlib.suppress(*PARTITIONS_MOVED):
            self.consumer.commit()

    def owned(self) -> set[int]:
        return {place.partition for place in self.consumer.assignment()}

    def close(self) -> None:
        self.consumer.close(autocommit=False)


class KafkaPythonGroups:
    """`group_scenarios.GroupAdapter` for kafka-python."""

    assignors = list(ASSIGNORS)

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.client = KafkaPython(bootstrap)

    def create_topic(self, topic: str, partitions: int) -> None:
        self.client.create_topic(topic, partitions, 1, {})

    def produce(self, topic: str, count: int) -> None:
        partitions = group_scenarios.PARTITION_COUNT
        self.client.produce(topic, [Record(str(n).encode(), partition=n % partitions) for n in range(count)])

    def member(self, group: str, topic: str, assignor: str, instance: str | None = None) -> KafkaPythonMember:
        settings = {} if instance is None else {"group_instance_id": instance}
        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=self.bootstrap,
            group_id=group,
            partition_assignment_strategy=[ASSIGNORS[assignor]],
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=10_000,
            heartbeat_interval_ms=500,
            metadata_max_age_ms=1000,
            **settings,
        )
        return KafkaPythonMember(consumer)

    def committed(self, group: str, topic: str, partitions: int) -> dict[int, int]:
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False)
        try:
            places = [TopicPartition(topic, partition) for partition in range(partitions)]
            offsets = {place.partition: consumer.committed(place) for place in places}
            return {partition: -1 if offset is None else offset for partition, offset in offsets.items()}
        finally:
            consumer.close()


def cases(groups: KafkaPythonGroups) -> list[tuple[str, report.Case]]:
    # 2.0.2 knows no static members.
    return [case for case in group_scenarios.cases(groups) if not (OLD and case[0].startswith("static"))]


if __name__ == "__main__":
    sys.exit(report.run(cases(KafkaPythonGroups(sys.argv[1])), *sys.argv[2:]))
