"""A member of a group with aiokafka: polls, says what came, commits."""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError
from say import Member

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


class Listener(ConsumerRebalanceListener):
    def __init__(self, member: Member, consumer: AIOKafkaConsumer) -> None:
        self.member = member
        self.consumer = consumer

    async def on_partitions_revoked(self, revoked: set) -> None:
        self.member.say("revoked", partitions=sorted(place.partition for place in revoked))

    async def on_partitions_assigned(self, assigned: set) -> None:
        self.member.say(
            "assigned",
            partitions=sorted(place.partition for place in assigned),
            generation=self.consumer._coordinator.generation,
        )


async def main() -> None:
    member = Member()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=member.bootstrap,
        group_id=member.group,
        client_id=member.name,
        group_instance_id=member.instance,
        partition_assignment_strategy=[ASSIGNORS[member.assignor]],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=member.session_timeout_ms,
        heartbeat_interval_ms=400,
        max_poll_interval_ms=60_000,
    )
    consumer.subscribe([member.topic], listener=Listener(member, consumer))
    await consumer.start()
    while not member.leaves:
        polled = await consumer.getmany(timeout_ms=200, max_records=500)
        member.consumed((m.partition, m.offset) for messages in polled.values() for m in messages)
        if polled:
            # Partitions that moved meanwhile are read again by whoever has them.
            with contextlib.suppress(KafkaError):
                await consumer.commit()
    # Leaving does not tell the listener.
    member.say("revoked", partitions=sorted(place.partition for place in consumer.assignment()))
    await consumer.stop()
    member.say("left")


if __name__ == "__main__":
    asyncio.run(main())
