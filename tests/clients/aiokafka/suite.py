"""aiokafka: the shared group scenarios, each member with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from typing import Any

import group_scenarios
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError
from group_scenarios import Place

import report

ASSIGNORS = {"roundrobin": RoundRobinPartitionAssignor, "sticky": StickyPartitionAssignor}
TIMEOUT_S = 60.0


class AioMember:
    """`group_scenarios.Member` for aiokafka."""

    def __init__(self, topic: str, settings: dict[str, Any]) -> None:
        self.loop = asyncio.new_event_loop()
        self.consumer: AIOKafkaConsumer = None
        self.run(self.begin(topic, settings))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, TIMEOUT_S))

    async def begin(self, topic: str, settings: dict[str, Any]) -> None:
        self.consumer = AIOKafkaConsumer(topic, **settings)
        await self.consumer.start()

    def poll(self) -> list[Place]:
        polled = self.run(self.consumer.getmany(timeout_ms=500, max_records=200))
        return [(message.partition, message.offset) for messages in polled.values() for message in messages]

    def commit(self) -> None:
        with contextlib.suppress(CommitFailedError, IllegalStateError):
            self.run(self.consumer.commit())

    def owned(self) -> set[int]:
        return {place.partition for place in self.consumer.assignment()}

    def close(self) -> None:
        self.run(self.consumer.stop())
        self.loop.close()


class AioGroups:
    """`group_scenarios.GroupAdapter` for aiokafka."""

    assignors = list(ASSIGNORS)

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def create_topic(self, topic: str, partitions: int) -> None:
        async def create() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await admin.start()
            try:
                await admin.create_topics([NewTopic(topic, partitions, 1)])
            finally:
                await admin.close()

        asyncio.run(create())

    def produce(self, topic: str, count: int) -> None:
        async def send() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True)
            await producer.start()
            try:
                partitions = group_scenarios.PARTITION_COUNT
                sent = [
                    await producer.send(topic, str(number).encode(), partition=number % partitions)
                    for number in range(count)
                ]
                await asyncio.gather(*sent)
            finally:
                await producer.stop()

        asyncio.run(send())

    def member(self, group: str, topic: str, assignor: str, instance: str | None = None) -> AioMember:
        settings = {
            "bootstrap_servers": self.bootstrap,
            "group_id": group,
            "group_instance_id": instance,
            "partition_assignment_strategy": [ASSIGNORS[assignor]],
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 500,
            "metadata_max_age_ms": 1000,
        }
        return AioMember(topic, settings)

    def committed(self, group: str, topic: str, partitions: int) -> dict[int, int]:
        async def ask() -> dict[int, int]:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await admin.start()
            try:
                places = [TopicPartition(topic, partition) for partition in range(partitions)]
                found = await admin.list_consumer_group_offsets(group, partitions=places)
                return {place.partition: about.offset for place, about in found.items()}
            finally:
                await admin.close()

        return asyncio.run(ask())


if __name__ == "__main__":
    sys.exit(report.run(group_scenarios.cases(AioGroups(sys.argv[1])), *sys.argv[2:]))
