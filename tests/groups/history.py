"""What a group did, and what must be true of it.

A history is made of what members say (partitions that they were given and lost, offsets that they consumed), of what
was done to them (killed, paused) and of what the broker keeps in `__consumer_offsets`. `violations` finds every way in
which it breaks the rules of a group:

- every record is delivered to somebody (SKIP);
- a partition has one owner at a time (OWNER), and one in a generation whatever happened (GENERATION);
- a committed offset never goes back (BACK), nor does a generation (OLD);
- what is committed in the end is no less than what a member was told is committed (LOST).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Claim:
    """A partition in one member's hands; times in nanoseconds of the wall clock."""

    member: str
    partition: int
    start: int
    end: int | None = None
    generation: int | None = None
    # Who it is in the generation: a static member that restarts is still itself.
    identity: str = ""


@dataclass
class History:
    """One group over one topic. Methods that take a time may be called out of order between members, not within one."""

    claims: list[Claim] = field(default_factory=list)
    consumed: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    deliveries: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    # The highest offset of each partition that a member was told is committed.
    acknowledged: dict[int, int] = field(default_factory=dict)
    # In the order of the log: partition and offset; generation and who owns what.
    commits: list[tuple[int, int]] = field(default_factory=list)
    generations: list[tuple[int, dict[str, list[int]]]] = field(default_factory=list)
    _open: dict[tuple[str, int], Claim] = field(default_factory=dict)

    def assigned(
        self, member: str, partitions: list[int], at: int, generation: int | None = None, instance: str = ""
    ) -> None:
        """A member was given partitions, beside those that it has; a static one has an instance id."""
        for partition in partitions:
            self._end(member, partition, at)
            claim = Claim(member, partition, at, generation=generation, identity=instance or member)
            self._open[(member, partition)] = claim
            self.claims.append(claim)

    def revoked(self, member: str, partitions: list[int], at: int) -> None:
        """A member let go of partitions, or lost them."""
        for partition in partitions:
            self._end(member, partition, at)

    def gone(self, member: str, at: int) -> None:
        """A member owns nothing from then on, whatever it believes: killed, put to sleep, or its session ended."""
        for claim in self.claims:
            if claim.member == member and claim.start <= at and (claim.end is None or claim.end > at):
                claim.end = at
        for key in [key for key, claim in self._open.items() if key[0] == member and claim.start <= at]:
            del self._open[key]

    def put_out(self, member: str, at: int, back_at: int | None) -> None:
        """The broker has put a member out, and had it in a generation again at `back_at`, if ever.

        One that slept, or was short of a processor, while it waited for its part reads that answer when it is no
        member any more. It cannot know, and owns nothing: it learns so from its next heartbeat.
        """
        self.gone(member, at)

        def is_late(claim: Claim) -> bool:
            return claim.member == member and claim.start > at and (back_at is None or claim.start < back_at)

        self.claims = [claim for claim in self.claims if not is_late(claim)]
        self._open = {key: claim for key, claim in self._open.items() if not is_late(claim)}

    def delivered(self, partition: int, first: int, last: int) -> None:
        """A member was given these records."""
        self.consumed[partition].update(range(first, last + 1))
        self.deliveries += last - first + 1

    def committed(self, partition: int, offset: int) -> None:
        """A member was told that this offset is committed."""
        self.acknowledged[partition] = max(offset, self.acknowledged.get(partition, 0))

    def owners(self) -> dict[int, list[str]]:
        """Who holds each partition now."""
        holders: dict[int, list[str]] = defaultdict(list)
        for member, partition in self._open:
            holders[partition].append(member)
        return dict(holders)

    def _end(self, member: str, partition: int, at: int) -> None:
        claim = self._open.pop((member, partition), None)
        if claim is not None and claim.end is None:
            claim.end = at


def violations(history: History) -> list[str]:
    """Every rule that the history breaks, by its name."""
    return [
        *_skipped(history),
        *_owners(history),
        *_one_owner_in_a_generation(history),
        *_going_back(history),
        *_lost(history),
    ]


def _skipped(history: History) -> list[str]:
    found = []
    for partition, end in history.ends.items():
        missing = sorted(set(range(end)) - history.consumed[partition])
        if missing:
            found.append(f"SKIP: partition {partition}: {len(missing)} of {end} records, such as {missing[:5]}")
    return found


def _owners(history: History) -> list[str]:
    found = []
    by_partition: dict[int, list[Claim]] = defaultdict(list)
    for claim in history.claims:
        by_partition[claim.partition].append(claim)
    for partition, claims in by_partition.items():
        claims.sort(key=lambda claim: claim.start)
        holder: Claim | None = None
        for claim in claims:
            overlaps = holder is not None and (holder.end is None or claim.start < holder.end)
            if holder is not None and overlaps and claim.member != holder.member:
                late = "still" if holder.end is None else f"for another {(holder.end - claim.start) / 1e6:.1f} ms"
                found.append(f"OWNER: partition {partition} goes to {claim.member}, and {holder.member} has it {late}")
            if holder is None or (holder.end is not None and (claim.end is None or claim.end > holder.end)):
                holder = claim
    return found


def _one_owner_in_a_generation(history: History) -> list[str]:
    found = []
    owners: dict[tuple[int, int], str] = {}
    for claim in history.claims:
        if claim.generation is not None:
            first = owners.setdefault((claim.generation, claim.partition), claim.identity)
            if first != claim.identity:
                place = f"partition {claim.partition} of generation {claim.generation}"
                found.append(f"GENERATION: {place} belongs to {first} and {claim.identity}")
    for generation, members in history.generations:
        given = [partition for partitions in members.values() for partition in partitions]
        twice = sorted({partition for partition in given if given.count(partition) > 1})
        if twice:
            found.append(f"GENERATION: the log gives partitions {twice} of generation {generation} to several members")
    return found


def _going_back(history: History) -> list[str]:
    found = []
    last: dict[int, int] = {}
    for partition, offset in history.commits:
        if offset < last.get(partition, -1):
            found.append(f"BACK: partition {partition}: committed {offset} after {last[partition]}")
        last[partition] = offset
    generation_before = -1
    for generation, _ in history.generations:
        if generation < generation_before:
            found.append(f"OLD: generation {generation} is written after {generation_before}")
        generation_before = generation
    return found


def _lost(history: History) -> list[str]:
    found = []
    last = dict(history.commits)
    for partition, offset in sorted(history.acknowledged.items()):
        if last.get(partition, -1) < offset:
            found.append(
                f"LOST: partition {partition}: {offset} was acknowledged, in the end there is {last.get(partition)}"
            )
    return found
