"""The checker of groups finds what it is there for, and nothing else."""

from __future__ import annotations

import unittest

from history import History, violations


def good() -> History:
    """Two members; the second takes over partition 1."""
    history = History(ends={0: 3, 1: 3})
    history.assigned("a", [0, 1], 10, 1)
    history.delivered(0, 0, 2)
    history.delivered(1, 0, 0)
    history.revoked("a", [0, 1], 20)
    history.assigned("a", [0], 30, 2)
    history.assigned("b", [1], 30, 2)
    history.delivered(1, 0, 2)
    history.commits = [(0, 3), (1, 1), (1, 1), (1, 3)]
    history.generations = [(1, {"a": [0, 1]}), (2, {"a": [0], "b": [1]})]
    return history


class Violations(unittest.TestCase):
    def expect(self, history: History, *names: str) -> None:
        self.assertEqual([text.split(":")[0] for text in violations(history)], list(names))

    def test_a_good_history(self) -> None:
        self.expect(good())

    def test_records_that_nobody_got(self) -> None:
        history = good()
        history.consumed[1].discard(1)
        self.expect(history, "SKIP")
        history = good()
        history.ends[2] = 1
        self.expect(history, "SKIP")

    def test_two_owners_at_a_time(self) -> None:
        history = good()
        history.assigned("c", [0], 40, 3)
        self.expect(history, "OWNER")

    def test_an_owner_that_lets_go_too_late(self) -> None:
        history = good()
        history.assigned("c", [1], 40, 3)
        history.revoked("b", [1], 41)
        self.expect(history, "OWNER")

    def test_who_was_killed_owns_nothing(self) -> None:
        history = good()
        history.gone("b", 35)
        history.assigned("c", [1], 40, 3)
        self.expect(history)

    def test_who_slept_owns_nothing_until_it_is_given_something(self) -> None:
        history = good()
        history.gone("b", 35)
        history.assigned("c", [1], 40, 3)
        history.revoked("b", [1], 50)
        self.expect(history)
        history.assigned("b", [1], 60, 4)
        self.expect(history, "OWNER")

    def test_an_end_that_becomes_known_late(self) -> None:
        history = good()
        history.assigned("c", [1], 40, 3)
        history.revoked("b", [1], 45)
        history.gone("b", 38)
        self.expect(history)

    def test_who_was_put_out_and_hears_late_what_it_was_given(self) -> None:
        history = good()
        history.gone("b", 35)
        history.assigned("b", [1], 45, 3)
        history.assigned("c", [1], 50, 4)
        history.revoked("b", [1], 55)
        self.expect(history, "OWNER")
        history.put_out("b", 42, None)
        self.expect(history)

    def test_who_was_put_out_and_came_back(self) -> None:
        history = good()
        history.put_out("b", 35, 38)
        history.assigned("b", [1], 38, 3)
        history.assigned("c", [1], 50, 4)
        history.put_out("b", 35, 38)
        self.expect(history, "OWNER")

    def test_two_owners_in_a_generation(self) -> None:
        history = good()
        history.revoked("b", [1], 40)
        history.assigned("a", [1], 50, 2)
        self.expect(history, "GENERATION")

    def test_a_static_member_that_restarts_is_itself(self) -> None:
        history = good()
        for member, at in (("c1", 40), ("c2", 50)):
            history.gone("b", 35)
            history.gone("c1", 45)
            history.assigned(member, [1], at, 3, "instance")
        self.expect(history)
        history.gone("c2", 60)
        history.assigned("d", [1], 70, 3, "another")
        self.expect(history, "GENERATION")

    def test_an_assignment_that_names_a_partition_twice(self) -> None:
        history = good()
        history.generations.append((3, {"a": [0, 1], "b": [1]}))
        self.expect(history, "GENERATION")

    def test_an_offset_that_goes_back(self) -> None:
        history = good()
        history.commits.append((1, 2))
        self.expect(history, "BACK")

    def test_a_commit_that_was_acknowledged_and_is_not_there(self) -> None:
        history = good()
        history.committed(1, 3)
        self.expect(history)
        history.committed(1, 4)
        self.expect(history, "LOST")

    def test_who_holds_what(self) -> None:
        history = good()
        self.assertEqual(history.owners(), {0: ["a"], 1: ["b"]})
        history.assigned("c", [1], 40, 3)
        self.assertEqual(history.owners(), {0: ["a"], 1: ["b", "c"]})

    def test_a_generation_that_goes_back(self) -> None:
        history = good()
        history.generations.append((1, {}))
        self.expect(history, "OLD")


if __name__ == "__main__":
    unittest.main()
