"""The checker finds what it is for, and nothing where there is nothing."""

from __future__ import annotations

import unittest

from replicas import Acknowledged, Verdict, check, check_reader, compare

import wire


def log(*batches: tuple[int, list[bytes]]) -> bytes:
    """A log of batches, each with the offset at which it begins."""
    return b"".join(wire.batch(*values, base_offset=offset).encode() for offset, values in batches)


GOOD = log((0, [b"a:0", b"b:0"]), (2, [b"a:1"]), (3, [b"b:2", b"a:4"]))


def told() -> list[Acknowledged]:
    """What the producers of the good log were told."""
    return [
        Acknowledged("a", {0: [(0, 0), (2, 1), (4, 4)]}, 10),
        Acknowledged("b", {0: [(1, 0), (3, 2)]}, 10),
    ]


def verdict_of(data: bytes, acknowledged: list[Acknowledged] | None = None) -> Verdict:
    """What is found in one partition."""
    verdict = Verdict()
    check({0: data}, told() if acknowledged is None else acknowledged, verdict, "t")
    return verdict


class Checker(unittest.TestCase):
    """Each rule is broken once."""

    def test_a_good_log_is_good(self) -> None:
        verdict = verdict_of(GOOD)
        self.assertEqual((verdict.words, verdict.record_count, verdict.acknowledged_count), ([], 5, 5))
        self.assertTrue(verdict.is_good())

    def test_a_lost_record(self) -> None:
        verdict = verdict_of(log((0, [b"a:0", b"b:0"]), (2, [b"a:1"])))
        self.assertEqual((verdict.lost, verdict.is_good()), (2, False))

    def test_records_that_were_never_acknowledged_may_be_there_or_not(self) -> None:
        longer = GOOD + log((5, [b"a:9"]))
        self.assertTrue(verdict_of(longer).is_good())

    def test_a_record_at_another_offset(self) -> None:
        moved = log((0, [b"b:0", b"a:0"]), (2, [b"a:1"]), (3, [b"b:2", b"a:4"]))
        self.assertEqual(verdict_of(moved).misplaced, 2)

    def test_a_doubled_record(self) -> None:
        self.assertEqual(verdict_of(GOOD + log((5, [b"a:4"]))).doubled, 1)

    def test_a_record_out_of_order(self) -> None:
        self.assertEqual(verdict_of(GOOD + log((5, [b"a:3"]))).reordered, 1)

    def test_what_nobody_sent(self) -> None:
        for value in (b"c:0", b"a:10", b"nonsense"):
            self.assertEqual(verdict_of(GOOD + log((5, [value]))).unknown, 1)

    def test_gaps_and_torn_ends(self) -> None:
        self.assertEqual(verdict_of(GOOD + log((6, [b"a:5"]))).damaged, 1)
        self.assertEqual(verdict_of(GOOD + b"\0" * 7).damaged, 1)

    def test_replicas_that_differ(self) -> None:
        for other, count in ((GOOD, 0), (GOOD[:-3], 3), (GOOD[:70] + b"X" + GOOD[71:], 1)):
            verdict = Verdict()
            compare({"1": GOOD, "2": other}, verdict, "t-0")
            self.assertEqual(verdict.different_bytes, count)

    def test_what_a_consumer_saw(self) -> None:
        verdict = Verdict()
        found = check({0: GOOD}, told(), verdict, "t")
        check_reader([(0, 1, b"b:0"), (0, 2, b"a:1")], found, verdict)
        self.assertTrue(verdict.is_good())
        check_reader([(0, 1, b"b:0"), (0, 3, b"b:2")], found, verdict)
        self.assertEqual(verdict.misplaced, 1)
        check_reader([(0, 2, b"a:7")], found, verdict)
        self.assertEqual(verdict.lost, 1)


if __name__ == "__main__":
    unittest.main()
