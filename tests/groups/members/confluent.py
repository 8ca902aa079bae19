"""A member of a group with confluent-kafka (librdkafka): polls, says what came, commits."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException
from say import Member


def main() -> None:
    member = Member()
    settings: dict[str, object] = {
        "bootstrap.servers": member.bootstrap,
        "group.id": member.group,
        "client.id": member.name,
        "partition.assignment.strategy": member.assignor,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": member.session_timeout_ms,
        "heartbeat.interval.ms": 400,
        "max.poll.interval.ms": 60_000,
    }
    if member.instance is not None:
        settings["group.instance.id"] = member.instance

    def told(name: str):
        def say(_consumer: Consumer, places: list) -> None:
            member.say(name, partitions=[place.partition for place in places])

        return say

    consumer = Consumer(settings)
    consumer.subscribe([member.topic], on_assign=told("assigned"), on_revoke=told("revoked"), on_lost=told("revoked"))
    while not member.leaves:
        messages = [message for message in consumer.consume(500, timeout=0.2) if not message.error()]
        member.consumed((message.partition(), message.offset()) for message in messages)
        if messages:
            try:
                places = consumer.commit(asynchronous=False)
                member.committed((place.partition, place.offset) for place in places if place.error is None)
            except KafkaException as error:
                # Partitions that moved meanwhile are read again by whoever has them.
                member.say("not committed", why=str(error))
    consumer.close()
    member.say("left")


if __name__ == "__main__":
    main()
