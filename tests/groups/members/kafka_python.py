"""A member of a group with kafka-python: polls, says what came, commits."""

from __future__ import annotations

import contextlib

from kafka import KafkaConsumer
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import KafkaError
from say import Member

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


class Listener(ConsumerRebalanceListener):
    def __init__(self, member: Member, consumer: KafkaConsumer) -> None:
        self.member = member
        self.consumer = consumer

    def on_partitions_revoked(self, revoked: list) -> None:
        self.member.say("revoked", partitions=[place.partition for place in revoked])

    def on_partitions_assigned(self, assigned: list) -> None:
        generation = self.consumer._coordinator.generation_if_stable()
        self.member.say(
            "assigned",
            partitions=[place.partition for place in assigned],
            generation=generation.generation_id if generation else None,
        )


def main() -> None:
    member = Member()
    settings = {} if member.instance is None else {"group_instance_id": member.instance}
    consumer = KafkaConsumer(
        bootstrap_servers=member.bootstrap,
        group_id=member.group,
        client_id=member.name,
        partition_assignment_strategy=[ASSIGNORS[member.assignor]],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=member.session_timeout_ms,
        heartbeat_interval_ms=400,
        max_poll_interval_ms=60_000,
        **settings,
    )
    consumer.subscribe([member.topic], listener=Listener(member, consumer))
    while not member.leaves:
        polled = consumer.poll(timeout_ms=200, max_records=500)
        member.consumed((m.partition, m.offset) for messages in polled.values() for m in messages)
        if polled:
            # Partitions that moved meanwhile are read again by whoever has them.
            with contextlib.suppress(KafkaError):
                consumer.commit()
                member.committed((place.partition, messages[-1].offset + 1) for place, messages in polled.items())
    consumer.close(autocommit=False)
    member.say("left")


if __name__ == "__main__":
    main()
