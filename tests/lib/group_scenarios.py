"""Consumer groups, the same for every Python client; an adapter says how a member polls and commits.

What must hold: every record is delivered, each partition has one owner at a time, a committed offset
never goes back, and a member that comes back goes on where the group had committed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from data import topic_name
from report import Case, expect

WAIT_S = 60.0
PARTITION_COUNT = 6

Place = tuple[int, int]
"""Partition and offset."""


class Member(Protocol):
    """One member of a group; all its methods are called from one thread."""

    def poll(self) -> list[Place]:
        """The places of the records that came within half a second or so."""
        ...

    def commit(self) -> None:
        """Commit what was polled; losing a partition in between is no error."""
        ...

    def owned(self) -> set[int]:
        """The partitions that this member has now."""
        ...

    def close(self) -> None: ...


class GroupAdapter(Protocol):
    """One client."""

    assignors: list[str]

    def create_topic(self, topic: str, partitions: int) -> None: ...

    def produce(self, topic: str, count: int) -> None:
        """`count` records, spread evenly over the partitions."""
        ...

    def member(self, group: str, topic: str, assignor: str, instance: str | None = None) -> Member: ...

    def committed(self, group: str, topic: str, partitions: int) -> dict[int, int]: ...


class Worker(threading.Thread):
    """Runs one member until it is told to leave."""

    def __init__(self, make: Callable[[], Member], seen: Seen) -> None:
        super().__init__(daemon=True)
        self.make = make
        self.seen = seen
        self.leave_now = threading.Event()
        self.owned: set[int] = set()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            member = self.make()
            try:
                while not self.leave_now.is_set():
                    self.seen.add(member.poll())
                    member.commit()
                    self.owned = member.owned()
            finally:
                self.owned = set()
                member.close()
        except BaseException as error:
            self.error = error

    def leave(self) -> None:
        """Leave the group in an orderly way."""
        self.leave_now.set()
        self.join(WAIT_S)
        if self.error is not None:
            raise self.error
        if self.is_alive():
            raise AssertionError(f"a member did not leave within {WAIT_S:.0f} s")


class Seen:
    """How often each place was delivered, to whichever member."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.times: dict[Place, int] = {}

    def add(self, places: list[Place]) -> None:
        with self.lock:
            for place in places:
                self.times[place] = self.times.get(place, 0) + 1

    def all_came(self, each: int) -> bool:
        """Whether `each` records of every partition were delivered."""
        with self.lock:
            return all((p, offset) in self.times for p in range(PARTITION_COUNT) for offset in range(each))


def until(what: str, holds: Callable[[], bool], workers: list[Worker]) -> None:
    """Wait until something holds, or fail with the first worker's error."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        for worker in workers:
            if worker.error is not None:
                raise worker.error
        if time.monotonic() > deadline:
            owners = [sorted(worker.owned) for worker in workers]
            raise AssertionError(f"{what}: not within {WAIT_S:.0f} s; owners {owners}")
        time.sleep(0.05)


def shared_out(workers: list[Worker]) -> bool:
    """Every partition has exactly one owner, and every member has something."""
    owned = [worker.owned for worker in workers]
    return all(owned) and sorted(p for one in owned for p in one) == list(range(PARTITION_COUNT))


def one_member_goes_on_where_it_was(client: GroupAdapter) -> None:
    topic = topic_name("group-one")
    client.create_topic(topic, PARTITION_COUNT)
    seen = Seen()
    for each in (100, 200):
        client.produce(topic, 100 * PARTITION_COUNT)
        worker = Worker(lambda: client.member(topic, topic, client.assignors[0]), seen)
        until("all records", partial(seen.all_came, each), [worker])
        worker.leave()
        wanted = dict.fromkeys(range(PARTITION_COUNT), each)
        expect("committed", client.committed(topic, topic, PARTITION_COUNT), wanted)
    expect("deliveries of each record", set(seen.times.values()), {1})


def members_come_and_go(client: GroupAdapter, assignor: str) -> None:
    topic = topic_name("group-many")
    client.create_topic(topic, PARTITION_COUNT)
    seen = Seen()

    def join() -> Worker:
        return Worker(lambda: client.member(topic, topic, assignor), seen)

    workers = [join()]
    before = dict.fromkeys(range(PARTITION_COUNT), -1)
    each = 0
    for step in ("join", "join", "leave", "join", "leave"):
        if step == "join":
            workers.append(join())
        else:
            workers.pop(0).leave()
        client.produce(topic, 50 * PARTITION_COUNT)
        each += 50
        until(f"one owner each after a {step}", lambda: shared_out(workers), workers)
        until(f"all records after a {step}", partial(seen.all_came, each), workers)
        now = client.committed(topic, topic, PARTITION_COUNT)
        expect("committed offsets that went back", {p: o for p, o in now.items() if o < before[p]}, {})
        before = now
    for worker in workers:
        worker.leave()
    expect("committed", client.committed(topic, topic, PARTITION_COUNT), dict.fromkeys(range(PARTITION_COUNT), each))


def static_member_returns(client: GroupAdapter) -> None:
    # A static member that restarts within its session gets its partitions back; the other one keeps its own.
    topic = topic_name("group-static")
    client.create_topic(topic, PARTITION_COUNT)
    seen = Seen()

    def join(instance: str) -> Worker:
        return Worker(lambda: client.member(topic, topic, client.assignors[0], instance), seen)

    stays, restarts = join("stays"), join("restarts")
    until("one owner each", lambda: shared_out([stays, restarts]), [stays, restarts])
    kept, had = set(stays.owned), set(restarts.owned)
    restarts.leave()
    expect("partitions of the one that stays, while the other is away", stays.owned, kept)
    restarts = join("restarts")
    until("the partitions of before", lambda: restarts.owned == had and stays.owned == kept, [stays, restarts])
    client.produce(topic, 20 * PARTITION_COUNT)
    until("all records", partial(seen.all_came, 20), [stays, restarts])
    for worker in (stays, restarts):
        worker.leave()


def cases(client: GroupAdapter) -> list[tuple[str, Case]]:
    """All group scenarios, bound to one client."""
    return [
        ("one_member_goes_on_where_it_was", partial(one_member_goes_on_where_it_was, client)),
        *[(f"members_come_and_go_{a}", partial(members_come_and_go, client, a)) for a in client.assignors],
        ("static_member_returns", partial(static_member_returns, client)),
    ]
