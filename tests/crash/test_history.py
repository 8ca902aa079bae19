"""The checker of the crash rounds must bite: each kind of damage, alone, gives its complaint."""

from __future__ import annotations

import unittest
from collections.abc import Callable

from history import History, check

Log = dict[tuple[str, int], list[tuple[int, bytes]]]


def sound() -> tuple[History, Log]:
    """Twenty records in two topics, all acknowledged and all there."""
    history = History()
    log: Log = {("once", 0): [], ("plain", 0): []}
    for (topic, partition), records in log.items():
        for number in range(10):
            value = f"{topic}-producer:{number}:payload".encode()
            history.send(value)
            history.acknowledge((topic, partition, number), value)
            records.append((number, value))
    return history, log


class Checker(unittest.TestCase):
    def complaints(self, damage: Callable[[History, Log], object]) -> str:
        history, log = sound()
        damage(history, log)
        return "\n".join(check(history, log, once={"once"}))

    def test_a_sound_log_has_no_complaint(self) -> None:
        self.assertEqual(self.complaints(lambda history, log: None), "")

    def test_missing_at_the_end(self) -> None:
        self.assertIn("missing", self.complaints(lambda history, log: log["plain", 0].pop()))

    def test_missing_in_the_middle(self) -> None:
        self.assertIn("missing", self.complaints(lambda history, log: log["once", 0].pop(4)))

    def test_missing_partition(self) -> None:
        self.assertIn("missing", self.complaints(lambda history, log: log.pop(("plain", 0))))

    def test_changed(self) -> None:
        def damage(history: History, log: Log) -> None:
            history.send(b"plain-producer:3:other")
            log["plain", 0][3] = (3, b"plain-producer:3:other")

        self.assertIn("changed", self.complaints(damage))

    def test_never_sent(self) -> None:
        self.assertIn("never sent", self.complaints(lambda h, log: log["plain", 0].append((10, b"x:1:noise"))))

    def test_at_another_offset(self) -> None:
        def damage(_: History, log: Log) -> None:
            log["plain", 0] = [(offset + 1, value) for offset, value in log["plain", 0]]

        self.assertIn("changed", self.complaints(damage))

    def test_doubled(self) -> None:
        self.assertIn("doubled", self.complaints(lambda h, log: log["once", 0].append((10, log["once", 0][9][1]))))

    def test_a_plain_producer_may_repeat_itself(self) -> None:
        self.assertEqual(self.complaints(lambda h, log: log["plain", 0].append((10, log["plain", 0][9][1]))), "")

    def test_disordered(self) -> None:
        def damage(history: History, log: Log) -> None:
            for number in (11, 10):
                value = f"once-producer:{number}:unacknowledged".encode()
                history.send(value)
                log["once", 0].append((log["once", 0][-1][0] + 1, value))

        self.assertIn("disordered", self.complaints(damage))

    def test_offsets_go_back(self) -> None:
        self.assertIn("increase", self.complaints(lambda history, log: log["plain", 0].reverse()))

    def test_one_place_acknowledged_for_two(self) -> None:
        self.assertIn("was acknowledged for", self.complaints(lambda h, _: h.acknowledge(("once", 0, 3), b"a:1:b")))

    def test_one_value_acknowledged_at_two_places(self) -> None:
        def damage(history: History, log: Log) -> None:
            history.acknowledge(("plain", 0, 10), log["plain", 0][9][1])
            log["plain", 0].append((10, log["plain", 0][9][1]))

        self.assertIn("doubled", self.complaints(damage))

    def test_unacknowledged_records_may_be_there_or_not(self) -> None:
        def more(history: History, log: Log) -> None:
            history.send(b"once-producer:10:lost")
            history.send(b"once-producer:11:kept")
            log["once", 0].append((10, b"once-producer:11:kept"))

        self.assertEqual(self.complaints(more), "")


if __name__ == "__main__":
    unittest.main()
